//! CEL: what is answered, what is refused, and that the largest thing that is let through is small.

use policy::cel::{CompileError, Document, DocumentError, EvaluateError, Expression, MAX_DEPTH, MAX_SOURCE};
use serde_json::{Value, json};

fn ask(source: &str, claims: &Value) -> Result<bool, EvaluateError> {
    let expression =
        Expression::compile(source, &["claims"]).unwrap_or_else(|error| panic!("{source}: {error}"));
    expression.holds("claims", &Document::new(claims).unwrap())
}

#[test]
fn expressions_answer_as_kubernetes_users_know_them() {
    let claims = json!({
        "sub": "repo:acme/payments:environment:production", "groups": ["dev", "payments-admins"],
        "repository_owner_id": "1234567", "email_verified": true, "level": 3, "share": 0.5,
        "realm": {"roles": ["agent"]}, "not.a.name": "x",
    });
    for (source, expected) in [
        ("claims.repository_owner_id == '1234567'", Ok(true)),
        ("claims.repository_owner_id == '123456'", Ok(false)),
        ("claims.email_verified && claims.level >= 3 && claims.share < 1.0", Ok(true)),
        (
            "claims.sub.startsWith('repo:acme/') && claims.sub.matches('^repo:acme/[a-z]+:environment:production$')",
            Ok(true),
        ),
        ("claims.groups.exists(g, g.endsWith('-admins'))", Ok(true)),
        ("claims.groups.all(g, g in ['dev', 'ops'])", Ok(false)),
        (
            "size(claims.groups.filter(g, g != 'dev')) == 1 && claims.groups.map(g, size(g)) == [3, 15]",
            Ok(true),
        ),
        ("has(claims.actor) && claims.actor == 'x'", Ok(false)),
        ("'agent' in claims.realm.roles && claims['not.a.name'] == 'x'", Ok(true)),
        ("type(claims.level) == int && string(claims.level) == '3'", Ok(true)),
        ("claims.actor == 'x'", Err(EvaluateError::NoSuchKey)),
        ("claims.sub", Err(EvaluateError::NotBoolean)),
        ("claims.level / 0 == 1", Err(EvaluateError::Failed)),
        ("claims.level + claims.sub == ''", Err(EvaluateError::Failed)),
    ] {
        assert_eq!(ask(source, &claims), expected, "{source}");
    }
}

#[test]
fn what_could_be_long_or_is_unknown_does_not_compile() {
    let deep = format!("{}true{}", "(".repeat(MAX_DEPTH + 1), ")".repeat(MAX_DEPTH + 1));
    let long = format!("'{}' == ''", "a".repeat(MAX_SOURCE));
    let list = format!("1 in [{}]", ["1"; 129].join(","));
    let map =
        format!("{{{}}} == claims.m", (0..129).map(|n| format!("{n}: 1")).collect::<Vec<_>>().join(","));
    let chain = format!("claims{} == 1", ".a".repeat(2 * MAX_DEPTH));
    let sum = format!("{} == 1", ["1"; 2 * MAX_DEPTH + 1].join("+"));
    let parts = ["claims.a"; 400].join("||");
    let loops = ["claims.l.exists(x,x)"; 9].join("||");
    for (source, expected) in [
        ("user.name == ''", CompileError::Undeclared("user".to_owned())),
        ("claims.l.exists(x, y == x)", CompileError::Undeclared("y".to_owned())),
        ("claims.l.all(a, claims.l.all(b, a == b))", CompileError::NestedLoops),
        ("claims.l.map(a, claims.s + claims.s).size() > 0", CompileError::Growth),
        ("claims.s.replace('a', claims.s) == ''", CompileError::Function("replace".to_owned())),
        (
            "claims.exists(claims, true)",
            CompileError::NotOffered("a loop variable with the name of a declared one"),
        ),
        ("claims.s.matches(claims.p)", CompileError::Pattern),
        ("claims.s.matches('(')", CompileError::Pattern),
        ("claims.s.matches('(a{500}){500}')", CompileError::Pattern),
        ("Any{value: 1} == 1", CompileError::NotOffered("a message")),
        (deep.as_str(), CompileError::TooDeep),
        (long.as_str(), CompileError::TooLong),
        (list.as_str(), CompileError::TooManyEntries),
        (map.as_str(), CompileError::TooManyEntries),
        (chain.as_str(), CompileError::TooDeep),
        (sum.as_str(), CompileError::TooDeep),
        ("claims.l.exists(k, v, true)", CompileError::Function("exists".to_owned())),
        (parts.as_str(), CompileError::TooLarge),
        (loops.as_str(), CompileError::TooManyLoops),
    ] {
        assert_eq!(Expression::compile(source, &["claims"]).unwrap_err(), expected, "{source}");
    }
    for source in [
        "",
        "claims.",
        "claims.a ==",
        "claims.?a == 1",
        "\0",
        "claims.a == 'x",
        "\u{1b}[1m",
        &"?".repeat(125),
    ] {
        let error = Expression::compile(source, &["claims"]).unwrap_err();
        assert!(matches!(error, CompileError::Syntax(_)), "{source}: {error}");
        let text = error.to_string();
        assert!(!text.contains(char::is_control) && text.len() < 300, "{text}");
    }
}

#[test]
fn documents_are_bounded() {
    let nested = (0..20).fold(json!(1), |inner, _| json!([inner]));
    let many = vec![vec![1; 200]; 30];
    let keys = (0..257).map(|n| (n.to_string(), json!(1))).collect();
    for (document, expected) in [
        (json!({"l": vec![1; 257]}), DocumentError::TooLong),
        (keys, DocumentError::TooLong),
        (nested, DocumentError::TooDeep),
        (json!(many), DocumentError::TooMany),
    ] {
        assert_eq!(Document::new(&document).unwrap_err(), expected);
    }
}

/// A thread of the runtime has 2 MiB; a loop takes some levels more than a bracket.
#[test]
fn the_deepest_expression_fits_a_small_stack() {
    let claims = json!({"a": 1, "l": vec!["x".repeat(64); 256]});
    let brackets = (0..MAX_DEPTH - 2).fold("claims.a".to_owned(), |inner, _| format!("-({inner})"));
    let lists = (0..MAX_DEPTH - 2).fold("1".to_owned(), |inner, _| format!("[{inner}]"));
    let sources = [
        format!("{brackets} == 1"),
        format!("{lists} == []"),
        "claims.l.map(a, claims.l).size() == 256".to_owned(),
    ];
    let small = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
    let answered = small.spawn(move || sources.map(|source| ask(&source, &claims))).unwrap().join().unwrap();
    assert_eq!(answered, [Ok(true), Ok(false), Ok(true)]);
}
