//! The plan: from the world as it is to the live config, the boundary and the verdicts that it should have. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crds::access_policy::PolicyMode;
use crds::agent_identity::{OidcSubject, PolicyRef, Subject as Entry, TargetType};
use crds::{AccessPolicy, AccessPolicySpec, AgentIdentity};
use kube::core::DeserializeGuard;
use kube::{Resource as _, ResourceExt as _};
use policy::lint::lint;
use policy::oidc;
use policy::shard::{
    EVERY_NAMESPACE, FORMAT_VERSION, GUARDRAILS_NAME, MAX_SHARD_BYTES, Shard, ShardContent, ShardIdentity,
    ShardPolicy, agent_shard_name, selects,
};
use policy::subject::Subject;
use policy::validate::Issues;

use crate::boundary::Impersonable;
use crate::index::{Key, World, key_of};
use crate::tokens::Tokens;

/// Why an object is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One CamelCase word for the condition.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// What became of one AgentIdentity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentityVerdict {
    /// Why the generation that was applied is not in force.
    pub refusal: Option<Refusal>,
    /// ConfigMap that holds it; none when nothing of it is in force.
    pub shard: Option<String>,
    /// The policies that select it, by name.
    pub policies: Vec<PolicyRef>,
    /// Whom its requests impersonate.
    pub username: String,
    /// With which groups.
    pub groups: Vec<String>,
}

/// What became of one AccessPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyVerdict {
    /// Why the generation that was applied is not in force.
    pub refusal: Option<Refusal>,
    /// ConfigMaps that must hold it.
    pub shards: BTreeSet<String>,
    /// Identities that it selects.
    pub matched: usize,
    /// It only records.
    pub audit_only: bool,
    /// Routes around its rules that it leaves open, each a sentence.
    pub findings: Vec<String>,
    /// Some of its ConfigMaps stays behind, because it would be too large or its identity is refused.
    pub held_back: bool,
}

/// What should be.
#[derive(Debug, Default)]
pub struct Plan {
    /// ConfigMap name to text: what must be in force, and nothing else.
    pub shards: BTreeMap<String, String>,
    /// Whom the proxy may become.
    pub impersonable: Impersonable,
    /// Which Secrets it may read.
    pub tokens: Tokens,
    /// Verdicts by namespace and name.
    pub identities: BTreeMap<Key, IdentityVerdict>,
    /// Verdicts by name.
    pub policies: BTreeMap<String, PolicyVerdict>,
}

/// Plans. The same world always gives the same plan.
pub fn plan(world: &World) -> Plan {
    let mut plan = Plan::default();
    let entries = plan_policies(world, &mut plan);
    let identities = plan_identities(world, &mut plan);
    plan_guardrails(world, &entries, &mut plan);
    for identity in &identities {
        plan_agent(world, &entries, identity, &mut plan);
    }
    note_matches(world, &entries, &mut plan);
    plan
}

fn plan_policies(world: &World, plan: &mut Plan) -> Vec<ShardPolicy> {
    let mut entries = Vec::new();
    for policy in &world.policies {
        let name = policy.name_any();
        let (entry, refusal) = plan_policy(world, &name, policy);
        let audit_only = policy.0.as_ref().is_ok_and(|policy| matches!(policy.spec.mode, PolicyMode::Audit));
        let findings = policy.0.as_ref().map(|policy| findings(&name, &policy.spec)).unwrap_or_default();
        plan.policies
            .insert(name, PolicyVerdict { refusal, audit_only, findings, ..PolicyVerdict::default() });
        entries.extend(entry);
    }
    entries
}

fn findings(name: &str, spec: &AccessPolicySpec) -> Vec<String> {
    let compiled = policy::compile::policy(name, 0, spec);
    compiled.map(|policy| lint(&policy).iter().map(ToString::to_string).collect()).unwrap_or_default()
}

