//! Where recordings are read from, and what the SessionRecord says about them.

use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use crds::session_record::{SessionRecord, SessionRecordStatus};
use object_store::ObjectStore;
use recording::verify::{Checkpoint, Expected};
use storage::{Address, S3Flags};

use crate::cluster::{Flags, Refused};

/// What `replay` and `verify` take alike.
#[derive(Args)]
pub struct Source {
    /// Name of the SessionRecord.
    pub name: String,
    /// Where recordings are: file:///FOLDER or s3://BUCKET/PREFIX. Without it where the SessionRecord says.
    #[arg(long, env = "SALLYPORT_STORE")]
    pub store: Option<Address>,
    /// How a bucket is reached.
    #[command(flatten)]
    pub s3: S3Flags,
    /// Do not read the SessionRecord. A chain whose tail was taken off then cannot be told from one that still runs, nor a
    /// chain that was removed whole.
    #[arg(long)]
    pub offline: bool,
}

/// An opened recording.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Namespace of the session.
    pub namespace: String,
    /// What the SessionRecord knows, if it could be read.
    pub expected: Option<Expected>,
}

impl Source {
    /// Opens the store, and reads the SessionRecord unless it must not.
    pub async fn open(&self, flags: &Flags) -> anyhow::Result<Opened> {
        let (namespace, record) = self.record(flags).await?;
        let address = match &self.store {
            Some(address) => address.clone(),
            None => address_in(record.as_ref(), &namespace, &self.name)
                .context(
                    "where are the recordings? name them with --store file:///FOLDER or s3://BUCKET/PREFIX",
                )?
                .parse()
                .map_err(|why| anyhow::anyhow!("the session record says where the recordings are: {why}"))?,
        };
        if let Address::Folder(folder) = &address
            && !folder.is_dir()
        {
            bail!("`{}` is not a folder", folder.display());
        }
        let expected = record.map(|record| expected(&record.status.unwrap_or_default()));
        Ok(Opened { store: storage::open(&address, &self.s3)?, namespace, expected })
    }

    async fn record(&self, flags: &Flags) -> anyhow::Result<(String, Option<SessionRecord>)> {
        let named = flags.namespace.clone();
        if self.offline {
            return Ok((named.context("--offline needs the session's namespace: -n NAMESPACE")?, None));
        }
        let cluster = match (flags.connect().await, named) {
            (Ok(cluster), _) => cluster,
            (Err(error), Some(namespace)) => {
                warn(&error);
                return Ok((namespace, None));
            }
            (Err(error), None) => return Err(error),
        };
        let namespace = cluster.namespace.clone();
        let path =
            format!("/apis/sallyport.dev/v1alpha1/namespaces/{namespace}/sessionrecords/{}", self.name);
        match cluster.get::<SessionRecord>(&path).await {
            Ok(record) => Ok((namespace, Some(record))),
            Err(error) if self.store.is_some() => {
                warn(&error);
                Ok((namespace, None))
            }
            Err(error) => Err(error),
        }
    }
}

fn warn(error: &anyhow::Error) {
    let what = if error.is::<Refused>() { "is not there for you" } else { "cannot be read" };
    eprintln!(
        "Warning: the session record {what}, so a tail or a chain that was removed cannot be found ({})",
        crate::escape::line(&format!("{error:#}"))
    );
}

/// What a status knows of the chains.
fn expected(status: &SessionRecordStatus) -> Expected {
    let chains = status.replicas.iter().map(|replica| {
        let recording = replica.recording.as_ref();
        Checkpoint {
            replica: replica.name.clone(),
            segments: recording.map_or(0, |recording| u32::try_from(recording.segments).unwrap_or(0)),
            root: recording.and_then(|recording| recording.root_hash.as_deref()?.parse().ok()),
            closed: replica.closed,
        }
    });
    Expected { ended: status.end_time.is_some(), chains: chains.collect() }
}

/// `file:///recordings` from `file:///recordings/agents/claude-code-20261120-9k2d/`.
fn address_in(record: Option<&SessionRecord>, namespace: &str, name: &str) -> Option<String> {
    let uri = record?.status.as_ref()?.recording.as_ref()?.uri.as_deref()?;
    let address = uri.trim_end_matches('/').strip_suffix(&format!("/{namespace}/{name}"))?;
    Some(address.to_owned())
}
