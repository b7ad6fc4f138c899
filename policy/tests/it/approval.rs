//! Where grants stand: the ways of one grant by example, every way against a naive reference.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::AccessGrant;
use crds::access_grant::ReviewDecision;
use jiff::Timestamp;
use policy::action::Action;
use policy::approve::{Deadline, NotReleased, ReviewFacts, Standing, approve, open_window, release};
use policy::decision::{Authority, Verdict};
use policy::evaluate::terms_of;
use policy::grant::{self, Join};
use policy::reviewers::{Outsiders, Unfit};
use policy::subject::Subject;
use policy::terms::{Approver, PolicyTerms, Terms};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{
    NAME, NAMESPACE, action, agent_from_yaml, decide, facts, from, merge, now, time, window_grant,
};

const CREATED: i64 = 1_800_000_000;

fn outsiders() -> Outsiders {
    let agent = Subject::ServiceAccount { namespace: "agents".into(), name: "claude-code".into() };
    Outsiders::new("sallyport-system", [&agent])
}

#[test]
fn d09_a_role_that_is_an_agent_reviews_nothing_whatever_its_session_is_called() {
    let agent = Subject::AwsIamRole { arn: "arn:aws:iam::111122223333:role/runner".into() };
    let outsiders = Outsiders::new("sallyport-system", [&agent]);
    for name in [
        "arn:aws:iam::111122223333:role/runner",
        "arn:aws:iam::111122223333:role/team/Runner",
        "arn:aws:sts::111122223333:assumed-role/runner/alice@example.com",
        "arn:aws:sts::111122223333:assumed-role/Runner/alice",
    ] {
        assert_eq!(outsiders.check(name, None), Err(Unfit::Agent), "{name}");
    }
    for name in [
        "arn:aws:sts::111122223333:assumed-role/oncall/alice",
        "arn:aws:sts::444455556666:assumed-role/runner/alice",
    ] {
        assert_eq!(outsiders.check(name, None), Ok(()), "{name}");
    }
}

fn at(offset: i64) -> Timestamp {
    Timestamp::from_second(CREATED + offset).unwrap()
}

fn policy(name: &str, min_approvals: u32, approvers: Vec<Approver>) -> PolicyTerms {
    PolicyTerms {
        policy: name.into(),
        generation: 1,
        rules: vec!["r".into()],
        min_approvals,
        approvers: approvers.into(),
    }
}

fn terms(policies: Vec<PolicyTerms>) -> Terms {
    Terms {
        policies,
        hold_seconds: 45,
        review_deadline_seconds: 100,
        use_deadline_seconds: 50,
        max_window_seconds: None,
    }
}

fn review(reviewer: &str, decision: &str, offset: i64) -> Value {
    json!({"reviewer": reviewer, "decision": decision, "reviewTime": at(offset).to_string()})
}

fn request(reviews: &[Value]) -> AccessGrant {
    from(json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
        "metadata": {"name": "claude-code-x", "namespace": "agents", "creationTimestamp": at(0).to_string()},
        "spec": {
            "agentRef": {"name": "claude-code"}, "type": "SingleRequest",
            "requestedBy": {"username": "sallyport:agent:agents:claude-code"},
            "request": {"verb": "delete", "apiGroup": "apps", "apiVersion": "v1", "resource": "deployments",
                        "namespace": "payments", "name": "web", "fingerprint": "sha256:f"},
            "reviews": reviews,
        },
    }))
}

fn window(patch: Value, reviews: &[Value]) -> AccessGrant {
    let mut grant = serde_json::to_value(window_grant("w", patch)).unwrap();
    merge(&mut grant, &json!({"metadata": {"creationTimestamp": at(0).to_string()}}));
    grant["spec"]["reviews"] = json!(reviews);
    from(grant)
}

fn stands(grant: &AccessGrant, terms: &Terms, offset: i64) -> Standing {
    approve(grant, terms, &ReviewFacts { now: at(offset), outsiders: &outsiders() })
}

