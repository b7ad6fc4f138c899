//! What the program is told when it starts; it imports nothing of ours but names.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;

/// Flags of `sallyport-proxy`. The Kubernetes client's own configuration comes from `KUBECONFIG` or the pod.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "sallyport-proxy",
    version,
    about = "The one gate between AI agents and the Kubernetes API server"
)]
pub struct Config {
    /// Namespace of operator and proxy: live config, certificate and Leases are there.
    #[arg(long, env = "SALLYPORT_NAMESPACE", default_value = crds::names::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Name of this replica, unique among the running ones; a DNS label.
    #[arg(long, env = "HOSTNAME", value_parser = replica_name)]
    pub replica: String,
    /// Where agents connect (TLS).
    #[arg(long, default_value = "0.0.0.0:8443")]
    pub bind: SocketAddr,
    /// Where `/livez`, `/readyz` and `/metrics` are served (plain HTTP, inside the cluster only).
    #[arg(long, default_value = "0.0.0.0:9090")]
    pub admin_bind: SocketAddr,
    /// Where recordings are kept: `file:///DIR`.
    #[arg(long, env = "SALLYPORT_STORE", value_parser = store_folder)]
    pub store: Store,
    /// Folder for frames that are durable but not yet in the store; one per replica.
    #[arg(long, env = "SALLYPORT_SPOOL")]
    pub spool: PathBuf,
    /// Most connections held at once, counted before TLS.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections: u32,
    /// Seconds after SIGTERM in which whoever still comes is served: Services and load balancers learn late. Then the last
    /// answers have 15 seconds and the last recordings 10; a second signal ends it at once.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(..=600))]
    pub drain_seconds: u64,
}

/// A recording store that is a local folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store(PathBuf);

impl Store {
    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }
}

fn store_folder(text: &str) -> Result<Store, String> {
    let Some(path) = text.strip_prefix("file://") else {
        return Err(format!("`{text}` must start with `file://`; other stores are not supported yet"));
    };
    if !path.starts_with('/') {
        return Err(format!("`{text}` must name an absolute folder, such as `file:///var/lib/sallyport`"));
    }
    Ok(Store(PathBuf::from(path)))
}

fn replica_name(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=63).contains(&text.len()) && text.chars().all(inner);
    if !fits || text.starts_with('-') || text.ends_with('-') {
        return Err(format!("`{text}` must be a DNS label"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(extra: &[&str]) -> Result<Config, clap::Error> {
        let base = ["sallyport-proxy", "--spool", "/tmp/spool"];
        Config::try_parse_from(base.iter().chain(extra))
    }

    #[test]
    fn a_store_is_an_absolute_file_url() {
        let good = parse(&["--replica", "p-0", "--store", "file:///var/lib/s"]).expect("accepted");
        assert_eq!(good.store.folder(), Path::new("/var/lib/s"));
        for bad in ["s3://bucket", "/var/lib", "file://relative/dir", "file:", ""] {
            assert!(parse(&["--replica", "p-0", "--store", bad]).is_err(), "`{bad}` was accepted");
        }
    }

    #[test]
    fn a_replica_is_a_dns_label() {
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"a".repeat(64)] {
            assert!(parse(&["--replica", bad, "--store", "file:///s"]).is_err(), "`{bad}` was accepted");
        }
    }
}
