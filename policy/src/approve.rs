//! Decides where a grant stands, from its stamped reviews alone: one step per review, then one answer for now.

mod release;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::AccessGrant;
use crds::access_grant::{Review, ReviewDecision};
use jiff::{SignedDuration, Timestamp};

use crate::agent::Agent;
use crate::reviewers::{Outsiders, counts_for};
use crate::terms::Terms;

pub use release::{NotReleased, release};
pub use window::{OpenWindow, open_window};

/// How far the clocks of API server, operator and proxy may be apart (D19).
pub const MAX_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// What the shell knows about the moment.
#[derive(Clone, Copy, Debug)]
pub struct ReviewFacts<'a> {
    /// The time.
    pub now: Timestamp,
    /// The users who may review nothing.
    pub outsiders: &'a Outsiders,
}

/// Which end a grant ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// Nobody decided in time.
    Review,
    /// Approved, but not used in time.
    Use,
    /// The window is over.
    Window,
}

/// How far one policy's quorum is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Name of the AccessPolicy.
    pub policy: Arc<str>,
    /// Approvals it needs.
    pub needed: u32,
    /// Distinct approvals that count for it.
    pub have: u32,
}

/// Where a grant stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Undecided.
    Waiting {
        /// Every policy's quorum.
        progress: Vec<Progress>,
        /// Review deadline.
        until: Timestamp,
    },
    /// An approved window that has not begun.
    Scheduled {
        /// Who approved, in order of review; empty where no policy asks for a human.
        by: Vec<String>,
        /// When it begins.
        from: Timestamp,
        /// Its absolute end.
        until: Timestamp,
    },
    /// Usable now.
    Approved {
        /// Who approved, in order of review; empty where no policy asks for a human.
        by: Vec<String>,
        /// Since when.
        from: Timestamp,
        /// The use deadline of a SingleRequest, the absolute end of a Window.
        until: Timestamp,
    },
    /// Refused before the quorum was reached.
    Denied {
        /// By whom.
        by: String,
        /// The reviewer's note.
        note: Option<String>,
        /// Until then the same request is answered with this denial (ruling on grant names).
        until: Timestamp,
    },
    /// Over.
    Expired {
        /// Which end.
        of: Deadline,
        /// When.
        at: Timestamp,
    },
    /// Taken back after the quorum was reached, or deleted.
    Revoked {
        /// By whom, if a review says so.
        by: Option<String>,
        /// The reviewer's note.
        note: Option<String>,
    },
    /// Used up by one request.
    Used {
        /// Which.
        request_id: String,
    },
}

/// Where the grant stands.
///
/// Expected flow: the proxy calls it when it joins a grant, on every change while it holds, and after consuming it; the
/// operator mirrors the answer into conditions. Guarantees: only stamped reviews of fit, distinct people count; one
/// Denied or Revoked is final; every end is absolute. Assumes that the webhook stamped `spec.reviews`, and that
/// `terms` are those of the bundle in force.
pub fn approve(grant: &AccessGrant, terms: &Terms, facts: &ReviewFacts<'_>) -> Standing {
    if let Some(request_id) = grant.status.as_ref().and_then(|status| status.consumed_by.clone()) {
        return Standing::Used { request_id };
    }
    unconsumed(grant, terms, facts)
}

fn unconsumed(grant: &AccessGrant, terms: &Terms, facts: &ReviewFacts<'_>) -> Standing {
    if grant.metadata.deletion_timestamp.is_some() {
        return Standing::Revoked { by: None, note: None };
    }
    let Some(created) = grant.metadata.creation_timestamp.as_ref().map(|time| time.0) else {
        return Standing::Expired { of: Deadline::Review, at: facts.now };
    };
    let deadline = after(created, terms.review_deadline_seconds);
    let quorum = Quorum { grant, terms, facts, created, deadline };
    let mut reviews: Vec<&Review> = grant.spec.reviews.iter().collect();
    reviews.sort_by_key(|review| order(review, created));
    let state = reviews.into_iter().fold(quorum.start(), |state, review| quorum.step(state, review));
    quorum.answer(state)
}

/// By time; in one moment what refuses comes first.
fn order(review: &Review, created: Timestamp) -> (Timestamp, u8, &str) {
    let severity = match review.decision {
        ReviewDecision::Denied => 0,
        ReviewDecision::Revoked => 1,
        ReviewDecision::Approved => 2,
    };
    (review.review_time.as_ref().map_or(created, |time| time.0), severity, &review.reviewer)
}

fn after(start: Timestamp, seconds: u32) -> Timestamp {
    start.checked_add(SignedDuration::from_secs(i64::from(seconds))).unwrap_or(start)
}