#[test]
fn a_single_request_from_waiting_to_used() {
    let one = terms(vec![policy("p", 1, vec![])]);
    let waiting = request(&[]);
    assert!(matches!(stands(&waiting, &one, 99), Standing::Waiting { until, .. } if until == at(100)));
    assert_eq!(stands(&waiting, &one, 100), Standing::Expired { of: Deadline::Review, at: at(100) });
    let approved = request(&[review("alice", "Approved", 60)]);
    let expected = Standing::Approved { by: vec!["alice".into()], from: at(60), until: at(110) };
    assert_eq!(stands(&approved, &one, 60), expected);
    assert_eq!(stands(&approved, &one, 109), expected);
    assert_eq!(stands(&approved, &one, 110), Standing::Expired { of: Deadline::Use, at: at(110) });
    let mut used = approved.clone();
    used.status = Some(from(json!({"consumedBy": "01ID"})));
    assert_eq!(stands(&used, &one, 61), Standing::Used { request_id: "01ID".into() });
    let denied = request(&[
        json!({"reviewer": "bob", "decision": "Denied", "note": "no", "reviewTime": at(5).to_string()}),
    ]);
    let expected = Standing::Denied { by: "bob".into(), note: Some("no".into()), until: at(100) };
    assert_eq!(stands(&denied, &one, 10), expected);
    let revoked = request(&[review("alice", "Approved", 60), review("bob", "Revoked", 61)]);
    assert_eq!(stands(&revoked, &one, 62), Standing::Revoked { by: Some("bob".into()), note: None });
    let late = request(&[review("alice", "Approved", 100)]);
    assert_eq!(stands(&late, &one, 101), Standing::Expired { of: Deadline::Review, at: at(100) });
    let mut deleted = approved.clone();
    deleted.metadata.deletion_timestamp = approved.metadata.creation_timestamp.clone();
    assert_eq!(stands(&deleted, &one, 61), Standing::Revoked { by: None, note: None });
}

#[test]
fn d07_who_never_counts() {
    let one = terms(vec![policy("p", 1, vec![])]);
    for reviewer in [
        "unauthenticated",
        "system:anonymous",
        "sallyport:agent:agents:claude-code",
        "sallyport:agent:other:agent",
        "system:serviceaccount:agents:claude-code",
        "system:serviceaccount:sallyport-system:sallyport-proxy",
        "system:serviceaccount:sallyport-system:sallyport-operator",
        "system:serviceaccount:ci:bot",
        "system:node:n1",
    ] {
        let grant = request(&[review(reviewer, "Approved", 1)]);
        assert!(matches!(stands(&grant, &one, 2), Standing::Waiting { .. }), "{reviewer}");
    }
    let mut by_requester = request(&[review("bob", "Approved", 1)]);
    by_requester.spec.requested_by.as_mut().unwrap().username = "bob".into();
    assert!(matches!(stands(&by_requester, &one, 2), Standing::Waiting { .. }));
    let unstamped = request(&[json!({"reviewer": "alice", "decision": "Approved"})]);
    assert!(matches!(stands(&unstamped, &one, 2), Standing::Waiting { .. }));
    let no_terms = terms(vec![]);
    assert!(matches!(
        stands(&request(&[review("alice", "Approved", 1)]), &no_terms, 2),
        Standing::Waiting { .. }
    ));
}

#[test]
fn approvers_are_users_groups_or_named_service_accounts() {
    let bot = Approver::ServiceAccount { namespace: "argocd".into(), name: "controller".into() };
    let named = terms(vec![policy(
        "p",
        1,
        vec![Approver::User("alice".into()), Approver::Group("oncall".into()), bot],
    )]);
    let counts = |mut review: Value, groups: &[&str]| {
        review["groups"] = json!(groups);
        matches!(stands(&request(&[review]), &named, 2), Standing::Approved { .. })
    };
    assert!(counts(review("alice", "Approved", 1), &[]));
    assert!(!counts(review("bob", "Approved", 1), &[]));
    assert!(counts(review("bob", "Approved", 1), &["oncall"]));
    assert!(!counts(review("bob", "Approved", 1), &["alice"]));
    assert!(counts(review("system:serviceaccount:argocd:controller", "Approved", 1), &[]));
    assert!(!counts(review("system:serviceaccount:argocd:other", "Approved", 1), &["oncall"]));
    let outsiders = outsiders();
    let groups = ["dev".to_owned(), "oncall".to_owned()];
    assert_eq!(outsiders.admit("bob", &groups, None, &named), Ok(vec!["oncall".to_owned()]));
    assert_eq!(outsiders.admit("bob", &groups[..1], None, &named), Err(Unfit::NotAnApprover));
    assert_eq!(outsiders.admit("alice", &[], Some("alice"), &named), Err(Unfit::Requester));
}

