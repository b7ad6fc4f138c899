//! What an operator is told on its command line.

use std::net::SocketAddr;

use clap::Parser;

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
    /// Seconds after which a finished grant is deleted. 0 keeps them for ever.
    #[arg(long, env = "SALLYPORT_GRANT_TTL_SECONDS", default_value_t = 604_800)]
    pub grant_ttl_seconds: u32,
    /// Create and update the AccessPolicy `sallyport-baseline`.
    #[arg(long, env = "SALLYPORT_BASELINE_POLICY", default_value_t = true, action = clap::ArgAction::Set)]
    pub baseline_policy: bool,
    /// Name under which this replica holds the Lease `sallyport-operator`. Default: host name and process id.
    #[arg(long, env = "POD_NAME")]
    pub replica_id: Option<String>,
    /// Seconds for which a replica that died without a word keeps the others from taking over.
    #[arg(long, env = "SALLYPORT_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..=120))]
    pub lease_seconds: u16,
}

impl Config {
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
