//! YAML bodies: what is read means to the API server what it means to us, the rest is refused (A3, appendix 4). Its own
//! reader, sigs.k8s.io/yaml, is asked about each named document, about generated ones, and about what is sent on as YAML.

#[path = "oracle/dice.rs"]
mod dice;
mod facts;
#[path = "oracle/server.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod server;

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dice::Dice;
use facts::report;
use parsing::json;
use parsing::yaml::{self, YamlError};
use serde_json::{Value, json};
use server::Decoded;

fn ask(documents: &[Vec<u8>]) -> Vec<Decoded> {
    let lines: Vec<String> = documents.iter().map(|document| STANDARD.encode(document)).collect();
    server::ask("yaml", &lines)
}

/// Numbers by value: 1e21 is written differently by everybody.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Every document that we read is read alike by the API server. How many were read.
fn agree(documents: &[Vec<u8>]) -> usize {
    let (mut failures, mut read) = (Vec::new(), 0);
    for (document, theirs) in documents.iter().zip(ask(documents)) {
        let Ok(ours) = yaml::read(document) else { continue };
        read += 1;
        if !theirs.error.is_empty() || !same(&ours, &theirs.json) {
            let text = String::from_utf8_lossy(document);
            failures.push(format!("{text:?}\n   ours {ours}\n theirs {} {}", theirs.json, theirs.error));
        }
    }
    report(failures);
    read
}

type Refusal = fn(usize) -> YamlError;