#[test]
fn every_policy_has_its_own_quorum_of_distinct_people() {
    let both = terms(vec![policy("p", 2, vec![]), policy("q", 1, vec![Approver::User("carol".into())])]);
    let alice = review("alice", "Approved", 1);
    assert!(
        matches!(stands(&request(&[alice.clone(), alice.clone()]), &both, 9), Standing::Waiting { progress, .. }
        if progress.iter().map(|p| (p.have, p.needed)).collect::<Vec<_>>() == [(1, 2), (0, 1)])
    );
    let two = request(&[alice.clone(), review("bob", "Approved", 2)]);
    assert!(matches!(stands(&two, &both, 9), Standing::Waiting { .. }));
    let three = request(&[review("carol", "Approved", 5), alice]);
    let expected =
        Standing::Approved { by: vec!["alice".into(), "carol".into()], from: at(5), until: at(55) };
    assert_eq!(stands(&three, &both, 9), expected);
    let denied = request(&[
        review("alice", "Approved", 1),
        review("bob", "Denied", 2),
        review("carol", "Approved", 3),
    ]);
    assert!(matches!(stands(&denied, &both, 9), Standing::Denied { .. }));
}

#[test]
fn a_window_has_absolute_ends() {
    let mut two = terms(vec![policy("p", 1, vec![])]);
    two.max_window_seconds = Some(900);
    let mut shortened = review("alice", "Approved", 10);
    shortened["durationSeconds"] = json!(300);
    let plain = window(json!({}), &[review("alice", "Approved", 10)]);
    assert!(
        matches!(stands(&plain, &two, 909), Standing::Approved { from, until, .. } if (from, until) == (at(10), at(910)))
    );
    assert_eq!(stands(&plain, &two, 910), Standing::Expired { of: Deadline::Window, at: at(910) });
    let shorter = window(json!({}), &[shortened]);
    assert!(matches!(stands(&shorter, &two, 309), Standing::Approved { until, .. } if until == at(310)));
    let planned = json!({"spec": {"window": {"startTime": at(40).to_string(), "durationSeconds": 60}}});
    let early = window(planned.clone(), &[review("alice", "Approved", 10)]);
    assert!(
        matches!(stands(&early, &two, 39), Standing::Scheduled { from, until, .. } if (from, until) == (at(40), at(100)))
    );
    assert!(matches!(stands(&early, &two, 40), Standing::Approved { until, .. } if until == at(100)));
    let late = window(planned, &[review("alice", "Approved", 90)]);
    assert!(
        matches!(stands(&late, &two, 95), Standing::Approved { from, until, .. } if (from, until) == (at(90), at(100)))
    );
    let automatic = Terms { policies: vec![policy("p", 0, vec![])], ..two };
    assert!(matches!(stands(&window(json!({}), &[]), &automatic, 1), Standing::Approved { by, from, until }
        if by.is_empty() && (from, until) == (at(0), at(900))));
}

#[test]
fn d25_approvals_from_before_the_grant_do_not_count() {
    let one = terms(vec![policy("p", 1, vec![])]);
    let restored = request(&[review("alice", "Approved", -600)]);
    assert!(matches!(stands(&restored, &one, 1), Standing::Waiting { .. }));
    let future = request(&[review("alice", "Approved", 60)]);
    assert!(matches!(stands(&future, &one, 54), Standing::Waiting { .. }), "d19");
    assert!(matches!(stands(&future, &one, 55), Standing::Approved { .. }));
}

const POLICIES: &str = r#"
- name: p
  spec:
    jit: {mode: Required}
    rules:
    - {name: ask, effect: RequireApproval, match: [{namespaces: [payments], apiGroups: [apps], resources: [deployments], verbs: [delete]}]}
    - {name: live, effect: Allow, match: [{namespaces: [payments], apiGroups: [apps], resources: [deployments], verbs: [patch]}]}
"#;

/// An approved grant of the request, used up by `id`.
fn consumed(id: &str) -> AccessGrant {
    let mut grant = serde_json::to_value(request(&[])).unwrap();
    grant["metadata"]["creationTimestamp"] = json!("2026-11-20T14:29:00Z");
    grant["spec"]["reviews"] =
        json!([{"reviewer": "alice", "decision": "Approved", "reviewTime": "2026-11-20T14:29:30Z"}]);
    grant["status"] = json!({"consumedBy": id});
    from(grant)
}

