//! AWS: the harness's own parts against the stock command.

use e2e::aws::{Credentials, Presigned};
use e2e::kubeconfig::{Kubeconfig, Login};
use e2e::{Version, kubectl};
use serde_json::Value;

const ROLE: &str = "arn:aws:iam::444455556666:role/team/sallyport-harness";
const REGION: &str = "us-east-2";

fn whoami(token: String) -> anyhow::Result<Result<Value, String>> {
    let plane = super::eks()?.plane().clone();
    let name = format!("eks-{}", plane.next());
    let kubeconfig = Kubeconfig::new(plane.server(), plane.ca(), Login::Token(token));
    let kubeconfig = kubeconfig.write(&plane.scratch().join("files"), &name)?;
    let output = kubectl(Version::New, &kubeconfig, &["auth", "whoami", "-o", "json"])?;
    Ok(if output.code == 0 { Ok(serde_json::from_str(&output.stdout)?) } else { Err(output.stderr) })
}

#[tokio::test]
async fn the_harness_eks_cluster_takes_stock_tokens_signed_for_it_and_no_other() -> anyhow::Result<()> {
    let (aws, eks) = (super::aws()?, super::eks()?);
    eks.access_entry(ROLE, "sallyport:{{SessionName}}", &["sallyport:agents"]);
    let role = aws.assume_role(ROLE, "agents.claude-code").await?;
    let token = aws.get_token(&role, eks.name(), REGION)?;
    let me = whoami(token.clone())?.map_err(anyhow::Error::msg)?;
    assert_eq!(me.pointer("/status/userInfo/username"), Some(&"sallyport:agents.claude-code".into()));
    assert_eq!(me.pointer("/status/userInfo/groups/0"), Some(&"sallyport:agents".into()));

    let forged = Credentials { secret_key: "another".to_owned(), ..role.clone() };
    let refused = [
        ("another cluster", Presigned::new("sallyport.hub-prod", REGION).token(&role)),
        ("sixteen minutes old", Presigned::new(eks.name(), REGION).minutes_from_now(-16).token(&role)),
        ("from the future", Presigned::new(eks.name(), REGION).minutes_from_now(10).token(&role)),
        ("another key", Presigned::new(eks.name(), REGION).token(&forged)),
        ("no entry", aws.get_token(&aws.user("444455556666", "somebody"), eks.name(), REGION)?),
    ];
    for (why, token) in refused {
        assert!(whoami(token)?.is_err(), "{why}");
    }
    assert!(whoami(Presigned::new(eks.name(), REGION).token(&role))?.is_ok(), "our own signature is AWS's");

    let cluster = aws.call(&role, &["eks", "describe-cluster", "--name", eks.name(), "--region", REGION])?;
    assert_eq!(cluster.pointer("/cluster/endpoint"), Some(&eks.plane().server().into()));
    Ok(())
}

#[tokio::test]
async fn the_harness_lets_a_role_be_assumed_only_by_its_external_id() -> anyhow::Result<()> {
    let aws = super::aws()?;
    let role = "arn:aws:iam::444455556666:role/distrustful";
    aws.trust(role, "sallyport/hub-prod/agents/claude-code");
    let assume = |external_id| {
        let role = ["--role-arn", role, "--role-session-name", "agents.c", "--external-id", external_id];
        aws.call(&Credentials::random(None), &[&["sts", "assume-role"], &role[..]].concat())
    };
    let refused = format!("{:?}", assume("another"));
    assert!(refused.contains("AccessDenied"), "{refused}");
    let granted = assume("sallyport/hub-prod/agents/claude-code")?;
    assert!(granted.pointer("/Credentials/AccessKeyId").is_some(), "{granted}");
    let of_role: Vec<_> = aws.assumed().into_iter().filter(|one| one.role_arn == role).collect();
    assert_eq!(of_role.iter().map(|one| one.granted).collect::<Vec<_>>(), [false, true]);
    Ok(())
}
