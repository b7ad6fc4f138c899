//! AWS IAM roles as agents: the token of the stock `aws eks get-token`, through a gate that asks STS.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::aws::sigv4::token_of;
use e2e::aws::{ACCOUNT, Aws, Credentials, Fault, Known, Presigned};
use e2e::kubeconfig::{Kubeconfig, Login};
use e2e::wire::{self, Answer, Connection};
use e2e::{ControlPlane, Gate, Setup, Version, eventually, kubectl};
use jiff::{Timestamp, ToSpan};
use serde_json::json;
use tokio::sync::{OnceCell, RwLock};

use super::estate::Estate;

const HUB: &str = "hub-e2e";
const CLUSTER: &str = "sallyport.hub-e2e";
const REGION: &str = "eu-west-1";
const SESSION: &str = "alice@example.com";
const SOON: Duration = Duration::from_secs(60);
/// The role as the AgentIdentity has it: with a path, and in another case than STS answers.
const ROLE: &str = "arn:aws:iam::111122223333:role/team/payments/Claude-Code-Runner";
const TARGET: &str = "/api/v1/namespaces/NS/configmaps";

/// A gate that asks the fake STS: the STS is one for all tests of this file, so whoever breaks it does so alone.
struct Yard {
    estate: Estate,
    aws: Aws,
    role: Credentials,
    sts: RwLock<()>,
}

fn gate(aws: &Aws) -> anyhow::Result<Gate> {
    static GATE: OnceLock<Result<Gate, String>> = OnceLock::new();
    let start = || {
        let plane = ControlPlane::start()?;
        let authorities = plane.scratch().join("sts-ca.pem");
        std::fs::write(&authorities, aws.sts().ca())?;
        let endpoint = aws.sts().url().replace("https://", "");
        let flags = [format!("--hub={HUB}"), format!("--sts-endpoint={endpoint}")];
        let env = [("SSL_CERT_FILE".to_owned(), authorities.display().to_string())];
        let setup = Setup {
            proxies: 1,
            operator_flags: vec![format!("--hub={HUB}")],
            proxy_flags: flags.into(),
            proxy_env: env.into(),
            ..Setup::default()
        };
        Gate::start(&plane, setup)
    };
    let gate = GATE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    gate.clone().map_err(|error| anyhow::anyhow!("no gate: {error}"))
}

async fn make() -> anyhow::Result<Yard> {
    let aws = super::aws()?;
    let rules = json!({"rules": [{"name": "read", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
    ]}]});
    let estate = Estate::new(&gate(&aws)?, "aws", rules).await?;
    let subject = json!({"name": "runner", "type": "AWSIAMRole", "awsIAMRole": {"arn": ROLE}});
    let patch = json!([{"op": "add", "path": "/spec/subjects/-", "value": subject}]).to_string();
    estate.admin(&["patch", "agentidentity", "agent", "--type=json", "-p", &patch])?.success()?;
    let role = aws.assume_role(ROLE, SESSION).await?;
    let yard = Yard { estate, aws, role, sts: RwLock::default() };
    let token = Presigned::new(CLUSTER, REGION).token(&yard.role);
    eventually("the role to be an agent", SOON, async || {
        Ok((yard.get(&token).await?.code == 200).then_some(()))
    })
    .await?;
    Ok(yard)
}

async fn yard() -> anyhow::Result<&'static Yard> {
    static YARD: OnceCell<Yard> = OnceCell::const_new();
    YARD.get_or_try_init(make).await
}

impl Yard {
    fn request(&self, token: &str, query: &str) -> String {
        let target = TARGET.replace("NS", &self.estate.namespace);
        format!("GET {target}{query} HTTP/1.1\r\nHost: sallyport\r\nAuthorization: Bearer {token}\r\n\r\n")
    }

    async fn get(&self, token: &str) -> anyhow::Result<Answer> {
        let url = &self.estate.gate.urls()[0];
        wire::exchange(url, self.estate.agent.ca(), self.request(token, "").as_bytes()).await
    }

