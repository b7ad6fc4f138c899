//! `verify` and `replay` on a folder: what holds, what was touched, what is open.

#![allow(clippy::unwrap_used, reason = "a test may fail this way")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use recording::event::{Act, Disposition, EndReason, Event, Intent, Outcome, Permitted, SessionEnd};
use recording::journal::{Journal, Segment};
use recording::segment::{ChainId, Stamp};

const NAME: &str = "claude-code-20261120-9k2d";

fn at(second: i64) -> Stamp {
    Stamp { monotonic_ns: 0, wall_us: (1_795_185_002 + second) * 1_000_000 }
}

fn intent(id: &str, name: &str) -> Event {
    Event::Intent(Box::new(Intent {
        request_id: id.into(),
        act: Act {
            verb: "delete".into(),
            group: "apps".into(),
            resource: "deployments".into(),
            namespace: Some("payments".into()),
            name: Some(name.into()),
            ..Act::default()
        },
        target: String::new(),
        raw_target: String::new(),
        decision: Permitted::Approved,
        rules: vec![],
        bundle: String::new(),
        grant: Some("claude-code-7f3kq".into()),
        would_have: vec![],
        role_session: None,
        body: None,
    }))
}

fn outcome(id: &str) -> Event {
    Event::Outcome(Outcome {
        request_id: id.into(),
        code: 200,
        duration_us: 31_000,
        masked: 0,
        bytes: 0,
        disposition: Disposition::Executed,
        reason: None,
        log: None,
    })
}

/// Three segments; the second request has no outcome.
fn record(store: &Path) -> PathBuf {
    let chain = ChainId { namespace: "agents".into(), session: NAME.into(), replica: "p0-abcde".into() };
    let folder = store.join("agents").join(NAME).join(&chain.replica);
    std::fs::create_dir_all(&folder).unwrap();
    let mut journal = Journal::new(chain);
    let keep = |segment: Segment| {
        std::fs::write(folder.join(format!("{:06}.seg", segment.number)), &segment.bytes).unwrap();
    };
    journal.append(&intent("01A", "web"), at(0)).unwrap();
    journal.append(&outcome("01A"), at(1)).unwrap();
    keep(journal.seal(at(1)).unwrap().unwrap().segment);
    journal.append(&intent("01B", "evil\u{202e}\u{1b}[2J"), at(2)).unwrap();
    keep(journal.seal(at(3)).unwrap().unwrap().segment);
    keep(journal.finish(SessionEnd { reason: EndReason::ProxyLost }, at(4)).unwrap().1);
    folder
}

fn run(verb: &str, store: &Path) -> (bool, String) {
    let store = format!("file://{}", store.display());
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_kubectl-sallyport"))
        .args([verb, NAME, "-n", "agents", "--offline", "--store", &store])
        .output()
        .unwrap();
    (status.success(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

#[test]
fn a_whole_recording_verifies_and_replays() {
    let store = tempfile::tempdir().unwrap();
    record(store.path());
    let (ok, said) = run("verify", store.path());
    assert!(ok && said.contains("hash chain ok (3 segments, root sha256:"), "{said}");
    assert!(
        said.contains(r"unknown: delete deployments.apps/evil\u{202e}\u{1b}[2J -n payments (id 01B, "),
        "{said}"
    );
    let (ok, said) = run("replay", store.path());
    assert!(ok, "{said}");
    assert!(
        said.starts_with(
            "14:30:02Z  Approved       delete deployments.apps/web -n payments          200  31ms  claude-code-7f3kq\n"
        ),
        "{said}"
    );
    assert!(said.contains("unknown  claude-code-7f3kq") && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn f09_one_flipped_byte_fails_both() {
    let store = tempfile::tempdir().unwrap();
    let segment = record(store.path()).join("000002.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let (ok, said) = run("verify", store.path());
    assert!(!ok && said.contains("hash chain BROKEN") && said.contains(": segment 2"), "{said}");
    let (ok, said) = run("replay", store.path());
    assert!(!ok && said.contains("BROKEN"), "{said}");
}

#[test]
fn f09_missing_and_stray_objects_fail() {
    let store = tempfile::tempdir().unwrap();
    let folder = record(store.path());
    std::fs::write(folder.join("000002.seg.bak"), "x").unwrap();
    let (ok, said) = run("verify", store.path());
    assert!(!ok && said.contains("`000002.seg.bak` is not a segment"), "{said}");
    std::fs::remove_file(folder.join("000002.seg.bak")).unwrap();

    std::fs::remove_file(folder.join("000003.seg")).unwrap();
    let (ok, said) = run("verify", store.path());
    assert!(!ok && said.contains("hash chain open or truncated"), "{said}");
    std::fs::remove_file(folder.join("000001.seg")).unwrap();
    let (ok, said) = run("verify", store.path());
    assert!(!ok && said.contains("segment 1 is missing"), "{said}");
    std::fs::remove_dir_all(folder).unwrap();
    let (ok, said) = run("verify", store.path());
    assert!(!ok && said.contains("nothing is recorded"), "{said}");
}
