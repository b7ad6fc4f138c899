//! Where an agent's requests go: one target for each cluster and credential, shared by the agents that have both.
mod coordinates;
mod eks;
mod fixed;
pub mod joined;
mod own;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crds::agent_identity::TargetType;
use futures::FutureExt;
use http::StatusCode;
use http::header::HeaderValue;
use kube::Client;
use policy::agent::Agent;
use thiserror::Error;
use tokio::time::Instant;

use crate::discovery::DiscoveryCache;
use crate::live::Live;
use crate::upstream::{Road, Upstream};

pub use eks::{Base, Eks, NotListed, Place};
pub use fixed::Fixed;
pub use own::Own;

use coordinates::Coordinates;

const REFRESH: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_secs(30);

/// How an API server is entered.
pub enum Access {
    /// The gate's own cluster, with its own credential: agents are impersonated.
    Own(Own),
    /// By URL, certificate authority and token.
    Fixed(Fixed),
    /// An EKS cluster, by an IAM role.
    Eks(Box<Eks>),
    /// The identity does not say how.
    Nowhere,
}

/// Address and credential of the moment.
pub struct Way {
    /// Connections.
    pub road: Arc<Road>,
    /// `Authorization`, where the connection itself does not prove who comes.
    pub authorization: Option<HeaderValue>,
}

/// What is wrong with a target, as condition `TargetReachable` words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// AWS does not let the gate assume the role.
    AssumeRoleDenied,
    /// AWS knows no such cluster.
    ClusterNotFound,
    /// The credential is missing or not accepted.
    Unauthorized,
    /// The other side does not prove that it is the cluster.
    CertificateInvalid,
    /// Nobody answers.
    ConnectionFailed,
}

impl Fault {
    /// The reason of the condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::AssumeRoleDenied => "AssumeRoleDenied",
            Fault::ClusterNotFound => "ClusterNotFound",
            Fault::Unauthorized => "Unauthorized",
            Fault::CertificateInvalid => "CertificateInvalid",
            Fault::ConnectionFailed => "ConnectionFailed",
        }
    }
}

/// Why an API server cannot even be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct NoAccess {
    /// In one word.
    pub fault: Fault,
    /// In a sentence for administrators; no credential is in it.
    pub message: String,
}

impl Access {
    /// Address and credential of the moment.
    ///
    /// # Errors
    /// [`NoAccess`]; nothing can be sent then.
    pub async fn way(&self) -> Result<Way, NoAccess> {
        match self {
            Access::Own(own) => own.way(),
            Access::Fixed(fixed) => fixed.way().await,
            Access::Eks(eks) => eks.way().boxed().await,
            Access::Nowhere => Err(NoAccess {
                fault: Fault::ConnectionFailed,
                message: "the identity names no cluster".to_owned(),
            }),
        }
    }

    /// Whether requests run as the agent itself. Where they do not, all agents of the target look alike to it.
    pub fn impersonates(&self) -> bool {
        match self {
            Access::Own(_) => true,
            Access::Fixed(_) | Access::Eks(_) | Access::Nowhere => false,
        }
    }

    /// What administrators read when the API server answers the first request with this status.
    pub fn refused(&self, status: StatusCode, username: &str) -> String {
        match self {
            Access::Own(_) => format!("the API server answered {status} to a request as {username}"),
            Access::Fixed(fixed) => {
                format!("the API server answered {status} to the token of {}", fixed.secret())
            }
            Access::Eks(eks) if status == StatusCode::UNAUTHORIZED => eks.advice(),
            Access::Eks(_) | Access::Nowhere => format!("the API server answered {status}"),
        }
    }

    /// The cluster, for records.
    pub fn server(&self) -> String {
        match self {
            Access::Own(own) => own.server(),
            Access::Fixed(fixed) => fixed.server().to_owned(),
            Access::Eks(eks) => eks.arn(),
            Access::Nowhere => "nowhere".to_owned(),
        }
    }

    /// The cluster, for approvals: one that was given for a cluster is good for no other (D01).
    pub fn cluster(&self) -> String {
        match self {
            // The cluster that the grants themselves are in.
            Access::Own(_) => "in-cluster".to_owned(),
            Access::Fixed(fixed) => fixed.server().to_owned(),
            Access::Eks(eks) => eks.cluster(),
            Access::Nowhere => "nowhere".to_owned(),
        }
    }