    /// A token that the gate has not seen: the signature differs with the second it is of, and no other test signs for five
    /// minutes ago.
    fn fresh(&self) -> String {
        static BEFORE: LazyLock<Timestamp> = LazyLock::new(|| Timestamp::now() - 5.minutes());
        static AGE: AtomicI64 = AtomicI64::new(1);
        let date = *BEFORE - AGE.fetch_add(1, Ordering::Relaxed).seconds();
        Presigned { date, ..Presigned::new(CLUSTER, REGION) }.token(&self.role)
    }
}

fn message(answer: &Answer) -> String {
    answer.json().ok().and_then(|json| Some(json.get("message")?.as_str()?.to_owned())).unwrap_or_default()
}

#[tokio::test]
async fn a_role_works_with_the_stock_command_as_a_credential_plugin_of_kubectl() -> anyhow::Result<()> {
    let yard = yard().await?;
    let _sts = yard.sts.read().await;
    let (estate, plane) = (&yard.estate, yard.estate.gate.plane());
    estate.admin(&["create", "configmap", "flags", "--from-literal=a=b"])?.success()?;
    let user = Login::Plugin(yard.aws.exec_user(&yard.role, CLUSTER, REGION));
    let kubeconfig =
        Kubeconfig::new(&estate.gate.urls()[0], estate.agent.ca(), user).in_namespace(&estate.namespace);
    let kubeconfig = kubeconfig.write(&plane.scratch().join("files"), "aws-role")?;
    for version in [Version::New, Version::Old] {
        let listed =
            kubectl(version, &kubeconfig, &["get", "configmap", "flags", "-o", "jsonpath={.data.a}"])?;
        assert_eq!(listed.success()?, "b");
    }
    let me = kubectl(
        Version::New,
        &kubeconfig,
        &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"],
    )?;
    assert_eq!(me.success()?, estate.agent.username());
    let refused = kubectl(Version::New, &kubeconfig, &["delete", "configmap", "flags"])?;
    assert!(refused.stderr.contains("sallyport/NotAllowed"), "{refused:?}");

    // D09: what the session is called is in the record, and nowhere else.
    eventually("an intent with the role's session", SOON, async || {
        let events = super::record::events(estate)?;
        let named =
            |event: &serde_json::Value| event["roleSession"] == SESSION && event["act"]["verb"] == "get";
        Ok(events.values().any(named).then_some(()))
    })
    .await
}

/// The kubeconfig that the operator publishes for `agent`, as it stands, once it has this context.
async fn published(estate: &Estate, agent: &str, context: &str) -> anyhow::Result<PathBuf> {
    let map = format!("{agent}-kubeconfig");
    let text = eventually("a published kubeconfig with the role's context", SOON, async || {
        let text = estate.admin(&["get", "configmap", &map, "-o", "jsonpath={.data.kubeconfig}"])?;
        Ok(text.stdout.contains(&format!("name: {context}\n")).then_some(text.stdout))
    })
    .await?;
    let path = estate.gate.plane().scratch().join("files").join(format!("{map}.yaml"));
    std::fs::write(&path, text)?;
    Ok(path)
}

