//! Access entries of the agents' own IAM roles: a way into an EKS cluster past the gate. AWS is asked here, because the proxies have
//! credentials; what is found stands in `status.accessEntries`, and the operator makes the condition `BypassDetected` of it.
//!
//! *Guarantees*: AWS is asked only where an identity names a role, once for each cluster and not for each agent, and only to read. A
//! cluster that cannot be asked changes nothing of what was found there before. *Assumptions*: every replica asks for itself; who
//! asked last is right.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crds::agent_identity::EksAccessEntry;
use futures::{FutureExt, StreamExt, stream};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use policy::bundle::Bundle;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::identities::resource;
use super::{AgentKey, Identities, Identity, Live};
use crate::targets::{Access, Eks, NotListed, Place, Target, Targets};
use crate::telemetry::Telemetry;

const FIELD_MANAGER: &str = "sallyport-proxy-access-entries";
const TICK: Duration = Duration::from_secs(5);
const GATHER: Duration = Duration::from_millis(500);
/// A cluster that could not be asked is asked again after this time, one that denies it when it is due.
const AGAIN: Duration = Duration::from_secs(60);
/// One cluster, all pages, all roles that are tried.
const ASK_TIME: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 8;
/// Agents of one cluster whose roles are tried until one may ask.
const MOST_TRIED: usize = 16;
/// As many as the status holds.
const MOST_FOUND: usize = 64;

/// Where to look, and how often.
#[derive(Clone, Debug)]
pub struct Look {
    /// Between two looks at a cluster; none: never.
    pub every: Option<Duration>,
    /// The cluster that the gate runs in, if it is EKS and its name was told.
    pub own: Option<Place>,
}

/// What became of a look at a cluster, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Its access entries are known.
    Read,
    /// AWS denies the permission.
    Denied,
    /// Whatever else went wrong.
    Failed,
}

impl Seen {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Read, Self::Denied, Self::Failed];

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Seen::Read => "read",
            Seen::Denied => "denied",
            Seen::Failed => "failed",
        }
    }
}

/// Who may ask about a cluster: the gate itself, if it is its own, or the roles of the agents whose target it is.
#[derive(Clone, Default)]
struct Askers {
    own: bool,
    targets: Vec<Arc<Target>>,
}

/// The last look at a cluster.
struct Looked {
    next: Instant,
    outcome: Result<Principals, NotListed>,
}

/// A role in the form of [`policy::aws::role`], and as the access entry names it.
type Principals = Vec<(String, String)>;

impl Looked {
    fn seen(&self) -> Seen {
        match &self.outcome {
            Ok(_) => Seen::Read,
            Err(NotListed::Denied(_)) => Seen::Denied,
            Err(NotListed::Failed(_)) => Seen::Failed,
        }
    }
}

