//! Rejections: an event on the grant for each review that was refused, so that others see who tried.

use std::sync::Arc;

use crds::AccessGrant;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionRequest;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::grants::read;
use crate::events::Events;

// Events are told beside the answer; when more come than this, the rest is only in the log.
const AT_ONCE: usize = 4;

/// Tells of refused reviews.
#[derive(Clone)]
pub struct Rejections {
    client: Client,
    events: Events,
    seats: Arc<Semaphore>,
}

impl Rejections {
    /// Told by `events`.
    pub fn new(client: Client, events: Events) -> Self {
        Self { client, events, seats: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Tells of a refused request, if it was to add a review to a grant. A dry run leaves no trace. The grant is read again:
    /// whoever reaches the webhook's port could ask about any, but does not know its uid.
    pub fn tell(&self, request: &AdmissionRequest<DynamicObject>, reason: &str) {
        let Some(grant) = reviewed(request) else { return };
        let Ok(seat) = self.seats.clone().try_acquire_owned() else { return };
        let user = request.user_info.username.as_deref().unwrap_or_default();
        let (told, reason) = (self.clone(), format!("{user}: {reason}"));
        tokio::spawn(async move {
            let namespace = grant.metadata.namespace.clone().unwrap_or_default();
            let api: Api<AccessGrant> = Api::namespaced(told.client.clone(), &namespace);
            let found = api.get_opt(grant.metadata.name.as_deref().unwrap_or_default()).await;
            let is_it = |found: &AccessGrant| found.metadata.uid == grant.metadata.uid;
            if found.ok().flatten().is_some_and(|found| is_it(&found)) {
                told.events.of_rejected_review(&grant, &reason).await;
            }
            drop(seat);
        });
    }
}

// The grant as it was, if the request adds a review to it.
fn reviewed(request: &AdmissionRequest<DynamicObject>) -> Option<AccessGrant> {
    let (before, after) = (read(request.old_object.as_ref())?, read(request.object.as_ref())?);
    let adds = after.spec.reviews.iter().any(|review| !before.spec.reviews.contains(review));
    (adds && !request.dry_run).then_some(before)
}
