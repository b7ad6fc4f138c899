//! Whatever is done to the bytes or the order of a session's segments, verify finds it.

mod session;

use recording::event::{Disposition, EndReason, Event, SessionEnd};
use recording::hash::Hash;
use recording::journal::{Journal, Recovered};
use recording::segment::Stamp;
use recording::verify::{
    ChainReport, ChainVerifier, Checkpoint, Expected, Problem, Report, Verdict, session_root,
};
use session::{at, chain, intent, outcome, refusal, three_segments};

fn read(segments: &[(u32, Vec<u8>)]) -> ChainReport {
    let mut verifier = ChainVerifier::new(chain("a"));
    for (number, bytes) in segments {
        verifier.segment(*number, bytes, &mut |_, _| {});
    }
    verifier.finish()
}

fn numbered() -> Vec<(u32, Vec<u8>)> {
    three_segments("a").into_iter().map(|segment| (segment.number, segment.bytes.to_vec())).collect()
}

fn verdict(chain: ChainReport) -> Verdict {
    Report::new(vec![chain]).verdict()
}

#[test]
fn an_untouched_session_is_intact() {
    let report = read(&numbered());
    assert_eq!(report.problems, vec![]);
    assert!(report.closed && report.roots.len() == 3 && report.unknown.is_empty());
    assert_eq!((report.requests, report.end), (5, Some(EndReason::IdleTimeout)));
    assert_eq!(verdict(report), Verdict::Intact);
}