fn plan_policy(
    world: &World,
    name: &str,
    policy: &DeserializeGuard<AccessPolicy>,
) -> (Option<ShardPolicy>, Option<Refusal>) {
    let uid = policy.uid().unwrap_or_default();
    let generation = policy.meta().generation.unwrap_or(0);
    let last_good = world.published.last_good_policy(name);
    match &policy.0 {
        Ok(policy) => {
            let (entry, outcome) = ShardPolicy::publish(name, &uid, generation, &policy.spec, last_good);
            (entry, outcome.err().map(|issues| refusal_of(&issues)))
        }
        Err(invalid) => {
            let kept = last_good.filter(|kept| kept.uid == uid).cloned();
            let entry = kept.unwrap_or_else(|| unreadable_policy(name, &uid, generation, &invalid.error));
            let refusal = Refusal { reason: "NotSupportedYet", message: invalid.error.clone() };
            (Some(entry), Some(refusal))
        }
    }
}

// Whom it was meant for cannot be known: it binds everybody.
fn unreadable_policy(name: &str, uid: &str, generation: i64, error: &str) -> ShardPolicy {
    let everybody = crds::access_policy::AgentSelector {
        namespace: EVERY_NAMESPACE.to_owned(),
        name: None,
        selector: None,
    };
    ShardPolicy {
        name: name.to_owned(),
        uid: uid.to_owned(),
        generation,
        agents: vec![everybody],
        content: ShardContent::Broken { message: error.to_owned() },
    }
}

// The oldest first: it keeps a subject that a younger one claims too.
fn plan_identities(world: &World, plan: &mut Plan) -> Vec<ShardIdentity> {
    let mut taken = Taken::default();
    let mut accepted = Vec::new();
    for identity in &world.identities {
        let key = key_of(identity);
        let ending = identity.meta().deletion_timestamp.is_some();
        let (chosen, refusal) =
            if ending { (None, None) } else { choose_generation(world, &key, identity, &taken) };
        if let Some(chosen) = &chosen {
            chosen.spec.subjects.iter().for_each(|entry| taken.take(entry, &key));
        }
        let shard = chosen.as_ref().map(|_| agent_shard_name(&key.0, &key.1));
        let (username, groups) = names_of(&key, identity.0.as_ref().ok());
        plan.identities
            .insert(key, IdentityVerdict { refusal, shard, username, groups, policies: Vec::new() });
        accepted.extend(chosen);
    }
    accepted
}