/// Where the reviews read so far have brought the grant.
enum State<'a> {
    Collecting { by: Vec<&'a Review> },
    Reached { by: Vec<&'a Review>, at: Timestamp },
    Denied(&'a Review),
    Revoked(&'a Review),
}

struct Quorum<'a> {
    grant: &'a AccessGrant,
    terms: &'a Terms,
    facts: &'a ReviewFacts<'a>,
    created: Timestamp,
    deadline: Timestamp,
}

impl<'a> Quorum<'a> {
    fn start(&self) -> State<'a> {
        if !self.terms.policies.is_empty() && self.terms.is_automatic() {
            return State::Reached { by: Vec::new(), at: self.created };
        }
        State::Collecting { by: Vec::new() }
    }

    /// The machine: a state and the next review make the next state.
    fn step(&self, state: State<'a>, review: &'a Review) -> State<'a> {
        match (state, review.decision) {
            (state @ (State::Denied(_) | State::Revoked(_)), _) => state,
            (state, _) if review.reviewer == crds::access_grant::UNAUTHENTICATED_REVIEWER => state,
            (State::Collecting { .. }, ReviewDecision::Denied | ReviewDecision::Revoked) => {
                State::Denied(review)
            }
            (State::Reached { .. }, ReviewDecision::Denied | ReviewDecision::Revoked) => {
                State::Revoked(review)
            }
            (State::Collecting { mut by }, ReviewDecision::Approved) => match self.counted(review) {
                None => State::Collecting { by },
                Some(at) => {
                    by.push(review);
                    if self.is_reached(&by) { State::Reached { by, at } } else { State::Collecting { by } }
                }
            },
            (State::Reached { mut by, at }, ReviewDecision::Approved) => {
                if self.counted(review).is_some() {
                    by.push(review);
                }
                State::Reached { by, at }
            }
        }
    }

    /// When the review counts: stamped, by somebody fit, within the review deadline, not from before the grant (D25)
    /// and not from the future (D19).
    fn counted(&self, review: &Review) -> Option<Timestamp> {
        let at = review.review_time.as_ref()?.0;
        let requester = self.grant.spec.requested_by.as_ref().map(|by| by.username.as_str());
        let earliest = self.created.checked_sub(MAX_SKEW).unwrap_or(self.created);
        let latest = self.facts.now.checked_add(MAX_SKEW).unwrap_or(self.facts.now);
        let in_time = earliest <= at && at < self.deadline && at <= latest;
        let fit = self.facts.outsiders.check(&review.reviewer, requester).is_ok();
        (in_time && fit).then_some(at)
    }

    fn have(&self, at: usize, by: &[&Review]) -> u32 {
        let Some(policy) = self.terms.policies.get(at) else {
            return 0;
        };
        let counting = by.iter().filter(|review| counts_for(policy, &review.reviewer, &review.groups));
        let distinct: BTreeSet<&str> = counting.map(|review| review.reviewer.as_str()).collect();
        u32::try_from(distinct.len()).unwrap_or(u32::MAX)
    }

    fn is_reached(&self, by: &[&Review]) -> bool {
        let policies = &self.terms.policies;
        !policies.is_empty()
            && policies.iter().enumerate().all(|(at, policy)| self.have(at, by) >= policy.min_approvals)
    }

    fn progress(&self, by: &[&Review]) -> Vec<Progress> {
        let policies = self.terms.policies.iter().enumerate();
        policies
            .map(|(at, policy)| Progress {
                policy: Arc::clone(&policy.policy),
                needed: policy.min_approvals,
                have: self.have(at, by),
            })
            .collect()
    }

    fn answer(&self, state: State<'_>) -> Standing {
        match state {
            State::Denied(review) => Standing::Denied {
                by: review.reviewer.clone(),
                note: review.note.clone(),
                until: self.deadline,
            },
            State::Revoked(review) => {
                Standing::Revoked { by: Some(review.reviewer.clone()), note: review.note.clone() }
            }
            State::Collecting { .. } if self.facts.now >= self.deadline => {
                Standing::Expired { of: Deadline::Review, at: self.deadline }
            }
            State::Collecting { by } => {
                Standing::Waiting { progress: self.progress(&by), until: self.deadline }
            }
            State::Reached { by, at } => self.approved(&by, at),
        }
    }

    fn approved(&self, reviews: &[&Review], at: Timestamp) -> Standing {
        let mut by: Vec<String> = Vec::new();
        for review in reviews {
            if !by.contains(&review.reviewer) {
                by.push(review.reviewer.clone());
            }
        }
        let now = self.facts.now;
        let Some(window) = self.grant.spec.window.as_ref() else {
            let until = after(at, self.terms.use_deadline_seconds);
            return match now < until {
                true => Standing::Approved { by, from: at, until },
                false => Standing::Expired { of: Deadline::Use, at: until },
            };
        };
        let shortened = reviews.iter().filter_map(|review| review.duration_seconds);
        let asked =
            shortened.chain([window.duration_seconds]).map(|seconds| u32::try_from(seconds).unwrap_or(0));
        let seconds = asked.chain(self.terms.max_window_seconds).min().unwrap_or(0);
        let planned = window.start_time.as_ref().map(|time| time.0);
        let until = after(planned.unwrap_or(at), seconds);
        let from = planned.map_or(at, |planned| planned.max(at));
        if now >= until {
            return Standing::Expired { of: Deadline::Window, at: until };
        }
        match planned.is_some_and(|planned| now < planned) {
            true => Standing::Scheduled { by, from, until },
            false => Standing::Approved { by, from, until },
        }
    }
}

/// Whether the grant is for this agent.
pub fn is_of(agent: &Agent, grant: &AccessGrant) -> bool {
    grant.metadata.namespace.as_deref() == Some(agent.namespace())
        && grant.spec.agent_ref.name == agent.name()
}
