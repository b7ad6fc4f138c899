//! `explain`: what the gate would decide, and every rule that matched.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::cluster::Flags;
use crate::escape;
use crate::output::{self, Format};

/// What `explain` takes.
#[derive(Args)]
#[command(
    after_help = "The kubeconfig must be the agent's: its server is the gate, the API server knows no such path."
)]
pub struct Arguments {
    /// Request verb: get, list, watch, create, update, patch, delete or deletecollection.
    verb: String,
    /// Resource with its group and subresource, such as deployments.apps/scale; or a path, such as /metrics.
    resource: String,
    /// Name of one object.
    name: Option<String>,
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Output format.
    #[arg(short, long)]
    output: Option<Format>,
}

/// The gate's document, as far as it is shown; `-o json` prints all of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    request: String,
    decision: String,
    #[serde(default)]
    reason: String,
    rules: Vec<Rule>,
    #[serde(default)]
    approval: Vec<Approval>,
    #[serde(default)]
    masks: Vec<Mask>,
    #[serde(default)]
    excluded_namespaces: Vec<String>,
    recording: String,
    would_have: Option<WouldHave>,
}

#[derive(Deserialize)]
struct Rule {
    policy: String,
    rule: String,
    effect: String,
    mode: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Approval {
    policy: String,
    min_approvals: u32,
    restricted: bool,
}

#[derive(Deserialize)]
struct Mask {
    policy: String,
    rule: String,
    paths: Vec<String>,
}

#[derive(Deserialize)]
struct WouldHave {
    decision: String,
}

/// Asks the gate.
pub async fn run(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    let cluster = flags.connect().await?;
    let whole: serde_json::Value = cluster.get(&path(arguments, &cluster.namespace)).await?;
    match arguments.output {
        Some(Format::Json) => output::json(&whole),
        Some(Format::Yaml) => output::yaml(&whole),
        None | Some(Format::Wide | Format::Name) => {
            show(&serde_json::from_value(whole)?);
            Ok(())
        }
    }
}

fn path(arguments: &Arguments, namespace: &str) -> String {
    let mut query = vec![("verb", arguments.verb.as_str())];
    if arguments.resource.starts_with('/') {
        query.push(("path", &arguments.resource));
    } else {
        query.push(("resource", &arguments.resource));
        if !arguments.all_namespaces {
            query.push(("namespace", namespace));
        }
        query.extend(arguments.name.as_deref().map(|name| ("name", name)));
    }
    let pairs =
        query.iter().map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    format!("/sallyport/v1/explain?{}", pairs.collect::<Vec<_>>().join("&"))
}

fn show(document: &Document) {
    let said = |text: String| println!("{}", escape::line(&text));
    said(format!("{}: {}", document.request, document.decision));
    if !document.reason.is_empty() {
        said(format!("  {}", document.reason));
    }
    for one in &document.approval {
        let who = if one.restricted { "named approvers" } else { "whoever may approve" };
        said(format!("  policy {} needs {} of {who}", one.policy, one.min_approvals));
    }
    for mask in &document.masks {
        said(format!("  masked by {}/{}: {}", mask.policy, mask.rule, mask.paths.join(" ")));
    }
    if !document.excluded_namespaces.is_empty() {
        said(format!("  left out: namespaces {}", document.excluded_namespaces.join(" ")));
    }
    if let Some(would) = &document.would_have {
        said(format!("  policies in Audit mode would make it {}", would.decision));
    }
    said(format!("  recorded: {}", document.recording));
    if document.rules.is_empty() {
        println!("  no rule matches");
        return;
    }
    println!();
    let row = |rule: &Rule| {
        [&rule.policy, &rule.rule, &rule.effect, &rule.mode, &rule.message].map(String::clone).to_vec()
    };
    output::table(&["POLICY", "RULE", "EFFECT", "MODE", "MESSAGE"], document.rules.iter().map(row));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(verb: &str, resource: &str, name: Option<&str>, all_namespaces: bool) -> Arguments {
        Arguments {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            name: name.map(str::to_owned),
            all_namespaces,
            output: None,
        }
    }

    #[test]
    fn the_question_is_a_path_that_its_words_cannot_leave() {
        let cases = [
            (
                arguments("delete", "deployments.apps", Some("web"), false),
                "verb=delete&resource=deployments%2Eapps&namespace=payments&name=web",
            ),
            (arguments("list", "pods", None, true), "verb=list&resource=pods"),
            (
                arguments("create", "pods/exec", Some("a&b=c"), false),
                "verb=create&resource=pods%2Fexec&namespace=payments&name=a%26b%3Dc",
            ),
            (arguments("get", "/metrics?x", None, false), "verb=get&path=%2Fmetrics%3Fx"),
        ];
        for (arguments, query) in cases {
            assert_eq!(path(&arguments, "payments"), format!("/sallyport/v1/explain?{query}"));
        }
    }
}
