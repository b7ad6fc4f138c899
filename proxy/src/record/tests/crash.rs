//! A proxy that dies: what it had made durable is in the store after the next start, and the end of the rest is unknown.
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use object_store::local::LocalFileSystem;
use recording::event::{EndReason, Event};
use recording::store::read_session;
use recording::verify::Verdict;

use super::fixture::*;
use crate::record::{Durability, Facts, Recorder, Settings};
use crate::telemetry::Telemetry;

/// A world in which every replica died just now: nothing moved while it was copied, and the dead stay in theirs.
fn after_crash(world: &World) -> World {
    loop {
        let before = tempfile::tempdir().unwrap();
        copy_folder(world.folder.path(), before.path());
        let inner = world.store.inner.fork();
        let folder = tempfile::tempdir().unwrap();
        copy_folder(world.folder.path(), folder.path());
        if contents(before.path()) == contents(folder.path()) {
            let store = Arc::new(OutageStore { inner, ..OutageStore::default() });
            return World { folder, store, cards: Arc::new(world.cards.fork()) };
        }
    }
}

fn contents(folder: &std::path::Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(contents(&entry));
        } else {
            found.insert(
                entry.strip_prefix(folder).unwrap().display().to_string(),
                std::fs::read(&entry).unwrap(),
            );
        }
    }
    found
}

fn names(events: &[Event]) -> (Vec<&str>, Vec<&str>) {
    let of = |pick: fn(&Event) -> Option<&str>| events.iter().filter_map(pick).collect();
    (
        of(|event| if let Event::Intent(intent) = event { Some(&intent.request_id) } else { None }),
        of(|event| if let Event::Outcome(outcome) = event { Some(&outcome.request_id) } else { None }),
    )
}

#[tokio::test]
async fn f03_a_write_in_flight_when_the_proxy_dies_is_unknown_after_the_next_start() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    request(&session, "r1", "get").await.unwrap();
    let _stalled = session.intent(intent("w1", "delete"), Durability::Store, Instant::now()).await.unwrap();
    let open = world.read(&name).await.0;
    assert_eq!((open.verdict(), open.chains[0].unknown.len()), (Verdict::Open, 1));

    let next = after_crash(&world);
    let restarted = next.open("p0");
    until("the chain is closed", async || next.read(&name).await.0.verdict() == Verdict::Intact).await;
    let (report, _) = next.read(&name).await;
    let unknown: Vec<&str> = report.chains[0].unknown.iter().map(|one| one.request_id.as_str()).collect();
    assert_eq!((unknown, report.chains[0].end), (vec!["w1"], Some(EndReason::ProxyLost)));
    until("the record says so", async || next.cards.status(&name).replicas.iter().any(|one| one.closed))
        .await;
    let status = next.cards.status(&name);
    assert_eq!(status.requests.unwrap().total, 2);
    assert!(status.end_time.is_some());
    let session = restarted.session(&facts()).await.unwrap();
    assert_ne!(session.name(), name);
}

#[tokio::test]
async fn f03_at_every_point_what_was_durable_survives() {
    let world = World::new();
    // Seals by age and size at odd moments; the store goes away for a while.
    let settings = Settings {
        segment_bytes: 1500,
        segment_age: Duration::from_millis(3),
        commit_every: Duration::from_millis(1),
        ..world.settings("p0")
    };
    let recorder = world.open_with(settings);
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    let mut crashes = vec![];
    for n in 0..40 {
        world.store.down.store(n % 7 > 3, Ordering::SeqCst);
        let pending =
            session.intent(intent(&format!("r{n}"), "get"), Durability::Spool, Instant::now()).await.unwrap();
        if n % 2 == 0 {
            pending.finish(executed());
        } else {
            drop(pending);
        }
        tokio::time::sleep(Duration::from_micros(300 * n)).await;
        crashes.push((n, after_crash(&world)));
    }
    for (n, crash) in crashes {
        let restarted = crash.open("p0");
        until("the chain is closed", async || crash.read(&name).await.0.verdict() == Verdict::Intact).await;
        let (report, events) = crash.read(&name).await;
        let (intents, outcomes) = names(&events);
        let durable: Vec<String> = (0..=n).map(|n| format!("r{n}")).collect();
        assert_eq!(intents, durable, "crash after {n}");
        assert!(outcomes.len() + report.chains[0].unknown.len() >= intents.len());
        restarted.close(Duration::from_secs(5)).await;
        assert_eq!(
            std::fs::read_dir(crash.folder.path().join("p0/left")).unwrap().count(),
            0,
            "crash after {n}"
        );
        assert!(!crash.folder.path().join("p0/aside").exists());
    }
}

