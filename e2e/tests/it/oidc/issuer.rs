//! The issuer's side: keys that change, an issuer that fails, the API server's own issuer; and what one subject is.

use std::io::Read;
use std::time::Duration;

use anyhow::Context;
use e2e::kubectl::kubectl_spawn;
use e2e::oidc::{FakeIssuer, Kind, Mood, forge};
use e2e::{Filter, Version, eventually};
use serde_json::{Value, json};

use super::{Desk, SOON, SUB, claims, trust, with};

/// Longer than the gate remembers a token, asks an issuer again, and waits between two looks at open streams.
const FORGOTTEN: Duration = Duration::from_secs(90);

#[tokio::test]
async fn a_rotated_key_works_at_once_and_a_dropped_one_no_longer() -> anyhow::Result<()> {
    let (desk, issuer) = (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?);
    let (at, rules) = trust(&issuer);
    desk.agent("agent", &at, &rules)?;
    let old = issuer.token("k1", "RS256", &claims(&issuer))?;
    assert_eq!(desk.who(&old)?, desk.user("agent"));
    issuer.add_key("k2", Kind::P256)?;
    let new = issuer.token("k2", "ES256", &claims(&issuer))?;
    eventually("the new key", Duration::from_secs(10), async || {
        Ok((desk.who(&new)? == desk.user("agent")).then_some(()))
    })
    .await?;
    issuer.drop_key("k1");
    eventually("the old key's end", FORGOTTEN, async || Ok(desk.who(&old)?.is_err().then_some(()))).await?;
    desk.told(&old, "the issuer does not publish the key that signed the token").await?;
    assert_eq!(desk.who(&new)?, desk.user("agent"));
    // Strangers with made-up keys do not make the gate ask at every request.
    let before = issuer.asked();
    for n in 0..8 {
        let header = json!({"alg": "ES256", "kid": format!("made-up-{n}")});
        let token = forge(&header, &claims(&issuer), |signed| issuer.sign("k2", "ES256", signed))?;
        let request =
            format!("GET /api HTTP/1.1\r\nHost: sallyport\r\nAuthorization: Bearer {token}\r\n\r\n");
        let answer = e2e::wire::exchange(&desk.gate.urls()[0], &desk.ca, request.as_bytes()).await?;
        assert_eq!(answer.code, 401);
    }
    assert!(issuer.asked() - before < 8, "{} questions for 8 made-up keys", issuer.asked() - before);
    Ok(())
}

#[tokio::test]
async fn f25_an_issuer_that_fails_is_never_skipped() -> anyhow::Result<()> {
    let desk = Desk::new(&crate::gate()?).await?;
    let mut issuers = Vec::new();
    for mood in [
        Mood::Dead,
        Mood::Garbage,
        Mood::Redirect,
        Mood::Huge,
        Mood::OtherIssuer,
        Mood::PlainKeys,
        Mood::Broken,
        Mood::Silent,
    ] {
        let issuer = FakeIssuer::start()?;
        issuer.is(mood);
        issuers.push((mood, issuer));
    }
    let subject = |(index, (_, issuer)): (usize, &(Mood, FakeIssuer))| {
        let (at, rules) = trust(issuer);
        json!({"name": format!("s{index}"), "type": "OIDC", "oidc": {"issuer": at, "claimValidationRules": rules}})
    };
    let subjects: Vec<Value> = issuers.iter().enumerate().map(subject).collect();
    desk.agent_of("agent", &json!(subjects))?;
    eventually("the metric to tell of all of them", SOON, async || {
        Ok((away(&desk).await? >= issuers.len()).then_some(()))
    })
    .await?;
    for (mood, issuer) in &issuers {
        let token = issuer.token("k1", "RS256", &claims(issuer))?;
        let unverifiable = format!("the keys of issuer `{}` cannot be had at the moment", issuer.url());
        eventually(&format!("{mood:?} to be asked"), SOON, async || {
            let said = desk.who(&token)?.expect_err("nobody can know");
            assert!(said.contains("ServiceUnavailable") && said.contains(&unverifiable), "{mood:?}: {said}");
            Ok((issuer.asked() > 0).then_some(()))
        })
        .await?;
        issuer.is(Mood::Good);
    }
    for (mood, issuer) in &issuers {
        let token = issuer.token("k1", "RS256", &claims(issuer))?;
        eventually(&format!("the return of {mood:?}"), SOON, async || {
            Ok((desk.who(&token)? == desk.user("agent")).then_some(()))
        })
        .await?;
    }
    eventually("the metric to tell of their return", SOON, async || {
        Ok((away(&desk).await? < issuers.len()).then_some(()))
    })
    .await?;
    let (_, issuer) = issuers.first().expect("one of them");
    issuer.is(Mood::Broken);
    let known = issuer.token("k1", "PS256", &claims(issuer))?;
    assert_eq!(desk.who(&known)?, desk.user("agent"), "a known key is enough for a while");
    issuer.add_key("k2", Kind::Ed25519)?;
    let unknown = issuer.token("k2", "EdDSA", &claims(issuer))?;
    desk.told(&unknown, &format!("the keys of issuer `{}` cannot be had", issuer.url())).await
}

