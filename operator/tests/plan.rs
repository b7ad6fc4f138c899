//! The plan: what becomes of identities and policies, from plain objects, without a cluster.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its objects has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{AccessPolicy, AgentIdentity};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DeserializeGuard;
use operator::index::World;
use operator::plan::{Plan, plan};
use policy::shard::{GUARDRAILS_NAME, Shard, ShardContent, agent_shard_name};
use serde_json::{Value, json};

fn identity(name: &str, created: i64, subjects: &[&str]) -> Value {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|account| {
            json!({"name": account, "type": "ServiceAccount", "serviceAccount": {"namespace": "agents", "name": account}})
        })
        .collect();
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": name, "namespace": "agents", "uid": format!("uid-{name}"), "generation": 1,
                     "creationTimestamp": jiff::Timestamp::from_second(created).unwrap().to_string()},
        "spec": {"subjects": subjects, "target": {"type": "InCluster"}},
    })
}

fn policy(name: &str, namespace: &str, generation: i64) -> Value {
    json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": generation},
        "spec": {"agents": [{"namespace": namespace}], "rules": [{"name": "read", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}]},
    })
}

fn conditioned(mut policy: Value) -> Value {
    policy["spec"]["rules"][0]["matchConditions"] = json!([{"name": "c", "expression": "true"}]);
    policy
}

fn published(plan: &Plan) -> Vec<Arc<ConfigMap>> {
    let map = |(name, text): (&String, &String)| {
        let value = json!({"metadata": {"name": name}, "data": {crds::names::SHARD_KEY: text}});
        Arc::new(serde_json::from_value(value).unwrap())
    };
    plan.shards.iter().map(map).collect()
}

fn planned(identities: &[Value], policies: &[Value], before: &Plan) -> Plan {
    let identities = identities.iter().map(|value| Arc::new(guarded::<AgentIdentity>(value))).collect();
    let policies = policies.iter().map(|value| Arc::new(guarded::<AccessPolicy>(value))).collect();
    plan(&World::of(identities, policies, &published(before)))
}

fn guarded<K: kube::Resource + serde::de::DeserializeOwned>(value: &Value) -> DeserializeGuard<K> {
    serde_json::from_value(value.clone()).unwrap()
}

fn shard(plan: &Plan, name: &str) -> Option<Shard> {
    let name = agent_shard_name("agents", name);
    plan.shards.get(&name).map(|text| Shard::decode(&name, text).unwrap())
}

fn contents(shard: &Shard) -> BTreeMap<&str, (i64, bool)> {
    let good = |content: &ShardContent| matches!(content, ShardContent::Spec(_));
    shard
        .policies
        .iter()
        .map(|entry| (entry.name.as_str(), (entry.generation, good(&entry.content))))
        .collect()
}

fn accounts(shard: &Shard) -> Vec<&str> {
    shard
        .identity
        .iter()
        .flat_map(|identity| &identity.spec.subjects)
        .map(|subject| subject.name.as_str())
        .collect()
}

fn reason<'a>(plan: &'a Plan, name: &str) -> Option<&'a str> {
    plan.identities[&("agents".to_owned(), name.to_owned())].refusal.as_ref().map(|refusal| refusal.reason)
}

#[test]
fn the_order_in_which_objects_arrive_has_no_meaning() {
    let identities = [identity("a", 1, &["x"]), identity("b", 2, &["x", "y"]), identity("c", 3, &["y"])];
    let policies = [policy("p", "agents", 1), policy("q", "*", 1), conditioned(policy("r", "agents", 1))];
    let first = planned(&identities, &policies, &Plan::default());
    let mut turned = (identities.to_vec(), policies.to_vec());
    turned.0.reverse();
    turned.1.reverse();
    let second = planned(&turned.0, &turned.1, &Plan::default());
    assert_eq!(
        (first.shards, first.identities, first.policies),
        (second.shards, second.identities, second.policies)
    );
}

#[test]
fn guardrails_stand_apart_and_every_policy_stands_where_it_selects() {
    let plan = planned(
        &[identity("a", 1, &["x"])],
        &[policy("own", "agents", 1), policy("everywhere", "*", 1), policy("elsewhere", "other", 1)],
        &Plan::default(),
    );
    assert_eq!(contents(&shard(&plan, "a").unwrap()), BTreeMap::from([("own", (1, true))]));
    let guardrails = Shard::decode(GUARDRAILS_NAME, &plan.shards[GUARDRAILS_NAME]).unwrap();
    assert_eq!(contents(&guardrails), BTreeMap::from([("everywhere", (1, true))]));
    assert_eq!(plan.policies["elsewhere"].matched, 0);
    assert_eq!(plan.policies["everywhere"].matched, 1);
    let (users, groups) = (&plan.impersonable.users, &plan.impersonable.groups);
    assert_eq!(users.iter().collect::<Vec<_>>(), ["sallyport:agent:agents:a"]);
    assert_eq!(groups.iter().collect::<Vec<_>>(), ["sallyport:agents", "sallyport:agents:agents"]);
}

