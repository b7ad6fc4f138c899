//! The baseline: guardrails that exist from the first minute, as an object that everybody can read and take over.

use std::sync::Arc;

use crds::AccessPolicy;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::{Api, Client, ResourceExt as _};

const TEXT: &str = include_str!("baseline.yaml");
const NAMESPACE_TOKEN: &str = "SYSTEM_NAMESPACE";

/// What stops the baseline from being kept.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The text in this program does not read: an error in the program.
    #[error("baseline text: {0}")]
    Text(String),
    /// The API server refused or could not be reached.
    #[error("access policy `{name}`: {0}", name = crds::names::BASELINE_POLICY)]
    Kube(#[from] kube::Error),
}

/// The baseline for a gate in `namespace`.
///
/// # Errors
/// The text in this program does not read.
pub fn baseline(namespace: &str) -> Result<AccessPolicy, BaselineError> {
    let text = TEXT.replace(NAMESPACE_TOKEN, namespace);
    serde_saphyr::from_str(&text).map_err(|error| BaselineError::Text(error.to_string()))
}

/// Keeps the baseline as this program knows it, while its annotation `sallyport.dev/autoupdate` is `"true"`.
#[derive(Default)]
pub struct Keeper {
    // Object and generation that the last write left behind: what has not changed since needs no write.
    kept: Option<(String, i64)>,
}

impl Keeper {
    /// Creates the baseline when it is missing and puts it right when somebody changed it. One that was handed over
    /// (`"false"`, or no annotation) is left alone.
    ///
    /// # Errors
    /// [`BaselineError`].
    pub async fn keep(
        &mut self,
        client: &Client,
        namespace: &str,
        found: Option<&Arc<DeserializeGuard<AccessPolicy>>>,
    ) -> Result<(), BaselineError> {
        if let Some(found) = found {
            let ours = found
                .annotations()
                .get(crds::names::ANNOTATION_AUTOUPDATE)
                .is_some_and(|value| value == "true");
            let unchanged = self.kept == mark(found.as_ref());
            if !ours || unchanged {
                return Ok(());
            }
        }
        let api: Api<AccessPolicy> = Api::all(client.clone());
        let wanted = baseline(namespace)?;
        let params = PatchParams::apply(crds::names::OPERATOR_SERVICE_ACCOUNT).force();
        let written = api.patch(crds::names::BASELINE_POLICY, &params, &Patch::Apply(&wanted)).await?;
        tracing::info!(policy = crds::names::BASELINE_POLICY, "baseline policy applied");
        self.kept = mark(&DeserializeGuard(Ok(written)));
        Ok(())
    }
}

fn mark(policy: &DeserializeGuard<AccessPolicy>) -> Option<(String, i64)> {
    use kube::Resource as _;
    Some((policy.uid()?, policy.meta().generation?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_compiles_and_names_the_system_namespace() {
        let policy = baseline("gate-system").unwrap();
        policy::validate::policy(&policy.spec).unwrap();
        assert_eq!(policy.name_any(), crds::names::BASELINE_POLICY);
        let own = policy.spec.rules.iter().find(|rule| rule.name == "no-system-namespace").unwrap();
        assert_eq!(own.r#match[0].namespaces.as_deref(), Some(&["gate-system".to_owned()][..]));
        assert!(!serde_json::to_string(&policy).unwrap().contains(NAMESPACE_TOKEN));
        let compiled = policy::compile::policy(crds::names::BASELINE_POLICY, 1, &policy.spec).unwrap();
        assert_eq!(policy::lint::lint(&compiled), []);
    }
}