#[tokio::test]
async fn the_published_kubeconfig_works_with_the_stock_command_and_nothing_else() -> anyhow::Result<()> {
    let yard = yard().await?;
    let _sts = yard.sts.read().await;
    let (estate, plane) = (&yard.estate, yard.estate.gate.plane());
    let arn = "arn:aws:iam::111122223333:role/laptop";
    let laptop = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
        "metadata": {"name": "laptop", "namespace": estate.namespace},
        "spec": {"subjects": [{"name": "role", "type": "AWSIAMRole", "awsIAMRole": {"arn": arn}}], "target": {"type": "InCluster"}},
    });
    plane.apply(&laptop.to_string())?;
    let role = yard.aws.assume_role(arn, SESSION).await?;
    let folder = plane.scratch().join("stock-aws");
    std::fs::create_dir_all(&folder)?;
    let [aws] = e2e::tools::tools(["aws"])?;
    std::os::unix::fs::symlink(aws, folder.join("aws"))?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let run = |version: Version, kubeconfig: &Path, credentials: &Credentials, args: &[&str]| {
        let out = Command::new(version.program()?)
            .args(args)
            .env_clear()
            .envs(credentials.env())
            .envs([("PATH", path.as_str()), ("AWS_DEFAULT_REGION", REGION), ("AWS_REGION", REGION)])
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", &folder)
            .env("KUBECONFIG", kubeconfig)
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        anyhow::ensure!(out.status.success(), "{args:?}: {said}");
        anyhow::Ok(String::from_utf8(out.stdout)?)
    };
    let whoami = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];

    // Of a role alone: what it says is enough.
    let kubeconfig = published(estate, "laptop", "laptop-aws").await?;
    for version in [Version::New, Version::V129] {
        let said = eventually("the agent", SOON, async || Ok(run(version, &kubeconfig, &role, &whoami).ok()));
        assert_eq!(said.await?, format!("sallyport:agent:{}:laptop", estate.namespace));
    }
    // Of a ServiceAccount too: the role has a context of its own, and the token in a file stays the first.
    let kubeconfig = published(estate, "agent", "agent-aws").await?;
    let said = run(Version::New, &kubeconfig, &yard.role, &[&["--context=agent-aws"], &whoami[..]].concat())?;
    assert_eq!(said, estate.agent.username());
    let current = run(Version::New, &kubeconfig, &yard.role, &["config", "current-context"])?;
    assert_eq!(current.trim(), "agent");
    let namespace = ["config", "view", "--context=agent-aws", "--minify", "-o", "jsonpath={..namespace}"];
    assert_eq!(run(Version::New, &kubeconfig, &yard.role, &namespace)?, estate.namespace);
    Ok(())
}

