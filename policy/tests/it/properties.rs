//! Order never matters, nothing panics, a Deny never helps, and the index decides as a reading by hand does.

use std::collections::BTreeSet;

use crds::AccessPolicySpec;
use policy::action::{Action, ResourceAction, Scope, Verb};
use policy::decision::{Decision, Verdict};
use policy::explain::{access, can_i, explain, list_rules, refuse};
use policy::mask::MaskPath;
use policy::shard::{Shard, ShardPolicy};
use policy::{compile, grant};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::reference;
use crate::support::{NAMESPACE, agent_with, decide_with, facts, from};

pub fn words(all: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(all.to_vec(), 1..=most).prop_shuffle()
}

fn entry() -> impl Strategy<Value = Value> {
    (
        prop::option::of(words(&["", "a", "b", "ab", "a*", "*"], 3)),
        words(&["", "apps", "*"], 2),
        words(&["pods", "pods/log", "namespaces", "nodes", "*", "*/scale", "pods/*"], 3),
        prop::option::weighted(0.3, words(&["x", "y"], 2)),
        words(&["get", "list", "watch", "create", "patch", "delete", "deletecollection", "*"], 4),
    )
        .prop_map(|(namespaces, groups, resources, names, verbs)| {
            let mut entry = json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
            if let Some(namespaces) = namespaces {
                entry["namespaces"] = json!(namespaces);
            }
            if let Some(names) = names {
                entry["resourceNames"] = json!(names);
            }
            entry
        })
}

fn rule() -> impl Strategy<Value = Value> {
    (
        select(vec!["Allow", "Allow", "RequireApproval", "Deny"]),
        prop::collection::vec(entry(), 1..3),
        prop::collection::vec(entry(), 0..2),
    )
        .prop_map(
            |(effect, matches, exclude)| json!({"effect": effect, "match": matches, "exclude": exclude}),
        )
}

/// Specs of a few policies; the rules get their names here.
pub fn specs() -> impl Strategy<Value = Vec<Value>> {
    let spec = (
        prop::collection::vec(rule(), 1..4),
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
        any::<bool>(),
    );
    prop::collection::vec(spec, 1..4).prop_map(|specs| {
        let specs = specs.into_iter().map(|(mut rules, guardrail, jit, audit, strict)| {
            for (at, rule) in rules.iter_mut().enumerate() {
                rule["name"] = json!(format!("r{at}"));
            }
            json!({
                "agents": [{"namespace": if guardrail { "*" } else { NAMESPACE }}],
                "mode": if audit { "Audit" } else { "Enforce" },
                "rules": rules,
                "jit": {"mode": if jit { "Required" } else { "NotRequired" }},
                "approval": {"serverDryRun": if strict { "RequireApproval" } else { "Allow" }},
                "masking": [{"name": "m", "type": "Fields", "match": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}], "fields": {"paths": [".data.*"]}}],
            })
        });
        specs.collect()
    })
}

pub fn acts() -> impl Strategy<Value = Action> {
    (
        select(Verb::ALL.to_vec()),
        select(vec!["", "apps"]),
        select(vec!["pods", "namespaces", "nodes", "deployments"]),
        select(vec![None, Some("log"), Some("scale")]),
        select(vec!["", "a", "b", "ab", "zz", "-A"]),
        select(vec![None, Some("x"), Some("y"), Some("z"), Some("a")]),
        any::<bool>(),
    )
        .prop_map(|(verb, group, resource, subresource, scope, name, dry_run)| {
            let name = name.filter(|_| verb != Verb::DeleteCollection);
            let is_namespace_object = group.is_empty() && resource == "namespaces";
            let scope = match (scope, name) {
                (_, Some(name)) if is_namespace_object && verb != Verb::Create => {
                    Scope::Namespace(name.to_owned())
                }
                _ if is_namespace_object => Scope::Cluster,
                ("", _) => Scope::Cluster,
                ("-A", _) => Scope::AllNamespaces,
                (namespace, _) => Scope::Namespace(namespace.to_owned()),
            };
            Action::Resource(ResourceAction {
                verb,
                group: group.to_owned(),
                version: "v1".to_owned(),
                resource: resource.to_owned(),
                subresource: subresource.map(str::to_owned),
                scope,
                name: name.map(str::to_owned),
                dry_run: dry_run && !verb.is_read(),
                may_create: false,
            })
        })
}

