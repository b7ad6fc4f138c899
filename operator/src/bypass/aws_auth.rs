//! ConfigMap `kube-system/aws-auth` in memory: whom it lets into an EKS cluster, as far as a role can be meant by it.

mod lists;

use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::Notify;

use crate::watch::{Pace, lock};

use lists::Lists;
pub use lists::{List, Mapping};

/// Namespace of the ConfigMap.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "aws-auth";

#[derive(Default)]
enum Known {
    /// It was not listed yet.
    #[default]
    Nothing,
    /// The API server does not let the operator see it.
    Forbidden,
    Lists(Lists),
}

/// What is known of the ConfigMap. Cloning shares it.
#[derive(Clone, Default)]
pub struct AwsAuth(Arc<Mutex<Known>>);

impl AwsAuth {
    /// What lets one of these roles (in the form of [`policy::aws::role`]) in. `None` before the ConfigMap was listed once; nothing
    /// where the operator may not see it, which the log says.
    pub fn of(&self, roles: &[String]) -> Option<Vec<Mapping>> {
        if roles.is_empty() {
            return Some(Vec::new());
        }
        match &*lock(&self.0) {
            Known::Nothing => None,
            Known::Forbidden => Some(Vec::new()),
            Known::Lists(lists) => Some(lists.of(roles)),
        }
    }

    /// Follows the one ConfigMap for ever, and rings where something changed that may matter.
    pub async fn follow(self, client: Client, bell: Arc<Notify>) {
        let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
        let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut events = pin!(watcher(api, config).backoff(Pace::default()));
        let mut arriving = Lists::default();
        while let Some(event) = events.next().await {
            let lists = match event {
                Ok(watcher::Event::Init) => {
                    arriving = Lists::default();
                    continue;
                }
                Ok(watcher::Event::InitApply(map)) => {
                    arriving = Lists::read(&map);
                    continue;
                }
                Ok(watcher::Event::InitDone) => std::mem::take(&mut arriving),
                Ok(watcher::Event::Apply(map)) => Lists::read(&map),
                Ok(watcher::Event::Delete(_)) => Lists::default(),
                Err(error) => {
                    if self.failed(&error) {
                        bell.notify_one();
                    }
                    continue;
                }
            };
            let mut known = lock(&self.0);
            if !matches!(&*known, Known::Lists(before) if *before == lists) {
                *known = Known::Lists(lists);
                bell.notify_one();
            }
        }
    }

    // Whether that is news.
    fn failed(&self, error: &watcher::Error) -> bool {
        let mut known = lock(&self.0);
        let is_forbidden = matches!(
            error,
            watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403
        );
        match &*known {
            Known::Nothing if is_forbidden => {
                tracing::warn!(%error, "ConfigMap kube-system/aws-auth cannot be seen: nothing is said of it");
                *known = Known::Forbidden;
                true
            }
            Known::Forbidden => false,
            Known::Nothing | Known::Lists(_) => {
                tracing::warn!(%error, kind = "ConfigMap", "watch interrupted");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn b113_nothing_is_concluded_before_the_config_map_was_looked_for() {
        let roles = ["arn:aws:iam::111122223333:role/runner".to_owned()];
        let all = AwsAuth::default();
        assert_eq!(all.of(&roles), None);
        assert_eq!(all.of(&[]), Some(Vec::new()), "who has no role is not concerned");
        let map = |text: &str| ConfigMap {
            data: Some(BTreeMap::from([("mapRoles".to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        };
        *lock(&all.0) = Known::Lists(Lists::read(&map("- rolearn: [")));
        assert_eq!(all.of(&roles), Some(vec![Mapping::Unread(List::MapRoles)]));
        assert_eq!(all.of(&[]), Some(Vec::new()), "who has no role is not concerned");
        *lock(&all.0) = Known::Forbidden;
        assert_eq!(all.of(&roles), Some(Vec::new()));
    }
}
