//! A store, an API server and a disk that fail: refused with a reason, never silent, never lost.
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use recording::event::{Disposition, Event, Intent, MaskedBody};
use recording::store::segment_path;
use recording::verify::Verdict;

use super::fixture::*;
use crate::record::{Durability, Ended, Facts, Settings, Unavailable};

#[tokio::test]
async fn f07_without_store_writes_are_refused_and_reads_go_on_until_the_spool_is_full() {
    let world = World::new();
    let recorder = world.open_with(Settings { spool_limit: 96 << 10, ..world.settings("p0") });
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    world.store.down.store(true, Ordering::SeqCst);

    assert!(matches!(request(&session, "w1", "delete").await, Err(Unavailable::Store)));
    let mut reads = 0;
    let refused = loop {
        match request(&session, &format!("r{reads}"), "get").await {
            Ok(()) => reads += 1,
            Err(error) => break error,
        }
        assert!(reads < 10_000);
    };
    assert!(matches!(refused, Unavailable::Full) && reads > 50, "{refused} after {reads}");
    assert!(recorder.unready().is_some());
    // Refusals have a reserve.
    session
        .refuse(refusal("x1", "PolicyDenied"), Ended::refused(403, "PolicyDenied"), Instant::now())
        .await
        .unwrap();

    world.store.down.store(false, Ordering::SeqCst);
    until("the spool drains", async || request(&session, "again", "get").await.is_ok()).await;
    request(&session, "w2", "delete").await.unwrap();
    drop(session);
    recorder.close(Duration::from_secs(5)).await;
    let (report, events) = world.read(&name).await;
    assert_eq!(report.verdict(), Verdict::Intact, "{report:?}");
    assert_eq!(report.chains[0].unknown, vec![]);
    let end_of = |id: &str| {
        let outcomes =
            events.iter().filter_map(|event| if let Event::Outcome(one) = event { Some(one) } else { None });
        outcomes.filter(|one| one.request_id == id).map(|one| (one.code, one.disposition)).next()
    };
    assert_eq!(end_of("w1"), Some((503, Disposition::Failed)));
    assert_eq!(end_of("r0"), Some((200, Disposition::Executed)));
    assert_eq!(end_of("x1"), Some((403, Disposition::Refused)));
    assert_eq!(end_of("w2"), Some((200, Disposition::Executed)));
}

#[tokio::test]
async fn f07_refusals_beyond_the_reserve_are_told_as_a_gap() {
    let world = World::new();
    let recorder = world.open_with(Settings { spool_limit: 16 << 10, ..world.settings("p0") });
    let session = recorder.session(&facts()).await.unwrap();
    let name = session.name().to_owned();
    world.store.down.store(true, Ordering::SeqCst);
    let mut lost = 0;
    for n in 0..200 {
        let ended = Ended::refused(403, "PolicyDenied");
        let refused = session.refuse(refusal(&format!("r{n}"), "PolicyDenied"), ended, Instant::now()).await;
        lost += u64::from(refused.is_err());
    }
    assert!(lost > 0);
    world.store.down.store(false, Ordering::SeqCst);
    until("the spool drains", async || request(&session, "again", "get").await.is_ok()).await;
    drop(session);
    recorder.close(Duration::from_secs(5)).await;
    let (report, events) = world.read(&name).await;
    assert_eq!(report.verdict(), Verdict::Intact);
    let told: u64 =
        events.iter().map(|event| if let Event::Gap(gap) = event { gap.refusals } else { 0 }).sum();
    let written = events.iter().filter(|event| matches!(event, Event::Refusal(_))).count() as u64;
    assert!(told > 0 && told + written >= 200, "{told} + {written}");
}

#[tokio::test]
async fn without_a_record_there_is_no_session() {
    let world = World::new();
    let recorder = world.open("p0");
    world.cards.down.store(true, Ordering::SeqCst);
    assert!(matches!(recorder.session(&facts()).await.err(), Some(Unavailable::Card(_))));
    world.cards.down.store(false, Ordering::SeqCst);
    recorder.session(&facts()).await.unwrap();
}

