//! Entry point: says which provider does the cryptography, reads the flags, runs the gate.
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        anyhow::bail!("another cryptography provider is already in place");
    }
    let config = proxy::config::Config::parse();
    proxy::telemetry::start_log();
    proxy::run::run(config).await
}