#[test]
fn f21_a_policy_keeps_its_last_good_generation_and_without_one_denies() {
    let agents = [identity("a", 1, &["x"])];
    let good = planned(&agents, &[policy("p", "agents", 1)], &Plan::default());
    let after = planned(&agents, &[conditioned(policy("p", "agents", 2))], &good);
    assert_eq!(contents(&shard(&after, "a").unwrap()), BTreeMap::from([("p", (1, true))]));
    assert_eq!(after.policies["p"].refusal.as_ref().map(|refusal| refusal.reason), Some("NotSupportedYet"));

    let never = planned(&agents, &[conditioned(policy("p", "agents", 1))], &Plan::default());
    assert_eq!(contents(&shard(&never, "a").unwrap()), BTreeMap::from([("p", (1, false))]));

    let mut anew = conditioned(policy("p", "agents", 1));
    anew["metadata"]["uid"] = json!("another-object-of-that-name");
    let anew = planned(&agents, &[anew], &good);
    assert_eq!(contents(&shard(&anew, "a").unwrap()), BTreeMap::from([("p", (1, false))]));
}

#[test]
fn f21_a_policy_that_this_program_cannot_read_hides_no_other_and_binds_everybody() {
    let mut unknown = policy("p", "agents", 2);
    unknown["spec"]["rules"][0]["effect"] = json!("AllowOnSundays");
    let agents = [identity("a", 1, &["x"])];
    let never = planned(&agents, &[unknown.clone(), policy("q", "agents", 1)], &Plan::default());
    let guardrails = Shard::decode(GUARDRAILS_NAME, &never.shards[GUARDRAILS_NAME]).unwrap();
    assert_eq!(contents(&guardrails), BTreeMap::from([("p", (2, false))]));
    assert_eq!(contents(&shard(&never, "a").unwrap()), BTreeMap::from([("q", (1, true))]));

    let good = planned(&agents, &[policy("p", "agents", 1)], &Plan::default());
    let after = planned(&agents, &[unknown], &good);
    assert_eq!(contents(&shard(&after, "a").unwrap()), BTreeMap::from([("p", (1, true))]));
}

#[test]
fn a_subject_belongs_to_the_oldest_and_leaves_the_last_good_generation_of_a_younger() {
    let younger = identity("younger", 2, &["x", "y"]);
    let alone = planned(std::slice::from_ref(&younger), &[], &Plan::default());
    assert_eq!(accounts(&shard(&alone, "younger").unwrap()), ["x", "y"]);

    let older = identity("older", 1, &["y"]);
    let both = planned(&[younger.clone(), older], &[], &alone);
    assert_eq!(reason(&both, "younger"), Some("SubjectConflict"));
    assert_eq!(accounts(&shard(&both, "older").unwrap()), ["y"]);
    assert_eq!(accounts(&shard(&both, "younger").unwrap()), ["x"], "what is still its own stays in force");

    let from_the_start = planned(&[younger, identity("older", 1, &["y"])], &[], &Plan::default());
    assert!(shard(&from_the_start, "younger").is_none(), "never accepted, never in force");
    assert!(!from_the_start.impersonable.users.contains("sallyport:agent:agents:younger"));
}

#[test]
fn one_role_is_one_subject_whatever_path_and_case_it_is_written_with() {
    let role = |name: &str, created: i64, arn: &str| {
        let mut identity = identity(name, created, &[name]);
        identity["spec"]["subjects"] =
            json!([{"name": "r", "type": "AWSIAMRole", "awsIAMRole": {"arn": arn}}]);
        identity
    };
    let older = role("older", 1, "arn:aws:iam::111122223333:role/team/Runner");
    for same in ["arn:aws:iam::111122223333:role/Runner", "arn:aws:iam::111122223333:role/other/runner"] {
        let both = planned(&[role("younger", 2, same), older.clone()], &[], &Plan::default());
        assert_eq!(
            (reason(&both, "older"), reason(&both, "younger")),
            (None, Some("SubjectConflict")),
            "{same}"
        );
        assert!(shard(&both, "younger").is_none(), "{same}");
    }
    for another in ["arn:aws:iam::444455556666:role/Runner", "arn:aws-cn:iam::111122223333:role/Runner"] {
        let both = planned(&[role("younger", 2, another), older.clone()], &[], &Plan::default());
        assert_eq!((reason(&both, "older"), reason(&both, "younger")), (None, None), "{another}");
    }
}

