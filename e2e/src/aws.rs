//! The AWS of the tests: moto answers STS and EKS; what moto cannot do is done by fakes that are named so.
//!
//! | you want | you take |
//! | --- | --- |
//! | one endpoint for AWS calls (`AWS_ENDPOINT_URL`), moto behind | [`Aws::endpoint`], [`Aws::env`] |
//! | credentials of an assumed role, or of a user | [`Aws::assume_role`], [`Aws::user`] |
//! | a role that only some may assume | [`Aws::trust`]; who was asked for: [`Aws::assumed`] |
//! | what stock `aws` answers | [`Aws::call`] |
//! | the token of stock `aws eks get-token` | [`Aws::get_token`]; any URL: [`sigv4::Presigned`] |
//! | STS that checks presigned URLs, fails on command | [`Aws::sts`], a [`FakeSts`] |
//! | access entries as `aws eks list-access-entries` tells them, or denies to | [`Aws::access_entries`], a [`FakeAccessEntries`] |
//! | an EKS cluster with a real API server that takes such tokens | [`EksCluster::start`] |
//!
//! *Fakes and why*: [`FakeSts`], because moto does not check a presigned GetCallerIdentity; [`FakeAws`], the front of moto that
//! lets DescribeCluster name a real API server and roles have a trust policy; [`FakeAuthenticator`], the token webhook that EKS
//! runs and nobody can have; [`FakeAccessEntries`], because moto knows none.

pub mod authenticator;
pub mod cluster;
pub mod entries;
pub mod front;
pub mod listen;
pub mod sigv4;
pub mod sts;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::control_plane::{base_env, free_ports};
use crate::supervision::Supervisor;
use crate::{eventually, tools, wire};

pub use authenticator::{AccessEntry, FakeAuthenticator};
pub use cluster::EksCluster;
pub use entries::FakeAccessEntries;
pub use front::{Assumed, FakeAws};
pub use sigv4::{Credentials, Presigned};
pub use sts::{FakeSts, Fault, Known};

/// The account that agents' roles are of.
pub const ACCOUNT: &str = "111122223333";
/// The region of everything that names none.
pub const REGION: &str = "us-east-1";
const LISTENS_WITHIN: Duration = Duration::from_secs(60);

/// A running AWS. Cheap to clone; ends with its supervisor.
#[derive(Clone)]
pub struct Aws(Arc<Inner>);

struct Inner {
    supervisor: Supervisor,
    front: FakeAws,
    sts: FakeSts,
    cli: PathBuf,
}

impl Aws {
    /// Starts moto and the fakes and waits until moto answers (about 2 s). Blocks; inside or outside an async runtime.
    ///
    /// # Errors
    /// When moto cannot be installed or does not answer in 60 s.
    pub fn start(supervisor: &Supervisor) -> anyhow::Result<Self> {
        let [moto, cli] = tools::tools(["moto", "aws"])?;
        let [port] = free_ports()?;
        let argv = [&moto.display().to_string(), "-H", "127.0.0.1", "-p", &port.to_string()];
        let process = supervisor.run("moto", argv.map(str::to_owned).to_vec(), base_env())?;
        let listens = process.clone();
        let answered = crate::block_on(move || async move {
            eventually("moto", LISTENS_WITHIN, async || {
                ensure!(listens.ended()?.is_none(), "moto has ended");
                Ok(wire::get_plain(port, "/moto-api/").await.is_ok().then_some(()))
            })
            .await
        });
        answered.with_context(|| process.last_words())?;
        let sts = FakeSts::start()?;
        let front = FakeAws::start(format!("http://127.0.0.1:{port}"), sts.clone())?;
        Ok(Self(Arc::new(Inner { supervisor: supervisor.clone(), front, sts, cli })))
    }

    /// URL of all AWS services but presigned requests: what `AWS_ENDPOINT_URL` is set to.
    pub fn endpoint(&self) -> &str {
        self.0.front.url()
    }

    /// STS for presigned GetCallerIdentity.
    pub fn sts(&self) -> &FakeSts {
        &self.0.sts
    }