#[tokio::test]
async fn a_record_that_cannot_be_written_at_the_end_is_written_later() {
    let world = World::new();
    let recorder = world.open("p0");
    let facts = Facts { idle: Duration::from_millis(100), ..facts() };
    let name = recorder.session(&facts).await.unwrap().name().to_owned();
    until("it ends", async || !world.cards.all().is_empty()).await;
    world.cards.down.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(400)).await;
    world.cards.down.store(false, Ordering::SeqCst);
    until("the end is told", async || world.cards.status(&name).replicas.iter().any(|one| one.closed)).await;
}

#[tokio::test]
async fn f32_a_segment_that_is_there_already_is_no_error_unless_it_is_another() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    request(&session, "w1", "delete").await.unwrap();
    until("an entry", async || !world.cards.status(session.name()).replicas.is_empty()).await;
    let replica = world.cards.status(session.name()).replicas[0].name.clone();
    let chain = recording::segment::ChainId {
        namespace: "agents".into(),
        session: session.name().to_owned(),
        replica: replica.clone(),
    };
    until("quiet", async || world.read(session.name()).await.0.chains[0].unknown.is_empty()).await;
    let next = world.read(session.name()).await.0.chains[0].roots.len() as u32 + 1;
    let foreign: &dyn ObjectStore = &world.store.inner;
    foreign.put(&segment_path(&chain, next), PutPayload::from_static(b"not ours")).await.unwrap();
    assert!(matches!(request(&session, "w2", "delete").await, Err(Unavailable::Conflict)));
    assert!(matches!(request(&session, "r1", "get").await, Err(Unavailable::Conflict)), "it stays refused");
    let kept = foreign.get(&segment_path(&chain, next)).await.unwrap().bytes().await.unwrap();
    assert_eq!(&kept[..], b"not ours", "nothing is overwritten");
    let name = session.name().to_owned();
    drop(session);
    let other = recorder.session(&facts()).await.unwrap();
    assert_ne!(other.name(), name, "one poisoned chain does not lock the agent out");
    request(&other, "w3", "delete").await.unwrap();
    until("the poison is set aside", async || {
        std::fs::read_dir(world.folder.path().join("p0/aside")).is_ok_and(|files| files.count() > 1)
    })
    .await;
    until("the record says so", async || recorded(&world, &name).0 == "UploadFailed").await;
    assert!(recorded(&world, &name).1.contains("another object lies at"), "{:?}", recorded(&world, &name));
    until("the spool is free of it", async || recorder.inner.spool.load().age < Duration::from_secs(1)).await;
}

/// Reason and message of the condition `Recorded`.
fn recorded(world: &World, name: &str) -> (String, String) {
    let status = world.cards.status(name);
    let condition = status.conditions.iter().find(|condition| condition.r#type == "Recorded");
    condition.map(|one| (one.reason.clone(), one.message.clone())).unwrap_or_default()
}

#[tokio::test]
async fn f07_the_record_says_that_uploads_fail_and_when_they_go_on() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    request(&session, "w1", "delete").await.unwrap();
    until("the first status", async || recorded(&world, session.name()).0 == "Uploading").await;
    world.store.down.store(true, Ordering::SeqCst);
    assert!(request(&session, "w2", "delete").await.is_err());
    until("the failure is told", async || recorded(&world, session.name()).0 == "UploadFailed").await;
    assert!(recorded(&world, session.name()).1.contains("down"));
    assert!(world.cards.status(session.name()).replicas[0].upload_error.is_some());
    world.store.down.store(false, Ordering::SeqCst);
    until("its end is told", async || recorded(&world, session.name()).0 == "Uploading").await;
    assert!(world.cards.status(session.name()).replicas[0].upload_error.is_none());
}

#[tokio::test]
async fn f07_what_waits_too_long_stops_everything_until_the_store_takes_it() {
    let world = World::new();
    let recorder =
        world.open_with(Settings { spool_age: Duration::from_millis(500), ..world.settings("p0") });
    let session = recorder.session(&facts()).await.unwrap();
    request(&session, "r1", "get").await.unwrap();
    world.store.down.store(true, Ordering::SeqCst);
    until("it is too old", async || matches!(request(&session, "r", "get").await, Err(Unavailable::Stale)))
        .await;
    assert!(recorder.unready().unwrap().contains("too long"));
    world.store.down.store(false, Ordering::SeqCst);
    until("it is taken", async || request(&session, "again", "get").await.is_ok()).await;
    assert_eq!(recorder.unready(), None);
}

