//! `check-boundary`: whether the gate holds where it stands. What `helm test` runs.

mod gate;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use crds::{AccessGrant, AgentIdentity, SessionRecord};
use k8s_openapi::api::authentication::v1::TokenRequest;
use kube::ResourceExt;
use kube::core::ObjectList;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::{Cluster, Flags, Refused};
use crate::escape;
use gate::{Answer, Gate};

const PAUSE: Duration = Duration::from_millis(500);

/// What `check-boundary` takes.
#[derive(Args)]
#[command(
    after_help = "Run by `helm test`. --namespace is the agent's; no policy may select the agent. The caller needs `create` on \
                  serviceaccounts/token of its account and on accessgrants, `get` on its agentidentity, `list` on sessionrecords, \
                  and must lack `approve`."
)]
pub struct Arguments {
    /// URL at which agents reach the gate.
    #[arg(long, value_name = "URL")]
    gate: http::Uri,
    /// Certificates that the gate's own must be signed by, PEM; where there is no such file, the system's authorities.
    #[arg(long, value_name = "FILE")]
    gate_ca: PathBuf,
    /// A token for the gate, of an account that no AgentIdentity names.
    #[arg(long, value_name = "FILE")]
    stranger_token: PathBuf,
    /// Name of an AgentIdentity that no policy selects.
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// The ServiceAccount that it names.
    #[arg(long, value_name = "NAME")]
    account: String,
    /// Seconds after which a check that does not hold yet has failed.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3600))]
    within: u64,
}

/// Why a check does not hold.
enum Fault {
    /// Something got through: waiting makes it no better.
    Hole(String),
    /// It may hold in a moment: a pod that starts, an agent that the gate does not know yet.
    NotYet(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::NotYet(error.into())
    }
}

struct Check<'a> {
    arguments: &'a Arguments,
    cluster: Cluster,
    gate: Gate,
    stranger: String,
}

/// Tries the ways around the gate; an error unless every one is shut and the attempts are on record.
pub async fn run(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
    };
    let authority = arguments.gate_ca.exists().then(|| read(&arguments.gate_ca)).transpose()?;
    let check = Check {
        arguments,
        cluster: flags.connect().await?,
        gate: Gate::new(arguments.gate.clone(), authority.as_deref().map(str::as_bytes))?,
        stranger: read(&arguments.stranger_token)?.trim().to_owned(),
    };
    let results = [
        ("a request without a token is refused", check.soon(async || check.unauthenticated().await).await),
        (
            "an account that no AgentIdentity names is refused",
            check.soon(async || check.stranger().await).await,
        ),
        ("what no policy allows is refused", check.soon(async || check.default_deny().await).await),
        ("nobody reviews their own grant", check.soon(async || check.own_review().await).await),
        ("the attempts are recorded in storage", check.soon(async || check.recorded().await).await),
    ];
    let mut failed = 0;
    for (what, result) in &results {
        let line = match result {
            Ok(seen) => format!("ok      {what}: {seen}"),
            Err(error) => {
                failed += 1;
                format!("FAILED  {what}: {error:#}")
            }
        };
        println!("{}", escape::line(&line));
    }
    ensure!(failed == 0, "the boundary does not hold: {failed} of {} checks failed", results.len());
    println!("the boundary holds");
    Ok(())
}

