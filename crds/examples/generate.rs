//! Writes the generated manifests: `crds/yaml`, and the same for the chart.

use std::path::{Path, PathBuf};

use crds::definition;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

const CAPTION: &str = "# Generated from crds/src; `make gen` renews it.\n";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (path, text) in files()? {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}

/// Every generated file with its text.
pub fn files() -> Result<Vec<(PathBuf, String)>, serde_saphyr::ser::Error> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for one in definition::all() {
        let name = definition::file_name(&one);
        let yaml = serde_saphyr::to_string(&one)?;
        files.push((crate_folder.join("yaml").join(&name), format!("{CAPTION}{yaml}")));
        let chart = crate_folder.join("../charts/sallyport/templates/crds").join(&name);
        files.push((chart, format!("{CAPTION}{}", templated(&one, &yaml))));
    }
    Ok(files)
}

// The chart installs the definitions from `templates`, because Helm never upgrades a chart's `crds` folder.
fn templated(definition: &CustomResourceDefinition, yaml: &str) -> String {
    let name = format!("  name: {}\n", definition.metadata.name.as_deref().unwrap_or_default());
    let keep =
        "  {{- if .Values.crds.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n";
    let body = yaml.replacen(&name, &format!("{name}{keep}"), 1);
    format!("{{{{- if .Values.crds.enabled }}}}\n{body}{{{{- end }}}}\n")
}
