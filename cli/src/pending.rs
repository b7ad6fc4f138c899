//! `pending`: the grants that wait for a human.

use clap::Args;
use crds::access_grant::{AccessGrant, GrantType, ReviewDecision};
use crds::condition::ConditionStatus;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::core::ObjectList;

use crate::cluster::Flags;
use crate::output::{self, Format};

/// What `pending` takes.
#[derive(Args)]
pub struct Arguments {
    /// In all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Output format.
    #[arg(short, long)]
    output: Option<Format>,
}

/// Lists the grants that nobody decided yet, the most urgent first.
pub async fn run(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    let cluster = flags.connect().await?;
    let path = if arguments.all_namespaces {
        "/apis/sallyport.dev/v1alpha1/accessgrants".to_owned()
    } else {
        format!("/apis/sallyport.dev/v1alpha1/namespaces/{}/accessgrants", cluster.namespace)
    };
    let mut list: ObjectList<AccessGrant> = cluster.get(&path).await?;
    list.items.retain(waits);
    list.items.sort_by_key(|grant| (deadline(grant).is_none(), deadline(grant), grant.name_any()));
    match arguments.output {
        Some(Format::Json) => output::json(&list),
        Some(Format::Yaml) => output::yaml(&list),
        Some(Format::Name) => {
            for grant in &list.items {
                println!("accessgrant.sallyport.dev/{}", grant.name_any());
            }
            Ok(())
        }
        wide @ (None | Some(Format::Wide)) => {
            show(&list.items, arguments.all_namespaces, wide.is_some(), &cluster.namespace, Timestamp::now());
            Ok(())
        }
    }
}

// The operator's condition says it; a grant that the operator has not seen yet waits too.
fn waits(grant: &AccessGrant) -> bool {
    let conditions = grant.status.iter().flat_map(|status| &status.conditions);
    !conditions.into_iter().any(|one| one.r#type == "Decided" && one.status == ConditionStatus::True)
}

fn deadline(grant: &AccessGrant) -> Option<Timestamp> {
    Some(grant.status.as_ref()?.review_deadline_time.as_ref()?.0)
}

fn show(grants: &[AccessGrant], everywhere: bool, wide: bool, namespace: &str, now: Timestamp) {
    if grants.is_empty() {
        if everywhere {
            eprintln!("Nothing waits for review.");
        } else {
            eprintln!("Nothing waits for review in namespace {}.", crate::escape::line(namespace));
        }
        return;
    }
    let mut heading = vec!["NAME", "TYPE", "AGENT", "REQUEST", "APPROVALS", "WAITS", "AGE"];
    if everywhere {
        heading.insert(0, "NAMESPACE");
    }
    if wide {
        heading.extend(["SESSION", "REASON"]);
    }
    output::table(&heading, grants.iter().map(|grant| row(grant, everywhere, wide, now)));
}

fn row(grant: &AccessGrant, everywhere: bool, wide: bool, now: Timestamp) -> Vec<String> {
    let seconds = |from: Timestamp, to: Timestamp| to.as_second() - from.as_second();
    let mut cells = vec![
        grant.name_any(),
        kind(grant).to_owned(),
        grant.spec.agent_ref.name.clone(),
        request(grant),
        approvals(grant),
        deadline(grant).map(|end| output::age(seconds(now, end))).unwrap_or_default(),
        grant.creation_timestamp().map(|made| output::age(seconds(made.0, now))).unwrap_or_default(),
    ];
    if everywhere {
        cells.insert(0, grant.namespace().unwrap_or_default());
    }
    if wide {
        cells.push(grant.labels().get(crds::names::LABEL_SESSION).cloned().unwrap_or_default());
        cells.push(grant.spec.reason.clone());
    }
    cells
}

fn kind(grant: &AccessGrant) -> &'static str {
    match grant.spec.r#type {
        GrantType::Window => "Window",
        GrantType::SingleRequest => "SingleRequest",
    }
}

fn request(grant: &AccessGrant) -> String {
    if let Some(summary) = grant.status.as_ref().and_then(|status| status.summary.clone()) {
        return summary;
    }
    match (&grant.spec.window, &grant.spec.request) {
        (Some(window), _) => format!("window of {} seconds", window.duration_seconds),
        (None, Some(request)) => {
            let what = request.resource.as_deref().or(request.path.as_deref()).unwrap_or_default();
            format!("{} {what} {}", request.verb, request.name.as_deref().unwrap_or_default())
        }
        (None, None) => String::new(),
    }
}

/// How many approvals there are of how many; the policy that lacks most speaks.
fn approvals(grant: &AccessGrant) -> String {
    let policies = grant.status.iter().flat_map(|status| &status.policies);
    match policies.max_by_key(|policy| policy.min_approvals - policy.approvals) {
        Some(policy) => format!("{}/{}", policy.approvals, policy.min_approvals),
        None => {
            let given =
                grant.spec.reviews.iter().filter(|review| review.decision == ReviewDecision::Approved);
            given.count().to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(status: serde_json::Value) -> AccessGrant {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": "g", "namespace": "agents", "creationTimestamp": "2026-11-20T14:31:40Z"},
            "spec": {"agentRef": {"name": "claude-code"}, "type": "Window", "reason": "why\u{202e}",
                "window": {"durationSeconds": 1800}},
            "status": status,
        }))
        .expect("a grant")
    }

    #[test]
    fn a_grant_waits_until_it_is_decided() {
        let decided = |status: &str| {
            serde_json::json!({"conditions": [{"type": "Decided", "status": status,
            "reason": "X", "message": "", "lastTransitionTime": "2026-11-20T14:31:40Z"}]})
        };
        assert!(waits(&grant(serde_json::json!({}))));
        assert!(waits(&grant(decided("False"))));
        assert!(!waits(&grant(decided("True"))));
    }

    #[test]
    fn a_row_says_what_is_asked_and_how_long_it_waits() {
        let status = serde_json::json!({
            "summary": "window of 30m", "reviewDeadlineTime": "2026-11-20T15:31:40Z",
            "policies": [{"name": "a", "generation": 1, "minApprovals": 1, "approvals": 1},
                {"name": "b", "generation": 1, "minApprovals": 2, "approvals": 0}],
        });
        let now: Timestamp = "2026-11-20T14:32:30Z".parse().expect("a time");
        let cells = row(&grant(status), true, true, now);
        let expected =
            ["agents", "g", "Window", "claude-code", "window of 30m", "0/2", "59m", "50s", "", "why\u{202e}"];
        assert_eq!(cells, expected);
    }
}
