//! What makes two targets one: the same cluster, entered with the same credential.
use std::hash::{Hash, Hasher};

use crds::agent_identity::{EksTarget, StaticTarget, TargetType};
use policy::agent::Agent;

/// Cluster and credential of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Coordinates {
    /// The gate's own cluster.
    Own,
    /// By URL and token; the Secret is in this namespace.
    Static { namespace: String, spec: StaticTarget },
    /// By role, under a name of the agent's own.
    Eks { namespace: String, name: String, spec: EksTarget },
    /// The member that the type names is missing: the schema does not let that pass, and nothing is reached by it.
    Nowhere,
}

impl Coordinates {
    pub(super) fn of(agent: &Agent) -> Self {
        let target = &agent.identity().spec.target;
        let (namespace, name) = (agent.namespace().to_owned(), agent.name().to_owned());
        match (target.r#type, target.r#static.clone(), target.eks.clone()) {
            (TargetType::InCluster, _, _) => Coordinates::Own,
            (TargetType::Static, Some(spec), _) => Coordinates::Static { namespace, spec },
            (TargetType::Eks, _, Some(spec)) => Coordinates::Eks { namespace, name, spec },
            (TargetType::Static | TargetType::Eks, _, _) => Coordinates::Nowhere,
        }
    }
}

impl Hash for Coordinates {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Coordinates::Own | Coordinates::Nowhere => {}
            Coordinates::Static { namespace, spec } => {
                (namespace, &spec.server, &spec.token_secret_ref.name).hash(state);
            }
            Coordinates::Eks { namespace, name, .. } => (namespace, name).hash(state),
        }
    }
}
