//! The key that approvals are bound with: read from its Secret through the API, the same for every replica.
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use parsing::digest::BindingKey;

use super::Live;

/// Follows the Secret for ever. One that is deleted or too short leaves the last good key in force.
pub async fn follow(client: Client, namespace: String, live: Live) {
    let secrets = Api::<Secret>::namespaced(client, &namespace);
    let mut events = watcher::watch_object(secrets, crds::names::BINDING_KEY_SECRET)
        .backoff(super::Patience::default())
        .boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Some(secret)) => match read(&secret) {
                Some(key) => live.binding_key_is(key),
                None => tracing::error!("the secret of the binding key holds no key"),
            },
            Ok(None) => tracing::warn!("the secret of the binding key is missing"),
            Err(error) => tracing::warn!(%error, "the secret of the binding key cannot be watched"),
        }
    }
}

fn read(secret: &Secret) -> Option<BindingKey> {
    BindingKey::new(&secret.data.as_ref()?.get(crds::names::BINDING_KEY)?.0)
}