fn publish(specs: &[Value]) -> Vec<ShardPolicy> {
    let policies = specs.iter().enumerate();
    policies
        .map(|(at, spec)| {
            let spec: AccessPolicySpec = from(spec.clone());
            let (entry, issues) = ShardPolicy::publish(&format!("p{at}"), "uid", 1, &spec, None);
            issues.unwrap();
            entry.unwrap()
        })
        .collect()
}

fn decide(policies: Vec<ShardPolicy>, action: &Action) -> Decision {
    decide_with(&agent_with(policies), action, &[])
}

fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Suspended | Verdict::Broken(_) | Verdict::Denied | Verdict::NotAllowed => 0,
        Verdict::NeedsApproval(_) | Verdict::NeedsWindow { .. } => 1,
        Verdict::Allowed(_) => 2,
    }
}

fn excluded(decision: &Decision) -> BTreeSet<String> {
    decision.obligations().excluded_namespaces.iter().map(|namespace| namespace.to_string()).collect()
}

/// Everything of a decision that its order could show in.
fn shown(decision: &Decision) -> String {
    format!(
        "{:?} {:?} {:?} {:?} {:?}",
        decision.verdict(),
        decision.rules(),
        decision.narrowed_by(),
        decision.obligations(),
        decision.would_have()
    )
}