#[tokio::test]
async fn b122_wrong_tokens_are_refused_and_told_what_is_wrong() -> anyhow::Result<()> {
    let yard = yard().await?;
    let _sts = yard.sts.read().await;
    let (aws, role) = (&yard.aws, &yard.role);
    let good = || Presigned::new(CLUSTER, REGION);
    let other = aws.assume_role("arn:aws:iam::111122223333:role/somebody-else", SESSION).await?;
    let same_name = aws.assume_role("arn:aws:iam::444455556666:role/Claude-Code-Runner", SESSION).await?;
    let ended = aws.assume_role(ROLE, "ended").await?;
    aws.sts().end(&ended);
    let user = aws.user(ACCOUNT, "claude-code-runner");
    let root = Credentials::random(None);
    let root_arn = format!("arn:aws:iam::{ACCOUNT}:root");
    aws.sts().know(Known::lasting(&root, ACCOUNT, &root_arn, ACCOUNT));
    let federated = Credentials::random(Some("federated"));
    let federated_arn = format!("arn:aws:sts::{ACCOUNT}:federated-user/Claude-Code-Runner");
    aws.sts().know(Known::lasting(&federated, ACCOUNT, &federated_arn, "111122223333:Claude-Code-Runner"));
    let another_key = Credentials { secret_key: other.secret_key.clone(), ..role.clone() };
    let mixed = Credentials { session_token: other.session_token.clone(), ..role.clone() };
    let extra =
        Presigned { headers: [good().headers, vec![("x-evil".into(), "1".into())]].concat(), ..good() };
    let unnamed = Presigned { headers: Vec::new(), ..good() };
    let url = good().url(role);
    let host = "sts.eu-west-1.amazonaws.com";
    let bent = |from: &str, to: &str| token_of(&url.replacen(from, to, 1));
    let whole = token_of(&url);
    let last = url.chars().last().context("a signature")?;
    let tampered = format!("{}{}", &url[..url.len() - 1], if last == '0' { '1' } else { '0' });
    let no_sts = "names a host that is no STS endpoint";
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "another role",
            good().token(&other),
            "no AgentIdentity names the subject `arn:aws:iam::111122223333:role/somebody-else`",
        ),
        (
            "the same name in another account",
            good().token(&same_name),
            "no AgentIdentity names the subject `arn:aws:iam::444455556666:role/claude-code-runner`",
        ),
        ("a user of the role's name", good().token(&user), "not of a session of an IAM role"),
        ("root", good().token(&root), "not of a session of an IAM role"),
        ("a federated user", good().token(&federated), "not of a session of an IAM role"),
        (
            "a token for an EKS cluster",
            aws.get_token(role, "prod-use2", REGION)?,
            "another cluster name than \"sallyport.hub-e2e\"",
        ),
        (
            "a token for another gate",
            Presigned::new("sallyport.hub-prod", REGION).token(role),
            "another cluster name than \"sallyport.hub-e2e\"",
        ),
        (
            "a token for a name that only begins so",
            Presigned::new("sallyport.hub-e2e2", REGION).token(role),
            "another cluster name",
        ),
        (
            "sixteen minutes old",
            good().minutes_from_now(-16).token(role),
            "the token has expired: AWS honours it for 15 minutes",
        ),
        ("a day old", good().minutes_from_now(-1440).token(role), "the token has expired"),
        ("ten minutes ahead", good().minutes_from_now(10).token(role), "dated in the future"),
        (
            "credentials that have ended",
            good().token(&ended),
            "the AWS credentials that signed the token have expired",
        ),
        ("unknown keys", good().token(&Credentials::random(None)), "AWS does not know the access key"),
        ("another session's token", good().token(&mixed), "AWS does not know the access key"),
        ("signed with another key", good().token(&another_key), "AWS finds the token's signature wrong"),
        ("a changed signature", token_of(&tampered), "AWS finds the token's signature wrong"),
        ("a changed lifetime", bent("Expires=60", "Expires=900"), "AWS finds the token's signature wrong"),
        ("cut in the middle", whole[..whole.len() / 2].to_owned(), ""),
        ("cut by one", whole[..whole.len() - 1].to_owned(), ""),
        ("another header signed", extra.token(role), "signs other headers than `host;x-k8s-aws-id`"),
        ("no cluster name signed", unnamed.token(role), "signs other headers than `host;x-k8s-aws-id`"),
        (
            "a parameter twice",
            token_of(&format!("{url}&Action=GetCallerIdentity")),
            "has parameter `Action` twice",
        ),
        (
            "another action",
            bent("GetCallerIdentity", "GetSessionToken"),
            "a wrong value in parameter `Action`",
        ),
        ("a host behind STS", bent(host, "sts.amazonaws.com.evil.example"), no_sts),
        ("STS as a user name", bent(host, "sts.us-east-1.amazonaws.com@evil.example"), no_sts),
        ("a port", bent(host, "sts.eu-west-1.amazonaws.com:8443"), no_sts),
        ("loopback", bent(host, "127.0.0.1"), no_sts),
        ("two slashes", bent(".com/?", ".com//evil.example/?"), "no https URL of AWS STS with the path `/`"),
        ("plain HTTP", bent("https://", "http://"), "no https URL of AWS STS with the path `/`"),
        ("another region", bent(host, "sts.us-east-1.amazonaws.com"), "scoped to another region"),
    ];
    let secrets = [role.secret_key.as_str(), role.session_token.as_deref().unwrap_or_default()];
    for (what, token, words) in cases {
        let answer = yard.get(&token).await?;
        let said = message(&answer);
        assert_eq!(answer.code, 401, "{what}: {said}");
        assert!(said.contains(words) && said.contains("; next: "), "{what}: {said}");
        let signature = token.get(token.len() - 40..).unwrap_or_default();
        assert!(
            !said.contains(signature) && !secrets.iter().any(|secret| said.contains(secret)),
            "{what}: {said}"
        );
    }
    let ten = yard.get(&good().minutes_from_now(-10).token(role)).await?;
    assert_eq!(ten.code, 200, "ten minutes old is good: {}", message(&ten));
    Ok(())
}

