//! Peak memory while lists of 8 MB and of 1 GB pass: the same. `cargo bench -p sallyport-masking --bench memory`.

mod data;

use data::{expectation, list, plans};
use masking::Masker;

fn main() {
    let idle = peak();
    for bytes in [8 << 20, 64 << 20, 1 << 30] {
        let mut masker = Masker::new(plans(), expectation("Pod")).expect("a plan");
        let (mut out, mut passed, mut most) = (Vec::new(), 0u64, 0);
        list("Pod", bytes, |piece| {
            out.clear();
            masker.push(piece, &mut out).expect("JSON");
            passed += piece.len() as u64;
            most = most.max(out.capacity());
        });
        masker.finish().expect("an end");
        let (mib, masked, peak) = (passed >> 20, masker.total(), peak());
        println!(
            "{mib:>5} MiB in, {masked:>8} values masked, peak RSS {peak} KiB (idle {idle}), output buffer {most} bytes"
        );
    }
}

/// The process's peak resident memory in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}
