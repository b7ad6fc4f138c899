//! What the program is told when it starts; it imports nothing of ours but names.
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use http::uri::Authority;
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
    /// Name of this installation, as AWS is told it: an agent with an AWS role signs its token for `sallyport.<hub>`.
    #[arg(long, env = "SALLYPORT_HUB", default_value = crds::names::HUB, value_parser = hub_name)]
    pub hub: String,
    /// Host of AWS STS that an agent's token may name, such as sts.eu-west-1.amazonaws.com; repeat it. Default: every public one.
    #[arg(long = "sts-host", env = "SALLYPORT_STS_HOSTS", value_delimiter = ',', value_name = "HOST", value_parser = sts_host)]
    pub sts_hosts: Vec<String>,
    /// Where AWS STS is asked whose a token is, if not at the host that the token names: `HOST[:PORT]`, over TLS. For a VPC
    /// endpoint without private DNS, and for tests. The host in the token stays the one that is signed, checked and sent as Host.
    #[arg(long, env = "SALLYPORT_STS_ENDPOINT", value_name = "HOST[:PORT]", value_parser = sts_endpoint)]
    pub sts_endpoint: Option<Authority>,
    /// Seconds between two looks at the access entries of EKS clusters, those of targets and `--aws-cluster`: an agent whose own IAM role
    /// has one can walk past the gate (condition BypassDetected). 0: never. Asked only where an AgentIdentity names a role.
    #[arg(long, env = "SALLYPORT_ACCESS_ENTRIES_SECONDS", default_value_t = 600)]
    pub access_entries_seconds: u32,
    /// The EKS cluster that this gate runs in, by its name, in the region of AWS_REGION, or by its ARN. Without it the access entries of
    /// this cluster are not looked at.
    #[arg(long, env = "SALLYPORT_AWS_CLUSTER", value_name = "NAME|ARN", value_parser = aws_cluster)]
    pub aws_cluster: Option<AwsCluster>,
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
    /// Most connections held at once, counted before TLS. A quarter is for those on which no agent has shown itself yet.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub max_connections: u32,
    /// Most connections of one agent; one more is refused with 429, so that an agent in a loop takes nobody else's.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_connections_per_agent: u32,
    /// Most requests of one agent in flight, watches and followed logs left out; one more is refused with 429.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_requests_per_agent: u32,
    /// Seconds after SIGTERM in which whoever still comes is served: Services and load balancers learn late. Then the last
    /// answers have 15 seconds and the last recordings 10; a second signal ends it at once.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(..=600))]
    pub drain_seconds: u64,
}

/// An EKS cluster, as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsCluster {
    /// From its ARN.
    pub account: Option<String>,
    /// From its ARN.
    pub region: Option<String>,
    /// Its name.
    pub name: String,
}

fn aws_cluster(text: &str) -> Result<AwsCluster, String> {
    let wrong = || format!("`{text}` must be the name or the ARN of an EKS cluster");
    let (account, region, name) = match text.splitn(6, ':').collect::<Vec<_>>()[..] {
        [name] => (None, None, name),
        ["arn", partition, "eks", region, account, resource] if partition.starts_with("aws") => {
            let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
            let name = resource.strip_prefix("cluster/").filter(|_| is_account && is_region(region));
            (Some(account.to_owned()), Some(region.to_owned()), name.ok_or_else(wrong)?)
        }
        _ => return Err(wrong()),
    };
    let is_name = (1..=100).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_name { Ok(AwsCluster { account, region, name: name.to_owned() }) } else { Err(wrong()) }
}

/// Whether the text is what AWS names its regions by: `us-east-1`, `us-gov-west-1`.
pub fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [first, middle @ .., last] = &parts[..] else { return false };
    let is_of = |part: &str, of: fn(&u8) -> bool| !part.is_empty() && part.as_bytes().iter().all(of);
    first.len() == 2
        && is_of(first, u8::is_ascii_lowercase)
        && !middle.is_empty()
        && middle.iter().all(|part| is_of(part, u8::is_ascii_lowercase))
        && is_of(last, u8::is_ascii_digit)
}

fn hub_name(text: &str) -> Result<String, String> {
    let is_taken = (1..=63).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if is_taken {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` must be 1 to 63 letters, digits, `-` or `_`"))
    }
}

fn sts_host(text: &str) -> Result<String, String> {
    let labels: Vec<&str> = text.split('.').collect();
    let is_label = |label: &&str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if matches!(labels.first(), Some(&"sts" | &"sts-fips"))
        && labels.len() >= 3
        && labels.iter().all(is_label)
    {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` must be a host of AWS STS, such as sts.eu-west-1.amazonaws.com"))
    }
}

fn sts_endpoint(text: &str) -> Result<Authority, String> {
    let wrong = || format!("`{text}` must be HOST or HOST:PORT");
    let authority: Authority = text.parse().map_err(|_| wrong())?;
    if authority.host().is_empty() || text.contains('@') { Err(wrong()) } else { Ok(authority) }
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
    fn sts_is_named_by_hosts_and_asked_at_one_place() {
        let base = ["--replica", "p-0", "--store", "file:///s"];
        let with = |flag: &str, value: &str| parse(&[&base[..], &[flag, value]].concat());
        let hosts =
            with("--sts-host", "sts.eu-west-1.amazonaws.com,sts.amazonaws.com").expect("accepted").sts_hosts;
        assert_eq!(hosts, ["sts.eu-west-1.amazonaws.com", "sts.amazonaws.com"]);
        for bad in ["", "evil.example", "sts", "sts.", "sts.evil:443", "sts.evil/x.com", "STS.amazonaws.com"]
        {
            assert!(with("--sts-host", bad).is_err(), "`{bad}` was accepted");
        }
        assert!(with("--sts-endpoint", "127.0.0.1:8443").is_ok());
        for bad in ["", "https://127.0.0.1", "a@b", "a/b"] {
            assert!(with("--sts-endpoint", bad).is_err(), "`{bad}` was accepted");
        }
        for bad in ["", "a.b", "a/b", &"a".repeat(64)] {
            assert!(with("--hub", bad).is_err(), "`{bad}` was accepted");
        }
    }

    #[test]
    fn a_cluster_is_named_by_name_or_arn() {
        let of = |text: &str| aws_cluster(text).map(|one| (one.account, one.region, one.name));
        assert_eq!(of("prod-use1"), Ok((None, None, "prod-use1".to_owned())));
        let (account, region) = (Some("444455556666".to_owned()), Some("us-gov-west-1".to_owned()));
        assert_eq!(
            of("arn:aws-us-gov:eks:us-gov-west-1:444455556666:cluster/prod"),
            Ok((account, region, "prod".to_owned()))
        );
        for bad in [
            "",
            "-a",
            "a.b",
            "a b",
            "arn:aws:eks:us-east-1:444455556666:cluster/",
            "arn:aws:eks:us-east-1:444455556666:nodegroup/a",
            "arn:aws:eks:useast1:444455556666:cluster/a",
            "arn:aws:eks:us-east-1:1:cluster/a",
            "arn:aws:iam::444455556666:role/a",
        ] {
            assert!(of(bad).is_err(), "`{bad}` was accepted");
        }
    }

    #[test]
    fn a_replica_is_a_dns_label() {
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"a".repeat(64)] {
            assert!(parse(&["--replica", bad, "--store", "file:///s"]).is_err(), "`{bad}` was accepted");
        }
    }
}