#[tokio::test]
async fn f25_sts_that_does_not_answer_lets_nobody_in() -> anyhow::Result<()> {
    let yard = yard().await?;
    let _alone = yard.sts.write().await;
    let sts = yard.aws.sts();
    let warm = yard.fresh();
    assert_eq!(yard.get(&warm).await?.code, 200);
    let says = |arn: &str, account: &str, user_id: &str| {
        let result = json!({"Account": account, "Arn": arn, "UserId": user_id});
        json!({"GetCallerIdentityResponse": {"GetCallerIdentityResult": result}}).to_string()
    };
    let contradiction = |arn: &str, account: &str, user_id: &str| Fault::Says(says(arn, account, user_id));
    let session = format!("arn:aws:sts::{ACCOUNT}:assumed-role/Claude-Code-Runner/{SESSION}");
    let program = yard.estate.gate.proxies()[0].program();
    let failures = async || -> anyhow::Result<usize> {
        let metrics = program.metrics().await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix("sallyport_sts_failures_total "));
        Ok(line.context("the metric")?.parse()?)
    };
    let before = failures().await?;
    let faults = [
        ("down", Fault::Status(503, "<html>".to_owned())),
        ("throttled", Fault::throttled()),
        ("not STS", Fault::Status(403, "<html>forbidden</html>".to_owned())),
        ("redirecting", Fault::Redirect(format!("{}/?stolen", sts.url()))),
        ("garbage", Fault::Says("<GetCallerIdentityResponse/>".to_owned())),
        ("empty", Fault::Says(String::new())),
        (
            "too long, though it is an answer",
            Fault::Says(says(&session, ACCOUNT, &format!("AROA:{SESSION}")) + &" ".repeat(1 << 20)),
        ),
        (
            "another account than its ARN's",
            contradiction(&session, "444455556666", &format!("AROA:{SESSION}")),
        ),
        ("another session than its ARN's", contradiction(&session, ACCOUNT, "AROA:mallory")),
        ("no unique id", contradiction(&session, ACCOUNT, &format!(":{SESSION}"))),
        ("slow", Fault::Slow),
    ];
    let count = faults.len();
    for (what, fault) in faults {
        sts.fault(Some(fault));
        let asked = sts.asked().len();
        let answer = yard.get(&yard.fresh()).await?;
        assert_eq!(answer.code, 503, "{what}: {}", message(&answer));
        assert!(
            message(&answer).contains("the word of AWS STS cannot be had"),
            "{what}: {}",
            message(&answer)
        );
        let asked: Vec<_> = sts.asked().into_iter().skip(asked).collect();
        assert!(asked.iter().all(|one| !one.target.contains("stolen")), "{what}: {asked:?}");
        let host = |one: &e2e::aws::sts::Asked| {
            one.headers.contains(&("host".into(), "sts.eu-west-1.amazonaws.com".into()))
        };
        assert!(asked.iter().all(host), "{what}: STS is asked for the host that was signed: {asked:?}");
    }
    sts.fault(None);
    assert!(failures().await? >= before + count, "each is counted");
    assert_eq!(yard.get(&yard.fresh()).await?.code, 200, "and afterwards it goes on");
    let forged = Presigned::new("sallyport.hub-prod", REGION).minutes_from_now(-4).token(&yard.role);
    let asked = sts.asked().len();
    for _ in 0..6 {
        assert_eq!(yard.get(&forged).await?.code, 401);
    }
    let asked = sts.asked().len() - asked;
    assert!((1..6).contains(&asked), "F14: STS was asked {asked} times about one wrong token");
    let token = yard.fresh();
    assert_eq!(yard.get(&token).await?.code, 200);
    let asked = sts.asked().len();
    sts.fault(Some(Fault::Status(503, String::new())));
    let cached = yard.get(&token).await?;
    let asked_again = sts.asked().len() > asked;
    sts.fault(None);
    assert!(asked_again || cached.code == 200, "an answer is reused for some seconds");
    eventually("the answer to be asked for again", SOON, async || {
        let before = sts.asked().len();
        yard.get(&token).await?;
        Ok((sts.asked().len() > before).then_some(()))
    })
    .await
}