#[test]
fn appendix_4_yaml_that_readers_read_differently_is_refused() {
    let ambiguous: Refusal = YamlError::Ambiguous;
    let cases: Vec<(&str, Refusal, usize)> = vec![
        ("a: yes", ambiguous, 1),
        ("a: Yes", ambiguous, 1),
        ("a: on", ambiguous, 1),
        ("a: OFF", ambiguous, 1),
        ("a: no", ambiguous, 1),
        ("a: y", ambiguous, 1),
        ("a: N", ambiguous, 1),
        ("a: tRUE", ambiguous, 1),
        ("a: nULL", ambiguous, 1),
        ("a: 012", ambiguous, 1),
        ("a: 0o17", ambiguous, 1),
        ("a: 0x1F", ambiguous, 1),
        ("a: 0b11", ambiguous, 1),
        ("a: 0b-1", ambiguous, 1),
        ("a: -0x1", ambiguous, 1),
        ("a: 1_000", ambiguous, 1),
        ("a: +1", ambiguous, 1),
        ("a: -0", ambiguous, 1),
        ("a: .5", ambiguous, 1),
        ("a: 5.", ambiguous, 1),
        ("a: 08", ambiguous, 1),
        ("a: .inf", ambiguous, 1),
        ("a: -.INF", ambiguous, 1),
        ("a: .NaN", ambiguous, 1),
        ("a: 1e400", ambiguous, 1),
        ("a: 9223372036854775808", ambiguous, 1),
        ("a: =", ambiguous, 1),
        ("a:\n- b\n- <<", ambiguous, 3),
        (r#"a: "\ud83d\ude00""#, ambiguous, 1),
        ("a: &x 1\nb: *x", YamlError::Anchor, 1),
        ("a: &x {b: 1}", YamlError::Anchor, 1),
        ("a: *x", YamlError::Syntax, 1),
        ("base: {c: 1}\na:\n  <<: {b: 1}", YamlError::Merge, 3),
        ("'<<': {b: 1}", YamlError::Merge, 1),
        ("a: !!binary aGk=", YamlError::Tag, 1),
        ("a: !!str 1", YamlError::Tag, 1),
        ("a: ! 1", YamlError::Tag, 1),
        ("a: !custom x", YamlError::Tag, 1),
        ("!!map\na: 1", YamlError::Tag, 2),
        ("? k\n: v", YamlError::Key, 1),
        ("a:\n  ? k\n  : v", YamlError::Key, 2),
        ("? [a, b]\n: v", YamlError::Key, 1),
        ("[]: v", YamlError::Key, 1),
        ("a: {[x]: v}", YamlError::Key, 1),
        ("a: |\n  b", ambiguous, 2),
        ("\ta: b", YamlError::Character, 1),
        ("a:\n\t- b", YamlError::Character, 2),
        ("80: http", YamlError::Key, 1),
        ("true: a", YamlError::Key, 1),
        ("on: push", YamlError::Key, 1),
        ("~: a", YamlError::Key, 1),
        ("a: 1\na: 2", YamlError::DuplicateKey, 2),
        ("a:\n  b: 1\n  'b': 2", YamlError::DuplicateKey, 3),
        ("a: {b: 1, \"\\x62\": 2}", YamlError::DuplicateKey, 1),
        ("a: \"x\u{85}y\"", YamlError::Character, 1),
        ("b: 1\na: x\u{2028}y", YamlError::Character, 2),
        ("a: x\ry", YamlError::Character, 1),
        ("a: x\0", YamlError::Character, 1),
        ("a:\tb", YamlError::Character, 1),
        ("a:\n  - \tb", YamlError::Character, 2),
        ("a: {b:, c: d}", YamlError::Key, 1),
        ("a: {b:c}", YamlError::Key, 1),
        ("a: [b:c]", ambiguous, 1),
        ("a: [b?]", ambiguous, 1),
        ("a: {?b: c}", YamlError::Key, 1),
        ("a: {b\n  c: d}", YamlError::Key, 1),
        ("a: ?b", ambiguous, 1),
        ("a: :b", ambiguous, 1),
        ("a: |\n  \tb\n", ambiguous, 2),
        ("a: x\u{7f}", YamlError::Character, 1),
        ("\u{feff}a: 1", YamlError::Character, 1),
        ("%YAML 1.2\n---\na: 1", YamlError::Syntax, 1),
        ("%TAG ! tag:x\n---\na: 1", YamlError::Syntax, 1),
        ("a: [1", YamlError::Syntax, 1),
        ("a: b: c", YamlError::Syntax, 1),
    ];
    let mut failures = Vec::new();
    for (text, want, line) in cases {
        let got = yaml::read(text.as_bytes());
        // Where exactly a text stops to parse is the parser's own affair.
        let holds = match (&got, want(line)) {
            (Err(YamlError::Syntax(_)), YamlError::Syntax(_)) => true,
            (got, want) => *got == Err(want),
        };
        if !holds {
            failures.push(format!("{text:?}\n   want {:?}\n    got {got:?}", want(line)));
        }
    }
    report(failures);
    for (text, want) in [
        ("", YamlError::Empty),
        ("a", YamlError::Scalar),
        ("|\n a: b\n", YamlError::Scalar),
        ("# nothing\n", YamlError::Empty),
        ("a: 1\n---\nb: 2", YamlError::SecondDocument),
        ("a: 1\n---\n", YamlError::SecondDocument),
        ("---\n---\na: 1", YamlError::Scalar),
        ("a: 1\n...\nb: 2", YamlError::SecondDocument),
    ] {
        assert_eq!(yaml::read(text.as_bytes()), Err(want), "{text:?}");
    }
    assert_eq!(yaml::read(b"a: \xff"), Err(YamlError::NotUtf8));
    let deep = |n: usize| format!("a: {}{}", "[".repeat(n), "]".repeat(n));
    assert_eq!(yaml::read(deep(150).as_bytes()), Err(YamlError::TooDeep));
    assert!(yaml::read(deep(90).as_bytes()).is_ok());
    let long = "- a\n".repeat(json::MAX_VALUES);
    assert_eq!(yaml::read(long.as_bytes()), Err(YamlError::TooMany));
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n";
    assert_eq!(yaml::read(bomb.as_bytes()), Err(YamlError::Anchor(1)));
}

#[test]
fn a3_yaml_is_read_as_the_api_server_reads_it() {
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x # the name\n  labels: {app: web, 'a/b': \"c\"}\n";
    let cases = [
        (format!("---\n{object}data:\n  a: |\n    one\n     two\n\n  b: >-\n    one\n    two\n"),
         json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "labels": {"app": "web", "a/b": "c"}},
                "data": {"a": "one\n two\n", "b": "one two"}})),
        ("a: 1\nb: -5\nc: 1.5\nd: 1.0\ne: 1e3\nf: 9223372036854775807\n".into(),
         json!({"a": 1, "b": -5, "c": 1.5, "d": 1, "e": 1000, "f": 9_223_372_036_854_775_807_i64})),
        ("a: true\nb: False\nc:\nd: ~\ne: null\nf: ''\n".into(),
         json!({"a": true, "b": false, "c": null, "d": null, "e": null, "f": ""})),
        ("a: 10.0.0.1\nb: 8080:80\nc: 100m\nd: 1Gi\ne: 2026-01-01\nf: 0755x\ng: -x\nh: v1\ni: .a\nj: 1.2.3\nk: 12e\nl: 0xzz".into(),
         json!({"a": "10.0.0.1", "b": "8080:80", "c": "100m", "d": "1Gi", "e": "2026-01-01", "f": "0755x", "g": "-x", "h": "v1",
                "i": ".a", "j": "1.2.3", "k": "12e", "l": "0xzz"})),
        ("a:\n- b\n-   c: 1\n    d: [x, 'y', {z: 1}]\n- - e\n  - f\n".into(),
         json!({"a": ["b", {"c": 1, "d": ["x", "y", {"z": 1}]}, ["e", "f"]]})),
        ("a: 'it''s'\nb: \"tab\\t\\x41\\u00e9\\U0001f600\"\nc: plain text, really?\nd: http://x?y=z\ne: why ? because\n".into(),
         json!({"a": "it's", "b": "tab\tAé😀", "c": "plain text, really?", "d": "http://x?y=z", "e": "why ? because"})),
        ("\"yes\": 'no'\n'012': \"0x1f\"\n".into(), json!({"yes": "no", "012": "0x1f"})),
        ("a: one\n  two\n\n  three\nb: \"one\n  two\\\n  three\"\n".into(), json!({"a": "one two\nthree", "b": "one twothree"})),
        ("a: b\r\nc: d\r\n".into(), json!({"a": "b", "c": "d"})),
        (" {\"a\": [1, 1.0, \"\\ud83d\\ude00\\/\"]}\n".into(), json!({"a": [1, 1.0, "😀/"]})),
        ("[1, 2]".into(), json!([1, 2])),
    ];
    let mut failures = Vec::new();
    for (text, want) in &cases {
        let got = yaml::read(text.as_bytes());
        if got.as_ref() != Ok(want) {
            failures.push(format!("{text:?}\n   want {want}\n    got {got:?}"));
        }
    }
    report(failures);
    // JSON's way to write a character beyond U+FFFF is not YAML to the API server; it gets our own JSON, see below.
    let documents = cases.iter().map(|(text, _)| text.clone().into_bytes());
    let documents: Vec<_> = documents.filter(|text| !text.windows(4).any(|w| w == b"\\ud8")).collect();
    assert!(agree(&documents) >= 10);
}