#[tokio::test]
async fn f07_a_full_spool_is_full_for_the_next_life_too() {
    let world = World::new();
    let bounded = |world: &World| Settings { spool_limit: 96 << 10, ..world.settings("p0") };
    let name = {
        let recorder = world.open_with(bounded(&world));
        let session = recorder.session(&facts()).await.unwrap();
        world.store.down.store(true, Ordering::SeqCst);
        let mut n = 0;
        while request(&session, &format!("r{n}"), "get").await.is_ok() {
            n += 1;
        }
        let name = session.name().to_owned();
        drop(session);
        recorder.close(Duration::from_millis(100)).await;
        name
    };
    // The life before is not over in this process: a copy is what a crash leaves.
    let crashed = World {
        folder: tempfile::tempdir().unwrap(),
        store: world.store.clone(),
        cards: world.cards.clone(),
    };
    copy_folder(world.folder.path(), crashed.folder.path());
    // Smaller than what is left, which is a little less than the log was.
    let next = crashed.open_with(Settings { spool_limit: 64 << 10, ..bounded(&crashed) });
    assert!(next.unready().is_some_and(|why| why.contains("the spool is full")), "{:?}", next.unready());
    assert!(next.session(&facts()).await.is_err());
    world.store.down.store(false, Ordering::SeqCst);
    until("the next life is ready", async || next.unready().is_none()).await;
    until("what was left is in the store", async || {
        let report = crashed.read(&name).await.0;
        report.verdict() == Verdict::Intact
    })
    .await;
    until("nothing is carried", async || next.inner.spool.load().bytes < 1024).await;
}

#[tokio::test]
async fn f09_a_store_that_overwrites_gets_no_recording() {
    let world = World::new();
    world.store.overwrites.store(true, Ordering::SeqCst);
    let recorder = world.open("p0");
    let refused = recorder.session(&facts()).await.err();
    assert!(
        matches!(&refused, Some(Unavailable::Unproven(why)) if why.contains("If-None-Match")),
        "{refused:?}"
    );
    assert!(recorder.unready().unwrap().contains("tamper-evident recording is refused"));
    assert!(world.cards.all().is_empty(), "no session begins");
    let objects = world.store.list_with_delimiter(None).await.unwrap().common_prefixes;
    assert_eq!(objects.len(), 1, "only the proof: {objects:?}");
    world.store.overwrites.store(false, Ordering::SeqCst);
    until("a mended store is taken", async || recorder.session(&facts()).await.is_ok()).await;
    assert_eq!(recorder.unready(), None);
}

#[tokio::test]
async fn f08_a_failed_disk_stops_everything() {
    let world = World::new();
    let recorder = world.open("p0");
    let session = recorder.session(&facts()).await.unwrap();
    request(&session, "r1", "get").await.unwrap();
    // The log cannot go on in a next file.
    std::fs::remove_dir_all(world.folder.path().join("p0/log")).unwrap();
    let long = |n: usize| Intent {
        body: Some(MaskedBody::from_masked("x".repeat(512 << 10))),
        ..intent(&format!("l{n}"), "get")
    };
    let mut failed = None;
    for n in 0..20 {
        failed = session.intent(long(n), Durability::Spool, Instant::now()).await.err();
        if failed.is_some() {
            break;
        }
    }
    assert!(matches!(failed, Some(Unavailable::Disk)), "{failed:?}");
    tokio::time::timeout(Duration::from_secs(5), recorder.failed()).await.unwrap();
    assert!(recorder.unready().is_some());
    assert!(matches!(recorder.session(&facts()).await.err(), Some(Unavailable::Disk)));
    let refused =
        session.refuse(refusal("x", "PolicyDenied"), Ended::refused(403, "PolicyDenied"), Instant::now());
    assert!(refused.await.is_err());
    let write = session.intent(intent("w", "delete"), Durability::Store, Instant::now()).await;
    assert!(matches!(write.err(), Some(Unavailable::Disk)));
}
