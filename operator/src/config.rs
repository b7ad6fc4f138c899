//! What an operator is told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;

// Below this nobody could follow.
const SHORTEST_LIFETIME: u64 = 6;
const LONGEST_LIFETIME: u64 = 100 * 366 * 86_400;

/// Flags of `sallyport-operator`. Each can be given by the environment variable named beside it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "sallyport-operator",
    version,
    about = "Compiles policy, publishes live config, admits reviews"
)]
pub struct Config {
    /// Namespace of operator and proxy.
    #[arg(long, env = "SALLYPORT_NAMESPACE", default_value = crds::names::SYSTEM_NAMESPACE)]
    pub namespace: String,
    /// Name of this installation, as AWS is told it; the proxies must have the same one.
    #[arg(long, env = "SALLYPORT_HUB", default_value = crds::names::HUB)]
    pub hub: String,
    /// URL at which agents reach the proxy; written into published kubeconfigs. Default: the Service in `--namespace`.
    #[arg(long, env = "SALLYPORT_PROXY_URL")]
    pub proxy_url: Option<String>,
    /// Address of the admission webhook (HTTPS).
    #[arg(long, env = "SALLYPORT_WEBHOOK_BIND", default_value = "0.0.0.0:9443")]
    pub webhook_bind: SocketAddr,
    /// URL at which the API server reaches the webhook when the operator runs outside the cluster, such as
    /// `https://127.0.0.1:9443`. Without it the webhook configurations keep their Service.
    #[arg(long, env = "SALLYPORT_WEBHOOK_URL")]
    pub webhook_url: Option<String>,
    /// Address of `/livez`, `/readyz` and `/metrics` (HTTP).
    #[arg(long, env = "SALLYPORT_ADMIN_BIND", default_value = "0.0.0.0:8081")]
    pub admin_bind: SocketAddr,
    /// Another DNS name or IP address for the serving certificates of proxy and webhook; repeatable.
    #[arg(long = "extra-san", env = "SALLYPORT_EXTRA_SANS", value_delimiter = ',')]
    pub extra_sans: Vec<String>,
    /// Path of the agent's token in published kubeconfigs.
    #[arg(long, env = "SALLYPORT_AGENT_TOKEN_FILE", default_value = "/var/run/sallyport/token")]
    pub agent_token_file: String,
    /// Seconds for which a serving certificate is good. It is replaced after two thirds of them.
    #[arg(long, env = "SALLYPORT_CERTIFICATE_LIFETIME_SECONDS", default_value_t = 90 * 86_400, value_parser = lifetime())]
    pub certificate_lifetime_seconds: u64,
    /// Seconds for which a certificate authority is good; at least twice `--certificate-lifetime-seconds`. The next one is
    /// published after two thirds of them and signs after five sixths: a client must read its kubeconfig again in between.
    #[arg(long, env = "SALLYPORT_CA_LIFETIME_SECONDS", default_value_t = 3650 * 86_400, value_parser = lifetime())]
    pub ca_lifetime_seconds: u64,
    /// Secret in `--namespace` with the proxy's certificate, where somebody else keeps it (cert-manager, or you). Its `ca.crt`
    /// is what agents trust; without one, their system's authorities. Default: the operator keeps the certificate itself.
    #[arg(long, env = "SALLYPORT_PROXY_TLS_SECRET")]
    pub proxy_tls_secret: Option<String>,
    /// PEM file with the authorities of clients of the webhook. With it, only an API server that shows such a certificate is
    /// answered. Default: the webhook answers whoever reaches its port.
    #[arg(long, env = "SALLYPORT_WEBHOOK_CLIENT_CA_FILE")]
    pub webhook_client_ca_file: Option<PathBuf>,
    /// Seconds after which a finished grant is deleted. 0 keeps them for ever.
    #[arg(long, env = "SALLYPORT_GRANT_TTL_SECONDS", default_value_t = 604_800)]
    pub grant_ttl_seconds: u32,
    /// Seconds after which the SessionRecord of an ended session is deleted; its recording stays in the store. 0 keeps them
    /// for ever.
    #[arg(long, env = "SALLYPORT_RECORD_TTL_SECONDS", default_value_t = 2_592_000)]
    pub record_ttl_seconds: u32,
    /// Seconds of silence after which a proxy is taken for lost: sessions that only it served are over, and what it had not
    /// uploaded is missing. Longer than the ten minutes for which a proxy works on without the API server.
    #[arg(long, env = "SALLYPORT_PROXY_LOST_SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..))]
    pub proxy_lost_seconds: u32,
    /// Create and update the AccessPolicy `sallyport-baseline`.
    #[arg(long, env = "SALLYPORT_BASELINE_POLICY", default_value_t = true, action = clap::ArgAction::Set)]
    pub baseline_policy: bool,
    /// Look for ways past the gate through AWS: ConfigMap `kube-system/aws-auth`, and the access entries that the proxies found. Bindings
    /// of RBAC are always looked at.
    #[arg(long, env = "SALLYPORT_DETECT_BYPASS", default_value_t = true, action = clap::ArgAction::Set)]
    pub detect_bypass: bool,
    /// Name under which this replica holds the Lease `sallyport-operator`. Default: host name and process id.
    #[arg(long, env = "POD_NAME")]
    pub replica_id: Option<String>,
    /// Seconds for which a replica that died without a word keeps the others from taking over.
    #[arg(long, env = "SALLYPORT_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=120))]
    pub lease_seconds: u16,
    /// Seconds for which the webhook goes on answering after SIGTERM, while the API server learns to ask another replica.
    #[arg(long, env = "SALLYPORT_DRAIN_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(0..=120))]
    pub drain_seconds: u16,
}