    /// Grows whenever the credential is another one: what it could not do before, it may do now.
    pub fn revision(&self) -> u64 {
        match self {
            Access::Own(_) | Access::Eks(_) | Access::Nowhere => 0,
            Access::Fixed(fixed) => fixed.revision(),
        }
    }

    /// After a connection that could not be made: whether the cluster turned out to be elsewhere, so that the request may be
    /// tried once more.
    pub async fn look_again(&self) -> bool {
        match self {
            Access::Eks(eks) => eks.look_again().boxed().await,
            Access::Own(_) | Access::Fixed(_) | Access::Nowhere => false,
        }
    }

    /// After an answer that the credential is not accepted.
    pub async fn forget_credential(&self) {
        match self {
            Access::Eks(eks) => eks.forget_credential().boxed().await,
            Access::Own(_) | Access::Fixed(_) | Access::Nowhere => {}
        }
    }

    async fn refresh_ahead(&self) {
        match self {
            Access::Eks(eks) => eks.refresh_ahead().boxed().await,
            Access::Own(_) | Access::Fixed(_) | Access::Nowhere => {}
        }
    }
}

/// A cluster, as some agents reach it.
pub struct Target {
    /// The way to it.
    pub upstream: Arc<Upstream>,
    /// What it serves.
    pub discovery: DiscoveryCache,
}

impl Target {
    /// Through this access.
    pub fn new(access: Access) -> Self {
        let upstream = Arc::new(Upstream::new(access));
        Self { discovery: DiscoveryCache::new(Arc::clone(&upstream)), upstream }
    }

    /// Its type.
    pub fn kind(&self) -> TargetType {
        match self.upstream.access() {
            Access::Own(_) => TargetType::InCluster,
            Access::Fixed(_) | Access::Nowhere => TargetType::Static,
            Access::Eks(_) => TargetType::Eks,
        }
    }

    /// Whether it is another cluster than the gate's own, entered with one credential for all of its agents.
    pub fn is_remote(&self) -> bool {
        !self.upstream.access().impersonates()
    }
}

/// Every target.
pub struct Targets {
    hub: Arc<Target>,
    hub_name: String,
    client: Client,
    aws: Arc<Base>,
    remote: Mutex<HashMap<Coordinates, Arc<Target>>>,
}

impl Targets {
    /// The gate's own cluster, whose name AWS roles are told, and whatever its agents name. `client` reads their Secrets.
    pub fn new(own: Own, hub_name: &str, client: Client) -> Self {
        Self {
            hub: Arc::new(Target::new(Access::Own(own))),
            hub_name: hub_name.to_owned(),
            client,
            aws: Arc::default(),
            remote: Mutex::default(),
        }
    }

    /// The gate's own AWS credentials.
    pub fn aws(&self) -> &Base {
        &self.aws
    }

    /// The gate's own cluster: grants, leases and live config are there.
    pub fn hub(&self) -> &Arc<Target> {
        &self.hub
    }

    /// Where the agent's requests go. A target that is asked for the first time is made here, so that a changed identity
    /// never waits for the next sweep. To be called inside the async runtime.
    pub fn of(&self, agent: &Agent) -> Arc<Target> {
        if !agent.shares_credential() {
            return Arc::clone(&self.hub);
        }
        let coordinates = Coordinates::of(agent);
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = remote.get(&coordinates) {
            return Arc::clone(known);
        }
        let access = match &coordinates {
            Coordinates::Own => return Arc::clone(&self.hub),
            Coordinates::Static { namespace, spec } => {
                Access::Fixed(Fixed::new(self.client.clone(), namespace, spec))
            }
            Coordinates::Eks { namespace, name, spec } => {
                Access::Eks(Box::new(Eks::new(Arc::clone(&self.aws), &self.hub_name, namespace, name, spec)))
            }
            Coordinates::Nowhere => Access::Nowhere,
        };
        let target = Arc::new(Target::new(access));
        remote.insert(coordinates, Arc::clone(&target));
        target
    }

