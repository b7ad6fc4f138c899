//! Sessions from their first request to their end.
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use recording::event::{Disposition, EndReason, Event, Permitted, Review};
use recording::verify::{Checkpoint, Expected, Verdict};

use super::fixture::*;
use crate::record::card::find_or_make;
use crate::record::{Durability, Ended, Facts, OpenError, Recorder, Settings};
use crate::telemetry::Telemetry;

fn expected(world: &World, name: &str) -> Expected {
    let status = world.cards.status(name);
    let chains = status.replicas.iter().map(|replica| {
        let recording = replica.recording.clone().unwrap();
        Checkpoint {
            replica: replica.name.clone(),
            segments: recording.segments as u32,
            root: recording.root_hash.map(|root| root.parse().unwrap()),
            closed: replica.closed,
        }
    });
    Expected { ended: status.end_time.is_some(), chains: chains.collect() }
}

#[tokio::test]
async fn a_session_is_recorded_counted_and_closed() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    request(&session, "r1", "get").await.unwrap();
    request(&session, "r2", "delete").await.unwrap();
    session
        .refuse(refusal("r3", "PolicyDenied"), Ended::refused(403, "PolicyDenied"), Instant::now())
        .await
        .unwrap();
    session
        .refuse(refusal("r4", "ApprovalPending"), Ended::refused(403, "ApprovalPending"), Instant::now())
        .await
        .unwrap();
    let approved = crate::record::Session::clone(&session);
    let intent = recording::event::Intent {
        decision: Permitted::Approved,
        grant: Some("claude-code-7f3kq".into()),
        ..intent("r5", "delete")
    };
    let pending = approved.intent(intent, Durability::Store, Instant::now()).await.unwrap();
    let review = Review {
        grant: "claude-code-7f3kq".into(),
        decision: "Approved".into(),
        reviewer: "alice@example.com".into(),
        note: String::new(),
    };
    session.review(vec![review], Durability::Store).await.unwrap();
    pending.finish(executed());
    until("the first status", async || world.cards.status(&name).requests.is_some_and(|sum| sum.total == 5))
        .await;
    let status = world.cards.status(&name);
    assert_eq!(
        status.conditions.iter().map(|c| c.reason.as_str()).collect::<Vec<_>>(),
        ["Active", "Uploading"]
    );
    drop((session, approved));
    recorder.close(Duration::from_secs(5)).await;

    let (mut report, events) = world.read(&name).await;
    assert_eq!(report.verdict(), Verdict::Intact, "{report:?}");
    report.expect(&expected(&world, &name));
    assert_eq!(report.verdict(), Verdict::Intact, "{report:?}");
    assert!(
        matches!(events.first(), Some(Event::SessionStart(start)) if start.subject_type == "ServiceAccount")
    );
    let status = world.cards.status(&name);
    let sum = status.requests.unwrap();
    assert_eq!(
        (sum.total, sum.allowed, sum.denied, sum.approved, sum.pending, status.masked_values),
        (5, 2, 1, 1, 1, Some(6))
    );
    let decisions: Vec<&str> = status.highlights.iter().map(|one| one.decision.as_str()).collect();
    assert_eq!(decisions, ["Allowed", "PolicyDenied", "ApprovalPending", "Approved"]);
    assert_eq!(status.grants.len(), 1);
    let recording = status.recording.unwrap();
    assert_eq!(recording.root_hash, report.root().map(|root| root.to_string()));
    assert_eq!(recording.segments as usize, report.segments());
    assert_eq!(recording.uri.unwrap(), format!("file:///recordings/agents/{name}/"));
    assert_eq!(
        status.conditions.iter().map(|c| c.reason.as_str()).collect::<Vec<_>>(),
        ["ProxyLost", "Uploaded"]
    );
    let spec = &world.cards.all()[0].spec;
    assert!(!spec.client.as_ref().unwrap().user_agent.as_ref().unwrap().contains('\u{202e}'));
}

#[tokio::test]
async fn d04_the_intent_of_a_write_is_in_the_store_before_it_may_go() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let pending = session.intent(intent("w1", "delete"), Durability::Store, Instant::now()).await.unwrap();
    let (report, events) = world.read(session.name()).await;
    assert!(events.iter().any(|event| matches!(event, Event::Intent(intent) if intent.request_id == "w1")));
    assert_eq!(report.chains[0].unknown[0].request_id, "w1");
    drop(pending);
}

