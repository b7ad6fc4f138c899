//! Stamping: who asked and who reviewed, written by us from the authenticated request. Pure.

use crds::access_grant::{AccessGrantSpec, RequestedBy, Review, UNAUTHENTICATED_REVIEWER};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What stamping found out about the reviews.
#[derive(Debug, PartialEq)]
pub struct Stamped {
    /// Every review that was there, and the caller's new one.
    pub reviews: Vec<Review>,
    /// The caller had said the same before; the second time was dropped.
    pub repeated: bool,
}

/// The reviews that an update leaves behind. Those that were there stay, also when a merge patch replaced the list. An entry
/// that nobody stamped, or that carries the caller's own name, is the caller's: it gets their name, `now` and `groups`.
/// The caller's own decision is not recorded twice. Entries in somebody else's name pass as they are: the validating
/// webhook refuses them.
pub fn reviews(
    before: &[Review],
    sent: &[Review],
    caller: &str,
    groups: &[String],
    now: Timestamp,
) -> Stamped {
    let mut reviews = before.to_vec();
    let mut repeated = false;
    for entry in sent.iter().filter(|entry| !before.contains(entry)) {
        if !is_callers(entry, caller) {
            reviews.push(entry.clone());
            continue;
        }
        let known = reviews.iter().any(|known| known.reviewer == caller && known.decision == entry.decision);
        if known {
            repeated = true;
            continue;
        }
        reviews.push(Review {
            reviewer: caller.to_owned(),
            review_time: Some(whole_second(now)),
            groups: groups.to_vec(),
            ..entry.clone()
        });
    }
    Stamped { reviews, repeated }
}

/// Whether the caller sends a review that was not there.
pub fn has_new(before: &[Review], sent: &[Review], caller: &str) -> bool {
    sent.iter().any(|entry| !before.contains(entry) && is_callers(entry, caller))
}

fn is_callers(entry: &Review, caller: &str) -> bool {
    entry.reviewer == UNAUTHENTICATED_REVIEWER || entry.reviewer == caller
}

/// Who asked: the caller, except that the proxy says for whom it asks.
pub fn requested_by(spec: &AccessGrantSpec, caller: &str, caller_is_proxy: bool) -> Option<RequestedBy> {
    if caller_is_proxy {
        return spec.requested_by.clone();
    }
    Some(RequestedBy { username: caller.to_owned(), subject: None })
}

fn whole_second(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use crds::access_grant::ReviewDecision;

    use super::*;

    fn mine(decision: ReviewDecision) -> Review {
        by(UNAUTHENTICATED_REVIEWER, decision, None)
    }

    fn by(reviewer: &str, decision: ReviewDecision, at: Option<i64>) -> Review {
        Review {
            reviewer: reviewer.into(),
            decision,
            note: None,
            duration_seconds: None,
            groups: Vec::new(),
            review_time: at.map(|at| Time(Timestamp::from_second(at).unwrap())),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_second(5_000).unwrap()
    }

    fn stamped(before: &[Review], sent: &[Review]) -> Stamped {
        reviews(before, sent, "bob", &["oncall".to_owned()], now())
    }

    #[test]
    fn d06_the_one_line_patch_is_stamped_and_what_it_replaced_is_restored() {
        let alices = by("alice", ReviewDecision::Approved, Some(4_000));
        let got = stamped(std::slice::from_ref(&alices), &[mine(ReviewDecision::Approved)]);
        let mut bobs = by("bob", ReviewDecision::Approved, Some(5_000));
        bobs.groups = vec!["oncall".into()];
        assert_eq!(got, Stamped { reviews: vec![alices, bobs], repeated: false });
    }

    #[test]
    fn an_emptied_list_is_restored() {
        let alices = by("alice", ReviewDecision::Approved, Some(4_000));
        assert_eq!(stamped(std::slice::from_ref(&alices), &[]).reviews, [alices]);
    }

    #[test]
    fn the_callers_second_same_decision_is_dropped_and_another_one_is_not() {
        let before = [by("bob", ReviewDecision::Approved, Some(4_000))];
        let again = stamped(&before, &[mine(ReviewDecision::Approved)]);
        assert_eq!(again, Stamped { reviews: before.to_vec(), repeated: true });
        let twice =
            stamped(&[], &[mine(ReviewDecision::Approved), by("bob", ReviewDecision::Approved, None)]);
        assert_eq!((twice.reviews.len(), twice.repeated), (1, true));
        let revoked = stamped(&before, &[mine(ReviewDecision::Revoked)]);
        assert_eq!(revoked.reviews.len(), 2);
    }

    #[test]
    fn d06_a_time_and_groups_that_the_caller_chose_are_replaced() {
        let mut chosen = by("bob", ReviewDecision::Approved, Some(9));
        chosen.groups = vec!["system:masters".into()];
        let got = stamped(&[], &[chosen]);
        assert_eq!(got.reviews[0].groups, ["oncall"]);
        assert_eq!(got.reviews[0].review_time, Some(Time(now())));
    }

    #[test]
    fn an_entry_in_anothers_name_is_left_for_the_validator_to_refuse() {
        let forged = by("alice", ReviewDecision::Approved, Some(5_000));
        assert_eq!(stamped(&[], std::slice::from_ref(&forged)).reviews, std::slice::from_ref(&forged));
        assert!(!has_new(&[], std::slice::from_ref(&forged), "bob"));
        assert!(has_new(&[], &[mine(ReviewDecision::Denied)], "bob"));
    }
}
