//! Judging: the terms on which a grant is decided, from the live config in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use crds::{AccessGrant, AgentIdentity};
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use policy::bundle::{Bundle, BundleError};
use policy::evaluate::{Facts, terms_of};
use policy::reviewers::Outsiders;
use policy::shard::{Shard, ShardError};
use policy::subject::Subject;
use policy::terms::Terms;

/// Terms of a grant that nothing asks for (any more): nobody can approve it, and it expires as by default.
const NOBODY_ASKS: Terms = Terms {
    policies: Vec::new(),
    hold_seconds: 0,
    review_deadline_seconds: 3600,
    use_deadline_seconds: 600,
    max_window_seconds: None,
};

/// What stops a grant from being judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// A shard in force does not decode.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The shards make no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A shard has no JSON form.
    #[error("live config does not encode: {0}")]
    Encode(#[from] serde_json::Error),
}

/// A bundle to judge grants by. It leaves `suspend` aside: a suspended agent's grants can be reviewed, they just
/// cannot be used.
pub struct Judge(Bundle);

impl Judge {
    /// From ConfigMap name to `shard.json`; what did not change is taken from `previous`.
    ///
    /// # Errors
    /// [`JudgeError`].
    pub fn of(texts: &BTreeMap<String, String>, previous: Option<&Judge>) -> Result<Self, JudgeError> {
        let awake = texts
            .iter()
            .map(|(name, text)| Ok((name.clone(), awake(name, text)?)))
            .collect::<Result<BTreeMap<_, _>, JudgeError>>()?;
        Ok(Self(Bundle::load(&awake, previous.map(|judge| &judge.0))?))
    }

    /// The terms on which the grant is decided now; none where nothing asks for it (any more).
    pub fn terms(&self, grant: &AccessGrant, now: Timestamp) -> Option<Terms> {
        let namespace = grant.metadata.namespace.as_deref()?;
        let agent = self.0.agent(namespace, &grant.spec.agent_ref.name)?;
        terms_of(agent, grant, &Facts { now, suspended: false, windows: &[] })
    }
}

/// The terms of a grant that nothing asks for.
pub fn nobody_asks() -> Terms {
    NOBODY_ASKS
}

fn awake(name: &str, text: &str) -> Result<String, JudgeError> {
    let mut shard = Shard::decode(name, text)?;
    let Some(identity) = shard.identity.as_mut().filter(|identity| identity.spec.suspend) else {
        return Ok(text.to_owned());
    };
    identity.spec.suspend = false;
    Ok(shard.encode()?)
}

/// The users who may review nothing: the programs, and every subject of every identity, accepted or not.
pub fn outsiders<'a>(
    system_namespace: &str,
    identities: impl IntoIterator<Item = &'a DeserializeGuard<AgentIdentity>>,
) -> Outsiders {
    let subjects: Vec<Subject> = identities
        .into_iter()
        .filter_map(|identity| identity.0.as_ref().ok())
        .flat_map(|identity| &identity.spec.subjects)
        .filter_map(|entry| Subject::named_by(entry).or_else(|| policy::oidc::pinned(entry.oidc.as_ref()?)))
        .collect();
    Outsiders::new(system_namespace, &subjects)
}

/// The published texts by name.
pub fn texts(shards: &[Arc<k8s_openapi::api::core::v1::ConfigMap>]) -> BTreeMap<String, String> {
    use kube::ResourceExt as _;
    let text =
        |map: &k8s_openapi::api::core::v1::ConfigMap| map.data.as_ref()?.get(crds::names::SHARD_KEY).cloned();
    shards.iter().filter_map(|map| Some((map.name_any(), text(map)?))).collect()
}
