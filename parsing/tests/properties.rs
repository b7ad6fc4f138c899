//! What holds for every request, tried with inputs made of the pieces that parsers disagree about (H1, H2, H5).

mod facts;
#[path = "../fuzz/oracle.rs"]
mod oracle;

use facts::{headers, read};
use parsing::json;
use proptest::prelude::*;
use serde_json::{Value, json};

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "api", "apis", "v1", "v1beta1", "apps", "namespaces", "a", "pods", "x", "log", "exec", "status", "watch", "proxy",
            "secrets", "finalize", "nodes", "deployments", "scale", "example.com", "widgets", "version", "openapi",
        ]).prop_map(str::to_owned),
        1 => prop::sample::select(vec![
            "", ".", "..", "%2e", "%2F", "%3A", "%73", "%", "*", "A", "a:b", "%00", "%C3%A4", "~", "a@b", "%22", "!", "'",
        ]).prop_map(str::to_owned),
        1 => "[!-~]{0,6}",
    ]
}

fn pair() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "watch",
        "limit",
        "continue",
        "labelSelector",
        "fieldSelector",
        "dryRun",
        "timeout",
        "pretty",
        "container",
        "follow",
        "command",
        "ports",
        "hash",
        "resourceVersion",
        "propagationPolicy",
        "Watch",
        "wat%63h",
        "",
    ]);
    let values = prop_oneof![
        prop::sample::select(vec![
            "true",
            "1",
            "False",
            "",
            "All",
            "500",
            "-1",
            "10s",
            "metadata.name%3Dx",
            "a+in+(b,c)",
            "%zz",
            "a%2Cb",
            "x",
            "%ff",
        ])
        .prop_map(str::to_owned),
        "[ -~]{0,8}",
    ];
    (keys, values).prop_map(|(key, value)| format!("{key}={value}"))
}

fn raw_target() -> impl Strategy<Value = String> {
    let path = prop::collection::vec(segment(), 0..8).prop_map(|segments| format!("/{}", segments.join("/")));
    let query = prop::collection::vec(pair(), 0..4).prop_map(|pairs| pairs.join("&"));
    (path, query).prop_map(|(path, query)| if query.is_empty() { path } else { format!("{path}?{query}") })
}

fn method() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "get"])
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1.0e15..1.0e15f64).prop_map(Value::from),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn h1_a_rebuilt_target_is_read_as_the_same(method in method(), target in raw_target()) {
        oracle::target(format!("{method} {target}").as_bytes());
        if let Ok(first) = read(method, &target, &headers(""), b"") {
            let body = first.body.to_bytes().unwrap_or_default();
            let again = read(method, &first.canonical_target(), &headers(""), &body).expect("read again");
            prop_assert_eq!(&again.action, &first.action);
            prop_assert_eq!(again.canonical_target(), first.canonical_target());
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        oracle::target(&bytes);
        oracle::query(&bytes);
        oracle::headers(&bytes);
        oracle::body(&bytes);
        let _ = json::read(&bytes);
    }

    #[test]
    fn h5_a_stream_is_the_same_act_by_every_method(
        sub in prop::sample::select(vec!["exec", "attach", "portforward", "proxy"]), name in "[a-z0-9]{1,8}",
    ) {
        let target = format!("/api/v1/namespaces/a/pods/{name}/{sub}");
        let of = |method| read(method, &target, &headers(""), b"").map(|request| (request.action, request.connect));
        prop_assert_eq!(of("GET"), of("POST"));
    }

    #[test]
    fn appendix_4_json_that_is_written_is_read_back(value in value()) {
        let text = json::write(&value);
        let strict = json::read(&text).expect("our own text is read");
        prop_assert_eq!(&strict, &value);
        prop_assert_eq!(json::write(&strict), text);
    }

    #[test]
    fn appendix_4_what_is_read_means_the_same_to_serde(text in r#"[\[\]{}:,"\\\/u0-9a-fA-FdDtrueflsn.eE+\- ]{0,24}"#) {
        if let Ok(strict) = json::read(text.as_bytes()) {
            let other: Value = serde_json::from_str(&text).expect("another reader takes it too");
            prop_assert_eq!(json::write(&strict), json::write(&other));
        }
    }

    #[test]
    fn d02_equal_meaning_has_an_equal_digest(labels in prop::collection::btree_map("[a-z]{1,5}", "[a-z]{0,5}", 0..5), seed in any::<u64>()) {
        let object = json!({"metadata": {"name": "x", "labels": labels}, "spec": {"priority": 1}});
        let plain = object.to_string();
        let shuffled = shuffled(&object, seed);
        let of = |text: &str| {
            let request = read("PUT", "/api/v1/namespaces/a/pods/x", &headers("application/json"), text.as_bytes()).expect("read");
            parsing::digest::fingerprint(&request, "in-cluster", "agents/a", Some("uid"), Some("sha256:0"))
        };
        prop_assert_eq!(of(&plain), of(&shuffled));
    }
}

/// The same object with its keys in another order, blanks between tokens, and escapes where none are needed.
fn shuffled(value: &Value, seed: u64) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            if !keys.is_empty() {
                let by = usize::try_from(seed % 7).unwrap_or_default() % keys.len();
                keys.rotate_left(by);
            }
            let pairs: Vec<String> = keys
                .iter()
                .map(|key| format!("{} : {}", escaped(key, seed), shuffled(&map[*key], seed / 3)))
                .collect();
            format!("{{ {} }}", pairs.join(" ,\n"))
        }
        Value::String(text) => escaped(text, seed),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
    }
}

fn escaped(text: &str, seed: u64) -> String {
    let at = usize::try_from(seed % 5).unwrap_or_default();
    let chars = text
        .chars()
        .enumerate()
        .map(|(i, c)| if i == at { format!("\\u{:04x}", c as u32) } else { c.to_string() });
    format!("\"{}\"", chars.collect::<String>())
}
