//! The kill switch as a stopped agent reads it, also one whose kubectl knows nothing of the cluster yet.

use std::time::Duration;

use e2e::{Version, eventually, kubectl};

use super::page::Page;

#[tokio::test]
async fn a_suspended_agent_reads_why_whatever_it_asks_first() -> anyhow::Result<()> {
    let estate = super::estate().await?;
    Version::READERS.into_iter().try_for_each(|version| {
        estate
            .agent
            .kubectl_with(version, 0, &["get", "configmaps", "-n", &estate.namespace], "")?
            .success()
            .map(drop)
    })?;
    let suspend = ["patch", "agentidentity", "agent", "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#];
    estate.admin(&suspend)?.success()?;
    let target = format!("/api/v1/namespaces/{}/configmaps", estate.namespace);
    eventually("the switch", Duration::from_secs(20), async || {
        Ok((estate.agent.send(0, "GET", &target, &[], b"").await?.code == 403).then_some(()))
    })
    .await?;
    let mut page = Page::new("suspended", &estate);
    page.tell("with a warm cache", &["get", "configmaps"])?;
    let (url, plane) = (estate.gate.urls().remove(0), estate.gate.plane());
    for args in
        [&["get", "configmaps"][..], &["version"], &["auth", "can-i", "get", "pods"], &["api-resources"]]
    {
        page.tell_with(&format!("with a cold cache, {}", args[0]), args, |version| {
            let config = plane.scratch().join(format!("cold-{}.kubeconfig", plane.next()));
            estate.agent.write_kubeconfig(&config, &url)?;
            let out = kubectl(version, &config, args)?;
            let all = format!("{}{}", out.stdout, out.stderr);
            anyhow::ensure!(all.contains("sallyport/AgentSuspended"), "the agent does not learn why: {all}");
            Ok(out)
        })?;
    }
    page.tell("asked of the gate itself", &["get", "--raw", "/sallyport/v1/instructions"])?;
    page.tell("asked who it is", &["auth", "whoami"])?;
    page.finish()
}