#[tokio::test]
async fn f23_a_stream_ends_with_the_fifteen_minutes_of_its_token() -> anyhow::Result<()> {
    let yard = yard().await?;
    let _sts = yard.sts.read().await;
    // A signature is of a whole second.
    let date = Timestamp::from_second(Timestamp::now().as_second())? - 15.minutes() + 12.seconds();
    let token = Presigned { date, ..Presigned::new(CLUSTER, REGION) }.token(&yard.role);
    let mut stream = Connection::open(&yard.estate.gate.urls()[0], yard.estate.agent.ca()).await?;
    stream.send(yard.request(&token, "?watch=true").as_bytes()).await?;
    let head = stream.head().await?;
    assert_eq!(head.code, 200, "good for some seconds more");
    let ended = async {
        while stream.chunk().await?.is_some() {}
        anyhow::Ok(())
    };
    let ended = tokio::time::timeout(SOON, ended).await.context("the stream outlived its token")?;
    assert!(Timestamp::now() >= date + 15.minutes(), "it ended before its token");
    assert!(ended.is_err(), "it is cut, so that nobody takes it for whole");
    Ok(())
}

#[tokio::test]
async fn neither_log_nor_record_holds_a_token_a_signature_or_a_key() -> anyhow::Result<()> {
    let yard = yard().await?;
    let _sts = yard.sts.read().await;
    let presigned = Presigned::new(CLUSTER, REGION).minutes_from_now(-3);
    let (url, token) = (presigned.url(&yard.role), presigned.token(&yard.role));
    let forged = Presigned::new("another", REGION).token(&yard.role);
    assert_eq!(yard.get(&token).await?.code, 200);
    assert_eq!(yard.get(&forged).await?.code, 401);
    let (_, signature) = url.split_once("X-Amz-Signature=").context("a signature")?;
    let session_token = yard.role.session_token.clone().unwrap_or_default();
    let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let never =
        [signature.to_owned(), yard.role.secret_key.clone(), session_token.clone(), encoded(&session_token)];
    let never: Vec<&str> =
        never.iter().map(String::as_str).chain([&*token, &*forged, "k8s-aws-v1.aHR0"]).collect();
    let gate = &yard.estate.gate;
    for process in [gate.proxies()[0].program().process(), gate.operator().process()] {
        let log = std::fs::read_to_string(process.log())?;
        assert!(!log.is_empty());
        let found: Vec<&&str> = never.iter().filter(|secret| log.contains(**secret)).collect();
        assert!(found.is_empty(), "{found:?} in {}", process.log().display());
    }
    let events = eventually("what was recorded", SOON, async || {
        let events = format!("{:?}", super::record::events(&yard.estate)?);
        Ok(events.contains("roleSession").then_some(events))
    })
    .await?;
    let found: Vec<&&str> = never.iter().filter(|secret| events.contains(**secret)).collect();
    assert!(found.is_empty(), "{found:?}");
    let audited = std::fs::read_to_string(gate.plane().scratch().join("audit.log"))?;
    let found: Vec<&&str> = never.iter().filter(|secret| audited.contains(**secret)).collect();
    assert!(found.is_empty(), "{found:?} in the API server's audit log");
    Ok(())
}