fn shuffle(value: &mut Value, seed: &mut u64) {
    match value {
        Value::Array(values) => {
            for at in (1..values.len()).rev() {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                values.swap(at, ((*seed >> 33) as usize) % (at + 1));
            }
            values.iter_mut().for_each(|value| shuffle(value, seed));
        }
        Value::Object(members) => members.values_mut().for_each(|value| shuffle(value, seed)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_index_decides_as_a_reading_by_hand(specs in specs(), action in acts()) {
        let decision = decide(publish(&specs), &action);
        let expected = reference::verdict(&specs, &action);
        let found = (reference::word(decision.verdict()), excluded(&decision));
        prop_assert_eq!(found, expected, "{}", grant::summary(&action));
    }

    #[test]
    fn order_of_policies_rules_entries_and_words_never_matters(specs in specs(), action in acts(), seed in any::<u64>()) {
        let policies = publish(&specs);
        let mut seed = seed;
        let mut shuffled = specs.clone();
        shuffled.iter_mut().for_each(|spec| shuffle(spec, &mut seed));
        let mut reordered = publish(&shuffled);
        let length = reordered.len();
        reordered.rotate_left((seed as usize) % length);
        prop_assert_eq!(shown(&decide(policies, &action)), shown(&decide(reordered, &action)));
    }

    #[test]
    fn h8_a_deny_never_helps_and_a_lost_allow_never_does(specs in specs(), action in acts(), deny in rule(), pick in any::<u64>()) {
        let before = decide(publish(&specs), &action);
        let mut with_deny = specs.clone();
        let at = (pick as usize) % with_deny.len();
        let mut added = deny;
        added["effect"] = json!("Deny");
        added["name"] = json!("added");
        with_deny[at]["rules"].as_array_mut().unwrap().push(added);
        let after = decide(publish(&with_deny), &action);
        prop_assert!(rank(after.verdict()) <= rank(before.verdict()));
        if matches!(after.verdict(), Verdict::Allowed(_)) {
            prop_assert!(excluded(&after).is_superset(&excluded(&before)));
        }
        let mut without = specs.clone();
        let rules = without[at]["rules"].as_array_mut().unwrap();
        if let Some(lost) = rules.iter().position(|rule| rule["effect"] == "Allow").filter(|_| rules.len() > 1) {
            rules.remove(lost);
            let after = decide(publish(&without), &action);
            prop_assert!(rank(after.verdict()) <= rank(before.verdict()));
        }
    }

    #[test]
    fn h6_a_dry_run_is_never_easier_than_the_read_it_answers_with(specs in specs(), action in acts()) {
        let Action::Resource(resource) = &action else { unreachable!() };
        let decision = decide(publish(&specs), &action);
        let is_free = matches!(decision.verdict(), Verdict::Allowed(policy::decision::Authority::DryRun));
        if is_free {
            let read = Action::Resource(ResourceAction { verb: Verb::Get, dry_run: false, ..resource.clone() });
            prop_assert_eq!(rank(decide(publish(&specs), &read).verdict()), 2);
        }
        let real = Action::Resource(ResourceAction { dry_run: false, ..resource.clone() });
        let real = decide(publish(&specs), &real);
        prop_assert!(rank(decision.verdict()) <= rank(real.verdict()) || (is_free && rank(real.verdict()) == 1));
    }

    #[test]
    fn b96_what_may_create_is_as_hard_as_both(specs in specs(), action in acts()) {
        let Action::Resource(resource) = &action else { unreachable!() };
        let with = |verb: Verb, may_create: bool| {
            rank(decide(publish(&specs), &Action::Resource(ResourceAction { verb, may_create, ..resource.clone() })).verdict())
        };
        prop_assert_eq!(with(Verb::Patch, true), with(Verb::Patch, false).min(with(Verb::Create, false)));
    }

    #[test]
    fn every_decision_has_words(specs in specs(), action in acts()) {
        let mut decision = decide(publish(&specs), &action);
        let agent = decision.agent().clone();
        let (explained, answer) = (explain(&decision), can_i(&decision));
        prop_assert_eq!(answer.allowed, matches!(decision.verdict(), Verdict::Allowed(_)));
        prop_assert!(answer.allowed || !answer.reason.is_empty());
        prop_assert!(!(answer.allowed && answer.denied));
        serde_json::to_string(&explained).unwrap();
        serde_json::to_string(&access(&agent, &facts(&[]))).unwrap();
        list_rules(&agent, "a", &facts(&[]));
        if let Some(refusal) = refuse(&decision) {
            let token = format!("sallyport/{}: ", refusal.reason.as_str());
            prop_assert!(refusal.message("01ID").contains(&token));
            prop_assert!(decision.take_permit().is_none());
        }
    }

    #[test]
    fn no_words_make_the_compiler_panic(
        words in prop::collection::vec(".{0,12}", 6),
        action in (".{0,8}", ".{0,8}", ".{0,8}", prop::option::of(".{0,8}")),
    ) {
        let spec: AccessPolicySpec = from(json!({
            "agents": [{"namespace": NAMESPACE}],
            "rules": [{"name": words[0], "effect": "Deny", "match": [{
                "namespaces": [words[1]], "apiGroups": [words[2]], "resources": [words[3]],
                "resourceNames": [words[4]], "verbs": [words[5], "get"],
            }, {"nonResourceURLs": [words[1]], "verbs": ["get"]}]}],
            "masking": [{"name": "m", "type": "Fields", "fields": {"paths": [words[2]]}}],
        }));
        let _ = compile::policy("p", 1, &spec);
        let (entry, _) = ShardPolicy::publish("p", "uid", 1, &spec, None);
        let (group, resource, namespace, name) = action;
        let action = Action::Resource(ResourceAction {
            verb: Verb::Get, group, version: String::new(), resource, subresource: name.clone(),
            scope: Scope::Namespace(namespace.clone()), name, dry_run: false, may_create: false,
        });
        decide(entry.into_iter().collect(), &action);
        decide(Vec::new(), &Action::NonResource { verb: namespace.clone(), path: words[1].clone() });
        let _ = Shard::decode(&namespace, &words[0]);
    }

    #[test]
    fn no_text_makes_a_path_panic_and_every_path_prints_as_itself(text in r#"[.\[\]'"\\*a-z/é]{0,16}"#) {
        if let Ok(path) = MaskPath::parse(&text) {
            prop_assert_eq!(MaskPath::parse(&path.to_string()), Ok(path));
        }
    }
}