#[tokio::test]
async fn writes_that_wait_for_a_slow_store_share_a_segment() {
    let world = World::new();
    let settings = Settings { store_patience: Duration::from_secs(10), ..world.settings("p0") };
    let recorder = world.open_with(settings);
    let session = recorder.session(&facts()).await.unwrap();
    world.store.slow_ms.store(50, Ordering::SeqCst);
    let ids: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
    let writes = ids.iter().map(|id| request(&session, id, "delete"));
    assert!(futures::future::join_all(writes).await.into_iter().all(|one| one.is_ok()));
    assert!(world.store.puts.load(Ordering::SeqCst) <= 6);
}

#[tokio::test]
async fn every_request_has_one_outcome_even_when_it_is_dropped() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    for (id, finished) in [("r1", true), ("r2", false)] {
        let pending = session.intent(intent(id, "get"), Durability::Spool, Instant::now()).await.unwrap();
        if finished {
            pending.finish(executed());
        }
    }
    drop(session);
    recorder.close(Duration::from_secs(5)).await;
    let (_, events) = world.read(&name).await;
    let outcomes: Vec<(String, Disposition)> = events
        .into_iter()
        .filter_map(|event| {
            if let Event::Outcome(outcome) = event {
                Some((outcome.request_id, outcome.disposition))
            } else {
                None
            }
        })
        .collect();
    assert_eq!(outcomes, [("r1".into(), Disposition::Executed), ("r2".into(), Disposition::Unknown)]);
}

#[tokio::test]
async fn a_session_ends_when_it_is_idle_and_the_next_has_another_name() {
    let world = World::new();
    let recorder = world.open("p0");
    let facts = Facts { idle: Duration::from_millis(200), ..facts() };
    let session = recorder.session(&facts).await.unwrap();
    let first = session.name().to_owned();
    let pending = session.intent(intent("r1", "get"), Durability::Spool, Instant::now()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(recorder.session(&facts).await.unwrap().name(), first, "a request in flight is no silence");
    pending.finish(executed());
    drop(session);
    until("the end", async || world.cards.status(&first).replicas.first().is_some_and(|one| one.closed))
        .await;
    let status = world.cards.status(&first);
    assert_eq!(
        status.conditions.iter().map(|c| c.reason.as_str()).collect::<Vec<_>>(),
        ["IdleTimeout", "Uploaded"]
    );
    let (mut report, _) = world.read(&first).await;
    report.expect(&expected(&world, &first));
    assert_eq!((report.verdict(), report.chains[0].end), (Verdict::Intact, Some(EndReason::IdleTimeout)));

    let second = recorder.session(&facts).await.unwrap();
    assert_ne!(second.name(), first);
    let parts: Vec<&str> = second.name().rsplitn(3, '-').collect();
    assert_eq!((parts[0].len(), parts[1].len(), parts[2]), (4, 8, "claude-code"));
}

#[tokio::test]
async fn a_session_ends_at_its_longest_and_by_word() {
    let world = World::new();
    let recorder = world.open("p0");
    let short = Facts { longest: Duration::from_millis(300), ..facts() };
    let name = recorder.session(&short).await.unwrap().name().to_owned();
    let reason = |name: &str| world.cards.status(name).conditions.first().map(|c| c.reason.clone());
    until("the end", async || reason(&name).as_deref() == Some("MaxDuration")).await;

    let other = Facts { agent_uid: "other".into(), ..facts() };
    let suspended = recorder.session(&other).await.unwrap();
    let name = suspended.name().to_owned();
    let pending = suspended.intent(intent("r1", "get"), Durability::Spool, Instant::now()).await.unwrap();
    recorder.end_sessions("agents", "other", EndReason::AgentSuspended);
    until("the end", async || reason(&name).as_deref() == Some("AgentSuspended")).await;
    assert_ne!(recorder.session(&other).await.unwrap().name(), name);
    // What was in flight is still written down.
    pending.finish(executed());
    drop(suspended);
    until("the seal", async || world.read(&name).await.0.chains.first().is_some_and(|one| one.closed)).await;
    assert_eq!(world.read(&name).await.0.chains[0].unknown, vec![]);
}

#[tokio::test]
async fn a_session_ends_with_its_window() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    let windowed = recording::event::Intent { grant: Some("claude-code-w1".into()), ..intent("r1", "get") };
    session.intent(windowed, Durability::Spool, Instant::now()).await.unwrap().finish(executed());
    session.count_refusal();
    drop(session);
    recorder.end_closed_windows(|facts, grant| facts.agent == "claude-code" && grant == "claude-code-w1");
    assert_eq!(recorder.session(&facts()).await.unwrap().name(), name);
    recorder.end_closed_windows(|_, _| false);
    assert_ne!(recorder.session(&facts()).await.unwrap().name(), name);
    until("the end", async || world.cards.status(&name).replicas.iter().any(|one| one.closed)).await;
    assert_eq!(world.cards.status(&name).conditions[0].reason, "WindowClosed");
    let (_, events) = world.read(&name).await;
    assert!(events.iter().any(|event| matches!(event, Event::Gap(gap) if gap.refusals == 1)));
}

