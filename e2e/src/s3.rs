//! A real S3 server (versitygw) over a folder: buckets with and without Object Lock, and its death on command.
//!
//! *Expected flow*: [`S3::start`], [`S3::bucket`] or [`S3::locked_bucket`], [`S3::store`] for a program's `--store` flags and
//! [`S3::env`] for its environment. *Guarantees*: gone with its supervisor; a restart has the same port and the same objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::aws::{AmazonS3Builder, AwsAuthorizer, AwsCredential, Checksum};
use object_store::client::{HttpClient, HttpConnector, HttpRequestBody, ReqwestConnector};

use crate::control_plane::{base_env, free_ports};
use crate::eventually;
use crate::supervision::{Process, Sign, Supervisor};
use crate::tools;

const REGION: &str = "us-east-1";
const ACCESS: &str = "e2e-access";
const SECRET: &str = "e2e-secret-of-the-store";
const LISTENS_WITHIN: Duration = Duration::from_secs(30);

/// A running S3 server. Cheap to clone.
#[derive(Clone)]
pub struct S3(Arc<Inner>);

struct Inner {
    supervisor: Supervisor,
    argv: Vec<String>,
    endpoint: String,
    folder: PathBuf,
    client: HttpClient,
    process: Mutex<Process>,
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Key.
    pub key: String,
    /// Id of the version.
    pub id: String,
}

impl S3 {
    /// Starts one on a free port of loopback and waits until it answers.
    ///
    /// # Errors
    /// When it cannot be built or does not answer in 30 s.
    pub async fn start(supervisor: &Supervisor) -> anyhow::Result<Self> {
        Self::start_at(supervisor, Ipv4Addr::LOCALHOST.into(), &[]).await
    }

    /// Starts one on a free port of this address, by a command such as `ip netns exec NAME` in front of it.
    ///
    /// # Errors
    /// As [`S3::start`].
    pub async fn start_at(supervisor: &Supervisor, ip: IpAddr, before: &[String]) -> anyhow::Result<Self> {
        let [program] = tools::tools(["versitygw"])?;
        let [port] = free_ports()?;
        let address = format!("{ip}:{port}");
        let folder = supervisor.scratch().join(format!("s3-{port}"));
        let (objects, versions) = (folder.join("objects"), folder.join("versions"));
        std::fs::create_dir_all(&objects)?;
        std::fs::create_dir_all(&versions)?;
        let own = [
            program.display().to_string(),
            "--port".to_owned(),
            address.clone(),
            "--access".to_owned(),
            ACCESS.to_owned(),
            "--secret".to_owned(),
            SECRET.to_owned(),
            "posix".to_owned(),
            "--versioning-dir".to_owned(),
            versions.display().to_string(),
            objects.display().to_string(),
        ];
        let argv: Vec<String> = before.iter().cloned().chain(own).collect();
        let process = Mutex::new(supervisor.run(&format!("s3-{port}"), argv.clone(), base_env())?);
        let options = ClientOptions::new().with_allow_http(true).with_timeout(Duration::from_secs(10));
        let client = ReqwestConnector::default().connect(&options)?;
        let endpoint = format!("http://{address}");
        let s3 =
            Self(Arc::new(Inner { supervisor: supervisor.clone(), argv, endpoint, folder, client, process }));
        s3.listens().await?;
        Ok(s3)
    }

    /// URL of the server.
    pub fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// Folder of a bucket's objects on the disk, to damage them behind the server's back.
    pub fn folder(&self, bucket: &str) -> PathBuf {
        self.0.folder.join("objects").join(bucket)
    }

    /// `--store` and how it is reached, for proxy and plugin.
    pub fn flags(&self, bucket: &str) -> Vec<String> {
        [vec!["--store".to_owned(), self.address(bucket)], self.reach()].concat()
    }

    /// The value of `--store`.
    pub fn address(&self, bucket: &str) -> String {
        format!("s3://{bucket}/recordings")
    }

    /// The flags beside `--store`.
    pub fn reach(&self) -> Vec<String> {
        ["--s3-endpoint", self.endpoint(), "--s3-region", REGION].map(str::to_owned).to_vec()
    }

