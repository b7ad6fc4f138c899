//! The whole live config, compiled: subjects to agents, agents to merged indexes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crds::access_policy::PolicyMode;

use crate::agent::{Agent, PolicySet};
use crate::compile;
use crate::hash::bundle_hash;
use crate::oidc::{self, Issuer, Trust};
use crate::rule::CompiledPolicy;
use crate::shard::{GUARDRAILS_NAME, Shard, ShardContent, ShardError, ShardIdentity, ShardPolicy};
use crate::subject::Subject;
use crate::verdict::BrokenPolicy;

/// Everything that decisions need, immutable and swapped as one `Arc<Bundle>`.
///
/// Expected flow: the proxy hands in the texts of all shards whenever one changed; on an error it keeps the bundle it
/// has, and without any it refuses everything. Guarantees: no bundle exists without its guardrails.
#[derive(Debug)]
pub struct Bundle {
    hash: String,
    shards: BTreeMap<String, Arc<LoadedShard>>,
    agents: BTreeMap<(String, String), Arc<Agent>>,
    subjects: HashMap<Subject, Found>,
    conflicts: Vec<Subject>,
    trusts: HashMap<Arc<str>, Vec<Trusted>>,
    pinned: Vec<Subject>,
}

#[derive(Debug)]
struct LoadedShard {
    hash: String,
    shard: Shard,
}

/// An agent found by one of its subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The subject's name in `AgentIdentity.spec.subjects`.
    pub subject_name: Arc<str>,
}

/// An OIDC entry, and whose it is.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The agent that its tokens authenticate as.
    pub agent: Arc<Agent>,
    /// Which tokens those are.
    pub trust: Arc<Trust>,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A shard does not decode.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Without the guardrails shard every guardrail would be missing.
    #[error("the shard `{GUARDRAILS_NAME}` is missing")]
    NoGuardrails,
}

impl Bundle {
    /// Builds a bundle from ConfigMap name -> `shard.json`. What did not change since `previous` is taken from there.
    ///
    /// # Errors
    /// [`BundleError`]: a shard does not decode, or the guardrails are missing.
    pub fn load(texts: &BTreeMap<String, String>, previous: Option<&Bundle>) -> Result<Bundle, BundleError> {
        let mut shards = BTreeMap::new();
        for (name, text) in texts {
            shards.insert(name.clone(), load_shard(name, text, previous)?);
        }
        let guardrails = shards.get(GUARDRAILS_NAME).ok_or(BundleError::NoGuardrails)?;
        let same_guardrails =
            previous.is_some_and(|previous| previous.shard_hash(GUARDRAILS_NAME) == Some(&guardrails.hash));
        let mut guards = Guardrails::new(&guardrails.shard.policies);
        let mut agents = BTreeMap::new();
        for (name, loaded) in &shards {
            let Some(identity) = &loaded.shard.identity else {
                continue;
            };
            let key = (identity.namespace.clone(), identity.name.clone());
            let unchanged = previous
                .filter(|previous| same_guardrails && previous.shard_hash(name) == Some(&loaded.hash))
                .and_then(|previous| previous.agents.get(&key));
            let agent = match unchanged {
                Some(agent) => Arc::clone(agent),
                None => {
                    let own = policy_set(loaded.shard.policies.iter());
                    Arc::new(Agent::new(identity.clone(), own, guards.of(identity)))
                }
            };
            agents.insert(key, agent);
        }
        let hashes = shards.iter().map(|(name, loaded)| (name.clone(), loaded.hash.clone())).collect();
        let (subjects, conflicts) = index_subjects(&agents);
        let trusts = index_trusts(&agents);
        let entries = agents.values().flat_map(|agent| &agent.identity().spec.subjects);
        let pinned = entries.filter_map(|entry| oidc::pinned(entry.oidc.as_ref()?)).collect();
        Ok(Bundle { hash: bundle_hash(&hashes), shards, agents, subjects, conflicts, trusts, pinned })
    }

    /// `sha256:<hex>` over the shards; see [`bundle_hash`].
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The hash of one shard in this bundle.
    pub fn shard_hash(&self, name: &str) -> Option<&str> {
        self.shards.get(name).map(|loaded| loaded.hash.as_str())
    }

    /// The agent that a subject authenticates as.
    pub fn find(&self, subject: &Subject) -> Option<&Found> {
        self.subjects.get(subject)
    }

    /// Every OIDC entry that takes tokens with this `iss`, exactly; none where no agent trusts the issuer.
    pub fn trusts(&self, issuer_url: &str) -> &[Trusted] {
        self.trusts.get(issuer_url).map_or(&[], Vec::as_slice)
    }

    /// Every issuer that some agent trusts.
    pub fn issuers(&self) -> BTreeSet<&Issuer> {
        self.trusts.values().flatten().map(|trusted| trusted.trust.issuer()).collect()
    }

