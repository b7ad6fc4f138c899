//! Masker against serde_json's tree and against memcpy, interleaved in one run: `cargo bench -p sallyport-masking`.
//!
//! Absolute figures say little on a shared machine; the ratios of the medians are what counts.

mod data;

use data::{expectation, plans, whole_list};
use masking::Masker;
use serde_json::Value;
use std::hint::black_box;
use std::time::Duration;

const BYTES: usize = 80 << 20;
const ROUNDS: usize = 7;
/// What a connection hands over at once.
const CHUNK: usize = 64 << 10;

fn main() {
    println!(
        "{:<12}{:>12}{:>12}{:>12}{:>14}{:>14}",
        "list", "masker GB/s", "tree GB/s", "copy GB/s", "masker:tree", "masker:copy"
    );
    for kind in ["Pod", "Secret", "ConfigMap"] {
        let list = whole_list(kind, BYTES);
        let (mut masked, mut tree, mut copied) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            masked.push(timed(|| mask(kind, &list)));
            // One copy is shorter than the kernel's accounting is fine: ten of them.
            copied.push(timed(|| (0..10).map(|_| copy(&list)).sum()) / 10);
            if round < 3 {
                tree.push(timed(|| mask_tree(kind, &list)));
            }
        }
        let speed = |times: &mut Vec<Duration>| {
            times.sort();
            list.len() as f64 / times[times.len() / 2].as_secs_f64() / 1e9
        };
        let (masked, tree, copied) = (speed(&mut masked), speed(&mut tree), speed(&mut copied));
        let name = format!("{kind}List");
        println!(
            "{name:<12}{masked:>12.3}{tree:>12.3}{copied:>12.3}{:>13.1}x{:>14.3}",
            masked / tree,
            masked / copied
        );
    }
}

fn timed(work: impl FnOnce() -> u64) -> Duration {
    let start = on_cpu();
    black_box(work());
    on_cpu() - start
}

/// Time this thread was on a processor: what others do on the machine counts less.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

fn mask(kind: &str, list: &[u8]) -> u64 {
    let mut masker = Masker::new(plans(), expectation(kind)).expect("a plan");
    let mut out = Vec::with_capacity(2 * CHUNK);
    for chunk in list.chunks(CHUNK) {
        out.clear();
        masker.push(chunk, &mut out).expect("JSON");
        black_box(&out);
    }
    masker.finish().expect("an end");
    assert!(masker.total() > 0);
    masker.total()
}

fn copy(list: &[u8]) -> u64 {
    let mut out = Vec::with_capacity(CHUNK);
    for chunk in list.chunks(CHUNK) {
        out.clear();
        out.extend_from_slice(black_box(chunk));
        black_box(&out);
    }
    out.len() as u64
}

fn mask_tree(kind: &str, list: &[u8]) -> u64 {
    let mut tree: Value = serde_json::from_slice(list).expect("JSON");
    for item in tree["items"].as_array_mut().expect("items") {
        item["metadata"]["managedFields"] = Value::Array(Vec::new());
        match kind {
            "Pod" => {
                for container in item["spec"]["containers"].as_array_mut().into_iter().flatten() {
                    for entry in container["env"].as_array_mut().into_iter().flatten() {
                        if let Some(value) = entry.get_mut("value") {
                            *value = "[MASKED:pod-env]".into();
                        }
                    }
                }
            }
            _ => {
                for value in item["data"].as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
                    *value = "[MASKED:secret-data]".into();
                }
            }
        }
    }
    serde_json::to_vec(&tree).expect("a text").len() as u64
}