#[test]
fn f09_a_flipped_bit_at_every_position_is_found() {
    let good = numbered();
    for index in 0..good.len() {
        let mut segments = good.clone();
        for position in 0..segments[index].1.len() {
            for bit in 0..8 {
                segments[index].1[position] ^= 1 << bit;
                let report = read(&segments);
                assert!(!report.problems.is_empty(), "segment {index} byte {position} bit {bit}");
                segments[index].1[position] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn f09_a_byte_taken_out_put_in_or_cut_off_at_every_position_is_found() {
    let good = numbered();
    for index in 0..good.len() {
        let whole = &good[index].1;
        for position in 0..=whole.len() {
            let mut edits = vec![[&whole[..position], &[0], &whole[position..]].concat()];
            if position < whole.len() {
                edits.push([&whole[..position], &whole[position + 1..]].concat());
                edits.push(whole[..position].to_vec());
            }
            for edited in edits {
                let mut segments = good.clone();
                segments[index].1 = edited;
                assert_ne!(read(&segments).problems, vec![], "segment {index} byte {position}");
            }
        }
    }
}

#[test]
fn f09_missing_swapped_and_doubled_segments_are_found() {
    let good = numbered();
    let without = |gone: &[u32]| -> ChainReport {
        read(&good.iter().filter(|(number, _)| !gone.contains(number)).cloned().collect::<Vec<_>>())
    };
    assert_eq!(without(&[1]).problems, vec![Problem::Missing(1, 1)]);
    assert_eq!(without(&[2]).problems, vec![Problem::Missing(2, 2)]);
    assert_eq!(without(&[1, 2]).problems, vec![Problem::Missing(1, 2)]);
    for (one, other) in [(0, 1), (0, 2), (1, 2)] {
        let mut swapped = good.clone();
        let bytes = swapped[one].1.clone();
        swapped[one].1 = std::mem::replace(&mut swapped[other].1, bytes);
        let problems = read(&swapped).problems;
        for number in [one, other].map(|index| index as u32 + 1) {
            assert!(problems.contains(&Problem::Misplaced(number)), "{problems:?}");
        }
    }
    for copied in 0..3 {
        let mut doubled = good.clone();
        doubled.push((4, good[copied].1.clone()));
        let problems = read(&doubled).problems;
        assert_eq!(problems, vec![Problem::AfterFinal(4), Problem::Misplaced(4)]);
    }
}

#[test]
fn f09_a_tail_cut_off_at_a_border_is_open_and_found_with_the_record() {
    let good = numbered();
    let roots = read(&good).roots;
    let expected = |ended, segments: u32, closed| Expected {
        ended,
        chains: vec![Checkpoint {
            replica: "a".into(),
            segments,
            root: segments.checked_sub(1).and_then(|index| roots[index as usize]),
            closed,
        }],
    };
    let held = |kept: usize, expected: &Expected| {
        let mut report = Report::new(vec![read(&good[..kept])]);
        report.expect(expected);
        report
    };
    for kept in 1..3 {
        assert_eq!(verdict(read(&good[..kept])), Verdict::Open);
        let report = held(kept, &expected(true, 3, true));
        assert_eq!(report.chains[0].problems, vec![Problem::CutOff(3, kept as u32)]);
        assert_eq!(held(kept, &expected(false, 3, false)).verdict(), Verdict::Broken);
        assert_eq!(held(kept, &expected(false, kept as u32, false)).verdict(), Verdict::Running);
        // The proxy died: the record has all that is there, and the end is missing.
        assert_eq!(held(kept, &expected(true, kept as u32, false)).verdict(), Verdict::Open);
    }
    assert_eq!(held(3, &expected(true, 3, true)).verdict(), Verdict::Intact);
    let running = held(3, &expected(false, 1, false));
    assert_eq!((running.verdict(), running.vouched()), (Verdict::Running, 1));
    assert_eq!(held(3, &expected(true, 2, true)).chains[0].problems, vec![Problem::Surplus(2, 3)]);
}

#[test]
fn f09_a_chain_rewritten_removed_or_added_is_found_with_the_record() {
    let mut other = Journal::new(chain("a"));
    other.append(&refusal("r1", "PolicyDenied"), at(1)).unwrap();
    let (_, forged) = other.finish(SessionEnd { reason: EndReason::IdleTimeout }, at(2)).unwrap();
    let forged = read(&[(1, forged.bytes.to_vec())]);
    assert_eq!(verdict(forged.clone()), Verdict::Intact, "a forger can compute hashes");
    let known = |root| Expected {
        ended: true,
        chains: vec![Checkpoint { replica: "a".into(), segments: 1, root: Some(root), closed: true }],
    };
    let mut report = Report::new(vec![forged.clone()]);
    report.expect(&known(Hash::of(b"the true one")));
    assert_eq!(report.chains[0].problems, vec![Problem::OtherRoot(1)]);

    let mut gone = Report::new(vec![]);
    assert_eq!(gone.verdict(), Verdict::Broken, "nothing is never intact");
    gone.expect(&known(Hash::ZERO));
    assert_eq!(gone.chains[0].problems, vec![Problem::NoChain]);

    let mut added = Report::new(vec![forged]);
    added.expect(&Expected { ended: true, chains: vec![] });
    assert_eq!(added.chains[0].problems, vec![Problem::Unlisted]);
}

#[test]
fn f32_two_replicas_have_two_chains_each_verified() {
    let chains: Vec<ChainReport> = ["b", "a"]
        .map(|replica| {
            let mut verifier = ChainVerifier::new(chain(replica));
            for segment in three_segments(replica) {
                verifier.segment(segment.number, &segment.bytes, &mut |_, _| {});
            }
            verifier.finish()
        })
        .into();
    let report = Report::new(chains.clone());
    assert_eq!(report.verdict(), Verdict::Intact);
    let roots: Vec<(&str, Hash)> =
        chains.iter().map(|chain| (chain.replica.as_str(), chain.root().unwrap())).collect();
    assert_eq!(report.root(), session_root(roots.clone()));
    assert_ne!(report.root(), Some(roots[0].1));

    // The chain of one replica under the name of the other.
    let mut verifier = ChainVerifier::new(chain("b"));
    for segment in three_segments("a") {
        verifier.segment(segment.number, &segment.bytes, &mut |_, _| {});
    }
    assert_eq!(verifier.finish().problems, [1, 2, 3].map(Problem::Misplaced).to_vec());
}

#[test]
fn d04_a_request_without_outcome_is_unknown() {
    let mut journal = Journal::new(chain("a"));
    for event in [
        intent("r1"),
        intent("r2"),
        outcome("r1", 200, Disposition::Executed),
        refusal("r3", "PolicyDenied"),
        intent("r4"),
        outcome("r4", 502, Disposition::Unknown),
    ] {
        journal.append(&event, at(1)).unwrap();
    }
    let (_, segment) = journal.finish(SessionEnd { reason: EndReason::ProxyLost }, at(2)).unwrap();
    let report = read(&[(1, segment.bytes.to_vec())]);
    let unknown: Vec<&str> = report.unknown.iter().map(|request| request.request_id.as_str()).collect();
    assert_eq!((report.requests, unknown), (4, vec!["r2", "r4"]));
}

#[test]
fn an_event_of_a_later_version_is_passed_over_but_still_in_the_chain() {
    assert_eq!(Event::decode(99, b"{}").unwrap(), None);
    assert!(Event::decode(2, b"{}").is_err());
}

#[test]
fn f01_whatever_a_crash_leaves_of_a_segment_is_taken_up_and_closed() {
    let mut journal = Journal::new(chain("a"));
    let mut bytes = Vec::new();
    let mut borders = vec![];
    for event in [intent("r1"), outcome("r1", 200, Disposition::Executed), intent("r2")] {
        bytes.extend_from_slice(journal.append(&event, at(1)).unwrap());
        borders.push(bytes.len());
    }
    assert_eq!(bytes.len(), journal.open_bytes());
    let header = {
        let reader = recording::segment::Reader::open(&bytes).unwrap();
        reader.offset()
    };
    for cut in 0..=bytes.len() {
        let journal = match Journal::recover(&bytes[..cut]) {
            Ok(Recovered::Open(journal, _)) => journal,
            Ok(Recovered::Sealed { .. }) => panic!("nothing sealed it"),
            Err(_) => {
                assert!(cut < header, "{cut}");
                continue;
            }
        };
        let whole = borders.iter().filter(|border| **border <= cut).count();
        assert_eq!(journal.open_frames() as usize, whole);
        let (_, segment) =
            journal.finish(SessionEnd { reason: EndReason::ProxyLost }, Stamp::default()).unwrap();
        let report = read(&[(1, segment.bytes.to_vec())]);
        assert_eq!((report.problems.len(), report.closed), (0, true), "{cut}");
        assert_eq!(report.unknown.len(), [0, 1, 0, 1][whole]);
    }
}

#[test]
fn a_recovered_chain_goes_on_where_it_was() {
    let mut journal = Journal::new(chain("a"));
    journal.append(&intent("r1"), at(1)).unwrap();
    let first = journal.seal(at(2)).unwrap().unwrap().segment;
    let Ok(Recovered::Sealed { length, next: Some(next) }) = Journal::recover(&first.bytes) else {
        panic!("it is sealed, and not for good")
    };
    assert_eq!((length, Some(&next)), (first.bytes.len(), journal.position().as_ref()));
    let quiet = Journal::at(chain("a"), next);
    let (_, end) = quiet.finish(SessionEnd { reason: EndReason::ProxyLost }, at(4)).unwrap();
    let report = read(&[(1, first.bytes.to_vec()), (2, end.bytes.to_vec())]);
    assert_eq!(verdict(report), Verdict::Intact);
    let open = journal.append(&intent("r2"), at(3)).unwrap().to_vec();
    let Ok(Recovered::Open(journal, None)) = Journal::recover(&open) else { panic!("it is whole and open") };
    let (_, last) = journal.finish(SessionEnd { reason: EndReason::ProxyLost }, at(4)).unwrap();
    let report = read(&[(1, first.bytes.to_vec()), (2, last.bytes.to_vec())]);
    assert_eq!(verdict(report), Verdict::Intact);
}

#[test]
fn an_event_that_is_too_long_changes_nothing() {
    let mut journal = Journal::new(chain("a"));
    let long = refusal("r1", &"x".repeat(recording::event::MAX_PAYLOAD));
    assert!(journal.append(&long, at(1)).is_err());
    assert_eq!((journal.open_bytes(), journal.open_frames()), (0, 0));
    journal.append(&intent("r2"), at(1)).unwrap();
    let (_, segment) = journal.finish(SessionEnd { reason: EndReason::IdleTimeout }, at(2)).unwrap();
    assert_eq!(verdict(read(&[(1, segment.bytes.to_vec())])), Verdict::Intact);
}
