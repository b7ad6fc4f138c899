//! One decision among 1 000 identities and 10 000 rules: the merged index against asking every rule in turn.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::AccessPolicySpec;
use crds::access_grant::Window;
use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use policy::action::{Action, ResourceAction, Scope, Verb};
use policy::agent::Agent;
use policy::bundle::Bundle;
use policy::evaluate::{Facts, evaluate};
use policy::matcher::Matcher;
use policy::shard::{GUARDRAILS_NAME, Shard, ShardIdentity, ShardPolicy, agent_shard_name};
use policy::validate;
use serde_json::{Value, json};

const IDENTITIES: usize = 1_000;
const POLICIES: usize = 100;
const RULES: usize = 100;

/// One policy of a hundred rules over namespaces and kinds of its own; every identity is bound by all of them, so that
/// each decision stands among 10 000 rules.
fn rules(at: usize) -> Vec<Value> {
    let kinds =
        [("", "pods"), ("", "configmaps"), ("apps", "deployments"), ("batch", "jobs"), ("", "services")];
    (0..RULES)
        .map(|rule| {
            let (group, resource) = kinds[rule % kinds.len()];
            let effect = ["Allow", "Allow", "Allow", "RequireApproval", "Deny"][(rule / kinds.len()) % 5];
            let namespace = format!("ns-{}", (at * 7 + rule) % 400);
            json!({"name": format!("r{rule}"), "effect": effect, "match": [{
                "namespaces": [namespace], "apiGroups": [group], "resources": [resource],
                "verbs": if effect == "Allow" { json!(["get", "list", "watch"]) } else { json!(["delete", "patch"]) },
            }]})
        })
        .collect()
}

fn policy(at: usize) -> ShardPolicy {
    let spec = json!({"agents": [{"namespace": "*"}], "rules": rules(at)});
    let spec: AccessPolicySpec = serde_json::from_value(spec).expect("a spec");
    ShardPolicy::publish(&format!("policy-{at}"), "uid", 1, &spec, None).0.expect("it compiles")
}

fn texts() -> BTreeMap<String, String> {
    let shard = |identity, policies| Shard { format_version: 1, identity, policies }.encode().expect("JSON");
    let guardrails = (GUARDRAILS_NAME.to_owned(), shard(None, (0..POLICIES).map(policy).collect()));
    let agents = (0..IDENTITIES).map(|at| {
        let name = format!("agent-{at}");
        let spec = json!({
            "subjects": [{"name": "s", "type": "ServiceAccount", "serviceAccount": {"namespace": "agents", "name": name}}],
            "target": {"type": "InCluster"},
        });
        let spec = serde_json::from_value(spec).expect("a spec");
        let identity = ShardIdentity::new("agents", &name, &name, 1, BTreeMap::new(), spec).expect("it is supported");
        (agent_shard_name("agents", &name), shard(Some(identity), Vec::new()))
    });
    agents.chain([guardrails]).collect()
}

/// The same entries in one list, each with whether it only takes away.
fn entries() -> Vec<(Matcher, bool)> {
    let rules = (0..POLICIES).flat_map(rules);
    rules
        .map(|rule| {
            let window = json!({"durationSeconds": 60, "rules": rule["match"]});
            let window: Window = serde_json::from_value(window).expect("a window");
            let matchers = validate::window(&window).expect("it compiles").expect("it has rules");
            (matchers.into_iter().next().expect("one entry"), rule["effect"] != "Allow")
        })
        .collect()
}

fn actions() -> Vec<Arc<Action>> {
    let kinds = [("", "pods"), ("apps", "deployments"), ("batch", "jobs"), ("", "secrets")];
    let verbs = [Verb::Get, Verb::List, Verb::Delete, Verb::Patch];
    let all = (0..64).map(|at| {
        let (group, resource) = kinds[at % kinds.len()];
        Arc::new(Action::Resource(ResourceAction {
            verb: verbs[(at / 4) % verbs.len()],
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: None,
            scope: Scope::Namespace(format!("ns-{}", at * 6)),
            name: Some("web".to_owned()),
            dry_run: false,
            may_create: false,
        }))
    });
    all.collect()
}

struct Round<'a> {
    agents: Vec<&'a Arc<Agent>>,
    actions: Vec<Arc<Action>>,
    at: usize,
}

impl Round<'_> {
    fn next(&mut self) -> (&Arc<Agent>, &Arc<Action>) {
        self.at += 1;
        (self.agents[self.at * 7 % self.agents.len()], &self.actions[self.at % self.actions.len()])
    }
}

fn decisions(criterion: &mut Criterion) {
    let texts = texts();
    let start = Instant::now();
    let bundle = Bundle::load(&texts, None).expect("a bundle");
    println!(
        "bundle of {IDENTITIES} identities and {} rules built in {:?}",
        POLICIES * RULES,
        start.elapsed()
    );
    let entries = entries();
    let facts = Facts { now: Timestamp::UNIX_EPOCH, suspended: false, windows: &[] };
    let mut round = Round { agents: bundle.agents().collect(), actions: actions(), at: 0 };
    let indexed = |round: &mut Round<'_>| {
        let (agent, action) = round.next();
        black_box(evaluate(agent, action, &facts));
    };
    let linear = |round: &mut Round<'_>| {
        let (agent, action) = round.next();
        let speaks = |(matcher, restrictive): &&(Matcher, bool)| match restrictive {
            true => matcher.may(action),
            false => matcher.must(action),
        };
        black_box((agent, entries.iter().filter(speaks).count()));
    };
    criterion.bench_function("indexed", |bencher| bencher.iter(|| indexed(&mut round)));
    criterion.bench_function("linear", |bencher| bencher.iter(|| linear(&mut round)));
    ratio(&mut round, indexed, linear);
}

/// Interleaved rounds in one run, each a batch of decisions: medians, a percentile and their ratio.
fn ratio(round: &mut Round<'_>, indexed: impl Fn(&mut Round<'_>), linear: impl Fn(&mut Round<'_>)) {
    let time = |round: &mut Round<'_>, batch: u32, run: &dyn Fn(&mut Round<'_>)| {
        let start = Instant::now();
        (0..batch).for_each(|_| run(round));
        start.elapsed() / batch
    };
    let (mut fast, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..500 {
        fast.push(time(round, 500, &indexed));
        slow.push(time(round, 2, &linear));
    }
    fast.sort();
    slow.sort();
    let (p50, p99) = (fast[fast.len() / 2], fast[fast.len() * 99 / 100]);
    let slow = slow[slow.len() / 2];
    let ratio = slow.as_secs_f64() / p50.max(Duration::from_nanos(1)).as_secs_f64();
    println!("indexed p50 {p50:?} p99 {p99:?}; linear p50 {slow:?}; linear : indexed {ratio:.0}x");
}

criterion_group!(benches, decisions);
criterion_main!(benches);
