//! What the program is told when it starts; it imports nothing of ours but names.
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use storage::{Address, S3Flags};

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
    /// Where recordings are kept: `file:///FOLDER` or `s3://BUCKET/PREFIX`.
    #[arg(long, env = "SALLYPORT_STORE")]
    pub store: Address,
    /// How a bucket is reached.
    #[command(flatten)]
    pub s3: S3Flags,
    /// Folder for frames that are durable but not yet in the store; one per replica.
    #[arg(long, env = "SALLYPORT_SPOOL")]
    pub spool: PathBuf,
    /// Most bytes in the spool; when it is full nothing is forwarded any more (F07).
    #[arg(long, default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(64 << 10..))]
    pub spool_bytes: u64,
    /// The longest that a frame may wait in the spool, in seconds; after that nothing is forwarded until the store takes it (F07).
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub spool_age_seconds: u64,
    /// Secret in `--namespace` with the certificate for agents (`tls.crt`, `tls.key`).
    #[arg(long, env = "SALLYPORT_TLS_SECRET", default_value = crds::names::PROXY_TLS_SECRET)]
    pub tls_secret: String,
    /// Most connections held at once, counted before TLS.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections: u32,
    /// Seconds after SIGTERM in which whoever still comes is served: Services and load balancers learn late. Then the last
    /// answers have 15 seconds and the last recordings 10; a second signal ends it at once.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(..=600))]
    pub drain_seconds: u64,
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
    fn a_store_is_a_folder_or_a_bucket() {
        for good in ["file:///var/lib/s", "s3://acme-sallyport/recordings"] {
            let parsed = parse(&["--replica", "p-0", "--store", good]).expect("accepted");
            assert_eq!(parsed.store.to_string(), good);
        }
        for bad in ["s3://", "/var/lib", "file://relative/dir", "file:", ""] {
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
