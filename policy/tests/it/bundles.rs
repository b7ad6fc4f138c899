//! Shards and bundles: what decodes, what stays in force, who is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::bundle::{Bundle, BundleError};
use policy::decision::Verdict;
use policy::hash::{bundle_hash, sha256_text};
use policy::shard::{GUARDRAILS_NAME, Shard, ShardContent, ShardError, ShardPolicy, agent_shard_name};
use policy::subject::Subject;
use policy::validate;
use serde_json::{Value, json};

use crate::support::{
    NAME, NAMESPACE, PolicyText, action, decide_with, from, identity, identity_spec, shard, shards, yaml,
};

fn policies(text: &str) -> Vec<PolicyText> {
    yaml(text)
}

fn good(name: &str, agents: &str, effect: &str) -> PolicyText {
    policies(&format!(
        "- {{name: {name}, spec: {{agents: {agents}, rules: [{{name: r, effect: {effect}, match: [{{apiGroups: [\"\"], resources: [pods], verbs: [get]}}]}}]}}}}"
    ))
    .remove(0)
}

fn texts() -> BTreeMap<String, String> {
    let own = good("own", "[{namespace: agents}]", "Allow").publish();
    let guard =
        good("guard", "[{namespace: '*', selector: {matchLabels: {team: payments}}}]", "Allow").publish();
    shards(identity(NAME, identity_spec()), vec![own, guard])
}

