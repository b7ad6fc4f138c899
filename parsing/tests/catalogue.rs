//! Each row of the catalogue has a test that names it: A2, A3, appendix 3 and appendix 4. A row without one fails here.

use std::path::Path;

/// Rules whose tests carry the id in their name.
const A2: [&str; 15] =
    ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13", "p14", "p15"];

/// Row, file, what the file says of it.
const A3: [(&str, &str, &str); 9] = [
    (
        "duplicate keys",
        "parsing/tests/bodies.rs",
        "fn appendix_4_json_that_readers_read_differently_is_refused",
    ),
    ("re-encoded bodies", "parsing/tests/bodies.rs", "fn a3_what_goes_upstream_is_re_encoded"),
    ("protobuf", "parsing/tests/bodies.rs", "fn a3_refused_protobuf_says_the_way_out"),
    ("CBOR", "parsing/tests/bodies.rs", "application/apply-patch+cbor"),
    ("YAML", "parsing/tests/yaml.rs", "fn appendix_4_yaml_that_readers_read_differently_is_refused"),
    ("Content-Type", "parsing/tests/bodies.rs", "fn a3_content_types_are_an_allow_list"),
    ("size, nesting, count", "parsing/tests/bodies.rs", "fn a3_limits_hold"),
    ("agreement with the target", "parsing/tests/bodies.rs", "fn a3_the_body_agrees_with_the_target"),
    ("a body where none belongs", "parsing/tests/bodies.rs", "fn a3_only_writes_carry_a_body"),
];

const FRAMING: &str = "proxy/tests/gate/framing.rs";
const APPENDIX_3: [&str; 32] = [
    "CL + TE: chunked",
    "two equal CL",
    "two different CL",
    "CL 1, 1",
    "CL +1",
    "CL -1",
    "TE identity",
    "TE xchunked",
    "TE vertical tab",
    "TE chunked twice",
    "TE gzip, chunked",
    "TE in HTTP/1.0",
    "HTTP/1.0",
    "Transfer-Encoding : chunked",
    "Impersonate-User : x",
    "obs-fold",
    "bare LF line ends",
    "NUL in header",
    "non-ASCII header value",
    "no Host",
    "two Host",
    "leading CRLF",
    "HTTP/1.2",
    "raw UTF-8 in path",
    "raw 0xff in query",
    "absolute-form, Host differs",
    "GET + Content-Length body",
    "Connection: Upgrade + pipelined second request",
    "request trailers Impersonate-User: root",
    "Expect: 200-foo",
    "chunk size 0x1",
    "1.1 MiB header",
];

const BODIES: &str = "parsing/tests/appendix_4.rs";
const APPENDIX_4: [&str; 14] = [
    "dup scalar key",
    "dup object key",
    "wrong-case key",
    "trailing data / second object",
    "BOM",
    "escaped key",
    "lone surrogate",
    "9223372036854775808",
    "1.0, 1e0 for int",
    "null body",
    "single quotes, trailing comma, comments, yes",
    "YAML yes/on/Yes",
    "YAML --- second doc",
    "YAML <<, !!binary, ? k, 012",
];

fn source(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)).expect(file)
}

/// Names of the tests in a folder, one a line.
fn tests(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let texts = entries.map(|path| match path.extension().is_some_and(|extension| extension == "rs") {
        true => {
            let text = std::fs::read_to_string(&path).expect("a file");
            text.lines().filter(|line| line.contains("fn ")).map(|line| format!("{line}\n")).collect()
        }
        false if path.is_dir() => tests(&path),
        false => String::new(),
    });
    texts.collect()
}

#[test]
fn each_row_of_the_catalogue_has_a_test_that_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let names: String =
        ["parsing/tests", "proxy/tests", "e2e/tests/it"].map(|folder| tests(&root.join(folder))).concat();
    let ids = A2.iter().filter(|id| !names.contains(&format!("fn {id}_"))).map(|id| (*id).to_owned());
    let bodies = A3.iter().filter(|(_, file, what)| !source(file).contains(what));
    let missing = |file: &'static str, rows: &'static [&'static str]| {
        let text = source(file);
        rows.iter()
            .filter(move |row| !text.contains(&format!("\"{row}\"")))
            .map(move |row| format!("{file}: {row}"))
    };
    let unnamed: Vec<String> = ids
        .chain(bodies.map(|(row, file, _)| format!("{file}: {row}")))
        .chain(missing(FRAMING, &APPENDIX_3))
        .chain(missing(BODIES, &APPENDIX_4))
        .collect();
    assert!(unnamed.is_empty(), "no test names {unnamed:#?}");
}