#[tokio::test]
async fn f32_two_replicas_share_a_session_with_a_chain_each() {
    let world = World::new();
    let facts = Facts { idle: Duration::from_secs(2), ..facts() };
    let (one, other) = (world.open("p0"), world.open("p1"));
    let (a, b) = tokio::join!(one.session(&facts), other.session(&facts));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.name(), b.name());
    let name = a.name().to_owned();
    let (first, second) = tokio::join!(
        async {
            for n in 0..20 {
                request(&a, &format!("a{n}"), "delete").await.unwrap();
            }
        },
        async {
            for n in 0..20 {
                request(&b, &format!("b{n}"), "get").await.unwrap();
            }
        }
    );
    let ((), ()) = (first, second);
    until("both entries", async || world.cards.status(&name).requests.is_some_and(|sum| sum.total == 40))
        .await;
    drop((a, b));
    one.close(Duration::from_secs(5)).await;
    assert!(world.cards.status(&name).end_time.is_none(), "the other replica still serves it");
    other.close(Duration::from_secs(5)).await;
    let status = world.cards.status(&name);
    assert!(status.end_time.is_some() && status.replicas.len() == 2);
    assert_eq!(status.highlights.len(), 20);
    let (mut report, _) = world.read(&name).await;
    report.expect(&expected(&world, &name));
    assert_eq!((report.verdict(), report.chains.len()), (Verdict::Intact, 2), "{report:?}");
    assert_eq!(status.recording.unwrap().root_hash, report.root().map(|root| root.to_string()));
}

#[tokio::test]
async fn a_status_is_written_seldom() {
    let world = World::new();
    let settings = Settings { status_every: Duration::from_secs(60), ..world.settings("p0") };
    let recorder = world.open_with(settings);
    let session = recorder.session(&facts()).await.unwrap();
    for n in 0..50 {
        request(&session, &format!("r{n}"), "get").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.cards.writes.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn many_refusals_keep_the_card_small() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    for n in 0..50 {
        let ended = Ended::refused(403, "PolicyDenied");
        session.refuse(refusal(&format!("r{n}"), "PolicyDenied"), ended, Instant::now()).await.unwrap();
    }
    drop(session);
    recorder.close(Duration::from_secs(5)).await;
    let status = world.cards.status(&name);
    assert_eq!((status.highlights.len(), status.truncated, status.requests.unwrap().denied), (32, true, 50));
}

#[tokio::test]
async fn a_spool_belongs_to_one_process() {
    let world = World::new();
    let recorder = world.open("p0");
    let again = Recorder::open(
        world.settings("p0"),
        world.store.clone(),
        world.cards.clone(),
        Telemetry::new().unwrap(),
    );
    assert!(matches!(again.err(), Some(OpenError::InUse(_))));
    recorder.close(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn f32_a_replica_that_is_first_asked_after_midnight_joins_the_session_of_before() {
    let cards = MemoryCards::default();
    let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
    let make = async |facts: &Facts, time: &str| {
        let record = find_or_make(&cards, facts, "file:///recordings", |_| false, at(time)).await.unwrap();
        record.metadata.name.unwrap()
    };
    let before = make(&facts(), "2026-11-20T23:59:30Z").await;
    assert!(before.contains("-20261120-"), "{before}");
    assert_eq!(make(&facts(), "2026-11-21T00:00:10Z").await, before);
    // Silent for longer than it may be, so that it has ended.
    let after = make(&facts(), "2026-11-21T00:30:00Z").await;
    assert!(after.contains("-20261121-"), "{after}");
    assert_eq!(make(&facts(), "2026-11-21T00:30:10Z").await, after);
    assert!(cards.status(&before).end_time.is_some());
}

#[tokio::test]
async fn a_session_of_another_store_is_not_joined() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    until("the first status", async || world.cards.status(&name).recording.is_some()).await;
    let now = jiff::Timestamp::now();
    let make = async |store: &str| {
        find_or_make(&*world.cards, &facts(), store, |_| false, now).await.unwrap().metadata.name.unwrap()
    };
    assert_eq!(make("file:///recordings/").await, name);
    assert_ne!(make("s3://elsewhere").await, name);
    recorder.close(Duration::from_secs(1)).await;
}