    /// The agent of an AgentIdentity.
    pub fn agent(&self, namespace: &str, name: &str) -> Option<&Arc<Agent>> {
        self.agents.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Every agent, sorted by namespace and name.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> {
        self.agents.values()
    }

    /// Every subject of every agent that is known by name, those in conflict included: none of them may review a grant.
    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.keys().chain(&self.conflicts).chain(&self.pinned)
    }

    /// Subjects that two identities claim; they authenticate as neither until the operator has settled it.
    pub fn conflicts(&self) -> &[Subject] {
        &self.conflicts
    }
}

fn load_shard(name: &str, text: &str, previous: Option<&Bundle>) -> Result<Arc<LoadedShard>, ShardError> {
    let hash = Shard::hash(text);
    let unchanged =
        previous.and_then(|previous| previous.shards.get(name)).filter(|loaded| loaded.hash == hash);
    match unchanged {
        Some(loaded) => Ok(Arc::clone(loaded)),
        None => Ok(Arc::new(LoadedShard { hash, shard: Shard::decode(name, text)? })),
    }
}

/// The guardrail policies, compiled once, and one merged index for each set of them that some identity has.
struct Guardrails<'a> {
    policies: Vec<(&'a ShardPolicy, Compiled)>,
    sets: HashMap<Vec<usize>, Arc<PolicySet>>,
}

enum Compiled {
    Good(Arc<CompiledPolicy>),
    Broken(BrokenPolicy),
    /// A policy in mode Audit that this program does not understand: it decides nothing either way.
    Silent,
}

impl<'a> Guardrails<'a> {
    fn new(policies: &'a [ShardPolicy]) -> Guardrails<'a> {
        let policies = policies.iter().map(|policy| (policy, compile_entry(policy))).collect();
        Guardrails { policies, sets: HashMap::new() }
    }

    fn of(&mut self, identity: &ShardIdentity) -> Arc<PolicySet> {
        let selects =
            |policy: &ShardPolicy| policy.selects(&identity.namespace, &identity.name, &identity.labels);
        let chosen: Vec<usize> = (0..self.policies.len())
            .filter(|at| self.policies.get(*at).is_some_and(|(policy, _)| selects(policy)))
            .collect();
        let policies = &self.policies;
        let set = self.sets.entry(chosen).or_insert_with_key(|chosen| {
            Arc::new(merge(chosen.iter().filter_map(|at| policies.get(*at)).map(|(_, compiled)| compiled)))
        });
        Arc::clone(set)
    }
}

fn policy_set<'a>(policies: impl Iterator<Item = &'a ShardPolicy>) -> PolicySet {
    let compiled: Vec<Compiled> = policies.map(compile_entry).collect();
    merge(compiled.iter())
}

/// A spec that was good for the operator and is not for this program is broken here: it denies.
fn compile_entry(policy: &ShardPolicy) -> Compiled {
    let broken = |message: &str| {
        Compiled::Broken(BrokenPolicy { policy: policy.name.as_str().into(), message: message.into() })
    };
    match &policy.content {
        ShardContent::Broken { message } => broken(message),
        ShardContent::Spec(spec) => match compile::policy(&policy.name, policy.generation, spec) {
            Ok(compiled) => Compiled::Good(Arc::new(compiled)),
            Err(_) if spec.mode == PolicyMode::Audit => Compiled::Silent,
            Err(issues) => broken(&issues.to_string()),
        },
    }
}

fn merge<'a>(compiled: impl Iterator<Item = &'a Compiled>) -> PolicySet {
    let mut good = Vec::new();
    let mut broken: Option<BrokenPolicy> = None;
    for one in compiled {
        match one {
            Compiled::Good(policy) => good.push(Arc::clone(policy)),
            Compiled::Silent => {}
            Compiled::Broken(policy) => broken = broken.into_iter().chain([policy.clone()]).min(),
        }
    }
    PolicySet::new(good, broken)
}

fn index_trusts(agents: &BTreeMap<(String, String), Arc<Agent>>) -> HashMap<Arc<str>, Vec<Trusted>> {
    let mut trusts: HashMap<Arc<str>, Vec<Trusted>> = HashMap::new();
    for agent in agents.values() {
        for trust in agent.trusts() {
            let trusted = Trusted { agent: Arc::clone(agent), trust: Arc::clone(trust) };
            trusts.entry(Arc::clone(&trust.issuer().url)).or_default().push(trusted);
        }
    }
    trusts
}

fn index_subjects(
    agents: &BTreeMap<(String, String), Arc<Agent>>,
) -> (HashMap<Subject, Found>, Vec<Subject>) {
    let mut subjects = HashMap::new();
    let mut conflicts = Vec::new();
    for agent in agents.values() {
        for subject in &agent.identity().spec.subjects {
            let Some(key) = Subject::named_by(subject) else { continue };
            let found = Found { agent: Arc::clone(agent), subject_name: subject.name.as_str().into() };
            if subjects.insert(key.clone(), found).is_some() {
                conflicts.push(key);
            }
        }
    }
    for conflict in &conflicts {
        subjects.remove(conflict);
    }
    conflicts.sort();
    conflicts.dedup();
    (subjects, conflicts)
}
