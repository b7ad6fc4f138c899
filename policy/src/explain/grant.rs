//! `GET /sallyport/v1/grants/<name>/wait`: where one grant stands, and what its agent does next.

use crds::AccessGrant;
use crds::access_grant::GrantType;
use serde::Serialize;

use super::words::{quoted, stamp};
use crate::approve::{Deadline, Standing};

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantDocument {
    /// Name of the AccessGrant.
    pub grant: String,
    /// Its namespace.
    pub namespace: String,
    /// Nothing is to be waited for any more.
    pub decided: bool,
    /// WaitingForReview, Scheduled, Approved, Denied, Expired, Revoked, Used, NotNeeded or Gone.
    pub state: &'static str,
    /// The same in a sentence.
    pub message: String,
    /// When this state ends by itself: the deadline of the review or of the use, the end of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What to do next.
    pub next: String,
}

/// The command that waits for a grant and takes no shell for longer than 50 seconds.
fn wait_again(name: &str) -> String {
    format!("kubectl get --raw '/sallyport/v1/grants/{name}/wait?timeoutSeconds=50'")
}

const AGAIN: &str = "run exactly the same command again; it asks for a new approval.";
const STOP: &str = "do not repeat it; report it to the user.";

/// What is said of a grant that stands so. No standing: no policy asks for it any more.
pub fn grant(grant: &AccessGrant, standing: Option<&Standing>) -> GrantDocument {
    let name = grant.metadata.name.clone().unwrap_or_default();
    let is_window = grant.spec.r#type == GrantType::Window;
    let say = |state, decided, message: String, until: Option<jiff::Timestamp>, next: &str| GrantDocument {
        grant: name.clone(),
        namespace: grant.metadata.namespace.clone().unwrap_or_default(),
        decided,
        state,
        message,
        until: until.map(stamp),
        next: next.to_owned(),
    };
    let Some(standing) = standing else {
        let message = "no policy asks for this approval any more.".to_owned();
        return say("NotNeeded", true, message, None, "run the command; the gate decides anew.");
    };
    match standing {
        Standing::Waiting { progress, until } => {
            let (have, needed) = progress.iter().fold((0_u32, 0_u32), |(have, needed), one| {
                (have.saturating_add(one.have.min(one.needed)), needed.saturating_add(one.needed))
            });
            let message = format!("no decision yet: {have} of {needed} approvals.");
            say("WaitingForReview", false, message, Some(*until), &wait_again(&name))
        }
        Standing::Scheduled { from, until, .. } => {
            let message = format!("approved; the window opens at {}.", stamp(*from));
            say("Scheduled", true, message, Some(*until), "wait until then, then run your commands.")
        }
        Standing::Approved { by, until, .. } => {
            let by = if by.is_empty() { "by policy".to_owned() } else { format!("by {}", by.join(", ")) };
            let next = match is_window {
                true => "run your commands; the window closes at the time above.",
                false => "run exactly the same command again, before the time above; it runs once.",
            };
            say("Approved", true, format!("approved {by}."), Some(*until), next)
        }
        Standing::Denied { by, note, until } => {
            say("Denied", true, decided_by("denied", Some(by), note.as_deref()), Some(*until), STOP)
        }
        Standing::Expired { of, at } => {
            let how = match of {
                Deadline::Review => "nobody reviewed it in time",
                Deadline::Use => "it was approved, but not used in time",
                Deadline::Window => "its window is over",
            };
            say(
                "Expired",
                true,
                format!("{how} ({}).", stamp(*at)),
                None,
                if is_window { STOP_WINDOW } else { AGAIN },
            )
        }
        Standing::Revoked { by, note } => {
            say("Revoked", true, decided_by("revoked", by.as_deref(), note.as_deref()), None, STOP)
        }
        Standing::Used { request_id } => {
            let message = format!("it was used up by request {request_id}.");
            say(
                "Used",
                true,
                message,
                None,
                "look at what the command did; the same command again asks for a new approval.",
            )
        }
    }
}

const STOP_WINDOW: &str = "ask for a new window if you still need one.";

/// What is said of a grant that was there when the wait began, and is not any more.
pub fn gone_grant(namespace: &str, name: &str) -> GrantDocument {
    GrantDocument {
        grant: name.to_owned(),
        namespace: namespace.to_owned(),
        decided: true,
        state: "Gone",
        message: "it was withdrawn or deleted.".to_owned(),
        until: None,
        next: AGAIN.to_owned(),
    }
}

fn decided_by(verb: &str, by: Option<&str>, note: Option<&str>) -> String {
    let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
    match note.filter(|note| !note.trim().is_empty()) {
        Some(note) => format!("{verb}{by}; reviewer note: {}", quoted(note)),
        None => format!("{verb}{by}."),
    }
}
