//! Admission of policies and identities: what does not compile is refused where it was written.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use policy::validate::{IssueReason, Issues};
use serde::de::DeserializeOwned;

/// Judges an AccessPolicy by the code that will compile it.
pub fn policy(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    judge(request, policy::validate::policy)
}

/// Judges an AgentIdentity by the code that will publish it.
pub fn identity(request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
    judge(request, policy::validate::identity)
}

fn judge<S: DeserializeOwned>(
    request: &AdmissionRequest<DynamicObject>,
    validate: impl Fn(&S) -> Result<(), Issues>,
) -> AdmissionResponse {
    let answer = AdmissionResponse::from(request);
    let Some(object) = &request.object else { return answer };
    // Being deleted, or a change of labels: nothing new to judge.
    let spec = object.data.get("spec").cloned().unwrap_or_default();
    let unchanged = request.old_object.as_ref().is_some_and(|old| old.data.get("spec") == Some(&spec));
    if unchanged || object.metadata.deletion_timestamp.is_some() {
        return answer;
    }
    match serde_json::from_value::<S>(spec) {
        Ok(spec) => settle(answer, validate(&spec)),
        Err(error) => super::refuse(answer, &format!("this version of Sallyport cannot read it: {error}")),
    }
}

// What is not built yet is let in and said aloud: its condition `Accepted` says the same to everybody else.
fn settle(mut answer: AdmissionResponse, outcome: Result<(), Issues>) -> AdmissionResponse {
    let Err(issues) = outcome else { return answer };
    let words = format!("{}: {issues}", issues.reason().as_str());
    match issues.reason() {
        IssueReason::NotSupportedYet => {
            answer
                .warnings
                .get_or_insert_default()
                .push(format!("{words}; this generation will not be in force"));
            answer
        }
        IssueReason::InvalidPattern | IssueReason::InvalidExpression => super::refuse(answer, &words),
    }
}