#[test]
fn release_mints_one_permit_for_the_one_request() {
    let agent = agent_from_yaml(POLICIES);
    let outsiders = outsiders();
    let facts = ReviewFacts { now: now(), outsiders: &outsiders };
    let held = || decide(&agent, "delete deployments.apps/web -n payments");
    let refused = |grant: &AccessGrant, fingerprint: &str, id: &str| {
        release(&mut held(), grant, fingerprint, id, &facts).unwrap_err()
    };
    assert_eq!(refused(&consumed("01ID"), "sha256:g", "01ID"), NotReleased::AnotherRequest);
    assert_eq!(refused(&consumed("01ID"), "sha256:f", "02ID"), NotReleased::NotConsumed);
    let mut unused = consumed("01ID");
    unused.status = None;
    assert_eq!(refused(&unused, "sha256:f", "01ID"), NotReleased::NotConsumed);
    assert_eq!(refused(&unused, "sha256:f", ""), NotReleased::NotConsumed);
    let mut elsewhere = consumed("01ID");
    elsewhere.metadata.namespace = Some("other".into());
    assert_eq!(refused(&elsewhere, "sha256:f", "01ID"), NotReleased::AnotherRequest);
    let mut unreviewed = consumed("01ID");
    unreviewed.spec.reviews.clear();
    assert!(matches!(
        refused(&unreviewed, "sha256:f", "01ID"),
        NotReleased::NotApproved(Standing::Waiting { .. })
    ));
    assert_eq!(
        release(
            &mut decide(&agent, "patch deployments.apps/web -n payments"),
            &consumed("01ID"),
            "sha256:f",
            "01ID",
            &facts
        ),
        Err(NotReleased::NotHeld)
    );
    let mut decision = held();
    assert!(decision.take_permit().is_none());
    let permit = release(&mut decision, &consumed("01ID"), "sha256:f", "01ID", &facts).unwrap();
    assert_eq!(permit.action().as_ref(), &action("delete deployments.apps/web -n payments"));
    assert!(matches!(permit.authority(), Authority::Approval { by, .. } if by == &["alice".to_owned()]));
    assert!(permit.is_live(now()) && !permit.is_live(time("2026-11-20T14:39:30Z")), "d18");
    assert!(matches!(decision.verdict(), Verdict::Allowed(_)));
    assert_eq!(
        release(&mut decision, &consumed("01ID"), "sha256:f", "01ID", &facts),
        Err(NotReleased::NotHeld)
    );
}

#[test]
fn terms_are_those_of_the_bundle_in_force() {
    let agent = agent_from_yaml(POLICIES);
    let terms = terms_of(&agent, &request(&[]), &facts(&[])).unwrap();
    assert_eq!(terms.policies.iter().map(|p| &*p.policy).collect::<Vec<_>>(), ["p"]);
    let mut other = request(&[]);
    other.spec.request.as_mut().unwrap().verb = "get".into();
    assert_eq!(terms_of(&agent, &other, &facts(&[])), None);
    let terms = terms_of(&agent, &window_grant("w", json!({})), &facts(&[])).unwrap();
    assert_eq!(terms.max_window_seconds, Some(3600));
}

#[test]
fn a_window_opens_only_for_its_own_agent_and_mode() {
    let agent = agent_from_yaml(POLICIES);
    let outsiders = outsiders();
    let facts = ReviewFacts { now: now(), outsiders: &outsiders };
    assert!(open_window(&agent, &window_grant("w", json!({})), &facts).is_some());
    for patch in [
        json!({"metadata": {"namespace": "other"}}),
        json!({"spec": {"agentRef": {"name": "other"}}}),
        json!({"spec": {"window": {"approvalMode": "PreApproved"}}}),
        json!({"spec": {"window": {"durationSeconds": 60}}}),
        json!({"spec": {"reviews": []}}),
    ] {
        assert!(open_window(&agent, &window_grant("w", patch.clone()), &facts).is_none(), "{patch}");
    }
    let without_jit = agent_from_yaml(
        "- {name: p, spec: {rules: [{name: r, effect: Allow, match: [{nonResourceURLs: [/x], verbs: [get]}]}]}}",
    );
    assert!(open_window(&without_jit, &window_grant("w", json!({})), &facts).is_none());
}

