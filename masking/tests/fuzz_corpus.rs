//! The fuzz target's corpus, replayed as a plain test.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail this way")]

#[path = "../fuzz/oracle.rs"]
mod oracle;

#[test]
fn h4_the_corpus_holds() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/mask");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 12, "the corpus is there");
    for path in inputs {
        let input = std::fs::read(&path).unwrap();
        let [choice, size, answer @ ..] = &*input else { continue };
        for size in [*size, 1, 255] {
            oracle::check(&[&[*choice, size], answer].concat());
        }
    }
}
