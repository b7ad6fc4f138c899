//! The calls to AWS: the role is assumed with names that nobody can set, and describes its own cluster.
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_config::Region;
use aws_credential_types::Credentials;
use aws_sdk_eks::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use crds::agent_identity::EksTarget;
use policy::agent::{external_id, role_session_name};

use super::super::{Fault, NoAccess};
use super::Place;
use super::base::Base;
use super::cluster::Cluster;
use super::entries::{self, NotListed};

/// The longest that a chained role may last.
const SESSION_SECONDS: i32 = 3600;
const LONGEST_MESSAGE: usize = 1024;

/// A role of a cluster's account, as one agent.
pub(super) struct Role {
    base: Arc<Base>,
    spec: EksTarget,
    external_id: String,
    session_name: String,
}

impl Role {
    pub(super) fn new(base: Arc<Base>, hub: &str, namespace: &str, name: &str, spec: &EksTarget) -> Self {
        Self {
            base,
            spec: spec.clone(),
            external_id: external_id(hub, namespace, name),
            session_name: role_session_name(namespace, name),
        }
    }

    pub(super) fn region(&self) -> &str {
        &self.spec.region
    }

    pub(super) fn cluster(&self) -> &str {
        &self.spec.cluster_name
    }

    /// `arn:aws:eks:<region>:<account>:cluster/<name>`: partition and account are the role's.
    pub(super) fn cluster_arn(&self) -> String {
        let mut parts = self.spec.role_arn.split(':').skip(1);
        let partition = parts.next().unwrap_or_default();
        let account = parts.nth(2).unwrap_or_default();
        format!("arn:{partition}:eks:{}:{account}:cluster/{}", self.spec.region, self.spec.cluster_name)
    }

    pub(super) fn arn(&self) -> &str {
        &self.spec.role_arn
    }

    pub(super) fn place(&self) -> Place {
        let account = self.spec.role_arn.split(':').nth(4).map(str::to_owned);
        Place { account, region: self.spec.region.clone(), name: self.spec.cluster_name.clone() }
    }

    pub(super) async fn access_entries(&self, role: Credentials) -> Result<Vec<String>, NotListed> {
        entries::principals(&self.base, &self.spec.region, &self.spec.cluster_name, Some(role)).await
    }

    pub(super) fn unready(&self) -> NoAccess {
        no(Fault::ConnectionFailed, "the cluster was not described yet")
    }

    /// How the role gets into the cluster.
    pub(super) fn advice(&self) -> String {
        let EksTarget { cluster_name, role_arn, region } = &self.spec;
        // aws-auth knows roles without their path.
        let (account, role) = role_arn.split_once(":role/").unwrap_or((role_arn, ""));
        let bare = role.rsplit('/').next().unwrap_or_default();
        format!(
            "the cluster does not know the role. Add an access entry: aws eks create-access-entry --region {region} --cluster-name \
             {cluster_name} --type STANDARD --principal-arn {role_arn} --kubernetes-groups sallyport:agents --username \
             'sallyport:{{{{SessionName}}}}'; on a cluster in mode CONFIG_MAP add to mapRoles of ConfigMap kube-system/aws-auth:\n\
             - rolearn: {account}:role/{bare}\n  username: sallyport:{{{{SessionName}}}}\n  groups: [sallyport:agents]"
        )
    }

    /// Assumes the role, with the external id and the session name of this agent.
    pub(super) async fn assume(&self) -> Result<Credentials, NoAccess> {
        let base = self.base.config(&self.spec.region).await;
        let config =
            aws_sdk_sts::config::Builder::from(base).region(Region::new(self.spec.region.clone())).build();
        let assumed = aws_sdk_sts::Client::from_conf(config)
            .assume_role()
            .role_arn(&self.spec.role_arn)
            .role_session_name(&self.session_name)
            .external_id(&self.external_id)
            .duration_seconds(SESSION_SECONDS)
            .send()
            .await
            .map_err(|error| self.not_assumed(&error))?;
        let given =
            assumed.credentials.ok_or_else(|| no(Fault::AssumeRoleDenied, "AWS gave no credentials"))?;
        let end = u64::try_from(given.expiration.secs()).unwrap_or_default();
        let end = UNIX_EPOCH + Duration::from_secs(end);
        Ok(Credentials::new(
            given.access_key_id,
            given.secret_access_key,
            Some(given.session_token),
            Some(end),
            "sallyport",
        ))
    }

    fn not_assumed<E>(&self, error: &SdkError<E>) -> NoAccess
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let Some(said) = error.as_service_error() else { return unanswered("STS", error) };
        let what = said.message().or(said.code()).unwrap_or("AWS gave no reason");
        no(
            Fault::AssumeRoleDenied,
            &format!(
                "role {} was not assumed: {what}. Its trust policy must let the gate's own role sts:AssumeRole where sts:ExternalId is {}",
                self.spec.role_arn, self.external_id
            ),
        )
    }

    /// Describes the cluster, as the role.
    pub(super) async fn describe(
        &self,
        role: &Credentials,
        before: Option<&Cluster>,
    ) -> Result<Cluster, NoAccess> {
        let base = self.base.config(&self.spec.region).await;
        let config = aws_sdk_eks::config::Builder::from(base)
            .region(Region::new(self.spec.region.clone()))
            .credentials_provider(role.clone())
            .build();
        let eks = aws_sdk_eks::Client::from_conf(config);
        let described = eks.describe_cluster().name(&self.spec.cluster_name).send().await;
        let described = described.map_err(|error| self.not_described(&error))?;
        let cluster = described.cluster().ok_or_else(|| self.not_found())?;
        Cluster::of(cluster, before)
    }

    fn not_described<E>(&self, error: &SdkError<E>) -> NoAccess
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let Some(said) = error.as_service_error() else { return unanswered("EKS", error) };
        let status = error.raw_response().map(|response| response.status().as_u16());
        match said.code() {
            Some("ResourceNotFoundException") => self.not_found(),
            None if status == Some(404) => self.not_found(),
            Some("AccessDeniedException") => no(
                Fault::Unauthorized,
                &format!("role {} may not eks:DescribeCluster {}", self.spec.role_arn, self.cluster_arn()),
            ),
            code => no(
                Fault::ConnectionFailed,
                &format!(
                    "AWS does not describe the cluster: {}",
                    said.message().or(code).unwrap_or("no reason given")
                ),
            ),
        }
    }

    fn not_found(&self) -> NoAccess {
        no(Fault::ClusterNotFound, &format!("there is no cluster {}", self.cluster_arn()))
    }
}

/// AWS was not reached, or the gate has no credentials to ask it with.
fn unanswered<E>(service: &str, error: &SdkError<E>) -> NoAccess
where
    E: std::error::Error + 'static,
{
    let text = DisplayErrorContext(error).to_string();
    if text.contains("CredentialsNotLoaded") || text.contains("no providers in chain") {
        let message = "the gate has no AWS credentials of its own: give its ServiceAccount a role by IRSA or Pod Identity";
        return no(Fault::AssumeRoleDenied, message);
    }
    no(Fault::ConnectionFailed, &format!("{service} was not reached: {text}"))
}

fn no(fault: Fault, message: &str) -> NoAccess {
    NoAccess { fault, message: message.chars().take(LONGEST_MESSAGE).collect() }
}