/// How many issuers the gate says are away: those of other tests too.
async fn away(desk: &Desk) -> anyhow::Result<usize> {
    let metrics = desk.gate.proxies()[0].program().metrics().await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("sallyport_issuers_away "));
    Ok(line.context("the metric")?.parse()?)
}

#[tokio::test]
async fn an_issuer_of_another_authority_is_none() -> anyhow::Result<()> {
    let (desk, issuer, stranger) =
        (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?, FakeIssuer::start()?);
    let (at, rules) = trust(&issuer);
    let at = with(at, json!({"url": stranger.url()}));
    desk.agent("misled", &at, &rules)?;
    let said = desk.who(&stranger.token("k1", "RS256", &claims(&stranger))?)?.expect_err("refused");
    assert!(said.contains("ServiceUnavailable"), "{said}");
    assert_eq!(stranger.asked(), 0);
    Ok(())
}

#[tokio::test]
async fn f25_an_agent_whose_keys_cannot_be_had_holds_up_only_tokens_that_would_be_its_own()
-> anyhow::Result<()> {
    let (desk, issuer, stranger) =
        (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?, FakeIssuer::start()?);
    let (at, rules) = trust(&issuer);
    desk.agent("known", &at, &rules)?;
    let token = issuer.token("k1", "RS256", &claims(&issuer))?;
    assert_eq!(desk.who(&token)?, desk.user("known"));
    // The same issuer under an authority that its certificate is not of: whether the token is this agent's, nobody can tell.
    let untold = with(at, json!({"certificateAuthority": stranger.ca()}));
    let wide = json!([{"expression": "claims.sub.startsWith('repo:acme/')"}]);
    desk.agent("unknown", &untold, &wide)?;
    desk.told(&token, &format!("the keys of issuer `{}` cannot be had", issuer.url())).await?;
    desk.apply("unknown", &untold, &json!([{"claim": "sub", "requiredValue": "somebody else"}]))?;
    eventually("what cannot be the other's", SOON, async || {
        Ok((desk.who(&token)? == desk.user("known")).then_some(()))
    })
    .await
}

