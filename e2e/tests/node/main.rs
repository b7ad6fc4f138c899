//! Tests on a whole node, with pods, and scenarios as installed: agents in pods, the real chart. Linux and root only.
//!
//! `make e2e` runs them, one after another; `cargo test --workspace` leaves them out. One node for all ([`node`]), or another cluster
//! ([`cluster`]); one release at a time ([`installed`]), replaced when a test wants another kind of storage.

mod boundary;
mod estate;
mod ground;
mod logs;
mod outage;
mod refused;
mod roll;
mod story;
mod together;

use std::sync::OnceLock;

use e2e::Node;
use e2e::cluster::Cluster;
use e2e::install::{Images, Release, Storage};
use e2e::node::Options;
use tokio::sync::{Mutex, MutexGuard};

static RELEASE: Mutex<Option<Release>> = Mutex::const_new(None);

/// The node that tests share; started by the first that asks.
pub fn node() -> anyhow::Result<Node> {
    static NODE: OnceLock<Result<Node, String>> = OnceLock::new();
    let start = || Node::start(Options::default()).map_err(|error| format!("{error:#}"));
    NODE.get_or_init(start).clone().map_err(|error| anyhow::anyhow!("no node: {error}"))
}

/// The cluster that scenarios share, with the images: [`node`], unless somebody wants another.
pub fn cluster() -> anyhow::Result<Cluster> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let start = || -> anyhow::Result<Cluster> {
        let images = Images::pack()?;
        let cluster = Cluster::from_env(node)?;
        images.import(&cluster)?;
        Ok(cluster)
    };
    let cluster = CLUSTER.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    cluster.clone().map_err(|error| anyhow::anyhow!("no cluster: {error}"))
}

/// The release, alone until it is given back. Without a wish for a kind of storage: the one that is there, else S3.
pub async fn installed(wanted: Option<Storage>) -> anyhow::Result<Installed> {
    let cluster = cluster()?;
    let mut place = RELEASE.lock().await;
    let fits = place.as_ref().is_some_and(|release| wanted.is_none_or(|wanted| wanted == release.storage()));
    if !fits {
        if let Some(other) = place.take() {
            other.uninstall()?;
        }
        *place = Some(Release::install(&cluster, wanted.unwrap_or(Storage::S3), &[]).await?);
    }
    Ok(Installed(place))
}

/// Takes the release away and keeps others from installing one.
pub async fn nothing_installed() -> anyhow::Result<MutexGuard<'static, Option<Release>>> {
    let mut place = RELEASE.lock().await;
    if let Some(release) = place.take() {
        release.uninstall()?;
    }
    Ok(place)
}

/// The release while a scenario has it.
pub struct Installed(MutexGuard<'static, Option<Release>>);

impl std::ops::Deref for Installed {
    type Target = Release;

    fn deref(&self) -> &Release {
        self.0.as_ref().expect("it is installed as long as somebody has it")
    }
}