#[test]
fn what_aws_is_told_the_name_for_needs_a_name_of_its_own() {
    let arn = "arn:aws:iam::111122223333:role/Runner";
    let mut role = identity("role", 1, &["x"]);
    role["spec"]["subjects"] = json!([{"name": "r", "type": "AWSIAMRole", "awsIAMRole": {"arn": arn}}]);
    let mut eks = identity("eks", 2, &["y"]);
    eks["spec"]["target"] =
        json!({"type": "EKS", "eks": {"clusterName": "c", "region": "us-east-1", "roleARN": arn}});
    let all = [role, eks, identity("other", 3, &["z"])];
    for (hub, expected) in [(crds::names::HUB, Some("HubUnnamed")), ("hub-prod", None)] {
        let identities = all.iter().map(|value| Arc::new(guarded::<AgentIdentity>(value))).collect();
        let plan = plan(&World::of(identities, Vec::new(), &[]).of_hub(hub));
        for (name, expected) in [("role", expected), ("eks", expected), ("other", None)] {
            assert_eq!(reason(&plan, name), expected, "{hub}: {name}");
            assert_eq!(shard(&plan, name).is_none(), expected.is_some(), "{hub}: {name}");
        }
    }
}

#[test]
fn suspend_and_labels_are_taken_also_from_a_generation_that_is_not_accepted() {
    let good = planned(&[identity("a", 1, &["x"])], &[], &Plan::default());
    let mut broken = identity("a", 1, &["x"]);
    broken["metadata"]["generation"] = json!(2);
    broken["metadata"]["labels"] = json!({"team": "new"});
    broken["spec"]["suspend"] = json!(true);
    broken["spec"]["target"] = json!({"type": "EKS"});
    let after = planned(&[broken], &[], &good);
    assert_eq!(reason(&after, "a"), Some("InvalidPattern"));
    let kept = shard(&after, "a").unwrap().identity.unwrap();
    assert!(kept.spec.suspend, "the kill switch works whatever else is wrong");
    assert_eq!((kept.generation, kept.labels.get("team").map(String::as_str)), (1, Some("new")));
}

#[test]
fn a_shard_that_would_be_too_large_leaves_the_old_one_in_force() {
    let agents = [identity("a", 1, &["x"])];
    let good = planned(&agents, &[policy("p", "agents", 1)], &Plan::default());
    let large = |at: usize, namespace: &str| {
        let mut policy = policy(&format!("large-{at}"), namespace, 1);
        let rule = |rule: usize| {
            let mut value = policy["spec"]["rules"][0].clone();
            value["name"] = json!(format!("r{rule}"));
            value["message"] = json!("x".repeat(1000));
            value
        };
        policy["spec"]["rules"] = (0..128).map(rule).collect();
        policy
    };
    let mut policies = vec![policy("p", "agents", 1)];
    policies.extend((0..8).map(|at| large(at, "agents")));
    let after = planned(&agents, &policies, &good);
    assert_eq!(reason(&after, "a"), Some("TooLarge"));
    assert_eq!(after.shards[&agent_shard_name("agents", "a")], good.shards[&agent_shard_name("agents", "a")]);
    assert!(after.policies["large-0"].held_back && !after.policies["p"].held_back);

    let mut guardrails = vec![policy("p", "*", 1)];
    let small = planned(&agents, &guardrails, &Plan::default());
    guardrails.extend((0..8).map(|at| large(at, "*")));
    let after = planned(&agents, &guardrails, &small);
    assert_eq!(after.shards[GUARDRAILS_NAME], small.shards[GUARDRAILS_NAME]);
    assert_eq!(after.policies["large-0"].refusal.as_ref().map(|refusal| refusal.reason), Some("TooLarge"));
    assert_eq!(after.policies["p"].refusal, None);
}

#[test]
fn a_static_target_opens_its_one_secret_to_the_proxy_and_nobody_is_impersonated_for_it() {
    let fixed = |name: &str, secret: &str| {
        let mut identity = identity(name, 1, &[name]);
        let reference = json!({"name": secret, "key": "token"});
        identity["spec"]["target"] = json!({"type": "Static", "static": {
            "server": "https://edge.example", "caBundle": "LS0=", "tokenSecretRef": reference}});
        identity
    };
    let all = [fixed("a", "one"), fixed("b", "two"), fixed("c", "one"), identity("d", 2, &["d"])];
    let plan = planned(&all, &[], &Plan::default());
    assert_eq!(plan.tokens["agents"], ["one".to_owned(), "two".to_owned()].into());
    assert_eq!(plan.impersonable.users, ["sallyport:agent:agents:d".to_owned()].into());
    assert!(planned(&[identity("d", 2, &["d"])], &[], &plan).tokens.is_empty());
}