/// An open watch of the agent `name` with a token, and what kubectl says at its end.
async fn watch(
    desk: &Desk,
    name: &str,
    token: &str,
) -> anyhow::Result<impl Future<Output = anyhow::Result<String>> + use<>> {
    let user = desk.user(name).unwrap_or_default();
    let watches = Filter::ran_as(&user).verb("watch").resource("configmaps").namespace(&desk.namespace);
    let audit = desk.gate.plane().audit();
    let before = audit.requests(&watches).await?.len();
    let args = ["get", "configmaps", "--watch", "-o", "json", "-n", &desk.namespace];
    let mut child = kubectl_spawn(Version::New, &desk.kubeconfig(token)?, &args)?;
    let mut first = [0];
    child.stdout.as_mut().map(|out| out.read_exact(&mut first)).transpose()?;
    audit.wait_for(&watches, before + 1).await?;
    Ok(async move {
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        let out = tokio::time::timeout(FORGOTTEN, ended).await???;
        Ok(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    })
}

#[tokio::test]
async fn f23_what_a_token_opened_ends_with_it() -> anyhow::Result<()> {
    let (desk, issuer) = (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?);
    let (at, rules) = trust(&issuer);
    desk.agent("agent", &at, &rules)?;
    let soon = jiff::Timestamp::now().as_second() + 25;
    desk.admin(&["create", "configmap", "seen"])?.success()?;
    let short = issuer.token("k1", "RS256", &with(claims(&issuer), json!({"exp": soon})))?;
    let long = issuer.token("k1", "RS256", &claims(&issuer))?;
    let (ending, staying) = (watch(&desk, "agent", &short).await?, watch(&desk, "agent", &long).await?);
    let said = ending.await?;
    assert!(said.contains("the token that opened this stream has expired"), "{said}");
    assert_eq!(desk.who(&long)?, desk.user("agent"));
    // The subject goes from the identity, and with it what its token keeps open.
    let narrowed = json!([{"claim": "sub", "requiredValue": "somebody else"}]);
    desk.apply("agent", &at, &narrowed)?;
    let said = staying.await?;
    assert!(said.contains("the token breaks a claim rule"), "{said}");
    desk.told(&long, "the token breaks a claim rule").await
}

#[tokio::test]
async fn one_token_is_one_agent() -> anyhow::Result<()> {
    let (desk, issuer) = (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?);
    let (at, rules) = trust(&issuer);
    desk.agent("first", &at, &rules)?;
    // The same subject, said with one rule more: the older identity keeps it.
    let more = json!([rules[0], rules[1], {"expression": "claims.aud == 'sallyport'"}]);
    desk.apply("second", &at, &more)?;
    let condition = |name: &str| {
        let path = "jsonpath={.status.conditions[?(@.type=='Accepted')].reason} {.status.conditions[?(@.type=='Accepted')].message}";
        desk.admin(&["get", "agentidentity", name, "-o", path])
    };
    eventually("the conflict", SOON, async || {
        Ok(condition("second")?.stdout.starts_with("SubjectConflict").then_some(()))
    })
    .await?;
    let said = condition("second")?.stdout;
    assert!(said.contains(&format!("`{}/first`, which is older", desk.namespace)), "{said}");
    let token = issuer.token("k1", "RS256", &claims(&issuer))?;
    assert_eq!(desk.who(&token)?, desk.user("first"));
    // What no text shows, the token does.
    let (near, far) = (
        json!([{"expression": "claims.sub.startsWith('repo:acme/')"}]),
        json!([{"claim": "sub", "requiredValue": SUB}]),
    );
    desk.agent("third", &at, &near)?;
    let both = "the token fits the subjects of more than one AgentIdentity";
    desk.told(&token, both).await?;
    assert!(!desk.who(&token)?.expect_err("refused").contains("third"), "no name for the bearer");
    for (name, other) in [("first", "third"), ("third", "first")] {
        let of = format!("involvedObject.name={name},reason=SubjectConflict");
        let says = format!("the token fits the subjects of {}/{other} too", desk.namespace);
        eventually(&format!("an Event at {name}"), SOON, async || {
            let args = ["get", "events", "--field-selector", &of, "-o", "jsonpath={.items[*].message}"];
            Ok(desk.admin(&args)?.stdout.contains(&says).then_some(()))
        })
        .await?;
    }
    desk.apply("third", &at, &json!([{"expression": "claims.sub == 'nobody'"}]))?;
    eventually("one agent again", SOON, async || Ok((desk.who(&token)? == desk.user("first")).then_some(())))
        .await?;
    desk.apply("fourth", &at, &far)?;
    eventually("a conflict by fewer rules", SOON, async || {
        Ok(condition("fourth")?.stdout.starts_with("SubjectConflict").then_some(()))
    })
    .await
}

#[tokio::test]
async fn an_expression_that_is_none_is_refused_where_it_is_written() -> anyhow::Result<()> {
    let (desk, issuer) = (Desk::new(&crate::gate()?).await?, FakeIssuer::start()?);
    let (at, _) = trust(&issuer);
    for (rule, says) in [
        (
            "claims.sub ==",
            "InvalidExpression: spec.subjects[0].oidc.claimValidationRules[0].expression: the expression is not CEL",
        ),
        ("user.name == 'x'", "undeclared reference to `user`"),
        (
            "claims.a.all(x, claims.b.all(y, x == y))",
            "a loop such as `exists` must not stand within another one",
        ),
    ] {
        let error = desk.apply("wrong", &at, &json!([{"expression": rule}])).expect_err(rule);
        assert!(format!("{error:#}").contains(says), "{error:#}");
    }
    let no_pem = with(at, json!({"certificateAuthority": "not a certificate"}));
    let error = desk.apply("wrong", &no_pem, &json!([{"expression": "true"}])).expect_err("refused");
    assert!(
        format!("{error:#}").contains("certificateAuthority: must be the PEM of at least one certificate"),
        "{error:#}"
    );
    Ok(())
}

#[tokio::test]
async fn f23_the_api_server_is_an_issuer_like_any_other() -> anyhow::Result<()> {
    // Not the one that most tests share: its issuer is that of every other test's ServiceAccounts.
    let gate = crate::fragile()?;
    let (desk, plane) = (Desk::new(&gate).await?, gate.plane());
    // As Kubernetes documents for clients outside: its discovery document for everybody.
    plane.apply(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "issuer-for-everybody"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"}],
    }).to_string())?;
    plane.service_account(&desk.namespace, "robot").await?;
    plane.service_account(&desk.namespace, "inside").await?;
    let at =
        json!({"url": plane.server(), "audiences": ["from-outside"], "certificateAuthority": plane.ca()});
    let subject = |name: &str| format!("system:serviceaccount:{}:{name}", desk.namespace);
    desk.agent("robot", &at, &json!([{"claim": "sub", "requiredValue": subject("robot")}]))?;
    let token = plane.token(&desk.namespace, "robot", &["from-outside"], 600).await?;
    eventually("the agent", SOON, async || Ok((desk.who(&token)? == desk.user("robot")).then_some(())))
        .await?;
    let other = plane.token(&desk.namespace, "robot", &["elsewhere"], 600).await?;
    desk.told(&other, "token audience is \"elsewhere\" but must be \"from-outside\"").await?;
    // Its ServiceAccounts are still agents by themselves, whoever trusts the issuer too.
    let inside = desk.gate.agent(&desk.namespace, "inside", &[]).await?;
    assert_eq!(desk.who(&inside.token()?)?, desk.user("inside"));
    // Revoked at the API server: nothing new, and nothing that is open.
    desk.admin(&["create", "configmap", "seen"])?.success()?;
    let open = watch(&desk, "inside", &inside.token()?).await?;
    desk.admin(&["delete", "serviceaccount", "inside"])?.success()?;
    let said = open.await?;
    assert!(said.contains("the token was revoked"), "{said}");
    desk.told(&inside.token()?, "the token was revoked").await
}