#[tokio::test]
async fn f01_a_quiet_chain_is_closed_by_the_next_life_too() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    request(&session, "r1", "delete").await.unwrap();
    until("all is stored", async || world.read(&name).await.0.chains[0].unknown.is_empty()).await;
    let next = after_crash(&world);
    let _restarted = next.open("p0");
    until("the chain is closed", async || next.read(&name).await.0.verdict() == Verdict::Intact).await;
}

#[tokio::test]
async fn a_restarted_replica_joins_a_session_that_another_still_serves() {
    let world = World::new();
    let (one, other) = (world.open("p0"), world.open("p1"));
    let (a, b) = (one.session(&facts()).await.unwrap(), other.session(&facts()).await.unwrap());
    let name = a.name().to_owned();
    request(&a, "a1", "delete").await.unwrap();
    request(&b, "b1", "delete").await.unwrap();
    until("both entries", async || world.cards.status(&name).replicas.len() == 2).await;
    let next = after_crash(&world);
    std::fs::remove_dir_all(next.folder.path().join("p1")).unwrap();
    let restarted = next.open("p0");
    until("the old chain is closed", async || next.cards.status(&name).replicas.iter().any(|r| r.closed))
        .await;
    assert!(next.cards.status(&name).end_time.is_none());
    let session = restarted.session(&facts()).await.unwrap();
    assert_eq!(session.name(), name);
    request(&session, "c1", "delete").await.unwrap();
    until("three chains", async || next.cards.status(&name).replicas.len() == 3).await;
}

/// Where the records of a log end.
fn record_ends(log: &[u8]) -> Vec<usize> {
    let mut ends = vec![];
    let mut end = 0;
    while end < log.len() {
        let length = u32::from_be_bytes(log[end..end + 4].try_into().unwrap()) as usize;
        end += crate::record::spool::RECORD_HEAD + length;
        ends.push(end);
    }
    ends
}

#[tokio::test]
async fn f08_a_torn_log_loses_only_what_was_torn() {
    let world = World::new();
    let settings = Settings { segment_bytes: 1200, ..world.settings("p0") };
    let recorder = world.open_with(settings);
    let facts = Facts { idle: Duration::from_millis(600), ..facts() };
    let session = recorder.session(&facts).await.unwrap();
    let name = session.name().to_owned();
    world.store.down.store(true, Ordering::SeqCst);
    for n in 0..8 {
        request(&session, &format!("r{n}"), "get").await.unwrap();
    }
    drop(session);
    // To the final seal and beyond.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let log = |world: &World| world.folder.path().join("p0/log/000001.log");
    let whole = std::fs::read(log(&world)).unwrap();
    let ends = record_ends(&whole);
    assert_eq!(ends.last(), Some(&whole.len()));
    let mut most = 0;
    for cut in ends.into_iter().flat_map(|end| [end - 1, end]) {
        let cards = Arc::new(world.cards.fork());
        let crash = World { folder: tempfile::tempdir().unwrap(), store: Arc::default(), cards };
        std::fs::create_dir_all(log(&crash).parent().unwrap()).unwrap();
        std::fs::write(log(&crash), &whole[..cut]).unwrap();
        let restarted = crash.open("p0");
        restarted.close(Duration::from_secs(5)).await;
        let (report, events) = crash.read(&name).await;
        assert!(report.chains.is_empty() || report.verdict() == Verdict::Intact, "cut at {cut}: {report:?}");
        let intents = names(&events).0.len();
        assert!(intents >= most, "cut at {cut}: {intents} of {most}");
        most = intents;
    }
    assert_eq!(most, 8);
}

#[tokio::test]
async fn a_local_folder_is_a_store() {
    let (folder, spool) = (tempfile::tempdir().unwrap(), World::new());
    let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let recorder =
        Recorder::open(spool.settings("p0"), store.clone(), spool.cards.clone(), Telemetry::new().unwrap())
            .unwrap();
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    request(&session, "w1", "delete").await.unwrap();
    drop(session);
    recorder.close(Duration::from_secs(5)).await;
    let report = read_session(&*store, "agents", &name, &mut |_, _, _| {}).await.unwrap();
    assert_eq!(report.verdict(), Verdict::Intact);
    let session = folder.path().join("agents").join(&name);
    let chain = std::fs::read_dir(session).unwrap().next().unwrap().unwrap().path();
    assert!(chain.join("000001.seg").exists());
}
