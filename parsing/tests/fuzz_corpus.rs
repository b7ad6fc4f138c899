//! The fuzz targets' corpora, replayed as plain tests.

#[path = "../fuzz/oracle.rs"]
mod oracle;

fn replay(name: &str, at_least: usize, check: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let inputs: Vec<_> =
        std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("a file").path()).collect();
    assert!(inputs.len() >= at_least, "the corpus of `{name}` is there");
    for input in inputs {
        check(&std::fs::read(input).expect("a readable file"));
    }
}

#[test]
fn h1_the_corpus_of_targets_holds() {
    replay("target", 40, oracle::target);
}

#[test]
fn h1_the_corpus_of_queries_holds() {
    replay("query", 40, oracle::query);
}

#[test]
fn h2_the_corpus_of_bodies_holds() {
    replay("body", 40, oracle::body);
}

#[test]
fn b121_the_corpus_of_headers_holds() {
    replay("headers", 20, oracle::headers);
}