#[tokio::test]
async fn f23_a_token_and_its_open_watch_end_with_the_pod_or_the_account_that_it_is_bound_to()
-> anyhow::Result<()> {
    let desk = Desk::new(&crate::gate()?).await?;
    let plane = desk.gate.plane();
    let agent = desk.gate.agent(&desk.namespace, "bound", &[]).await?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "worker", "namespace": desk.namespace},
        "spec": {"serviceAccountName": "bound", "containers": [{"name": "c", "image": "c"}]},
    });
    plane.apply(&pod.to_string())?;
    let args = [
        "create",
        "token",
        "bound",
        "--audience=sallyport",
        "--bound-object-kind=Pod",
        "--bound-object-name=worker",
    ];
    let token = desk.admin(&args)?.success()?.trim().to_owned();
    assert_eq!(desk.who(&token)?, Ok(agent.username()));
    let leaver = desk.gate.agent(&desk.namespace, "leaver", &[]).await?;
    let (by_pod, by_account) =
        (watch(&desk, "bound", &token).await?, watch(&desk, "leaver", &leaver.token()?).await?);
    desk.admin(&["delete", "serviceaccount", "leaver"])?.success()?;
    desk.admin(&["delete", "pod", "worker", "--grace-period=0", "--force"])?.success()?;
    desk.told(&token, "the token was revoked").await?;
    for said in [by_pod.await?, by_account.await?] {
        assert!(said.contains("the token was revoked"), "{said}");
    }
    desk.told(&leaver.token()?, "the token was revoked").await?;
    assert_eq!(desk.who(&agent.token()?)?, Ok(agent.username()), "only that token");
    Ok(())
}