const SCALARS: [&str; 60] = [
    "a",
    "web",
    "true",
    "false",
    "True",
    "yes",
    "no",
    "on",
    "null",
    "~",
    "",
    "1",
    "0",
    "-1",
    "1.5",
    "1.0",
    "1e3",
    "1E+5",
    "012",
    "0x1f",
    "0o17",
    "0b1",
    "1_0",
    "+1",
    ".5",
    "5.",
    ".inf",
    "1:30",
    "10.0.0.1",
    "100m",
    "2026-01-01",
    "12e4567",
    "0755",
    "08",
    "-",
    "'a'",
    "''",
    "'it''s'",
    "'yes'",
    "\"a\"",
    "\"\\n\"",
    "\"\\x41\"",
    "\"\\u0041\"",
    "\"a\\\n  b\"",
    "\"é\"",
    "é",
    "a b",
    "a: b",
    "a #b",
    "a # b",
    "#a",
    "&x a",
    "*x",
    "!!str a",
    "! a",
    "<<",
    "=",
    "? a",
    "-a",
    "{a: b, c: [1, 'x']}",
];
const KEYS: [&str; 18] = [
    "a", "b", "c", "metadata", "name", "'q'", "\"d\"", "<<", "yes", "1", "? k", "&x e", "a b", "x/y", "é",
    "null", "on", "1.5",
];

/// A collection in braces, with blanks where they may be.
fn flow(dice: &mut Dice, depth: usize) -> String {
    if depth > 2 || dice.percent(50) {
        return dice.one(&SCALARS).to_owned();
    }
    let is_map = dice.percent(50);
    let items = (0..dice.roll(4)).map(|_| {
        let value = flow(dice, depth + 1);
        let colon = dice.one(&[": ", ": ", ": ", ":", " : "]);
        if is_map { format!("{}{colon}{value}", dice.one(&KEYS)) } else { value }
    });
    let items = items.collect::<Vec<_>>().join(dice.one(&[", ", ",", " ,", ",\n  "]));
    if is_map { format!("{{{items}}}") } else { format!("[{items}]") }
}

