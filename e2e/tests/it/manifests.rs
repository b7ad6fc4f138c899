//! Every manifest in `tests/manifests` against a real API server: accepted or refused, and every rule shown both ways.
//!
//! A file with two documents is an update: the first is stored, the second replaces it. A refused file begins with
//! `# expect: <part of the message>`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use crds::definition;
use e2e::{ControlPlane, Version, kubectl_stdin};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::core::Status;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::caller::Caller;

/// A server of its own, with the definitions and nothing else: no webhook may decide here.
async fn plane() -> anyhow::Result<ControlPlane> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = || async {
        let plane = ControlPlane::start()?;
        for one in definition::all() {
            let yaml = serde_json::to_string(&one)?;
            let args = ["apply", "--server-side", "--validate=strict", "-f", "-"];
            let out = kubectl_stdin(Version::New, plane.admin_kubeconfig(), &args, &yaml)?;
            assert_eq!(
                (out.code, out.stderr.as_str()),
                (0, ""),
                "the definitions are taken without a warning"
            );
        }
        plane
            .kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?
            .success()?;
        plane.named_namespace("agents").await?;
        Ok::<_, anyhow::Error>(plane)
    };
    PLANE.get_or_try_init(start).await.cloned()
}

#[tokio::test]
async fn kinds_print_select_and_explain_themselves() -> anyhow::Result<()> {
    let plane = plane().await?;
    let admin = Caller::admin(&plane).await?;
    plane.named_namespace("shown").await?;
    let shown = ["identity-every-field", "policy-audit", "grant-request-every-field", "record"];
    for name in shown {
        let file = format!("{}/tests/manifests/accepted/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
        let mut object = Manifest::read(file.into())?.documents.remove(0);
        object["metadata"]["name"] = "shown".into();
        object["metadata"]["namespace"] = if name == "policy-audit" { Value::Null } else { "shown".into() };
        admin.create(&object, "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    }
    let said = |args: &str| plane.kubectl(&args.split(' ').collect::<Vec<_>>())?.success();
    let cells = |text: String| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();

    let heading = |kind: &str| {
        anyhow::Ok(cells(
            said(&format!("get {kind} -n shown"))?.lines().next().unwrap_or_default().to_owned(),
        ))
    };
    assert_eq!(heading("agid")?, ["NAME", "TARGET", "READY", "SUSPENDED", "POLICIES", "AGE"]);
    assert_eq!(heading("accpol")?, ["NAME", "MODE", "AGENTS", "JIT", "RECORDING", "READY", "AGE"]);
    assert_eq!(
        heading("agrant")?,
        ["NAME", "TYPE", "AGENT", "REQUEST", "STATE", "REVIEWER", "EXPIRES", "AGE"]
    );
    let record =
        ["NAME", "AGENT", "STARTED", "REQUESTS", "DENIED", "APPROVED", "MASKED", "STATE", "RECORDED"];
    assert_eq!(heading("srec")?, record);
    // Defaults are written out: a reader need not know them.
    assert_eq!(
        cells(said("get accpol shown --no-headers")?)[..4],
        ["shown", "Audit", "NotRequired", "Request"]
    );
    assert_eq!(
        said("get sallyport -n shown -o name")?.lines().count(),
        4,
        "the category holds all four kinds"
    );
    for (selected, rest) in [
        ("agrant spec.agentRef.name=claude-code", "agrant spec.agentRef.name=other"),
        ("agrant spec.type=SingleRequest", "agrant spec.type=Window"),
        ("agid spec.target.type=InCluster", "agid spec.target.type=EKS"),
        ("srec spec.agentRef.name=claude-code", "srec spec.agentRef.name=other"),
        ("srec spec.target.type=InCluster", "srec spec.target.type=EKS"),
        ("srec spec.subject.type=ServiceAccount", "srec spec.subject.type=OIDC"),
    ] {
        for (query, count) in [(selected, 1), (rest, 0)] {
            let (kind, selector) = query.split_once(' ').context("kind and selector")?;
            let found = said(&format!("get {kind} -n shown -o name --field-selector={selector}"))?;
            assert_eq!(found.lines().count(), count, "{query}: {found}");
        }
    }
    let manual = cells(said("explain accesspolicy.spec.approval.holdSeconds")?).join(" ");
    assert!(
        manual.contains("holdSeconds is how long, in seconds,") && manual.contains("Default: 45."),
        "{manual}"
    );
    said("delete accesspolicy shown")?;
    Ok(())
}

#[tokio::test]
async fn every_manifest_meets_its_fate_and_every_rule_is_shown_both_ways() -> anyhow::Result<()> {
    let plane = plane().await?;
    let admin = Caller::admin(&plane).await?;

    let mut faults = Vec::new();
    let mut passed = BTreeSet::new();
    for file in Manifest::all("accepted")? {
        match file.try_out(&admin).await? {
            Ok(()) => passed.extend(rules().filter(|rule| file.reaches(rule)).map(|rule| rule.text())),
            Err(status) => faults.push(format!("{}: refused: {}", file.name, status.message)),
        }
    }
    let mut failed = BTreeSet::new();
    for file in Manifest::all("refused")? {
        let expected = file.expected()?;
        match file.try_out(&admin).await? {
            Ok(()) => faults.push(format!("{}: accepted", file.name)),
            Err(status) => {
                if !status.message.contains(&expected) {
                    faults.push(format!("{}: wanted `{expected}`, got `{}`", file.name, status.message));
                }
                failed.extend(rules().filter(|rule| rule.spoke(&file.kind, &status)).map(|rule| rule.text()));
            }
        }
    }
    for rule in rules().map(|rule| rule.text()) {
        if !passed.contains(&rule) {
            faults.push(format!("no accepted manifest reaches {rule}"));
        }
        if !failed.contains(&rule) {
            faults.push(format!("no refused manifest breaks {rule}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

struct Manifest {
    name: String,
    kind: String,
    text: String,
    documents: Vec<Value>,
}

impl Manifest {
    fn all(folder: &str) -> anyhow::Result<Vec<Self>> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/manifests").join(folder);
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<_>>()?;
        paths.sort();
        paths.into_iter().map(Self::read).collect()
    }

    fn read(path: PathBuf) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(&path)?;
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR"))?.display().to_string();
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(|| name.clone())?;
        let kind = documents.first().context("a document")?["kind"].as_str().context("a kind")?.to_owned();
        Ok(Self { name, kind, text, documents })
    }

    fn expected(&self) -> anyhow::Result<String> {
        let line = self.text.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        Ok(line.with_context(|| format!("{} does not begin with `# expect: `", self.name))?.to_owned())
    }

    /// Nothing stays behind: what is judged is a dry run, and what an update needs is deleted.
    async fn try_out(&self, admin: &Caller) -> anyhow::Result<Result<(), Status>> {
        let [first, second] = self.documents.as_slice() else {
            return Ok(admin.create(&self.documents[0], "&dryRun=All").await?.map(|_stored| ()));
        };
        let stored = match admin.create(first, "").await? {
            Ok(stored) => stored,
            Err(status) => anyhow::bail!("{}: the first document: {}", self.name, status.message),
        };
        let mut next = second.clone();
        next["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
        let outcome = admin.replace(&next, "&dryRun=All").await?;
        admin.delete(first).await?.map_err(|status| anyhow::anyhow!(status.message))?;
        Ok(outcome.map(|_stored| ()))
    }

    /// Whether this manifest made the API server evaluate the rule.
    fn reaches(&self, rule: &Rule) -> bool {
        let judged = self.documents.last().is_some_and(|document| has(document, &rule.path));
        self.kind == rule.kind && judged && (!rule.transition || self.documents.len() > 1)
    }
}

fn has(value: &Value, path: &[String]) -> bool {
    match (value, path) {
        (Value::Array(items), _) => items.iter().any(|item| has(item, path)),
        (_, []) => true,
        (_, [name, rest @ ..]) => value.get(name).is_some_and(|inner| has(inner, rest)),
    }
}

struct Rule {
    kind: String,
    path: Vec<String>,
    message: String,
    transition: bool,
}

impl Rule {
    fn text(&self) -> String {
        format!("{}.{}: {}", self.kind, self.path.join("."), self.message)
    }

    /// Whether it was this rule, at this path, that refused.
    fn spoke(&self, kind: &str, status: &Status) -> bool {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        kind == self.kind
            && causes.into_iter().any(|cause| {
                without_indices(&cause.field) == self.path.join(".") && cause.message.contains(&self.message)
            })
    }
}

fn without_indices(field: &str) -> String {
    // The root is called `<nil>`.
    let field = field.replace("<nil>", "");
    let mut outside = true;
    let keep = |letter: &char| {
        match letter {
            '[' => outside = false,
            ']' => outside = true,
            _ => return outside,
        }
        false
    };
    field.chars().filter(keep).collect()
}

/// Every rule of every kind.
fn rules() -> impl Iterator<Item = Rule> {
    let mut rules = Vec::new();
    for one in definition::all() {
        for version in &one.spec.versions {
            let schema = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            if let Some(schema) = schema {
                collect(&one.spec.names.kind, &mut Vec::new(), schema, &mut rules);
            }
        }
    }
    rules.into_iter()
}

fn collect(kind: &str, path: &mut Vec<String>, schema: &JSONSchemaProps, rules: &mut Vec<Rule>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        rules.push(Rule {
            kind: kind.to_owned(),
            path: path.clone(),
            message: rule.message.clone().unwrap_or_default(),
            transition: rule.rule.contains("oldSelf"),
        });
    }
    for (name, property) in schema.properties.iter().flatten() {
        path.push(name.clone());
        collect(kind, path, property, rules);
        path.pop();
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        collect(kind, path, items, rules);
    }
}
