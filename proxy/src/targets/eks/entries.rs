//! Access entries of an EKS cluster: which IAM principals AWS lets into it. Read, never written.
use aws_config::Region;
use aws_credential_types::Credentials;
use aws_sdk_eks::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use thiserror::Error;

use super::base::Base;

/// AWS allows a cluster far fewer; what has more was not read to its end.
const MOST: usize = 10_000;
const LONGEST_MESSAGE: usize = 1024;

/// Why the access entries of a cluster are not known.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotListed {
    /// The permission is optional, and was not given.
    #[error("AWS denies eks:ListAccessEntries: {0}")]
    Denied(String),
    /// Whatever else.
    #[error("{0}")]
    Failed(String),
}

/// The ARN of each principal that has an access entry in the cluster, as the gate itself or as `role`.
///
/// # Errors
/// [`NotListed`]. A cluster that knows no access entries (mode `CONFIG_MAP`) has none.
pub(super) async fn principals(
    base: &Base,
    region: &str,
    cluster: &str,
    role: Option<Credentials>,
) -> Result<Vec<String>, NotListed> {
    let config = aws_sdk_eks::config::Builder::from(base.config(region).await);
    let config = config.region(Region::new(region.to_owned()));
    let config = match role {
        Some(role) => config.credentials_provider(role),
        None => config,
    };
    let eks = aws_sdk_eks::Client::from_conf(config.build());
    let mut pages = eks.list_access_entries().cluster_name(cluster).into_paginator().send();
    let mut principals = Vec::new();
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => principals.extend(page.access_entries.unwrap_or_default()),
            Err(error) if has_none(&error) => return Ok(Vec::new()),
            Err(error) => return Err(not_listed(&error)),
        }
        if principals.len() > MOST {
            return Err(NotListed::Failed(format!("the cluster has more than {MOST} access entries")));
        }
    }
    Ok(principals)
}

fn has_none<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    let said = error.as_service_error();
    said.is_some_and(|said| {
        said.code() == Some("InvalidRequestException")
            && said.message().is_some_and(|message| message.contains("authentication mode"))
    })
}

fn not_listed<E>(error: &SdkError<E>) -> NotListed
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let bounded = |text: &str| text.chars().take(LONGEST_MESSAGE).collect::<String>();
    let Some(said) = error.as_service_error() else {
        return NotListed::Failed(bounded(&format!("EKS was not reached: {}", DisplayErrorContext(error))));
    };
    let words = bounded(said.message().or(said.code()).unwrap_or("no reason given"));
    match said.code() {
        Some("AccessDeniedException" | "AccessDenied") => NotListed::Denied(words),
        Some(_) | None => NotListed::Failed(format!("AWS does not list the access entries: {words}")),
    }
}
