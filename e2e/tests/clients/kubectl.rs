//! The deeds as kubectl commands.

use anyhow::bail;
use serde_json::json;

use super::client::Deed;

/// Arguments and standard input.
pub fn command(deed: &Deed) -> anyhow::Result<(Vec<String>, String)> {
    let (name, text) = (deed.name.as_str(), deed.text.as_str());
    let map =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": text}});
    let mut stdin = String::new();
    let limit = format!("--chunk-size={}", deed.limit);
    let literal = format!("--from-literal=text={text}");
    let patch = json!({"data": {"text": text}}).to_string();
    let object = format!("{}/{name}", deed.resource);
    let until = format!("configmap/{}", deed.until);
    let watch = format!(
        "/api/v1/namespaces/{}/configmaps?watch=true&resourceVersion={}",
        deed.namespace, deed.resource_version
    );
    let kind = if deed.group.is_empty() {
        deed.resource.clone()
    } else {
        format!("{}.{}", deed.resource, deed.group)
    };
    let words: Vec<&str> = match deed.deed {
        "whoami" => vec!["auth", "whoami", "-o", "json"],
        "can-i" => vec!["auth", "can-i", &deed.verb, &kind],
        "discovery" => vec!["api-resources", "--no-headers", "-o", "wide"],
        "list" => vec!["get", "configmaps", "-o", "yaml"],
        "pages" => vec!["get", "configmaps", "-o", "name", &limit],
        "secret" => vec!["get", "secret", name, "-o", "yaml"],
        "watch" if deed.resource_version.is_empty() => vec!["get", &deed.resource, "--watch"],
        "watch" => vec!["get", "--raw", &watch],
        "informer" => vec!["wait", "--for=jsonpath={.data.text}=go", "--timeout=60s", &until],
        "create" => vec!["create", "configmap", name, &literal],
        "create-deployment" => {
            vec!["create", "deployment", name, "--image=checkout:2.3.1", "--replicas=0"]
        }
        "create-json" => {
            stdin = deployment(name).to_string();
            vec!["create", "-f", "-"]
        }
        "apply-client-side" | "apply-server-side" => {
            stdin = map.to_string();
            let server =
                if deed.deed == "apply-server-side" { "--server-side=true" } else { "--server-side=false" };
            vec!["apply", server, "-f", "-"]
        }
        "replace" => {
            stdin = map.to_string();
            vec!["replace", "-f", "-"]
        }
        "patch" => vec!["patch", "configmap", name, "--type=merge", "-p", &patch],
        "delete" => vec!["delete", "--wait=false", &object],
        "exec" => vec!["exec", name, "--", "ls"],
        other => bail!("unknown deed `{other}`"),
    };
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let at = words.iter().position(|word| word == "--").unwrap_or(words.len());
    if words[0] != "api-resources" && !words.contains(&"--raw".to_owned()) {
        words.splice(at..at, ["-n".to_owned(), deed.namespace.clone()]);
    }
    Ok((words, stdin))
}

fn deployment(name: &str) -> serde_json::Value {
    let labels = json!({"app": name});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "checkout:2.3.1"}]}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    })
}