/// Looks for ever, and writes what it finds into the identities.
pub async fn follow(client: Client, targets: Arc<Targets>, live: Live, telemetry: Telemetry, look: Look) {
    let mut changes = live.changes();
    let mut known = HashMap::<Place, Looked>::new();
    let mut told = HashMap::<AgentKey, (String, i64)>::new();
    loop {
        if let (Ok(bundle), Some(identities)) = (live.bundle(), live.identities()) {
            let places = places(&look, &targets, &bundle, &identities);
            let before = known.len();
            known.retain(|place, _| places.contains_key(place));
            let is_gone = known.len() < before;
            let looked = ask(&look, &targets, &places, &mut known).await || is_gone;
            telemetry.access_entry_clusters(known.values().map(Looked::seen));
            // They may have changed meanwhile.
            let identities = live.identities().unwrap_or(identities);
            told.retain(|key, _| identities.contains_key(key));
            for (key, identity) in identities.iter() {
                let now = (identity.uid.clone(), identity.generation);
                // Between two looks other replicas may know better.
                if !looked && told.get(key) == Some(&now) {
                    continue;
                }
                let found = found(identity, &known);
                if found == identity.access_entries || publish(&client, key, identity, &found).await {
                    told.insert(key.clone(), now);
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(look.every.map_or(TICK, |every| every.min(TICK))) => {}
            Ok(()) = changes.changed() => tokio::time::sleep(GATHER).await,
        }
    }
}

/// The clusters to look at; none while no identity names a role.
fn places(
    look: &Look,
    targets: &Targets,
    bundle: &Bundle,
    identities: &Identities,
) -> BTreeMap<Place, Askers> {
    let mut places = BTreeMap::<Place, Askers>::new();
    if look.every.is_none() || identities.values().all(|identity| identity.roles.is_empty()) {
        return places;
    }
    if let Some(own) = &look.own {
        places.entry(own.clone()).or_default().own = true;
    }
    for agent in bundle.agents() {
        let target = targets.of(agent);
        let Some(eks) = eks(&target) else { continue };
        places.entry(eks.place()).or_default().targets.push(Arc::clone(&target));
    }
    places
}

fn eks(target: &Arc<Target>) -> Option<&Eks> {
    match target.upstream.access() {
        Access::Eks(eks) => Some(eks),
        Access::Own(_) | Access::Fixed(_) | Access::Nowhere => None,
    }
}

/// Asks about every cluster that is due; whether there was one.
async fn ask(
    look: &Look,
    targets: &Arc<Targets>,
    places: &BTreeMap<Place, Askers>,
    known: &mut HashMap<Place, Looked>,
) -> bool {
    let now = Instant::now();
    let is_due = |place: &Place| known.get(place).is_none_or(|looked| looked.next <= now);
    let due: Vec<(Place, Askers)> = places
        .iter()
        .filter(|(place, _)| is_due(place))
        .map(|(place, askers)| (place.clone(), askers.clone()))
        .collect();
    let asking = due.into_iter().map(|(place, askers)| asked(place, askers, Arc::clone(targets)));
    let answers: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    let looked = !answers.is_empty();
    for (place, outcome) in answers {
        note(look, known, place, outcome);
    }
    looked
}

async fn asked(
    place: Place,
    askers: Askers,
    targets: Arc<Targets>,
) -> (Place, Result<Principals, NotListed>) {
    let outcome = match timeout(ASK_TIME, askers.ask(&place, &targets).boxed()).await {
        Ok(outcome) => outcome.map(of_roles),
        Err(_) => Err(NotListed::Failed(format!("no answer in {} s", ASK_TIME.as_secs()))),
    };
    (place, outcome)
}

impl Askers {
    async fn ask(&self, place: &Place, targets: &Targets) -> Result<Vec<String>, NotListed> {
        let mut last = NotListed::Failed("nobody can ask".to_owned());
        if self.own {
            match place.access_entries(targets.aws()).await {
                Ok(principals) => return Ok(principals),
                Err(error) => last = error,
            }
        }
        let mut denied = HashSet::new();
        for eks in self.targets.iter().filter_map(eks).take(MOST_TRIED) {
            // Another session of a role may no more than the first; but it may be assumed where the first was not.
            if denied.contains(eks.role_arn()) {
                continue;
            }
            match eks.access_entries().await {
                Ok(principals) => return Ok(principals),
                Err(error) => {
                    if matches!(error, NotListed::Denied(_)) {
                        denied.insert(eks.role_arn());
                    }
                    last = error;
                }
            }
        }
        Err(last)
    }
}

fn of_roles(principals: Vec<String>) -> Principals {
    principals.into_iter().filter_map(|arn| Some((policy::aws::role(&arn)?, arn))).collect()
}

fn note(
    look: &Look,
    known: &mut HashMap<Place, Looked>,
    place: Place,
    outcome: Result<Principals, NotListed>,
) {
    let every = look.every.unwrap_or(AGAIN);
    let next =
        Instant::now() + if matches!(outcome, Err(NotListed::Failed(_))) { every.min(AGAIN) } else { every };
    let looked = Looked { next, outcome };
    let before = known.get(&place).map(Looked::seen);
    if before != Some(looked.seen()) {
        let Place { account, region, name } = &place;
        match &looked.outcome {
            Ok(principals) => {
                tracing::info!(
                    cluster = name,
                    region,
                    account,
                    roles = principals.len(),
                    "access entries are looked at"
                );
            }
            Err(error) => tracing::warn!(
                %error, cluster = name, region, account,
                "access entries cannot be looked at: whether an agent's role has one is not known"
            ),
        }
    }
    known.insert(place, looked);
}

/// What lets a role of the identity in: as AWS says, and where it said nothing as it was found before.
fn found(identity: &Identity, known: &HashMap<Place, Looked>) -> Vec<EksAccessEntry> {
    let mut found = Vec::new();
    for (place, looked) in known {
        match &looked.outcome {
            Ok(principals) => {
                let own = principals.iter().filter(|(role, _)| identity.roles.contains(role));
                found.extend(own.map(|(_, arn)| entry(place, arn)));
            }
            Err(_) => {
                let before = identity.access_entries.iter().filter(|entry| is_in(entry, place));
                let is_own = |entry: &&EksAccessEntry| {
                    policy::aws::role(&entry.principal_arn).is_some_and(|role| identity.roles.contains(&role))
                };
                found.extend(before.filter(is_own).cloned());
            }
        }
    }
    let by = |entry: &EksAccessEntry| {
        let EksAccessEntry { account, region, cluster_name, principal_arn } = entry.clone();
        (account, region, cluster_name, principal_arn)
    };
    found.sort_by_cached_key(by);
    found.truncate(MOST_FOUND);
    found
}

fn entry(place: &Place, principal_arn: &str) -> EksAccessEntry {
    EksAccessEntry {
        cluster_name: place.name.clone(),
        region: place.region.clone(),
        account: place.account.clone(),
        principal_arn: principal_arn.to_owned(),
    }
}

fn is_in(entry: &EksAccessEntry, place: &Place) -> bool {
    (&entry.account, &entry.region, &entry.cluster_name) == (&place.account, &place.region, &place.name)
}

/// Whether it was written. Its own field manager: what the proxy says of `TargetReachable` is another's.
async fn publish(client: &Client, key: &AgentKey, identity: &Identity, found: &[EksAccessEntry]) -> bool {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &key.namespace, &resource());
    let status = if found.is_empty() { json!({}) } else { json!({"accessEntries": found}) };
    let status = json!({
        "apiVersion": format!("{}/{}", crds::names::GROUP, crds::names::VERSION), "kind": "AgentIdentity",
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": identity.uid},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = api.patch_status(&key.name, &params, &Patch::Apply(&status)).await;
    if let Err(error) = &written {
        tracing::warn!(agent = %key, %error, "the access entries that were found were not written");
    }
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNER: &str = "arn:aws:iam::111122223333:role/team/Runner";

    fn place(account: Option<&str>, name: &str) -> Place {
        let (account, region) = (account.map(str::to_owned), "us-east-2".to_owned());
        Place { account, region, name: name.to_owned() }
    }

    fn identity(role: &str, before: &[EksAccessEntry]) -> Identity {
        let roles = policy::aws::role(role).into_iter().collect();
        Identity { uid: "1".into(), roles, access_entries: before.to_vec(), ..Identity::default() }
    }

    fn looked(outcome: Result<&[&str], NotListed>) -> Looked {
        let principals = |arns: &[&str]| of_roles(arns.iter().map(|&arn| arn.to_owned()).collect());
        Looked { next: Instant::now(), outcome: outcome.map(principals) }
    }

    #[test]
    fn b113_a_role_is_found_by_its_one_form_and_named_as_the_entry_names_it() {
        let one = place(Some("444455556666"), "prod");
        for (principal, is_way) in [
            (RUNNER, true),
            ("arn:aws:iam::111122223333:role/runner", true),
            ("arn:aws:iam::111122223333:role/other/path/RUNNER", true),
            ("arn:aws:iam::111122223333:role/runner-2", false),
            ("arn:aws:iam::111122223333:user/runner", false),
            ("arn:aws:iam::111122223333:root", false),
            ("arn:aws:iam::444455556666:role/runner", false),
            ("arn:aws-cn:iam::111122223333:role/runner", false),
            ("arn:aws-us-gov:iam::111122223333:role/runner", false),
        ] {
            let known = HashMap::from([(one.clone(), looked(Ok(&["arn:aws:iam::1:x", principal])))]);
            let expected = if is_way { vec![entry(&one, principal)] } else { Vec::new() };
            assert_eq!(found(&identity(RUNNER, &[]), &known), expected, "{principal}");
        }
    }

    #[test]
    fn b113_a_cluster_that_cannot_be_asked_changes_nothing_and_one_that_is_gone_is_forgotten() {
        let (one, two, own) =
            (place(Some("444455556666"), "one"), place(Some("444455556666"), "two"), place(None, "one"));
        let before = [entry(&one, RUNNER), entry(&two, RUNNER), entry(&own, RUNNER)];
        let identity = identity(RUNNER, &before);
        let denied = || Err(NotListed::Denied("no".to_owned()));
        let known = HashMap::from([(one.clone(), looked(denied())), (two.clone(), looked(Ok(&[])))]);
        assert_eq!(found(&identity, &known), [entry(&one, RUNNER)]);
        let another = Identity { roles: vec!["arn:aws:iam::111122223333:role/x".to_owned()], ..identity };
        assert_eq!(found(&another, &known), [], "it was another role's");
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_asked_again_sooner() {
        let look = Look { every: Some(Duration::from_secs(600)), own: None };
        for (outcome, seconds) in [
            (Ok(Vec::new()), 600),
            (Err(NotListed::Denied("no".to_owned())), 600),
            (Err(NotListed::Failed("no".to_owned())), 60),
        ] {
            let mut known = HashMap::new();
            note(&look, &mut known, place(None, "one"), outcome);
            assert_eq!(known[&place(None, "one")].next - Instant::now(), Duration::from_secs(seconds));
        }
    }
}