/// A document of nested mappings and sequences, mostly well formed.
fn document(dice: &mut Dice, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    for _ in 0..=dice.roll(3) {
        let head = if dice.percent(25) { "-".to_owned() } else { format!("{}:", dice.one(&KEYS)) };
        match dice.roll(10) {
            0 | 1 if indent < 8 => {
                out.push_str(&format!("{pad}{head}\n"));
                document(dice, indent + 2, out);
            }
            2 => {
                let style = dice.one(&["|", ">", "|-", ">-", "|+", ">2", "|1"]);
                out.push_str(&format!("{pad}{head} {style}\n{pad}  one\n{pad}   two\n\n{pad}  three\n"));
            }
            3 => out.push_str(&format!("{pad}{head} one\n{pad}  two\n")),
            4 | 5 => out.push_str(&format!("{pad}{head} {}\n", flow(dice, 0))),
            _ => out.push_str(&format!("{pad}{head} {}\n", dice.one(&SCALARS))),
        }
    }
}

/// A byte goes, comes or changes.
fn broken(text: &mut Vec<u8>, dice: &mut Dice) {
    const BYTES: &[u8] = b" \t\n\r:-#'\"\\,[]{}&*!?|>%@`=~<0aA1.\x7f\0\xc2\x85";
    let at = dice.roll(text.len().max(1));
    let byte = BYTES[dice.roll(BYTES.len())];
    match dice.roll(3) {
        0 if at < text.len() => drop(text.remove(at)),
        1 if at < text.len() => text[at] = byte,
        _ => text.insert(at.min(text.len()), byte),
    }
}

#[test]
fn a3_every_generated_yaml_that_is_read_is_what_the_api_server_reads() {
    let mut dice = Dice::new(5);
    let mut documents = Vec::new();
    while documents.len() < 12_000 {
        let mut text = String::new();
        document(&mut dice, 0, &mut text);
        let mut text = text.into_bytes();
        for _ in 0..[0, 0, 1, 2][dice.roll(4)] {
            broken(&mut text, &mut dice);
        }
        documents.push(text);
    }
    let read = agree(&documents);
    let _ = writeln!(
        std::io::stderr(),
        "FIGURE oracle: {} generated YAML documents: {read} read, 0 disagreements",
        documents.len()
    );
    assert!(read >= 1_000, "only {read} were read: the test would be vacuous");
}

#[test]
fn a3_what_is_sent_on_as_yaml_is_what_was_read() {
    let mut documents = Vec::new();
    for code in
        (0..0x3000_u32).chain([0xd7ff, 0xe000, 0xfeff, 0xfffd, 0xfffe, 0xffff, 0x1_0000, 0x1_f600, 0x10_ffff])
    {
        let Some(c) = char::from_u32(code) else { continue };
        documents.push(json!({"value": format!("x {c} y"), (format!("k{c}")): 1, "end": format!("{c}")}));
    }
    for text in [
        "<<", "yes", "012", "~", "", "- a", "a: b", "#", "%YAML", "---", "...", "\\", "\"", "'", "*a", "&a",
        "!a", "? a",
    ] {
        documents.push(json!({text: text, "list": [text, {text: [text]}]}));
    }
    for number in [
        json!(1),
        json!(-1),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(1.0),
        json!(0.1),
        json!(1e21),
        json!(1e-7),
        json!(1.5e300),
    ] {
        documents.push(json!({"n": number, "list": [number]}));
    }
    let sent: Vec<Vec<u8>> = documents.iter().map(json::write).collect();
    let mut failures = Vec::new();
    for ((ours, sent), theirs) in documents.iter().zip(&sent).zip(ask(&sent)) {
        if !theirs.error.is_empty() || !same(ours, &theirs.json) {
            let text = String::from_utf8_lossy(sent);
            failures.push(format!("{text:?}\n   ours {ours}\n theirs {} {}", theirs.json, theirs.error));
        }
        assert_eq!(json::read(sent).as_ref(), Ok(ours), "JSON readers too");
    }
    report(failures);
}