fn choose_generation(
    world: &World,
    key: &Key,
    identity: &DeserializeGuard<AgentIdentity>,
    taken: &Taken,
) -> (Option<ShardIdentity>, Option<Refusal>) {
    let (namespace, name) = key;
    let uid = identity.uid().unwrap_or_default();
    let labels = identity.labels().clone();
    let generation = identity.meta().generation.unwrap_or(0);
    let candidate = match &identity.0 {
        Ok(object) => {
            ShardIdentity::new(namespace, name, &uid, generation, labels.clone(), object.spec.clone())
                .map_err(|issues| refusal_of(&issues))
        }
        Err(invalid) => Err(Refusal { reason: "NotSupportedYet", message: invalid.error.clone() }),
    };
    let refusal = match candidate {
        Ok(candidate) => match unnamed(world, &candidate).or_else(|| conflict(&candidate, taken)) {
            None => return (Some(candidate), None),
            Some(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    let suspended = identity.0.as_ref().is_ok_and(|object| object.spec.suspend);
    let kept = world.published.last_good_identity(key, &uid).and_then(|kept| {
        let mut kept = ShardIdentity { labels, ..kept.clone() };
        kept.spec.suspend = suspended;
        without_lost_subjects(kept, taken)
    });
    (kept, Some(refusal))
}

// AWS tells installations apart by their names: a token that is signed for the default one is good at every gate that kept it.
fn unnamed(world: &World, identity: &ShardIdentity) -> Option<Refusal> {
    let spec = &identity.spec;
    let needs_name = matches!(spec.target.r#type, TargetType::Eks)
        || spec.subjects.iter().any(|entry| entry.aws_iam_role.is_some());
    (needs_name && !world.is_named).then(|| Refusal {
        reason: "HubUnnamed",
        message: format!(
            "AWS roles and EKS targets need an installation with a name of its own, and this one is called `{}` as every other \
             is at first: set `hub.name` of the chart",
            crds::names::HUB
        ),
    })
}

// What an older identity took since may not stay in the last good generation of a younger one.
fn without_lost_subjects(mut kept: ShardIdentity, taken: &Taken) -> Option<ShardIdentity> {
    kept.spec.subjects.retain(|entry| taken.holder(entry).is_none());
    (!kept.spec.subjects.is_empty()).then_some(kept)
}

fn conflict(identity: &ShardIdentity, taken: &Taken) -> Option<Refusal> {
    identity.spec.subjects.iter().find_map(|entry| {
        let (namespace, name) = taken.holder(entry)?;
        let what = Subject::named_by(entry).or_else(|| oidc::pinned(entry.oidc.as_ref()?));
        let words = what.map(|subject| format!(" ({})", subject.username())).unwrap_or_default();
        let message = format!(
            "subject `{}`{words} belongs to AgentIdentity `{namespace}/{name}`, which is older",
            entry.name
        );
        Some(Refusal { reason: "SubjectConflict", message })
    })
}

/// The subjects of the identities so far, and whose they are.
#[derive(Default)]
struct Taken {
    named: BTreeMap<Subject, Key>,
    described: Vec<(OidcSubject, Key)>,
}

impl Taken {
    fn take(&mut self, entry: &Entry, key: &Key) {
        if let Some(subject) = Subject::named_by(entry) {
            self.named.entry(subject).or_insert_with(|| key.clone());
        }
        self.described.extend(entry.oidc.clone().map(|oidc| (oidc, key.clone())));
    }

    fn holder(&self, entry: &Entry) -> Option<&Key> {
        let named = Subject::named_by(entry).and_then(|subject| self.named.get(&subject));
        let described = entry.oidc.as_ref().and_then(|oidc| {
            self.described.iter().find(|(other, _)| oidc::overlap(oidc, other)).map(|(_, key)| key)
        });
        named.or(described)
    }
}

fn names_of((namespace, name): &Key, identity: Option<&AgentIdentity>) -> (String, Vec<String>) {
    let username = format!("{}{namespace}:{name}", crds::names::USERNAME_PREFIX);
    let mut groups =
        vec![crds::names::AGENTS_GROUP.to_owned(), format!("{}:{namespace}", crds::names::AGENTS_GROUP)];
    let further = identity.and_then(|identity| identity.spec.target.in_cluster.as_ref());
    groups.extend(further.into_iter().flat_map(|target| target.groups.iter().cloned()));
    (username, groups)
}

fn plan_guardrails(world: &World, entries: &[ShardPolicy], plan: &mut Plan) {
    let policies: Vec<ShardPolicy> = entries.iter().filter(|entry| entry.is_guardrail()).cloned().collect();
    let names: Vec<String> = policies.iter().map(|entry| entry.name.clone()).collect();
    let shard = Shard { format_version: FORMAT_VERSION, identity: None, policies };
    let Err(refusal) = put(world, GUARDRAILS_NAME, &shard, plan) else { return };
    for entry in &shard.policies {
        if !world.published.holds(GUARDRAILS_NAME, &entry.name, entry.generation) {
            refuse_policy(plan, &entry.name, &refusal);
        }
    }
    tracing::warn!(policies = names.len(), reason = refusal.message, "guardrails not published");
}

fn plan_agent(world: &World, entries: &[ShardPolicy], identity: &ShardIdentity, plan: &mut Plan) {
    let own = |entry: &&ShardPolicy| {
        !entry.is_guardrail() && entry.selects(&identity.namespace, &identity.name, &identity.labels)
    };
    let policies = entries.iter().filter(own).cloned().collect();
    let shard = Shard { format_version: FORMAT_VERSION, identity: Some(identity.clone()), policies };
    let name = agent_shard_name(&identity.namespace, &identity.name);
    let outcome = put(world, &name, &shard, plan);
    let key = (identity.namespace.clone(), identity.name.clone());
    if let Some(verdict) = plan.identities.get_mut(&key) {
        if let Err(refusal) = outcome {
            verdict.refusal.get_or_insert(refusal);
        }
        verdict.shard = plan.shards.contains_key(&name).then_some(name);
        if verdict.shard.is_none() {
            return;
        }
    }
    match (identity.spec.target.r#type, &identity.spec.target.r#static) {
        (TargetType::InCluster, _) => {
            let (username, groups) = impersonated(identity);
            plan.impersonable.users.insert(username);
            plan.impersonable.groups.extend(groups);
        }
        (TargetType::Static, Some(target)) => {
            let named = plan.tokens.entry(identity.namespace.clone()).or_default();
            named.insert(target.token_secret_ref.name.clone());
        }
        // Nobody is impersonated elsewhere, and an IAM role needs no Secret.
        (TargetType::Static | TargetType::Eks, _) => {}
    }
}

fn impersonated(identity: &ShardIdentity) -> (String, Vec<String>) {
    let key = (identity.namespace.clone(), identity.name.clone());
    let (username, mut groups) = names_of(&key, None);
    let further = identity.spec.target.in_cluster.as_ref();
    groups.extend(further.into_iter().flat_map(|target| target.groups.iter().cloned()));
    (username, groups)
}

// Plans the shard's text; one that is too large leaves the text in force where it is.
fn put(world: &World, name: &str, shard: &Shard, plan: &mut Plan) -> Result<(), Refusal> {
    let problem = match shard.encode() {
        Ok(text) if text.len() <= MAX_SHARD_BYTES => {
            plan.shards.insert(name.to_owned(), text);
            return Ok(());
        }
        Ok(text) => format!(
            "the live config would be {} KiB, more than the {} KiB that one ConfigMap may hold; select fewer or shorter policies",
            text.len() / 1024,
            MAX_SHARD_BYTES / 1024
        ),
        Err(error) => error.to_string(),
    };
    if let Some(Some(in_force)) = world.published.texts.get(name) {
        plan.shards.insert(name.to_owned(), in_force.clone());
    }
    Err(Refusal { reason: "TooLarge", message: problem })
}

fn refuse_policy(plan: &mut Plan, name: &str, refusal: &Refusal) {
    if let Some(verdict) = plan.policies.get_mut(name) {
        verdict.refusal.get_or_insert_with(|| refusal.clone());
    }
}

// Who selects whom: for the statuses of both kinds.
fn note_matches(world: &World, entries: &[ShardPolicy], plan: &mut Plan) {
    for policy in &world.policies {
        let name = policy.name_any();
        let in_force = entries.iter().find(|entry| entry.name == name);
        let applied = policy.0.as_ref().ok().map(|policy| policy.spec.agents.as_slice());
        let Some(agents) = applied.or(in_force.map(|entry| entry.agents.as_slice())) else { continue };
        let mode = policy.0.as_ref().map_or(PolicyMode::Enforce, |policy| policy.spec.mode);
        let Some(verdict) = plan.policies.get_mut(&name) else { continue };
        if in_force.is_some_and(ShardPolicy::is_guardrail) {
            verdict.shards.insert(GUARDRAILS_NAME.to_owned());
        }
        for identity in &world.identities {
            let key = key_of(identity);
            let Some(selected) = plan.identities.get_mut(&key) else { continue };
            if !selects(agents, &key.0, &key.1, identity.labels()) {
                continue;
            }
            verdict.matched += 1;
            selected.policies.push(PolicyRef { name: name.clone(), mode });
            if in_force.is_some_and(|entry| !entry.is_guardrail()) {
                verdict.shards.extend(selected.shard.clone());
            }
        }
        let generation = policy.meta().generation.unwrap_or(0);
        let planned = |shard: &String| plan.shards.get(shard);
        verdict.held_back = verdict.shards.iter().any(|shard| {
            let unchanged = planned(shard) == world.published.texts.get(shard).and_then(Option::as_ref);
            unchanged && !world.published.holds(shard, &name, generation)
        });
    }
}

fn refusal_of(issues: &Issues) -> Refusal {
    Refusal { reason: issues.reason().as_str(), message: issues.to_string() }
}