impl Check<'_> {
    async fn unauthenticated(&self) -> Result<String, Fault> {
        refused(self.gate.get("/api", None).await?, 401, "")
    }

    async fn stranger(&self) -> Result<String, Fault> {
        refused(self.gate.get("/api", Some(&self.stranger)).await?, 401, "")
    }

    async fn default_deny(&self) -> Result<String, Fault> {
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/{}/token",
            self.cluster.namespace, self.arguments.account
        );
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [crds::names::TOKEN_AUDIENCE], "expirationSeconds": 600},
        });
        let minted: TokenRequest = self.cluster.post(&path, &body).await.context("no token for the agent")?;
        let token = minted.status.context("a TokenRequest has a status")?.token;
        let probe = format!("/api/v1/namespaces/{}/configmaps", self.cluster.namespace);
        refused(self.gate.get(&probe, Some(&token)).await?, 403, "NotAllowed")
    }

    // Straight at the API server, where no gate stands. Without a review the same grant is taken: it is the review that is
    // refused, as the caller's own and under another's name.
    async fn own_review(&self) -> Result<String, Fault> {
        let path = format!("{}?dryRun=All", self.path("accessgrants"));
        let bare: anyhow::Result<AccessGrant> = self.cluster.post(&path, &self.grant(&json!([]))).await;
        bare.context("a grant without a review was refused too")?;
        for review in [
            json!({"decision": "Approved"}),
            json!({"decision": "Approved", "reviewer": "system:admin", "reviewTime": "2026-01-01T00:00:00Z"}),
        ] {
            let reviewed = self.grant(&json!([review]));
            let answer: anyhow::Result<AccessGrant> = self.cluster.post(&path, &reviewed).await;
            let Err(error) = answer else { return Err(Fault::Hole(format!("{review} was accepted"))) };
            let code = error.downcast_ref::<Refused>().map(|refused| refused.0.code);
            if code != Some(403) {
                return Err(error.context("it was not refused with 403").into());
            }
        }
        Ok("403".to_owned())
    }

    async fn recorded(&self) -> Result<String, Fault> {
        let path = format!("{}/{}", self.path("agentidentities"), self.arguments.agent);
        let identity: AgentIdentity = self.cluster.get(&path).await?;
        let records: ObjectList<SessionRecord> = self.cluster.get(&self.path("sessionrecords")).await?;
        let ours = records.items.iter().filter(|record| {
            record.spec.agent_ref.name == self.arguments.agent
                && record.creation_timestamp() >= identity.creation_timestamp()
        });
        let stored = ours.filter_map(|record| {
            let recording = record.status.as_ref()?.recording.as_ref()?;
            let place = recording.uri.as_deref().unwrap_or("the store");
            (recording.segments > 0).then(|| format!("{} segments in {place}", recording.segments))
        });
        stored.last().ok_or_else(|| anyhow!("no SessionRecord of this agent has a segment in storage").into())
    }

    fn grant(&self, reviews: &Value) -> Value {
        json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"generateName": "check-boundary-", "namespace": self.cluster.namespace},
            "spec": {
                "agentRef": {"name": self.arguments.agent}, "type": "Window", "reason": "check-boundary",
                "window": {"durationSeconds": 60}, "reviews": reviews,
            },
        })
    }

    fn path(&self, plural: &str) -> String {
        format!("/apis/sallyport.dev/v1alpha1/namespaces/{}/{plural}", self.cluster.namespace)
    }

    async fn soon(&self, probe: impl AsyncFn() -> Result<String, Fault>) -> anyhow::Result<String> {
        let deadline = Instant::now() + Duration::from_secs(self.arguments.within);
        let mut last = anyhow!("no answer");
        loop {
            match tokio::time::timeout_at(deadline, probe()).await {
                Ok(Ok(seen)) => return Ok(seen),
                Ok(Err(Fault::Hole(what))) => return Err(anyhow!(what)),
                Ok(Err(Fault::NotYet(error))) => last = error,
                Err(_elapsed) => {}
            }
            if Instant::now() + PAUSE > deadline {
                return Err(last.context(format!("not within {} s", self.arguments.within)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn refused(answer: Answer, code: u16, reason: &str) -> Result<String, Fault> {
    let said = format!("{} {}", answer.code, answer.reason).trim_end().to_owned();
    if answer.code < 300 {
        return Err(Fault::Hole(format!("it was let through with {said}")));
    }
    if answer.code != code || !(reason.is_empty() || answer.reason == reason) {
        return Err(anyhow!("the gate said {said}: {}", answer.message).into());
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, reason: &str) -> Answer {
        Answer { code, reason: reason.to_owned(), message: String::new() }
    }

    #[test]
    fn only_the_right_refusal_holds_and_what_is_let_through_is_a_hole() {
        assert!(
            matches!(refused(answer(401, "Unauthorized"), 401, ""), Ok(said) if said == "401 Unauthorized")
        );
        assert!(refused(answer(403, "NotAllowed"), 403, "NotAllowed").is_ok());
        assert!(matches!(refused(answer(200, ""), 401, ""), Err(Fault::Hole(_))));
        for (code, reason) in [(401, "Unauthorized"), (403, "PolicyDenied"), (503, "ServiceUnavailable")] {
            assert!(matches!(refused(answer(code, reason), 403, "NotAllowed"), Err(Fault::NotYet(_))));
        }
    }
}