/// Flags that contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Serving certificates would be cut short by the end of their authority.
    #[error(
        "`--ca-lifetime-seconds` must be at least twice `--certificate-lifetime-seconds`: {authority} is less than twice {certificate}"
    )]
    Lifetimes {
        /// Of the authority, seconds.
        authority: u64,
        /// Of serving certificates, seconds.
        certificate: u64,
    },
}

fn lifetime() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(SHORTEST_LIFETIME..=LONGEST_LIFETIME)
}

impl Config {
    /// Whether the flags fit each other.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        let (authority, certificate) = (self.ca_lifetime_seconds, self.certificate_lifetime_seconds);
        if authority < 2 * certificate {
            return Err(ConfigError::Lifetimes { authority, certificate });
        }
        Ok(())
    }

    /// For which a serving certificate is good.
    pub fn certificate_lifetime(&self) -> SignedDuration {
        signed(self.certificate_lifetime_seconds)
    }

    /// For which an authority is good.
    pub fn ca_lifetime(&self) -> SignedDuration {
        signed(self.ca_lifetime_seconds)
    }

    /// After which a finished grant goes; none: never.
    pub fn grant_ttl(&self) -> Option<Duration> {
        time_to_live(self.grant_ttl_seconds)
    }

    /// After which the record of an ended session goes; none: never.
    pub fn record_ttl(&self) -> Option<Duration> {
        time_to_live(self.record_ttl_seconds)
    }

    /// URL at which agents reach the proxy.
    pub fn proxy_url(&self) -> String {
        self.proxy_url
            .clone()
            .unwrap_or_else(|| format!("https://{}.{}.svc", crds::names::PROXY_SERVICE, self.namespace))
    }

    /// Name under which this replica holds Leases.
    pub fn replica_id(&self) -> String {
        self.replica_id.clone().unwrap_or_else(|| {
            let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
            format!("{host}-{}", std::process::id())
        })
    }

    /// Names that the certificate of `service` must carry: the Service's DNS names and `--extra-san`.
    pub fn serving_names(&self, service: &str) -> Vec<String> {
        let namespace = &self.namespace;
        let mut names = vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{service}.{namespace}"),
            service.to_owned(),
        ];
        names.extend(
            self.extra_sans.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()),
        );
        names.sort();
        names.dedup();
        names
    }
}

fn signed(seconds: u64) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX))
}

fn time_to_live(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_its_authority_would_cut_short_is_refused() {
        let parse = |ca: &str, leaf: &str| {
            let flags = ["operator", "--ca-lifetime-seconds", ca, "--certificate-lifetime-seconds", leaf];
            Config::try_parse_from(flags).map(|config| config.check().map_err(|error| error.to_string()))
        };
        assert_eq!(parse("120", "60").unwrap(), Ok(()));
        let words = parse("119", "60").unwrap().unwrap_err();
        assert!(words.contains("`--ca-lifetime-seconds` must be at least twice"), "{words}");
        assert!(parse("120", "5").is_err(), "shorter than anybody could follow");
        assert!(Config::try_parse_from(["operator"]).unwrap().check().is_ok());
    }
}