fn edit(text: &str, change: impl Fn(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(text).unwrap();
    change(&mut value);
    value.to_string()
}

#[test]
fn a_shard_reads_as_it_was_written_and_hashes_as_text() {
    for (name, text) in texts() {
        let read = Shard::decode(&name, &text).unwrap();
        assert_eq!(read.encode().unwrap(), text);
        assert_eq!(Shard::hash(&text), sha256_text(text.as_bytes()));
    }
    assert_eq!(sha256_text(b""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(agent_shard_name("agents", "claude-code"), "sallyport-shard-d72a83f22a73d078");
    let pairs = BTreeMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
    assert_eq!(bundle_hash(&pairs), sha256_text(b"a 1\nb 2\n"));
}

#[test]
fn f21_unknown_versions_fields_and_names_do_not_decode() {
    let texts = texts();
    let name = agent_shard_name(NAMESPACE, NAME);
    let text = &texts[&name];
    let lost = |change: fn(&mut Value)| match Shard::decode(&name, &edit(text, change)).unwrap_err() {
        ShardError::UnknownField { path, .. } => path,
        other => panic!("{other}"),
    };
    assert_eq!(lost(|v| v["identity"]["spec"]["limits"]["burst"] = json!(5)), ".identity.spec.limits.burst");
    assert_eq!(
        lost(|v| v["policies"][0]["content"]["spec"]["rules"][0]["unless"] = json!("x")),
        ".policies[0].content.spec.rules[0].unless"
    );
    let fails = |change: fn(&mut Value)| Shard::decode(&name, &edit(text, change)).unwrap_err();
    assert!(matches!(fails(|v| v["formatVersion"] = json!(2)), ShardError::Version { .. }));
    assert!(matches!(fails(|v| v["formatVersion"] = json!("1")), ShardError::Version { .. }));
    assert!(matches!(fails(|v| v["extra"] = json!(1)), ShardError::Decode { .. }));
    assert!(matches!(fails(|v| v["identity"]["name"] = json!("other")), ShardError::Misplaced { .. }));
    assert!(matches!(Shard::decode(GUARDRAILS_NAME, text), Err(ShardError::Misplaced { .. })));
    assert!(matches!(Shard::decode(&name, "{"), Err(ShardError::Decode { .. } | ShardError::Version { .. })));
}

#[test]
fn there_is_no_bundle_without_guardrails_or_with_a_shard_that_does_not_decode() {
    let mut without = texts();
    without.remove(GUARDRAILS_NAME);
    assert!(matches!(Bundle::load(&without, None), Err(BundleError::NoGuardrails)));
    assert!(matches!(Bundle::load(&BTreeMap::new(), None), Err(BundleError::NoGuardrails)));
    let mut damaged = texts();
    damaged.insert("sallyport-shard-0".into(), "x".into());
    assert!(matches!(Bundle::load(&damaged, None), Err(BundleError::Shard(_))));
}

#[test]
fn what_did_not_change_is_taken_from_the_bundle_before() {
    let mut texts = texts();
    let other = identity(
        "other",
        from(json!({
            "subjects": [{"name": "s", "type": "ServiceAccount", "serviceAccount": {"namespace": NAMESPACE, "name": "other"}}],
            "target": {"type": "InCluster", "inCluster": {"groups": ["sallyport:team"]}},
        })),
    );
    texts.insert(agent_shard_name(NAMESPACE, "other"), shard(Some(other.clone()), Vec::new()));
    let first = Bundle::load(&texts, None).unwrap();
    let mut changed = other;
    changed.generation = 2;
    texts.insert(agent_shard_name(NAMESPACE, "other"), shard(Some(changed), Vec::new()));
    let second = Bundle::load(&texts, Some(&first)).unwrap();
    assert_ne!(first.hash(), second.hash());
    let same = |name: &str, a: &Bundle, b: &Bundle| {
        Arc::ptr_eq(a.agent(NAMESPACE, name).unwrap(), b.agent(NAMESPACE, name).unwrap())
    };
    assert!(same(NAME, &first, &second) && !same("other", &first, &second));
    texts.insert(GUARDRAILS_NAME.into(), shard(None, Vec::new()));
    let third = Bundle::load(&texts, Some(&second)).unwrap();
    assert!(!same(NAME, &second, &third));
    assert_eq!(third.agents().count(), 2);
    assert_eq!(
        third.agent(NAMESPACE, "other").unwrap().groups(),
        ["sallyport:agents", "sallyport:agents:agents", "sallyport:team"]
    );
    assert_eq!(third.hash(), Bundle::load(&texts, None).unwrap().hash());
}

#[test]
fn a_subject_finds_its_agent_and_a_contested_one_finds_none() {
    let mut texts = texts();
    let subject = Subject::from_username("system:serviceaccount:agents:claude-code").unwrap();
    let bundle = Bundle::load(&texts, None).unwrap();
    let found = bundle.find(&subject).unwrap();
    assert_eq!((found.agent.name(), &*found.subject_name), (NAME, "in-cluster"));
    assert_eq!(found.agent.username(), "sallyport:agent:agents:claude-code");
    assert_eq!(bundle.find(&Subject::ServiceAccount { namespace: "x".into(), name: NAME.into() }), None);
    let thief = identity("thief", identity_spec());
    texts.insert(agent_shard_name(NAMESPACE, "thief"), shard(Some(thief), Vec::new()));
    let bundle = Bundle::load(&texts, None).unwrap();
    assert_eq!(bundle.find(&subject), None);
    assert_eq!(bundle.conflicts(), std::slice::from_ref(&subject));
    assert!(bundle.subjects().any(|one| *one == subject), "it may still review nothing");
    for username in [
        "alice",
        "system:serviceaccount:a",
        "system:serviceaccount::b",
        "system:serviceaccount:a:",
        "system:serviceaccount:a:b:c",
    ] {
        assert_eq!(Subject::from_username(username), None, "{username}");
    }
    assert_eq!(subject.username(), "system:serviceaccount:agents:claude-code");
}

#[test]
fn a_policy_that_does_not_compile_keeps_its_last_good_generation() {
    let first = good("p", "[{namespace: agents}]", "Allow");
    let last_good = first.publish();
    let mut broken = first.spec();
    broken.rules[0].r#match[0].resources = Some(vec!["Pods".into()]);
    broken.agents = from(json!([{"namespace": "*"}]));
    let (kept, issues) = ShardPolicy::publish("p", "uid", 2, &broken, Some(&last_good));
    assert_eq!(kept, Some(last_good.clone()));
    assert!(issues.unwrap_err().to_string().starts_with("spec.rules[0].match[0].resources[0]: "));
    let (never_good, _) = ShardPolicy::publish("p", "uid", 2, &broken, None);
    let never_good = never_good.unwrap();
    assert!(
        matches!(&never_good.content, ShardContent::Broken { message } if message.contains("resources[0]"))
    );
    assert!(never_good.is_guardrail());
    let (still_broken, _) = ShardPolicy::publish("p", "uid", 3, &broken, Some(&never_good));
    assert!(matches!(
        still_broken.unwrap(),
        ShardPolicy { generation: 3, content: ShardContent::Broken { .. }, .. }
    ));
    let (recreated, _) = ShardPolicy::publish("p", "another uid", 1, &broken, Some(&last_good));
    assert!(
        matches!(recreated.unwrap().content, ShardContent::Broken { .. }),
        "another object of the same name"
    );
    broken.mode = crds::access_policy::PolicyMode::Audit;
    assert_eq!(ShardPolicy::publish("p", "uid", 2, &broken, None).0, None);
}

#[test]
fn a_spec_that_this_program_does_not_understand_denies() {
    let own = good("own", "[{namespace: agents}]", "Allow").publish();
    let mut newer = good("newer", "[{namespace: '*'}]", "Allow").publish();
    if let ShardContent::Spec(spec) = &mut newer.content {
        spec.recording.failure_policy = crds::access_policy::FailurePolicy::Ignore;
    }
    let bundle = Bundle::load(&shards(identity(NAME, identity_spec()), vec![own, newer]), None).unwrap();
    let agent = bundle.agent(NAMESPACE, NAME).unwrap();
    let decision = decide_with(agent, &action("get pods/x -n a"), &[]);
    assert!(matches!(decision.verdict(), Verdict::Broken(broken) if &*broken.policy == "newer"));
}

#[test]
fn selection_is_by_namespace_name_and_labels() {
    let labels = BTreeMap::from([("team".to_owned(), "payments".to_owned())]);
    for (agents, selected) in [
        (json!([{"namespace": "agents"}]), true),
        (json!([{"namespace": "other"}]), false),
        (json!([{"namespace": "other"}, {"namespace": "*"}]), true),
        (json!([{"namespace": "agents", "name": "claude-code"}]), true),
        (json!([{"namespace": "agents", "name": "claude"}]), false),
        (json!([{"namespace": "agents", "selector": {"matchLabels": {"team": "payments"}}}]), true),
        (json!([{"namespace": "agents", "selector": {"matchLabels": {"team": "billing"}}}]), false),
        (json!([{"namespace": "*", "selector": {}}]), true),
        (
            json!([{"namespace": "*", "selector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["payments"]}]}}]),
            true,
        ),
        (
            json!([{"namespace": "*", "selector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["payments"]}]}}]),
            false,
        ),
        (
            json!([{"namespace": "*", "selector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]}}]),
            true,
        ),
        (
            json!([{"namespace": "*", "selector": {"matchExpressions": [{"key": "team", "operator": "Exists"}]}}]),
            true,
        ),
        (
            json!([{"namespace": "*", "selector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}]),
            false,
        ),
    ] {
        let entries: Vec<crds::access_policy::AgentSelector> = from(agents.clone());
        assert_eq!(policy::shard::selects(&entries, NAMESPACE, NAME, &labels), selected, "{agents}");
    }
}

#[test]
fn identities_that_use_what_is_not_built_say_so() {
    let spec = |subjects: Value, target: Value| from(json!({"subjects": subjects, "target": target}));
    let role = json!([{"name": "a", "type": "AWSIAMRole", "awsIAMRole": {"arn": "arn:aws:iam::111122223333:role/r"}}]);
    let eks = json!({"type": "EKS", "eks": {"clusterName": "c", "region": "r", "roleARN": "a"}});
    let fixed = json!({"type": "Static", "static": {"server": "https://x", "caBundle": "", "tokenSecretRef": {"name": "n", "key": "k"}}});
    let account =
        json!([{"name": "a", "type": "ServiceAccount", "serviceAccount": {"namespace": "x", "name": "y"}}]);
    let issues = |subjects: &Value, target: &Value| {
        validate::identity(&spec(subjects.clone(), target.clone())).map_err(|issues| issues.to_string())
    };
    let home = json!({"type": "InCluster"});
    assert_eq!(issues(&account, &home), Ok(()));
    assert_eq!(issues(&role, &home), Ok(()));
    let session = json!([{"name": "a", "type": "AWSIAMRole", "awsIAMRole": {"arn": "arn:aws:sts::111122223333:assumed-role/r/s"}}]);
    assert_eq!(
        issues(&session, &home),
        Err("spec.subjects[0].awsIAMRole.arn: must be the ARN of an IAM role".into())
    );
    assert_eq!(issues(&account, &eks), Ok(()));
    assert_eq!(issues(&account, &fixed), Ok(()));
    for server in [
        "http://x",
        "https://",
        "https://user@x",
        "https://x?y",
        "https://x#y",
        "https://:443",
        "https://x y",
    ] {
        let mut bad = fixed.clone();
        bad["static"]["server"] = json!(server);
        let said = issues(&account, &bad);
        assert!(said.is_err_and(|said| said.starts_with("spec.target.static.server: must be")), "{server}");
    }
    let memberless = json!({"type": "Static"});
    assert!(
        issues(&account, &memberless).is_err_and(|said| said.starts_with("spec.target.static: must be set"))
    );
    let masters = json!({"type": "InCluster", "inCluster": {"groups": ["system:masters"]}});
    assert_eq!(
        issues(&account, &masters),
        Err("spec.target.inCluster.groups[0]: must start with 'sallyport:'".into())
    );
}

fn oidc_spec(issuer: Value, rules: Value) -> crds::AgentIdentitySpec {
    from(json!({
        "subjects": [{"name": "ci", "type": "OIDC", "oidc": {"issuer": issuer, "claimValidationRules": rules}}],
        "target": {"type": "InCluster"},
    }))
}

#[test]
fn an_oidc_subject_is_checked_beyond_its_schema() {
    let at = |url: &str| json!({"url": url, "audiences": ["sallyport"]});
    let pinned = json!([{"claim": "sub", "requiredValue": "x"}]);
    let good = at("https://issuer.example/realms/a");
    assert_eq!(validate::identity(&oidc_spec(good.clone(), pinned.clone())), Ok(()));
    let issuer = "spec.subjects[0].oidc.issuer";
    let rule = "spec.subjects[0].oidc.claimValidationRules";
    for (issuer_spec, rules, reason, path) in [
        (at("http://issuer.example"), pinned.clone(), "InvalidPattern", format!("{issuer}.url")),
        (at("https://"), pinned.clone(), "InvalidPattern", format!("{issuer}.url")),
        (at("https://user@issuer.example"), pinned.clone(), "InvalidPattern", format!("{issuer}.url")),
        (at("https://issuer.example?a=b"), pinned.clone(), "InvalidPattern", format!("{issuer}.url")),
        (
            json!({"url": "https://i.example", "audiences": []}),
            pinned.clone(),
            "InvalidPattern",
            format!("{issuer}.audiences"),
        ),
        (
            json!({"url": "https://i.example", "audiences": ["a"], "certificateAuthority": "-----"}),
            pinned,
            "InvalidPattern",
            format!("{issuer}.certificateAuthority"),
        ),
        (good.clone(), json!([]), "InvalidPattern", rule.to_owned()),
        (good.clone(), json!([{"claim": "azp", "requiredValue": "x"}]), "InvalidPattern", rule.to_owned()),
        (good.clone(), json!([{"claim": "sub"}]), "InvalidPattern", rule.to_owned()),
        (
            good.clone(),
            json!([{"expression": "claims.sub =="}]),
            "InvalidExpression",
            format!("{rule}[0].expression"),
        ),
        (
            good,
            json!([{"expression": "request.user == 'x'"}]),
            "InvalidExpression",
            format!("{rule}[0].expression"),
        ),
    ] {
        let issues = validate::identity(&oidc_spec(issuer_spec, rules)).unwrap_err();
        assert_eq!(issues.reason().as_str(), reason, "{issues}");
        assert!(issues.all().iter().any(|issue| issue.path == path), "{path}: {issues}");
    }
}

#[test]
fn what_two_entries_take_together_is_seen_in_their_texts() {
    let entry = |url: &str, audiences: &[&str], rules: Value| {
        let spec = oidc_spec(json!({"url": url, "audiences": audiences}), rules);
        spec.subjects.into_iter().next().and_then(|subject| subject.oidc).unwrap()
    };
    let sub = json!({"claim": "sub", "requiredValue": "x"});
    let worded = json!({"claim": "sub", "requiredValue": "x", "message": "only x"});
    let more = json!({"expression": "claims.a == 'b'"});
    let other = json!({"expression": "claims.a == 'c'"});
    let one = entry("https://i", &["a", "b"], json!([sub, more]));
    for (two, expected) in [
        (entry("https://i", &["b"], json!([more, worded])), true),
        (entry("https://i", &["b"], json!([sub])), true),
        (entry("https://i", &["b"], json!([sub, more, other])), true),
        (entry("https://i", &["b"], json!([sub, other])), false),
        (entry("https://i", &["c"], json!([sub, more])), false),
        (entry("https://i/", &["b"], json!([sub, more])), false),
    ] {
        assert_eq!(
            (policy::oidc::overlap(&one, &two), policy::oidc::overlap(&two, &one)),
            (expected, expected)
        );
    }
    let subject = Subject::Oidc { issuer: "https://i".into(), sub: "x".into() };
    assert_eq!(policy::oidc::pinned(&one), Some(subject.clone()));
    assert_eq!(subject.username(), "https://i#x");
    assert_eq!(policy::oidc::pinned(&entry("https://i", &["a"], json!([more]))), None);
}
