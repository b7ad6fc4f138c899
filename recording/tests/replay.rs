//! What a person reads: the lines of the manual, replicas in one row, nothing that a terminal would obey.

mod session;

use recording::event::{
    Act, Disposition, EndReason, Event, Intent, Outcome, Permitted, Refusal, Review, SessionEnd,
};
use recording::replay::Timeline;
use recording::segment::Stamp;
use session::{at, start};

fn request(id: &str, decision: Permitted, act: Act, grant: Option<&str>) -> Event {
    Event::Intent(Box::new(Intent {
        request_id: id.into(),
        act,
        target: String::new(),
        raw_target: String::new(),
        decision,
        rules: vec!["payments-agents/read".into()],
        bundle: String::new(),
        grant: grant.map(Into::into),
        would_have: vec![],
        role_session: None,
        body: None,
    }))
}

fn refused(id: &str, reason: &str, act: Option<Act>, rule: &str, grant: Option<&str>) -> Event {
    Event::Refusal(Box::new(Refusal {
        request_id: id.into(),
        act,
        method: "GET".into(),
        raw_target: "/api/v1/../x\u{1b}[2J".into(),
        reason: reason.into(),
        rules: vec![rule.into()],
        bundle: None,
        grant: grant.map(Into::into),
        body: None,
    }))
}

fn ended(id: &str, code: u16, millis: u64, masked: u64, disposition: Disposition) -> Event {
    Event::Outcome(Outcome {
        request_id: id.into(),
        code,
        duration_us: millis * 1_000,
        masked,
        bytes: 0,
        disposition,
        reason: None,
        log: None,
    })
}

fn act(verb: &str, group: &str, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Act {
    Act {
        verb: verb.into(),
        group: group.into(),
        resource: resource.into(),
        namespace: namespace.map(Into::into),
        name: name.map(Into::into),
        ..Act::default()
    }
}

fn text(timeline: Timeline) -> String {
    timeline.lines().iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_lines_are_those_of_the_manual() {
    let web = || act("delete", "apps", "deployments", Some("payments"), Some("web"));
    let mut timeline = Timeline::default();
    let events = [
        (0, start()),
        (
            9,
            request(
                "1",
                Permitted::Allowed,
                act("list", "apps", "deployments", Some("payments"), None),
                None,
            ),
        ),
        (9, ended("1", 200, 12, 0, Disposition::Executed)),
        (38, request("2", Permitted::Allowed, act("get", "", "secrets", Some("payments"), Some("db")), None)),
        (38, ended("2", 200, 9, 2, Disposition::Executed)),
        (
            60,
            refused(
                "3",
                "PolicyDenied",
                Some(act("delete", "", "namespaces", Some("payments"), Some("payments"))),
                "sallyport-baseline/no-namespace-delete",
                None,
            ),
        ),
        (60, ended("3", 403, 1, 0, Disposition::Refused)),
        (98, refused("4", "ApprovalPending", Some(web()), "payments-agents/ask", Some("claude-code-7f3kq"))),
        (98, ended("4", 403, 45_000, 0, Disposition::Refused)),
        (
            128,
            Event::Review(Review {
                grant: "claude-code-7f3kq".into(),
                decision: "Approved".into(),
                reviewer: "alice@example.com".into(),
                note: String::new(),
            }),
        ),
        (133, request("5", Permitted::Approved, web(), Some("claude-code-7f3kq"))),
        (133, ended("5", 200, 31, 0, Disposition::Executed)),
    ];
    for (second, event) in events {
        timeline.add("a", at(second), event);
    }
    assert_eq!(
        text(timeline),
        "\
14:30:02Z  session start  in-cluster (system:serviceaccount:agents:claude-code)  kubectl/v1.33.1
14:30:11Z  Allowed        list deployments.apps -n payments                200  12ms
14:30:40Z  Allowed        get secrets/db -n payments                       200   9ms  masked=2
14:31:02Z  PolicyDenied   delete namespaces/payments                       403   1ms  sallyport-baseline/no-namespace-delete
14:31:40Z  Pending        delete deployments.apps/web -n payments          403  45.0s claude-code-7f3kq
14:32:10Z  Review         Approved by alice@example.com
14:32:15Z  Approved       delete deployments.apps/web -n payments          200  31ms  claude-code-7f3kq
"
    );
}

#[test]
fn d04_a_request_without_outcome_shows_as_unknown() {
    let mut timeline = Timeline::default();
    let web = act("delete", "apps", "deployments", Some("payments"), Some("web"));
    timeline.add("a", at(0), request("1", Permitted::Approved, web.clone(), Some("g")));
    timeline.add("a", at(1), request("2", Permitted::Approved, web.clone(), None));
    timeline.add("a", at(1), ended("2", 502, 5, 0, Disposition::Unknown));
    timeline.add("a", at(2), request("3", Permitted::Allowed, web, None));
    timeline.add("a", at(2), ended("3", 200, 130_000, 0, Disposition::Cut));
    timeline.add("a", at(3), Event::SessionEnd(SessionEnd { reason: EndReason::ProxyLost }));
    assert_eq!(
        text(timeline),
        "\
14:30:02Z  Approved       delete deployments.apps/web -n payments            -     -  unknown  g
14:30:03Z  Approved       delete deployments.apps/web -n payments          502   5ms  unknown
14:30:04Z  Allowed        delete deployments.apps/web -n payments          200  2m10s cut
14:30:05Z  session end    ProxyLost  a
"
    );
}

#[test]
fn replicas_are_merged_by_time_and_a_clock_that_jumps_back_does_not_reorder_a_chain() {
    let get = |name: &str| act("get", "", "pods", None, Some(name));
    let mut timeline = Timeline::default();
    timeline.add("b", at(1), request("1", Permitted::Allowed, get("b1"), None));
    timeline.add("b", at(5), request("2", Permitted::Allowed, get("b2"), None));
    timeline.add("b", at(3), request("3", Permitted::Allowed, get("b3"), None));
    // The same request id on another replica is another request.
    timeline.add("a", at(2), request("1", Permitted::Allowed, get("a1"), None));
    timeline.add("a", at(2), ended("1", 200, 1, 0, Disposition::Executed));
    timeline.add("a", at(6), request("4", Permitted::Allowed, get("a2"), None));
    let shown = text(timeline);
    let order: Vec<&str> = shown.lines().map(|line| &line[35..37]).collect();
    assert_eq!(order, ["b1", "a1", "b2", "b3", "a2"], "{shown}");
    assert_eq!(shown.lines().filter(|line| line.contains("unknown")).count(), 4);
}

#[test]
fn nothing_that_an_agent_wrote_reaches_the_terminal_as_it_is() {
    let evil = "x\u{1b}[31m\r\n14:30:00Z  Approved\u{202e}";
    let mut timeline = Timeline::default();
    timeline.add("a", Stamp::default(), refused("1", "BadRequest", None, evil, None));
    timeline.add(
        "a",
        Stamp::default(),
        refused("2", evil, Some(act(evil, evil, evil, Some(evil), Some(evil))), evil, None),
    );
    timeline.add(
        "a",
        at(1),
        Event::Review(Review {
            grant: evil.into(),
            decision: evil.into(),
            reviewer: evil.into(),
            note: evil.into(),
        }),
    );
    let shown = text(timeline);
    assert_eq!(shown.lines().count(), 3);
    assert!(shown.chars().all(|c| c == '\n' || (!c.is_control() && c != '\u{202e}')), "{shown}");
    assert!(shown.contains(r"GET /api/v1/../x\u{1b}[2J"), "{shown}");
}
