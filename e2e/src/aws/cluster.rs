//! An EKS cluster: a real kube-apiserver that authenticates by the token webhook, described by DescribeCluster.

use super::{AccessEntry, Aws, FakeAuthenticator};
use crate::control_plane::ControlPlane;

/// A running cluster. Cheap to clone; ends with the last clone.
#[derive(Clone)]
pub struct EksCluster {
    plane: ControlPlane,
    authenticator: FakeAuthenticator,
    name: String,
    account: String,
    region: String,
}

impl EksCluster {
    /// Starts it and makes it known to DescribeCluster in `account` and `region`. Blocks; inside or outside an async runtime.
    ///
    /// # Errors
    /// When the control plane does not start or moto refuses the cluster (its name is taken in that account).
    pub fn start(aws: &Aws, account: &str, region: &str, name: &str) -> anyhow::Result<Self> {
        let authenticator = FakeAuthenticator::start(name, aws.sts())?;
        let config = aws.supervisor().scratch().join(format!("eks-{account}-{region}-{name}.webhook"));
        std::fs::write(&config, authenticator.webhook_config())?;
        let plane = ControlPlane::start_with(&[
            ("authentication-token-webhook-config-file", config.display().to_string()),
            ("authentication-token-webhook-version", "v1".to_owned()),
            ("authentication-token-webhook-cache-ttl", "0s".to_owned()),
        ])?;
        let (front, server, ca) = (aws.front().clone(), plane.server().to_owned(), plane.ca().to_owned());
        let words = [account, region, name].map(str::to_owned);
        crate::block_on(move || async move {
            let [account, region, name] = &words;
            front.cluster(account, region, name, (&server, &ca)).await
        })?;
        let arn = format!("arn:aws:eks:{region}:{account}:cluster/{name}");
        aws.access_entries().cluster(&arn, &authenticator);
        let [name, account, region] = [name, account, region].map(str::to_owned);
        Ok(Self { plane, authenticator, name, account, region })
    }

    /// Its API server, with an administrator's way in that EKS does not have.
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// `aws eks create-access-entry`: who a role is here. `{{SessionName}}` in the user name is filled in.
    pub fn access_entry(&self, principal_arn: &str, username: &str, groups: &[&str]) {
        self.authenticator.entry(AccessEntry {
            principal_arn: principal_arn.to_owned(),
            username: username.to_owned(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        });
    }

    /// `aws eks delete-access-entry`.
    pub fn delete_access_entry(&self, principal_arn: &str) {
        self.authenticator.remove(principal_arn);
    }

    /// Its token webhook.
    pub fn authenticator(&self) -> &FakeAuthenticator {
        &self.authenticator
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.region
    }
}
