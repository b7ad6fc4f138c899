//! Appendix 4, row by row, and JSON bodies against the API server's own reader: what we accept, it reads alike; what we
//! send on, it reads as what was accepted (A3).

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
use facts::{headers, read, report, summary};
use parsing::json;
use serde_json::Value;
use server::Decoded;

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
/// A kind that the API server decodes with types, and one that it decodes as a map.
const TARGETS: [(&str, &str, &str); 2] = [
    ("/api/v1/namespaces/a/pods", "v1", "Pod"),
    ("/apis/example.com/v1/namespaces/a/widgets", "example.com/v1", "Widget"),
];

/// Row, content type, body, what goes upstream besides `apiVersion` and `kind` or the refusal.
const ROWS: &[(&str, &str, &str, &str)] = &[
    ("dup scalar key", JSON, r#"{"metadata":{"name":"a","name":"b"}}"#, "400 A3"),
    ("dup object key", JSON, r#"{"metadata":{"name":"a"},"metadata":{"labels":{}}}"#, "400 A3"),
    ("dup object key", JSON, r#"{"metadata":{"name":"a"},"spec":{"hostNetwork":true},"spec":{}}"#, "400 A3"),
    ("wrong-case key", JSON, r#"{"metadata":{"name":"a"},"Kind":"Secret"}"#, "400 A3"),
    ("wrong-case key", JSON, r#"{"metadata":{"name":"a"},"APIVersion":"v1"}"#, "400 A3"),
    ("wrong-case key", JSON, r#"{"Metadata":{"name":"a"}}"#, "400 A3"),
    ("wrong-case key", YAML, "Metadata: {name: a}", "400 A3"),
    (
        "trailing data / second object",
        JSON,
        r#"{"metadata":{"name":"a"}}{"metadata":{"name":"b"}}"#,
        "400 A3",
    ),
    ("trailing data / second object", JSON, r#"{"metadata":{"name":"a"}}x"#, "400 A3"),
    ("BOM", JSON, "\u{feff}{\"metadata\":{\"name\":\"a\"}}", "400 A3"),
    ("BOM", YAML, "\u{feff}metadata: {name: a}", "400 A3"),
    ("escaped key", JSON, r#"{"\u006detadata":{"n\u0061me":"a"}}"#, r#""metadata":{"name":"a"}"#),
    ("escaped key", JSON, r#"{"metadata":{"name":"a"},"\u004bind":"Secret"}"#, "400 A3"),
    ("lone surrogate", JSON, r#"{"metadata":{"name":"a","annotations":{"x":"\ud800"}}}"#, "400 A3"),
    ("9223372036854775808", JSON, r#"{"metadata":{"name":"a"},"spec":{"x":9223372036854775808}}"#, "400 A3"),
    ("9223372036854775808", YAML, "metadata: {name: a}\nspec: {x: 9223372036854775808}", "400 A3"),
    (
        "1.0, 1e0 for int",
        JSON,
        r#"{"metadata":{"name":"a"},"spec":{"terminationGracePeriodSeconds":1e0}}"#,
        r#""metadata":{"name":"a"},"spec":{"terminationGracePeriodSeconds":1.0}"#,
    ),
    (
        "1.0, 1e0 for int",
        YAML,
        "metadata: {name: a}\nspec: {terminationGracePeriodSeconds: 1.0}",
        r#""metadata":{"name":"a"},"spec":{"terminationGracePeriodSeconds":1}"#,
    ),
    ("null body", JSON, "null", "400 A3"),
    ("null body", YAML, "~", "400 A3"),
    ("single quotes, trailing comma, comments, yes", JSON, "{'metadata':{'name':'a'}}", "400 A3"),
    ("single quotes, trailing comma, comments, yes", JSON, r#"{"metadata":{"name":"a"},}"#, "400 A3"),
    ("single quotes, trailing comma, comments, yes", JSON, "{\"metadata\":{\"name\":\"a\"}} # c", "400 A3"),
    ("single quotes, trailing comma, comments, yes", JSON, r#"{"metadata":{"name":yes}}"#, "400 A3"),
    (
        "single quotes, trailing comma, comments, yes",
        YAML,
        "metadata: {'name': 'a'} # c",
        r#""metadata":{"name":"a"}"#,
    ),
    ("YAML yes/on/Yes", YAML, "metadata: {name: yes}", "400 A3"),
    ("YAML yes/on/Yes", YAML, "metadata: {name: a}\nspec: {x: on}", "400 A3"),
    ("YAML yes/on/Yes", YAML, "metadata: {name: 'Yes'}", r#""metadata":{"name":"Yes"}"#),
    ("YAML --- second doc", YAML, "metadata: {name: a}\n---\nmetadata: {name: b}\n", "400 A3"),
    ("YAML --- second doc", YAML, "---\nmetadata: {name: a}\n", r#""metadata":{"name":"a"}"#),
    ("YAML <<, !!binary, ? k, 012", YAML, "x: &a {name: a}\nmetadata:\n  <<: *a\n", "400 A3"),
    ("YAML <<, !!binary, ? k, 012", YAML, "metadata: {name: a}\ndata: {x: !!binary aGk=}", "400 A3"),
    ("YAML <<, !!binary, ? k, 012", YAML, "? metadata\n: {name: a}", "400 A3"),
    ("YAML <<, !!binary, ? k, 012", YAML, "metadata: {name: a}\nspec: {mode: 012}", "400 A3"),
];

#[test]
fn appendix_4_each_row_is_refused_or_rebuilt() {
    let mut failures = Vec::new();
    for (target, api_version, kind) in TARGETS {
        for (row, content_type, body, want) in ROWS {
            let read = read("POST", target, &headers(content_type), body.as_bytes());
            let got = match &read {
                Ok(request) => String::from_utf8(request.body.to_bytes().expect("a body")).expect("text"),
                Err(_) => summary(&read),
            };
            let whole = format!(r#"{{"apiVersion":"{api_version}","kind":"{kind}",{want}}}"#);
            if got != *want && got != whole {
                failures.push(format!("{row}: {kind} {body:?}\n   want {want}\n    got {got}"));
            }
        }
    }
    report(failures);
}

const VALUES: [&str; 38] = [
    "1",
    "0",
    "-1",
    "-0",
    "1.0",
    "1e0",
    "1E5",
    "0.1",
    "1.10",
    "1e-7",
    "1e21",
    "1e400",
    "1e-400",
    "01",
    "+1",
    ".5",
    "5.",
    "NaN",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "0.1000000000000000055511151231257827",
    "true",
    "false",
    "null",
    "yes",
    "\"\"",
    "\"a\"",
    r#""\u0041""#,
    r#""\ud83d\ude00""#,
    r#""\ud800""#,
    r#""\/\b\f\n\r\t\"\\""#,
    r#""\x41""#,
    "\"é😀\"",
    "\"\u{85}\u{2028}\u{7f}\"",
    "'a'",
    "\"a\tb\"",
    "[]",
];
const KEYS: [&str; 10] =
    ["\"a\"", "\"b\"", "\"\"", r#""\u0061""#, "\"A\"", "\"kind\"", "\"Kind\"", "a", "\"a b\"", "\"é\""];

fn text(dice: &mut Dice, depth: usize) -> String {
    if depth > 3 || dice.percent(40) {
        return dice.one(&VALUES).to_owned();
    }
    let is_map = dice.percent(60);
    let items: Vec<String> = (0..dice.roll(4))
        .map(|_| {
            let value = text(dice, depth + 1);
            if is_map {
                format!("{}{}{value}", dice.one(&KEYS), dice.one(&[":", ": ", " :\n"]))
            } else {
                value
            }
        })
        .collect();
    let items = items.join(dice.one(&[",", ", ", ",,", ""]));
    if is_map { format!("{{{items}}}") } else { format!("[{items}]") }
}

/// Numbers by value: `1.0` is a float to us and to the API server's maps, which write it as 1.
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

#[test]
fn a3_every_generated_json_that_is_read_is_what_the_api_server_reads() {
    let mut dice = Dice::new(5);
    let documents: Vec<Vec<u8>> = (0..12_000)
        .map(|_| {
            let mut text = text(&mut dice, 0).into_bytes();
            if dice.percent(25) && !text.is_empty() {
                let at = dice.roll(text.len());
                text[at] = b" \"\\{}[]:,x0\xff\0"[dice.roll(13)];
            }
            text
        })
        .collect();
    let read: Vec<_> = documents.iter().filter_map(|text| Some((text, json::read(text).ok()?))).collect();
    let encoded = |text: &[u8]| STANDARD.encode(text);
    let client: Vec<String> = read.iter().map(|(text, _)| encoded(text)).collect();
    let sent: Vec<String> = read.iter().map(|(_, ours)| encoded(&json::write(ours))).collect();
    let (client, sent) = (server::ask::<Decoded>("json", &client), server::ask::<Decoded>("json", &sent));
    let mut failures = Vec::new();
    for (((text, ours), client), sent) in read.iter().zip(client).zip(sent) {
        let errors = client.error + &sent.error;
        if !errors.is_empty() || !same(ours, &client.json) || !same(ours, &sent.json) {
            let text = String::from_utf8_lossy(text);
            failures.push(format!(
                "{text:?}\n   ours {ours}\n client {}\n   sent {} {errors}",
                client.json, sent.json
            ));
        }
    }
    report(failures);
    let figure =
        format!("{} generated JSON documents: {} read, 0 disagreements", documents.len(), read.len());
    let _ = writeln!(std::io::stderr(), "FIGURE oracle: {figure}");
    assert!(read.len() * 5 >= documents.len(), "only {} were read", read.len());
}
