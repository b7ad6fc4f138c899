//! `approve`, `deny`, `revoke`: the same merge patch as kubectl's one-liner.

use anyhow::Context;
use clap::Args;
use crds::access_grant::{AccessGrant, ReviewDecision};
use jiff::SignedDuration;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::cluster::Flags;
use crate::output::{self, Format};

/// What `deny` and `revoke` take.
#[derive(Args)]
pub struct Arguments {
    /// Names of AccessGrants.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// A note for the agent and for the record.
    #[arg(short, long = "message", value_name = "NOTE")]
    message: Option<String>,
    /// Output format.
    #[arg(short, long)]
    output: Option<Format>,
}

/// What `approve` takes.
#[derive(Args)]
pub struct ApproveArguments {
    #[command(flatten)]
    review: Arguments,
    /// Shorten the window, for instance to 15m.
    #[arg(long = "for", value_name = "DURATION")]
    duration: Option<SignedDuration>,
}

/// Approves.
pub async fn approve(flags: &Flags, arguments: &ApproveArguments) -> anyhow::Result<()> {
    let seconds = arguments.duration.map(|duration| duration.as_secs());
    review(flags, &arguments.review, ReviewDecision::Approved, seconds).await
}

/// Denies.
pub async fn deny(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    review(flags, arguments, ReviewDecision::Denied, None).await
}

/// Revokes.
pub async fn revoke(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    review(flags, arguments, ReviewDecision::Revoked, None).await
}

async fn review(
    flags: &Flags,
    arguments: &Arguments,
    decision: ReviewDecision,
    seconds: Option<i64>,
) -> anyhow::Result<()> {
    let cluster = flags.connect().await?;
    let patch = patch(decision, arguments.message.as_deref(), seconds);
    for name in &arguments.names {
        anyhow::ensure!(is_name(name), "`{name}` is not the name of an AccessGrant");
        let path = format!(
            "/apis/sallyport.dev/v1alpha1/namespaces/{}/accessgrants/{name}?fieldManager=kubectl-sallyport",
            cluster.namespace
        );
        let grant: AccessGrant = cluster.merge(&path, &patch).await?;
        show(&grant, decision, arguments.output).with_context(|| format!("cannot print `{name}`"))?;
    }
    Ok(())
}

// One entry without a reviewer: the webhook stamps it with the authenticated user and restores the entries before it.
fn patch(decision: ReviewDecision, note: Option<&str>, seconds: Option<i64>) -> Value {
    let mut review = json!({"decision": decision});
    if let Some(note) = note {
        review["note"] = note.into();
    }
    if let Some(seconds) = seconds {
        review["durationSeconds"] = seconds.into();
    }
    json!({"spec": {"reviews": [review]}})
}

// A path is made of it: nothing but what the API server takes for a name.
fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn show(grant: &AccessGrant, decision: ReviewDecision, format: Option<Format>) -> anyhow::Result<()> {
    match format {
        Some(Format::Json) => output::json(grant),
        Some(Format::Yaml) => output::yaml(grant),
        Some(Format::Name) => {
            println!("accessgrant.sallyport.dev/{}", grant.name_any());
            Ok(())
        }
        None | Some(Format::Wide) => {
            let summary = grant.status.as_ref().and_then(|status| status.summary.as_deref());
            let what = summary.map(|summary| format!(": {summary}")).unwrap_or_default();
            let text =
                format!("accessgrant.sallyport.dev/{} {}{what}", grant.name_any(), participle(decision));
            println!("{}", crate::escape::line(&text));
            Ok(())
        }
    }
}

// `approved` would promise too much: another reviewer may be needed, which the webhook's warning says.
fn participle(decision: ReviewDecision) -> &'static str {
    match decision {
        ReviewDecision::Approved => "approval recorded",
        ReviewDecision::Denied => "denied",
        ReviewDecision::Revoked => "revoked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patch_is_the_one_liners() {
        let one_liner: Value =
            serde_json::from_str(r#"{"spec":{"reviews":[{"decision":"Approved"}]}}"#).expect("JSON");
        assert_eq!(patch(ReviewDecision::Approved, None, None), one_liner);
        let full = patch(ReviewDecision::Approved, Some("ok"), Some(900));
        assert_eq!(
            full["spec"]["reviews"][0],
            json!({"decision": "Approved", "note": "ok", "durationSeconds": 900})
        );
    }

    #[test]
    fn a_name_never_leaves_its_place_in_the_path() {
        for name in ["claude-code-7f3kq", "a.b"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "../x", "a/status", "a?b", "A", "a%2fb", ".", "-a", "a\u{202e}"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
