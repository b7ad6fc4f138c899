//! The second wall around approvals: whether its admission policies stand as the chart has them (F19).
use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::select_all;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::Value;

use super::Live;

/// What the chart installs.
const TEXTS: [&str; 2] = [
    include_str!("../../../charts/sallyport/templates/admission/agents.yaml"),
    include_str!("../../../charts/sallyport/templates/admission/grants.yaml"),
];
const NAMESPACE_TOKEN: &str = "{{ .Release.Namespace }}";
const GROUP: &str = "admissionregistration.k8s.io";

/// One object of the wall, as it must be.
#[derive(Debug, Deserialize)]
struct Stone {
    kind: String,
    metadata: Named,
    spec: Value,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// Follows the wall's policies and bindings for ever and tells `live` whether they stand.
///
/// *Guarantees*: approvals count for nothing before all of them were seen, and from the event on that tells of one that
/// is missing, or differs in more than what the API server itself fills in.
pub async fn follow(client: Client, namespace: String, live: Live) {
    let stones = match stones(&namespace) {
        Ok(stones) => stones,
        Err(error) => return tracing::error!(%error, "the admission policies of this version cannot be read"),
    };
    let watches = stones.iter().enumerate().map(|(at, stone)| {
        let kind = GroupVersionKind::gvk(GROUP, "v1", &stone.kind);
        let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&kind));
        let events = watcher::watch_object(api, &stone.metadata.name).backoff(super::Patience::default());
        events.map(move |event| (at, event)).boxed()
    });
    let mut events = select_all(watches.collect::<Vec<_>>());
    let mut faults: Vec<Option<String>> =
        stones.iter().map(|stone| Some(fault(stone, "was not seen yet"))).collect();
    let mut unseen: BTreeSet<usize> = (0..stones.len()).collect();
    while let Some((at, event)) = events.next().await {
        let (Some(stone), Some(known)) = (stones.get(at), faults.get_mut(at)) else { continue };
        if event.is_ok() {
            unseen.remove(&at);
        }
        match event {
            Ok(Some(found)) if agrees(&stone.spec, &found.data["spec"]) => *known = None,
            Ok(Some(_)) => *known = Some(fault(stone, "was changed")),
            Ok(None) => *known = Some(fault(stone, "is missing")),
            Err(error) => {
                tracing::warn!(%error, name = stone.metadata.name, "an admission policy cannot be watched")
            }
        }
        if !unseen.is_empty() {
            continue;
        }
        let first = faults.iter().flatten().next();
        if let Some(fault) = first {
            tracing::error!(fault, "approvals count for nothing");
        }
        live.breach_is(first.map(|fault| Arc::from(fault.as_str())));
    }
}

fn fault(stone: &Stone, what: &str) -> String {
    format!("{} `{}` {what}", stone.kind, stone.metadata.name)
}

fn stones(namespace: &str) -> Result<Vec<Stone>, serde_saphyr::Error> {
    let texts = TEXTS.map(|text| text.replace(NAMESPACE_TOKEN, namespace));
    texts.iter().flat_map(|text| text.split("\n---\n")).map(serde_saphyr::from_str).collect()
}

/// Whether a spec is the wanted one but for empty selectors and the scope `*`, which the API server fills in.
fn agrees(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().all(|(key, value)| found.get(key).is_some_and(|other| agrees(value, other)))
                && found.iter().all(|(key, value)| wanted.contains_key(key) || is_filled_in(key, value))
        }
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len() && wanted.iter().zip(found).all(|(one, other)| agrees(one, other))
        }
        (wanted, found) => wanted == found,
    }
}

fn is_filled_in(key: &str, value: &Value) -> bool {
    match key {
        "namespaceSelector" | "objectSelector" => value.as_object().is_some_and(serde_json::Map::is_empty),
        "scope" => value == "*",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn f19_what_the_api_server_fills_in_is_no_change_and_everything_else_is() {
        let stones = stones("sallyport-system").expect("the chart's own text");
        let kinds: Vec<&str> = stones.iter().map(|stone| stone.kind.as_str()).collect();
        let pair = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"];
        assert_eq!(kinds, [pair, pair].concat());
        let (policy, binding) = (&stones[2].spec, &stones[3].spec);
        let mut stored = policy.clone();
        stored["matchConstraints"]["namespaceSelector"] = json!({});
        stored["matchConstraints"]["objectSelector"] = json!({});
        stored["matchConstraints"]["resourceRules"][0]["scope"] = json!("*");
        assert!(agrees(policy, &stored) && agrees(binding, binding));
        for (pointer, key, value) in [
            ("", "failurePolicy", json!("Ignore")),
            ("", "matchConditions", json!([{"name": "never", "expression": "false"}])),
            ("", "validations", json!([])),
            ("/matchConstraints", "namespaceSelector", json!({"matchLabels": {"a": "b"}})),
            ("/matchConstraints", "excludeResourceRules", json!([{"resources": ["*"]}])),
            ("/matchConstraints/resourceRules/0", "scope", json!("Cluster")),
            ("/validations/0", "expression", json!("true")),
        ] {
            let mut changed = stored.clone();
            changed.pointer_mut(pointer).expect("an object")[key] = value;
            assert!(!agrees(policy, &changed), "{pointer}/{key}");
        }
        for (key, value) in
            [("validationActions", json!(["Audit"])), ("matchResources", json!({"scope": "x"}))]
        {
            let mut changed = binding.clone();
            changed[key] = value;
            assert!(!agrees(binding, &changed), "{key}");
        }
    }
}
