//! What a chain's events add up to: the counters, highlights and grants of a SessionRecord's status.
use crds::access_grant::ReviewDecision;
use crds::session_record::{Highlight, RequestCounts, SessionGrant};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use recording::event::{Act, Event, Permitted, Review};
use recording::plain::Plain;
use recording::segment::Stamp;

/// Most entries of `highlights` and of `grants`.
pub const MOST: usize = 32;
/// The reason of a refusal that waits for a person.
const PENDING: &str = "ApprovalPending";

/// The sums of one chain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Requests by what became of them.
    pub requests: RequestCounts,
    /// Values masked in answers.
    pub masked: i64,
    /// The first writes and refusals.
    pub highlights: Vec<Highlight>,
    /// The first grants that were decided.
    pub grants: Vec<SessionGrant>,
    /// There were more of them.
    pub truncated: bool,
    /// Wall clock of the last event, in microseconds.
    pub last_us: i64,
}

impl Tally {
    /// Adds one event.
    pub fn add(&mut self, event: &Event, at: Stamp) {
        self.last_us = self.last_us.max(at.wall_us);
        match event {
            Event::Intent(intent) => {
                self.requests.total += 1;
                self.requests.dry_run += i64::from(intent.act.dry_run);
                let decision = match intent.decision {
                    Permitted::Allowed => {
                        self.requests.allowed += 1;
                        "Allowed"
                    }
                    Permitted::Approved => {
                        self.requests.approved += 1;
                        "Approved"
                    }
                };
                if !reads(&intent.act) {
                    let rule = intent.rules.first().cloned();
                    self.highlight(
                        &intent.request_id,
                        at,
                        decision,
                        intent.act.summary(),
                        rule,
                        intent.grant.clone(),
                    );
                }
            }
            Event::Refusal(refusal) => {
                self.requests.total += 1;
                if refusal.reason == PENDING {
                    self.requests.pending += 1;
                } else {
                    self.requests.denied += 1;
                }
                let summary = match &refusal.act {
                    Some(act) => act.summary(),
                    None => format!("{} {}", refusal.method, refusal.raw_target),
                };
                let (rule, grant) = (refusal.rules.first().cloned(), refusal.grant.clone());
                self.highlight(&refusal.request_id, at, &refusal.reason, summary, rule, grant);
            }
            Event::Outcome(outcome) => self.masked += i64::try_from(outcome.masked).unwrap_or(i64::MAX),
            Event::Review(review) => self.review(review),
            Event::SessionStart(_) | Event::Grant(_) | Event::SessionEnd(_) | Event::Gap(_) => {}
        }
    }

    fn highlight(
        &mut self,
        id: &str,
        at: Stamp,
        decision: &str,
        summary: String,
        rule: Option<String>,
        grant: Option<String>,
    ) {
        if self.highlights.len() >= MOST {
            self.truncated = true;
            return;
        }
        self.highlights.push(Highlight {
            id: shown(id, 64),
            request_time: time(at.wall_us),
            decision: shown(decision, 64),
            summary: shown(&summary, 1024),
            rule: rule.map(|rule| shown(&rule, 320)),
            grant: grant.map(|grant| shown(&grant, 253)),
        });
    }

    fn review(&mut self, review: &Review) {
        let decision = match review.decision.as_str() {
            "Approved" => Some(ReviewDecision::Approved),
            "Denied" => Some(ReviewDecision::Denied),
            "Revoked" => Some(ReviewDecision::Revoked),
            _ => None,
        };
        let grant = SessionGrant {
            name: shown(&review.grant, 253),
            decision,
            reviewer: (!review.reviewer.is_empty()).then(|| shown(&review.reviewer, 512)),
        };
        self.truncated |= !put_grant(&mut self.grants, grant);
    }
}

/// Renews a grant's entry or adds it; `false` if there is no room for it.
pub fn put_grant(grants: &mut Vec<SessionGrant>, grant: SessionGrant) -> bool {
    if let Some(known) = grants.iter_mut().find(|known| known.name == grant.name) {
        *known = grant;
        return true;
    }
    let fits = grants.len() < MOST;
    if fits {
        grants.push(grant);
    }
    fits
}

/// A time from microseconds since 1970; 1970 where that is none.
pub fn time(us: i64) -> Time {
    Time(Timestamp::from_microsecond(us - us.rem_euclid(1_000_000)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Text as a person may see it, at most `most` characters.
pub fn shown(text: &str, most: usize) -> String {
    Plain(text).to_string().chars().take(most).collect()
}

fn reads(act: &Act) -> bool {
    act.path.is_some() || matches!(act.verb.as_str(), "get" | "list" | "watch")
}
