//! A review at admission: stamped so that nothing before it changes, and refused where the grant is over.

#![allow(clippy::unwrap_used, reason = "a test that cannot make its objects has failed")]

use crds::AccessGrant;
use crds::access_grant::{Review, ReviewDecision, UNAUTHENTICATED_REVIEWER};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use operator::admit::review::{Bench, added, admit};
use operator::admit::stamp;
use operator::judge;
use policy::reviewers::Outsiders;
use policy::terms::{PolicyTerms, Terms};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn terms() -> Terms {
    let policy = PolicyTerms {
        policy: "p".into(),
        generation: 1,
        rules: Vec::new(),
        min_approvals: 1,
        approvers: Vec::new().into(),
    };
    Terms { policies: vec![policy], ..judge::nobody_asks() }
}

fn bench(may_approve: bool, terms: Option<Terms>) -> Bench {
    Bench { terms, outsiders: Outsiders::new("sallyport-system", []), may_approve }
}

fn user(name: &str, groups: &[&str]) -> UserInfo {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    UserInfo { username: Some(name.to_owned()), groups: Some(groups), ..UserInfo::default() }
}

fn grant(created: i64, reviews: Value, status: Value) -> AccessGrant {
    serde_json::from_value(json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"name": "g", "namespace": "agents", "creationTimestamp": at(created).to_string()},
        "spec": {"agentRef": {"name": "a"}, "type": "SingleRequest", "reviews": reviews,
                 "requestedBy": {"username": "sallyport:agent:agents:a"},
                 "request": {"verb": "delete", "apiVersion": "v1", "resource": "pods", "namespace": "x", "name": "web",
                             "fingerprint": "sha256:e3"}},
        "status": status,
    }))
    .unwrap()
}

fn review(decision: ReviewDecision) -> Review {
    let sent = Review {
        reviewer: UNAUTHENTICATED_REVIEWER.to_owned(),
        decision,
        note: None,
        duration_seconds: None,
        groups: Vec::new(),
        review_time: None,
    };
    stamp::reviews(&[], &[sent], "alice", &[], at(NOW)).reviews.remove(0)
}

fn judged(
    before: &AccessGrant,
    author: &UserInfo,
    bench: &Bench,
    decision: ReviewDecision,
) -> Result<String, String> {
    let mut after = before.clone();
    let review = review(decision);
    after.spec.reviews.push(review.clone());
    admit(before, &after, &review, author, bench, at(NOW))
}

#[test]
fn what_is_over_cannot_be_reviewed() {
    let by_bob = |decision: &str| json!([{"reviewer": "bob", "decision": decision, "reviewTime": at(NOW - 5).to_string()}]);
    let table = [
        (grant(NOW - 10, json!([]), json!({})), Ok("approval recorded for alice; 1 of 1 required")),
        (grant(NOW - 10, by_bob("Approved"), json!({})), Ok("approval recorded for alice; 1 of 1 required")),
        (grant(NOW - 10, by_bob("Denied"), json!({})), Err("was denied by `bob`")),
        (grant(NOW - 4000, json!([]), json!({})), Err("the grant expired at")),
        (grant(NOW - 10, json!([]), json!({"consumedBy": "01JD"})), Err("was used by request `01JD`")),
    ];
    for (before, expected) in table {
        let got = judged(&before, &user("alice", &[]), &bench(true, Some(terms())), ReviewDecision::Approved);
        match (&got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(got), Err(expected)) => assert!(got.contains(expected), "{got}"),
            (got, expected) => unreachable!("{got:?}, wanted {expected:?}"),
        }
    }
}

#[test]
fn d07_nobody_who_must_stay_apart_reviews() {
    let waiting = grant(NOW - 10, json!([]), json!({}));
    let table = [
        (user("sallyport:agent:agents:a", &[]), "an agent may not review"),
        (user("alice", &["sallyport:agents"]), "an agent may not review"),
        (user("alice", &["sallyport:agents:agents"]), "an agent may not review"),
        (user("system:anonymous", &[]), "an unauthenticated user may not review"),
        (user("", &[]), "an unauthenticated user may not review"),
        (user("system:node:n1", &[]), "a node may not review"),
        (user("system:serviceaccount:sallyport-system:sallyport-proxy", &[]), "the proxy may not review"),
        (
            user("system:serviceaccount:sallyport-system:sallyport-operator", &[]),
            "the operator may not review",
        ),
        (user("system:serviceaccount:ci:bot", &[]), "do not name you in `approvers`"),
    ];
    for (author, words) in table {
        let got =
            judged(&waiting, &author, &bench(true, Some(terms())), ReviewDecision::Approved).unwrap_err();
        assert!(got.contains(words), "{author:?}: {got}");
    }
    let powerless =
        judged(&waiting, &user("alice", &[]), &bench(false, Some(terms())), ReviewDecision::Denied);
    assert!(powerless.unwrap_err().contains("needs the RBAC verb `approve`"));
}

#[test]
fn where_nothing_asks_a_grant_can_only_be_taken_away() {
    let waiting = grant(NOW - 10, json!([]), json!({}));
    let alice = user("alice", &[]);
    let approved = judged(&waiting, &alice, &bench(true, None), ReviewDecision::Approved).unwrap_err();
    assert!(approved.contains("no policy in force asks for this approval"), "{approved}");
    judged(&waiting, &alice, &bench(true, None), ReviewDecision::Denied).unwrap();
}

fn any_review() -> impl Strategy<Value = Review> {
    let decision = prop_oneof![
        Just(ReviewDecision::Approved),
        Just(ReviewDecision::Denied),
        Just(ReviewDecision::Revoked)
    ];
    let reviewer = prop_oneof![Just(UNAUTHENTICATED_REVIEWER), Just("alice"), Just("bob"), Just("carol")];
    let time = proptest::option::of(0..NOW);
    let groups =
        proptest::collection::vec(prop_oneof![Just("oncall".to_owned()), Just("masters".to_owned())], 0..2);
    (decision, reviewer, time, groups).prop_map(|(decision, reviewer, time, groups)| Review {
        reviewer: reviewer.to_owned(),
        decision,
        note: None,
        duration_seconds: None,
        groups,
        review_time: time.map(|seconds| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(seconds))),
    })
}

proptest! {
    #[test]
    fn d06_whatever_is_sent_earlier_reviews_stand_and_new_ones_are_the_callers_or_refused(
        before in proptest::collection::vec(any_review(), 0..4),
        sent in proptest::collection::vec(any_review(), 0..4),
    ) {
        let groups = ["oncall".to_owned()];
        let stamped = stamp::reviews(&before, &sent, "alice", &groups, at(NOW)).reviews;
        prop_assert_eq!(&stamped[..before.len()], &before[..]);
        let now = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(NOW)));
        for new in stamped[before.len()..].iter().filter(|new| new.reviewer == "alice") {
            prop_assert!(new.review_time == now && new.groups == groups, "{:?}", new);
        }
        prop_assert!(stamped[before.len()..].iter().all(|new| new.reviewer != UNAUTHENTICATED_REVIEWER));
        // What the validating half lets through is at most one, the caller's own and stamped now.
        if let Ok(Some(one)) = added(&before, &stamped, "alice") {
            prop_assert!(one.reviewer == "alice" && one.review_time == now);
        }
        if let Ok(None) = added(&before, &stamped, "alice") {
            prop_assert!(stamped[before.len()..].iter().all(|new| before.contains(new)));
        }
    }
}
