//! The status of a SessionRecord: an entry for each replica, their sums, and whether the session runs.
use crds::condition::{Condition, ConditionStatus};
use crds::session_record::{RecordingLocation, ReplicaRecord, RequestCounts, SessionRecordStatus};
use jiff::Timestamp;
use recording::event::EndReason;
use recording::hash::Hash;
use recording::verify::session_root;

use super::tally::{MOST, Tally, put_grant, shown, time};

/// Where one replica's chain stands, for its entry in the status.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The chain's replica.
    pub replica: String,
    /// Its sums.
    pub tally: Tally,
    /// Folder of the session in the store.
    pub uri: String,
    /// Segments in the store, without a gap.
    pub segments: u32,
    /// Root of the last of them.
    pub root: Option<Hash>,
    /// Their bytes.
    pub bytes: u64,
    /// The final seal is in the store.
    pub closed: bool,
    /// Why segments do not reach the store at the moment.
    pub trouble: Option<String>,
}

/// Writes a replica's entry and, with a reason, the end of its part of the session.
pub fn write_entry(
    status: &mut SessionRecordStatus,
    entry: &Entry,
    ending: Option<EndReason>,
    now: Timestamp,
) {
    enter(status, entry);
    match ending {
        None => {}
        Some(EndReason::ProxyStopped | EndReason::ProxyLost) => {
            // The session goes on with the others, if there are any.
            let others =
                status.replicas.iter().any(|replica| replica.name != entry.replica && !replica.closed);
            if !others {
                end(status, EndReason::ProxyLost, now);
            }
        }
        Some(
            reason @ (EndReason::IdleTimeout
            | EndReason::MaxDuration
            | EndReason::WindowClosed
            | EndReason::AgentSuspended),
        ) => end(status, reason, now),
    }
    set_conditions(status, now);
}

/// Writes one replica's entry and renews the sums.
fn enter(status: &mut SessionRecordStatus, entry: &Entry) {
    let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let own = ReplicaRecord {
        name: entry.replica.clone(),
        requests: entry.tally.requests,
        streams: 0,
        masked_values: entry.tally.masked,
        last_activity_time: (entry.tally.last_us > 0).then(|| time(entry.tally.last_us)),
        recording: Some(RecordingLocation {
            uri: Some(format!("{}{}/", entry.uri, entry.replica)),
            size_bytes: size(entry.bytes),
            segments: i64::from(entry.segments),
            root_hash: entry.root.map(|root| root.to_string()),
        }),
        closed: entry.closed,
        upload_error: entry.trouble.as_deref().map(|why| shown(why, 1024)),
    };
    match status.replicas.iter_mut().find(|replica| replica.name == entry.replica) {
        Some(found) => *found = own,
        None => status.replicas.push(own),
    }
    for highlight in &entry.tally.highlights {
        let known = status.highlights.iter().any(|known| known.id == highlight.id);
        if !known && status.highlights.len() < MOST {
            status.highlights.push(highlight.clone());
        } else if !known {
            status.truncated = true;
        }
    }
    for grant in &entry.tally.grants {
        status.truncated |= !put_grant(&mut status.grants, grant.clone());
    }
    status.truncated |= entry.tally.truncated;
    sum_up(status, &entry.uri);
}

fn sum_up(status: &mut SessionRecordStatus, uri: &str) {
    let mut requests = RequestCounts::default();
    let (mut masked, mut segments, mut bytes) = (0, 0, 0);
    for replica in &status.replicas {
        requests.total += replica.requests.total;
        requests.allowed += replica.requests.allowed;
        requests.denied += replica.requests.denied;
        requests.approved += replica.requests.approved;
        requests.pending += replica.requests.pending;
        requests.dry_run += replica.requests.dry_run;
        masked += replica.masked_values;
        segments += replica.recording.as_ref().map_or(0, |recording| recording.segments);
        bytes += replica.recording.as_ref().map_or(0, |recording| recording.size_bytes);
    }
    status.requests = Some(requests);
    status.masked_values = Some(masked);
    status.streams = Some(status.replicas.iter().map(|replica| replica.streams).sum());
    status.last_activity_time = status
        .replicas
        .iter()
        .filter_map(|replica| replica.last_activity_time.clone())
        .max_by_key(|time| time.0);
    status.recording = Some(RecordingLocation {
        uri: Some(uri.to_owned()),
        size_bytes: bytes,
        segments,
        root_hash: whole_root(status).map(|root| root.to_string()),
    });
}

/// The root over all chains that have a segment.
fn whole_root(status: &SessionRecordStatus) -> Option<Hash> {
    session_root(status.replicas.iter().filter_map(|replica| {
        let root = replica.recording.as_ref()?.root_hash.as_deref()?.parse().ok()?;
        Some((replica.name.as_str(), root))
    }))
}

/// Sets `Active` to False, unless it is; the first reason stays.
pub fn end(status: &mut SessionRecordStatus, reason: EndReason, now: Timestamp) {
    if !is_ended(status) {
        status.end_time = Some(time(now.as_microsecond()));
        set_condition(status, "Active", ConditionStatus::False, reason.as_str(), "", now);
    }
}

/// Sets `Active` to True if the session has not ended, and `Recorded` by what is in the store.
pub fn set_conditions(status: &mut SessionRecordStatus, now: Timestamp) {
    if !is_ended(status) {
        set_condition(status, "Active", ConditionStatus::True, "Active", "", now);
    }
    let whole = is_ended(status) && status.replicas.iter().all(|replica| replica.closed);
    let segments = status.recording.as_ref().map_or(0, |recording| recording.segments);
    let message = format!("{segments} segments");
    let trouble = status.replicas.iter().find_map(|replica| {
        let why = replica.upload_error.as_deref()?;
        Some(format!("{message} so far; {}: {why}", replica.name))
    });
    if let Some(trouble) = trouble {
        set_condition(status, "Recorded", ConditionStatus::False, "UploadFailed", &trouble, now);
    } else if whole {
        set_condition(status, "Recorded", ConditionStatus::True, "Uploaded", &message, now);
    } else {
        set_condition(status, "Recorded", ConditionStatus::Unknown, "Uploading", &message, now);
    }
}

/// Whether the session has ended.
pub fn is_ended(status: &SessionRecordStatus) -> bool {
    let inactive =
        |condition: &Condition| condition.r#type == "Active" && condition.status == ConditionStatus::False;
    status.end_time.is_some() || status.conditions.iter().any(inactive)
}

fn set_condition(
    status: &mut SessionRecordStatus,
    kind: &str,
    value: ConditionStatus,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let found = status.conditions.iter_mut().find(|condition| condition.r#type == kind);
    let since = match &found {
        Some(condition) if condition.status == value => condition.last_transition_time.clone(),
        Some(_) | None => time(now.as_microsecond()),
    };
    let condition = Condition {
        r#type: kind.to_owned(),
        status: value,
        observed_generation: Some(1),
        last_transition_time: since,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    match found {
        Some(found) => *found = condition,
        None => status.conditions.push(condition),
    }
}
