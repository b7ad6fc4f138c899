//! The gate's own AWS credentials: IRSA, Pod Identity or the environment, whatever the pod has.
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use std::time::Duration;
use tokio::sync::OnceCell;

const ONE_CALL: Duration = Duration::from_secs(10);

/// Read once, when the first EKS target is asked for.
#[derive(Default)]
pub struct Base {
    config: OnceCell<SdkConfig>,
}

impl Base {
    /// The configuration of the process; `region` counts where the environment names none.
    pub(super) async fn config(&self, region: &str) -> &SdkConfig {
        let load = || async {
            let named = std::env::var("AWS_REGION").or_else(|_| std::env::var("AWS_DEFAULT_REGION"));
            let region = named.unwrap_or_else(|_| region.to_owned());
            let timeouts = TimeoutConfig::builder().operation_timeout(ONE_CALL).build();
            aws_config::defaults(BehaviorVersion::latest())
                .region(Region::new(region))
                .timeout_config(timeouts)
                .load()
                .await
        };
        self.config.get_or_init(load).await
    }
}
