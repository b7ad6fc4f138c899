//! Retention: a grant that was finished long ago goes. The SessionRecord keeps a copy of every decision.

use std::time::Duration;

use crds::AccessGrant;
use crds::access_grant::ReviewDecision;
use jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::core::DeserializeGuard;
use kube::{Api, Client, ResourceExt as _};
use policy::approve::Standing;

/// When the grant is to be deleted: `time_to_live` after it was finished. None for a grant that is not, or is never.
pub fn due(grant: &AccessGrant, standing: &Standing, time_to_live: Option<Duration>) -> Option<Timestamp> {
    let time_to_live = SignedDuration::try_from(time_to_live?).ok()?;
    finished(grant, standing)?.checked_add(time_to_live).ok()
}

fn finished(grant: &AccessGrant, standing: &Standing) -> Option<Timestamp> {
    let reviewed = |decision: ReviewDecision| {
        grant
            .spec
            .reviews
            .iter()
            .filter(|review| review.decision == decision)
            .filter_map(|review| Some(review.review_time.as_ref()?.0))
            .max()
    };
    let created = grant.metadata.creation_timestamp.as_ref().map(|time| time.0);
    match standing {
        Standing::Waiting { .. } | Standing::Scheduled { .. } | Standing::Approved { .. } => None,
        // A denial answers the same request until its review deadline.
        Standing::Denied { until, .. } => Some(*until),
        Standing::Expired { at, .. } => Some(*at),
        Standing::Revoked { .. } => reviewed(ReviewDecision::Revoked).or(created),
        Standing::Used { .. } => {
            let consumed = grant.status.as_ref().and_then(|status| status.consumed_time.as_ref());
            consumed.map(|time| time.0).or_else(|| reviewed(ReviewDecision::Approved)).or(created)
        }
    }
}

/// Deletes exactly the version that was seen to be finished.
///
/// # Errors
/// The API server refused or could not be reached.
pub async fn delete(client: &Client, grant: &DeserializeGuard<AccessGrant>) -> Result<(), kube::Error> {
    let api: Api<AccessGrant> = Api::namespaced(client.clone(), &grant.namespace().unwrap_or_default());
    let seen = Preconditions { uid: grant.uid(), resource_version: grant.resource_version() };
    let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
    match api.delete(&grant.name_any(), &params).await {
        Ok(_) => {
            tracing::info!(grant = grant.name_any(), namespace = grant.namespace(), "finished grant deleted")
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn grant() -> AccessGrant {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "sallyport.dev/v1alpha1",
            "kind": "AccessGrant",
            "metadata": {"name": "g", "creationTimestamp": "1970-01-01T00:00:10Z"},
            "spec": {"agentRef": {"name": "a"}, "type": "Window", "reason": "r", "window": {"durationSeconds": 60}},
            "status": {"consumedBy": "x", "consumedTime": "1970-01-01T00:00:30Z"},
        }))
        .unwrap()
    }

    #[test]
    fn only_finished_grants_go_and_a_denial_stays_as_long_as_it_answers() {
        let week = Some(Duration::from_secs(100));
        let table = [
            (Standing::Waiting { progress: Vec::new(), until: at(20) }, None),
            (Standing::Approved { by: Vec::new(), from: at(1), until: at(20) }, None),
            (Standing::Denied { by: "alice".into(), note: None, until: at(40) }, Some(at(140))),
            (Standing::Expired { of: policy::approve::Deadline::Review, at: at(20) }, Some(at(120))),
            (Standing::Used { request_id: "x".into() }, Some(at(130))),
            (Standing::Revoked { by: None, note: None }, Some(at(110))),
        ];
        for (standing, expected) in table {
            assert_eq!(due(&grant(), &standing, week), expected, "{standing:?}");
            assert_eq!(due(&grant(), &standing, None), None);
        }
    }
}