    /// Drops what no identity names any more, renews credentials ahead of their end, and asks every two minutes what the
    /// others serve; for ever. The gate's own cluster keeps itself.
    pub async fn keep(&self, live: &Live) {
        let mut changes = live.changes();
        let mut refreshed = Instant::now();
        loop {
            self.sweep(live);
            let is_due = refreshed.elapsed() >= REFRESH;
            if is_due {
                refreshed = Instant::now();
            }
            let kept = self.all().into_iter().map(|target| async move {
                target.upstream.access().refresh_ahead().await;
                if is_due && let Err(error) = target.discovery.newer_than(Instant::now()).await {
                    let server = target.upstream.access().server();
                    tracing::warn!(%error, server, "a target's discovery was not refreshed");
                }
            });
            futures::future::join_all(kept).await;
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Ok(()) = changes.changed() => {}
            }
        }
    }

    fn all(&self) -> Vec<Arc<Target>> {
        self.remote.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn sweep(&self, live: &Live) {
        let Some(bundle) = live.latest_bundle() else { return };
        let named: HashSet<Coordinates> = bundle.agents().map(|agent| Coordinates::of(agent)).collect();
        self.remote
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|coordinates, _| named.contains(coordinates));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::bundle::Bundle;
    use policy::shard::{GUARDRAILS_NAME, Shard, ShardIdentity, agent_shard_name};
    use serde_json::{Value, json};

    fn bundle(agents: &[(&str, Value)]) -> Bundle {
        let guardrails = Shard { format_version: 1, identity: None, policies: Vec::new() };
        let mut texts = std::collections::BTreeMap::from([(
            GUARDRAILS_NAME.to_owned(),
            guardrails.encode().expect("encodes"),
        )]);
        for (name, target) in agents {
            let spec = serde_json::from_value(json!({"target": target, "subjects": [
                {"name": "a", "type": "ServiceAccount", "serviceAccount": {"namespace": "agents", "name": name}},
            ]}));
            // As published: what the operator refuses may still be there.
            let identity = ShardIdentity {
                namespace: "agents".into(),
                name: (*name).into(),
                uid: (*name).into(),
                generation: 1,
                labels: std::collections::BTreeMap::new(),
                spec: spec.expect("a spec"),
            };
            let shard = Shard { format_version: 1, identity: Some(identity), policies: Vec::new() };
            texts.insert(agent_shard_name("agents", name), shard.encode().expect("encodes"));
        }
        Bundle::load(&texts, None).expect("loads")
    }

    fn fixed(secret: &str) -> Value {
        json!({"type": "Static", "static": {
            "server": "https://edge.example", "caBundle": "LS0=", "tokenSecretRef": {"name": secret, "key": "token"}}})
    }

    #[tokio::test]
    async fn the_same_cluster_and_credential_is_one_target_and_nothing_else_is() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = kube::Config::new("https://hub.example".parse().expect("a url"));
        let client = Client::try_from(config.clone()).expect("a client");
        let targets = Targets::new(Own::new(&config).expect("an address"), "hub", client);
        let eks = json!({"type": "EKS", "eks": {
            "clusterName": "c", "region": "us-east-1", "roleARN": "arn:aws:iam::444455556666:role/r"}});
        let all = [
            ("home", json!({"type": "InCluster"})),
            ("one", fixed("token")),
            ("same", fixed("token")),
            ("other", fixed("another")),
            ("eks", eks.clone()),
            ("eks2", eks),
            ("none", json!({"type": "Static"})),
        ];
        let bundle = bundle(&all);
        let of = |name: &str| targets.of(bundle.agent("agents", name).expect("its agent"));
        assert!(Arc::ptr_eq(&of("home"), targets.hub()));
        assert!(Arc::ptr_eq(&of("one"), &of("same")));
        for name in ["other", "eks", "eks2", "none"] {
            assert!(!Arc::ptr_eq(&of(name), targets.hub()) && of(name).is_remote(), "{name}");
            assert!(!Arc::ptr_eq(&of(name), &of("one")), "{name}");
        }
        assert!(!Arc::ptr_eq(&of("eks"), &of("eks2")), "a role session is one agent's");
        assert!(of("none").upstream.access().way().await.is_err(), "and never the gate's own cluster");
        let clusters = ["home", "one", "other", "eks"].map(|name| of(name).upstream.access().cluster());
        assert_eq!(clusters[0], "in-cluster");
        assert_eq!(clusters[1], "https://edge.example");
        assert!(clusters[3].starts_with("arn:aws:eks:us-east-1:444455556666:cluster/c"), "{clusters:?}");

        // F22: an identity that changed has another target; one that is gone has none.
        let kept = of("one");
        let live = Live::new();
        live.bundle_is(self::bundle(&[("one", fixed("token"))]));
        targets.sweep(&live);
        assert_eq!(targets.all().len(), 1);
        assert!(Arc::ptr_eq(&of("one"), &kept));
    }
}