    /// Environment of a program that calls AWS here with `credentials` (the proxy's own, say).
    pub fn env(&self, credentials: &Credentials) -> BTreeMap<String, String> {
        let mut env = credentials.env();
        // The stock command of version 1 knows the second name only.
        for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
            env.insert(name.to_owned(), REGION.to_owned());
        }
        env.insert("AWS_ENDPOINT_URL".to_owned(), self.endpoint().to_owned());
        env.insert("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned());
        env
    }

    /// Long-term credentials of a new IAM user `name` of `account`.
    pub fn user(&self, account: &str, name: &str) -> Credentials {
        let credentials = Credentials::random(None);
        let arn = format!("arn:aws:iam::{account}:user/{name}");
        self.0.sts.know(Known::lasting(&credentials, account, &arn, "AIDAEXAMPLEUSER"));
        credentials
    }

    /// Credentials of a role (`arn:aws:iam::ACCOUNT:role/NAME`, a path allowed) in a session of this name, from moto.
    ///
    /// # Errors
    /// When moto does not answer.
    pub async fn assume_role(&self, role_arn: &str, session: &str) -> anyhow::Result<Credentials> {
        self.0.front.assume_role(role_arn, session).await
    }

    /// From now on AssumeRole of this role is refused (AccessDenied) unless the external id is this one.
    pub fn trust(&self, role_arn: &str, external_id: &str) {
        self.0.front.trust(role_arn, external_id);
    }

    /// The access entries of every cluster.
    pub fn access_entries(&self) -> &FakeAccessEntries {
        self.0.front.access_entries()
    }

    /// Every AssumeRole so far.
    pub fn assumed(&self) -> Vec<Assumed> {
        self.0.front.assumed()
    }

    /// The token of stock `aws eks get-token --cluster-name cluster --region region`, which calls nobody.
    ///
    /// # Errors
    /// When the command fails.
    pub fn get_token(
        &self,
        credentials: &Credentials,
        cluster: &str,
        region: &str,
    ) -> anyhow::Result<String> {
        let args = ["eks", "get-token", "--cluster-name", cluster, "--region", region];
        let answer = self.stock(self.cli_env(credentials), &args)?;
        Ok(answer.pointer("/status/token").and_then(Value::as_str).context("a token")?.to_owned())
    }

    /// What stock `aws` answers to `args` (null for nothing) when its calls go to [`Aws::endpoint`].
    ///
    /// # Errors
    /// When the command fails.
    pub fn call(&self, credentials: &Credentials, args: &[&str]) -> anyhow::Result<Value> {
        let mut env = self.cli_env(credentials);
        env.extend(self.env(credentials));
        self.stock(env, args)
    }

    fn stock(&self, env: BTreeMap<String, String>, args: &[&str]) -> anyhow::Result<Value> {
        let output = Command::new(&self.0.cli).args(args).env_clear().envs(env).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "aws {}: {said}", args.join(" "));
        // A command without an answer says nothing at all.
        let is_silent = output.stdout.is_empty();
        Ok(if is_silent { Value::Null } else { serde_json::from_slice(&output.stdout)? })
    }

    /// `users[].user` of a kubeconfig that runs stock `aws eks get-token` as its credential plugin, as
    /// `aws eks update-kubeconfig` writes it.
    pub fn exec_user(&self, credentials: &Credentials, cluster: &str, region: &str) -> Value {
        let env: Vec<Value> = self
            .cli_env(credentials)
            .into_iter()
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1beta1",
            "command": self.0.cli,
            "args": ["--region", region, "eks", "get-token", "--cluster-name", cluster, "--output", "json"],
            "env": env,
            "interactiveMode": "Never",
        }})
    }

    fn cli_env(&self, credentials: &Credentials) -> BTreeMap<String, String> {
        let mut env = base_env();
        env.extend(credentials.env());
        let home = self.0.supervisor.scratch().join("aws-home");
        env.insert("HOME".to_owned(), home.display().to_string());
        env.insert("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned());
        env
    }

    fn front(&self) -> &FakeAws {
        &self.0.front
    }

    fn supervisor(&self) -> &Supervisor {
        &self.0.supervisor
    }
}

/// `20261121T170831Z`, as AWS writes a time in a signature.
pub fn amz_date(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}