    /// The server's credentials as AWS programs read them.
    pub fn env(&self) -> BTreeMap<String, String> {
        [("AWS_ACCESS_KEY_ID", ACCESS), ("AWS_SECRET_ACCESS_KEY", SECRET)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    /// Makes a bucket without versions.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn bucket(&self, name: &str) -> anyhow::Result<()> {
        self.done(Method::PUT, &format!("/{name}"), &[], "").await
    }

    /// Makes a bucket with versions and Object Lock, whose objects are kept for `days` in mode COMPLIANCE.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn locked_bucket(&self, name: &str, days: u32) -> anyhow::Result<()> {
        let lock = [("x-amz-bucket-object-lock-enabled", "true")];
        self.done(Method::PUT, &format!("/{name}"), &lock, "").await?;
        let rule = format!(
            "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ObjectLockEnabled>Enabled</ObjectLockEnabled>\
             <Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>{days}</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        );
        let digest = BASE64.encode(digest(&SHA256, rule.as_bytes()));
        let checksum = [("x-amz-checksum-sha256", digest.as_str())];
        self.done(Method::PUT, &format!("/{name}?object-lock="), &checksum, &rule).await
    }

    /// Every version of every object of a bucket.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn versions(&self, bucket: &str) -> anyhow::Result<Vec<ObjectVersion>> {
        let (code, text) = self.request(Method::GET, &format!("/{bucket}?versions="), &[], "").await?;
        ensure!(code == 200, "{code}: {text}");
        let inside = |text: &str, tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            Some(rest.split_once(&format!("</{tag}>"))?.0.to_owned())
        };
        let entries = text.split("<Version>").skip(1);
        entries
            .map(|entry| {
                let key = inside(entry, "Key").context("a version has a key")?;
                Ok(ObjectVersion { key, id: inside(entry, "VersionId").context("a version has an id")? })
            })
            .collect()
    }

    /// Tries to delete one version for good; returns the server's code and words.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn delete_version(
        &self,
        bucket: &str,
        version: &ObjectVersion,
    ) -> anyhow::Result<(u16, String)> {
        let target = format!("/{bucket}/{}?versionId={}", version.key, version.id);
        self.request(Method::DELETE, &target, &[], "").await
    }

    /// Puts an object, whatever lies there.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn put(&self, bucket: &str, key: &str, text: &str) -> anyhow::Result<()> {
        self.done(Method::PUT, &format!("/{bucket}/{key}"), &[], text).await
    }

    /// A client of the bucket's recordings, as `recording` and `storage` take it.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn store(&self, bucket: &str) -> anyhow::Result<object_store::aws::AmazonS3> {
        let builder = AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_bucket_name(bucket)
            .with_region(REGION)
            .with_access_key_id(ACCESS)
            .with_secret_access_key(SECRET)
            .with_checksum_algorithm(Checksum::SHA256);
        Ok(builder.build()?)
    }

    /// The process, to be killed, stopped and continued.
    pub fn process(&self) -> Process {
        self.0.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts it again on the same port with the same objects; kills it first where it still runs.
    ///
    /// # Errors
    /// When it does not answer in 30 s.
    pub async fn restart(&self) -> anyhow::Result<()> {
        let old = self.process();
        if old.ended()?.is_none() {
            old.kill()?;
        }
        let name =
            self.0.folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let new = self.0.supervisor.run(&name, self.0.argv.clone(), base_env())?;
        *self.0.process.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.listens().await
    }

    /// Freezes it: connections are taken and never answered.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process().signal(Sign::Stop)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process().signal(Sign::Cont)
    }

    /// Sends a signed request; returns code and text.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn request(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<(u16, String)> {
        let mut request = http::Request::builder().method(method).uri(format!("{}{target}", self.endpoint()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(HttpRequestBody::from(body.to_owned()))?;
        let credential =
            AwsCredential { key_id: ACCESS.to_owned(), secret_key: SECRET.to_owned(), token: None };
        AwsAuthorizer::new(&credential, "s3", REGION).try_authorize(&mut request, None)?;
        let response = self.0.client.execute(request).await?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn done(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<()> {
        let (code, text) = self.request(method, target, headers, body).await?;
        ensure!(code == 200, "the S3 server answered {code} to `{target}`: {text}");
        Ok(())
    }

    async fn listens(&self) -> anyhow::Result<()> {
        let process = self.process();
        let answer = eventually("the S3 server", LISTENS_WITHIN, async || {
            ensure!(process.ended()?.is_none(), "the S3 server has ended");
            Ok(self.request(Method::GET, "/", &[], "").await.is_ok_and(|(code, _)| code == 200).then_some(()))
        });
        answer.await.with_context(|| process.last_words())
    }
}