#[test]
fn grants_are_named_and_joined_by_fingerprint() {
    let name = grant::name("claude-code", "sha256:f", 0);
    assert_eq!(name, grant::name("claude-code", "sha256:f", 0));
    assert_ne!(name, grant::name("claude-code", "sha256:f", 1));
    let suffix = name.strip_prefix("claude-code-").unwrap();
    assert!(
        suffix.len() == 10 && suffix.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b))
    );
    let standing =
        |reviews: &[Value], offset| stands(&request(reviews), &terms(vec![policy("p", 1, vec![])]), offset);
    let join =
        |standing: &Standing, offset| grant::join(Some(("sha256:f", standing)), "sha256:f", at(offset));
    assert_eq!(grant::join(None, "sha256:f", at(0)), Join::Create);
    assert_eq!(join(&standing(&[], 1), 1), Join::Wait);
    assert_eq!(grant::join(Some(("sha256:other", &standing(&[], 1))), "sha256:f", at(1)), Join::TryNext);
    assert_eq!(join(&standing(&[review("a", "Approved", 1)], 2), 2), Join::Use);
    let denied = standing(&[review("a", "Denied", 1)], 2);
    assert_eq!(join(&denied, 99), Join::AnswerDenied);
    assert_eq!(join(&denied, 100), Join::TryNext);
    assert_eq!(join(&standing(&[], 100), 100), Join::TryNext);
    assert_eq!(join(&Standing::Used { request_id: "x".into() }, 1), Join::TryNext);
    assert_eq!(join(&Standing::Revoked { by: None, note: None }, 1), Join::TryNext);
}

#[test]
fn a_request_survives_being_stored_in_a_grant() {
    for act in [
        "delete deployments.apps/web -n payments",
        "patch deployments.apps/web/scale -n payments --dry-run=server",
        "list pods -A",
        "get nodes/n1",
        "delete namespaces/payments",
        "create namespaces/payments",
        "create pods -n x",
        "get /metrics",
    ] {
        let parsed = action(act);
        assert_eq!(grant::summary(&parsed), act);
        assert_eq!(grant::action_of(&grant::request_of(&parsed)).as_ref(), Some(&parsed), "{act}");
    }
    assert_eq!(grant::summary(&action("create pods/*/exec -n x")), "create pods/exec -n x");
    let nameless = Action::NonResource { verb: "get".into(), path: "/x".into() };
    assert_eq!(grant::summary(&nameless), "get /x");
    assert_eq!((NAMESPACE, NAME), ("agents", "claude-code"));
}

/// Reviews of a few people with a few clocks, in any order.
fn reviews() -> impl Strategy<Value = Vec<(usize, usize, i64, usize)>> {
    proptest::collection::vec((0..REVIEWERS.len(), 0..3usize, -20i64..140, 0..3usize), 0..8)
}

const REVIEWERS: [&str; 6] = [
    "alice",
    "bob",
    "carol",
    "unauthenticated",
    "sallyport:agent:agents:claude-code",
    "system:serviceaccount:ci:bot",
];
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Revoked"];
const GROUPS: [&[&str]; 3] = [&[], &["oncall"], &["dev", "oncall"]];

fn policies() -> impl Strategy<Value = Vec<PolicyTerms>> {
    let approvers = prop_oneof![
        Just(vec![]),
        Just(vec![Approver::User("alice".into())]),
        Just(vec![Approver::Group("oncall".into())]),
        Just(vec![
            Approver::ServiceAccount { namespace: "ci".into(), name: "bot".into() },
            Approver::User("bob".into())
        ]),
    ];
    proptest::collection::vec((1u32..3, approvers), 1..3).prop_map(|policies| {
        policies
            .into_iter()
            .enumerate()
            .map(|(at, (min, approvers))| policy(&format!("p{at}"), min, approvers))
            .collect()
    })
}

