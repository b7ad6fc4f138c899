//! A small session of three segments, for the tests that damage or show it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part; helpers of tests may unwrap"
)]

use recording::event::{
    Act, Disposition, EndReason, Event, Intent, MaskedBody, Outcome, Permitted, Refusal, SessionEnd,
    SessionStart,
};
use recording::journal::{Journal, Segment};
use recording::segment::{ChainId, Stamp};

/// 2026-11-20T14:30:02Z, in microseconds.
pub const START: i64 = 1_795_185_002_000_000;

pub fn chain(replica: &str) -> ChainId {
    ChainId {
        namespace: "agents".into(),
        session: "claude-code-20261120-9k2d".into(),
        replica: replica.into(),
    }
}

pub fn at(seconds: u64) -> Stamp {
    Stamp { monotonic_ns: seconds * 1_000_000_000, wall_us: START + seconds as i64 * 1_000_000 }
}

pub fn start() -> Event {
    Event::SessionStart(Box::new(SessionStart {
        agent: "claude-code".into(),
        subject: "in-cluster".into(),
        subject_type: "ServiceAccount".into(),
        subject_id: "system:serviceaccount:agents:claude-code".into(),
        user_agent: "kubectl/v1.33.1".into(),
        ..SessionStart::default()
    }))
}

pub fn act(verb: &str) -> Act {
    Act {
        verb: verb.into(),
        group: "apps".into(),
        version: "v1".into(),
        resource: "deployments".into(),
        namespace: Some("payments".into()),
        name: Some("web".into()),
        ..Act::default()
    }
}

pub fn intent(id: &str) -> Event {
    Event::Intent(Box::new(Intent {
        request_id: id.into(),
        act: act("get"),
        target: "/apis/apps/v1/namespaces/payments/deployments/web".into(),
        raw_target: "/apis/apps/v1/namespaces/payments/deployments/web?".into(),
        decision: Permitted::Allowed,
        rules: vec!["payments-agents/read".into()],
        bundle: "sha256:00".into(),
        grant: None,
        would_have: vec![],
        role_session: None,
        body: Some(MaskedBody::from_masked("{\"a\":\"[MASKED:x]\"}".into())),
    }))
}

pub fn refusal(id: &str, reason: &str) -> Event {
    Event::Refusal(Box::new(Refusal {
        request_id: id.into(),
        act: Some(act("delete")),
        method: "DELETE".into(),
        raw_target: "/apis/apps/v1/namespaces/payments/deployments/web".into(),
        reason: reason.into(),
        rules: vec!["payments-agents/never".into()],
        bundle: None,
        grant: None,
        body: None,
    }))
}

pub fn outcome(id: &str, code: u16, disposition: Disposition) -> Event {
    Event::Outcome(Outcome {
        request_id: id.into(),
        code,
        duration_us: 12_300,
        masked: 0,
        bytes: 10,
        disposition,
        reason: None,
        log: None,
    })
}

/// Five requests, all with an outcome.
pub fn three_segments(replica: &str) -> Vec<Segment> {
    let mut journal = Journal::new(chain(replica));
    let mut segments = Vec::new();
    journal.append(&start(), at(0)).unwrap();
    for (second, id) in ["r1", "r2", "r3", "r4"].iter().enumerate() {
        journal.append(&intent(id), at(second as u64)).unwrap();
        journal.append(&outcome(id, 200, Disposition::Executed), at(second as u64)).unwrap();
        if second % 2 == 1 {
            segments.push(journal.seal(at(second as u64)).unwrap().unwrap().segment);
        }
    }
    journal.append(&refusal("r5", "PolicyDenied"), at(9)).unwrap();
    journal.append(&outcome("r5", 403, Disposition::Refused), at(9)).unwrap();
    segments.push(journal.finish(SessionEnd { reason: EndReason::IdleTimeout }, at(10)).unwrap().1);
    segments
}
