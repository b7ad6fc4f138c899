//! AccessGrants as the API server has them: a followed copy to wait on, fresh reads to decide from.
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crds::access_grant::{AccessGrant, AccessGrantStatus};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use thiserror::Error;

use crate::live::{AgentKey, Live};
use crate::request_id::RequestId;

/// Why a grant could not be used up.
#[derive(Debug, Error)]
pub enum ConsumeError {
    /// Somebody wrote it since it was read: read it again.
    #[error("the grant changed since it was read")]
    Changed,
    /// The API server did not take it; whether it is used up is not known, so it counts as used up.
    #[error("the grant cannot be consumed: {0}")]
    Unavailable(kube::Error),
}

/// Why a grant could not be created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// One of this name is there already: join it.
    #[error("a grant of this name exists")]
    Exists,
    /// The API server or a webhook refused, or could not be asked.
    #[error("the grant cannot be created: {0}")]
    Unavailable(kube::Error),
}

type Known = HashMap<(String, String), Arc<AccessGrant>>;

/// Every grant of the cluster, with the proxy's own credential. Cloning shares them.
#[derive(Clone)]
pub struct Grants {
    client: Client,
    known: Arc<RwLock<Option<Known>>>,
}

impl Grants {
    /// Knows none yet.
    pub fn new(client: Client) -> Self {
        Self { client, known: Arc::default() }
    }

    /// Follows the grants for ever and tells `live` of every change.
    pub async fn follow(self, live: Live) {
        let kind = GroupVersionKind::gvk(crds::names::GROUP, crds::names::VERSION, "AccessGrant");
        let resource = ApiResource::from_gvk_with_plural(&kind, "accessgrants");
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let mut events = watcher(api, watcher::Config::default().any_semantic())
            .backoff(crate::live::Patience::default())
            .boxed();
        let mut arriving = Known::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => arriving.clear(),
                Ok(watcher::Event::InitApply(object)) => put(&mut arriving, object),
                Ok(watcher::Event::InitDone) => {
                    *self.write() = Some(std::mem::take(&mut arriving));
                    live.changed();
                }
                Ok(watcher::Event::Apply(object)) => {
                    put(self.write().get_or_insert_default(), object);
                    live.changed();
                }
                Ok(watcher::Event::Delete(object)) => {
                    self.write().get_or_insert_default().remove(&key(&object));
                    live.changed();
                }
                Err(error) => tracing::warn!(%error, "the grants cannot be watched"),
            }
        }
    }

    /// The followed copy of one grant: good for waiting, never for deciding (D23).
    pub fn glimpse(&self, namespace: &str, name: &str) -> Option<Arc<AccessGrant>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref()?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The followed copies of an agent's grants; empty before the first answer, so that no window is open then.
    pub fn of(&self, agent: &AgentKey) -> Vec<Arc<AccessGrant>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_its = |grant: &&Arc<AccessGrant>| {
            grant.spec.agent_ref.name == agent.name
                && grant.metadata.namespace.as_deref() == Some(agent.namespace.as_str())
        };
        known.iter().flat_map(HashMap::values).filter(is_its).cloned().collect()
    }

    /// Reads one grant from the API server itself.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn read(&self, namespace: &str, name: &str) -> Result<Option<AccessGrant>, kube::Error> {
        self.api(namespace).get_opt(name).await
    }

    /// Creates a grant.
    ///
    /// # Errors
    /// If there is one of this name, or the API server refuses.
    pub async fn create(&self, namespace: &str, grant: &AccessGrant) -> Result<AccessGrant, CreateError> {
        let created = self.api(namespace).create(&PostParams::default(), grant).await;
        created.map_err(|error| {
            if is_conflict(&error) { CreateError::Exists } else { CreateError::Unavailable(error) }
        })
    }

    /// Uses a grant up for one request: a compare-and-swap on the version that was read (D03, D24). Of any number of
    /// replicas one succeeds.
    ///
    /// # Errors
    /// If it changed since, or the API server does not answer.
    pub async fn consume(
        &self,
        read: &AccessGrant,
        id: &RequestId,
        now: Timestamp,
    ) -> Result<(), ConsumeError> {
        let mut used = read.clone();
        let status = used.status.get_or_insert_with(AccessGrantStatus::default);
        if status.consumed_by.is_some() {
            return Err(ConsumeError::Changed);
        }
        status.consumed_by = Some(id.as_str().to_owned());
        status.consumed_time = Some(Time(now));
        status.uses = Some(1);
        let (namespace, name) = (read.namespace().unwrap_or_default(), read.name_any());
        match self.api(&namespace).replace_status(&name, &PostParams::default(), &used).await {
            Ok(_) => Ok(()),
            Err(error) if is_conflict(&error) || is_gone(&error) => Err(ConsumeError::Changed),
            Err(error) => Err(ConsumeError::Unavailable(error)),
        }
    }

    fn api(&self, namespace: &str) -> Api<AccessGrant> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Option<Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(object: &DynamicObject) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// A grant that does not decode opens nothing and is left out; the others stay readable.
fn put(known: &mut Known, object: DynamicObject) {
    let at = key(&object);
    match object.try_parse::<AccessGrant>() {
        Ok(grant) => {
            known.insert(at, Arc::new(grant));
        }
        Err(error) => {
            tracing::warn!(namespace = at.0, name = at.1, %error, "a grant does not decode");
            known.remove(&at);
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    code(error) == Some(409)
}

fn is_gone(error: &kube::Error) -> bool {
    code(error) == Some(404)
}

fn code(error: &kube::Error) -> Option<u16> {
    if let kube::Error::Api(status) = error { Some(status.code) } else { None }
}