/// Usable, by a reading as naive as possible: nobody said no, and for each policy enough fit people said yes, each in
/// time; the last yes that completed every quorum is not too long ago.
fn naive_usable(grant: &AccessGrant, terms: &Terms, now: Timestamp) -> bool {
    let said_no = |review: &&crds::access_grant::Review| {
        review.reviewer != "unauthenticated" && review.decision != ReviewDecision::Approved
    };
    if grant.spec.reviews.iter().any(|review| said_no(&review)) {
        return false;
    }
    let seconds =
        |review: &crds::access_grant::Review| review.review_time.as_ref().unwrap().0.as_second() - CREATED;
    let now = now.as_second() - CREATED;
    let completes = |limit: i64| {
        terms.policies.iter().all(|policy| {
            let people: BTreeSet<&str> = grant
                .spec
                .reviews
                .iter()
                .filter(|r| (-5..100).contains(&seconds(r)) && seconds(r) <= now + 5 && seconds(r) <= limit)
                .filter(|r| ["alice", "bob", "carol", "system:serviceaccount:ci:bot"].contains(&&*r.reviewer))
                .filter(|r| {
                    let is_bot = r.reviewer.starts_with("system:serviceaccount:");
                    (policy.approvers.is_empty() && !is_bot)
                        || policy.approvers.iter().any(|approver| match approver {
                            Approver::User(user) => *user == r.reviewer && !is_bot,
                            Approver::Group(group) => r.groups.contains(group) && !is_bot,
                            Approver::ServiceAccount { namespace, name } => {
                                r.reviewer == format!("system:serviceaccount:{namespace}:{name}")
                            }
                        })
                })
                .map(|r| &*r.reviewer)
                .collect();
            people.len() >= policy.min_approvals as usize
        })
    };
    (-5..100).find(|limit| completes(*limit)).is_some_and(|reached| now < reached + 50)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn approve_agrees_with_a_naive_reading(
        policies in policies(),
        reviews in reviews(),
        now in 0i64..200,
        seed in any::<u64>(),
    ) {
        let terms = terms(policies);
        let texts: Vec<Value> = reviews
            .iter()
            .map(|(who, what, when, groups)| {
                let mut text = review(REVIEWERS[*who], DECISIONS[*what], *when);
                text["groups"] = json!(GROUPS[*groups]);
                text
            })
            .collect();
        let grant = request(&texts);
        let standing = stands(&grant, &terms, now);
        prop_assert_eq!(matches!(standing, Standing::Approved { .. }), naive_usable(&grant, &terms, at(now)), "{:?}", standing);
        let mut shuffled = texts;
        let length = shuffled.len().max(1);
        shuffled.rotate_left((seed as usize) % length);
        if seed % 2 == 0 {
            shuffled.reverse();
        }
        let again = stands(&request(&shuffled), &terms, now);
        prop_assert_eq!(matches!(standing, Standing::Approved { .. }), matches!(again, Standing::Approved { .. }));
        if let Standing::Approved { from, until, .. } = standing {
            prop_assert!(from < until && at(now) < until);
        }
    }

    #[test]
    fn one_no_is_final(policies in policies(), reviews in reviews(), now in 0i64..200, no in 1usize..3, when in -20i64..140) {
        let mut texts: Vec<Value> =
            reviews.iter().map(|(who, what, when, _)| review(REVIEWERS[*who], DECISIONS[*what], *when)).collect();
        texts.push(review("mallory", DECISIONS[no], when));
        let standing = stands(&request(&texts), &terms(policies), now);
        let is_over = matches!(standing, Standing::Denied { .. } | Standing::Revoked { .. });
        prop_assert!(is_over, "{:?}", standing);
    }
}

#[test]
fn own_grants_are_acts_of_the_proxy() {
    use policy::evaluate::{GrantAct, own_grants};
    let agent = agent_from_yaml(POLICIES);
    let act = |text: &str| own_grants(&agent, &action(text), &facts(&[]));
    assert_eq!(act("get accessgrants.sallyport.dev/x -n agents"), Some(GrantAct::Read));
    assert_eq!(act("list accessgrants.sallyport.dev -n agents"), Some(GrantAct::Read));
    assert_eq!(act("watch accessgrants.sallyport.dev -n agents"), Some(GrantAct::Read));
    assert_eq!(act("create accessgrants.sallyport.dev -n agents"), Some(GrantAct::Create));
    assert_eq!(act("delete accessgrants.sallyport.dev/x -n agents"), Some(GrantAct::Withdraw));
    for refused in [
        "get accessgrants.sallyport.dev/x -n other",
        "list accessgrants.sallyport.dev -A",
        "patch accessgrants.sallyport.dev/x -n agents",
        "update accessgrants.sallyport.dev/x -n agents",
        "deletecollection accessgrants.sallyport.dev -n agents",
        "get accessgrants.sallyport.dev/x/status -n agents",
        "get accessgrants.other.dev/x -n agents",
        "get sessionrecords.sallyport.dev/x -n agents",
    ] {
        assert_eq!(act(refused), None, "{refused}");
    }
    let suspended = policy::evaluate::Facts { suspended: true, ..facts(&[]) };
    assert_eq!(own_grants(&agent, &action("get accessgrants.sallyport.dev/x -n agents"), &suspended), None);
    let verdict = policy::evaluate::evaluate(&agent, &Arc::new(action("get /version")), &suspended);
    assert_eq!(verdict.verdict(), &Verdict::Suspended);
}
