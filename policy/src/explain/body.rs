//! What the agent reads about a request that the gate does not pass on, whatever policy says.

use super::reason::Reason;
use super::refusal::{FINAL, Refusal};
use super::words::{deed, full_deed, one_line};
use crate::action::Action;
use crate::rule::Effect;

/// A write whose body holds placeholders at `paths`.
pub fn masked_value_in_write(action: &Action, paths: &[&str]) -> Refusal {
    let paths: Vec<String> = paths.iter().map(|path| one_line(path)).collect();
    let at = if paths.is_empty() { String::new() } else { format!(" at {}", paths.join(", ")) };
    let sentence =
        format!("the body contains masked placeholders{at}; writing it would destroy the real value.");
    let mut refusal = Refusal::forbidden(action, Reason::MaskedValueInWrite, &sentence).line(
        "next",
        "remove the masked fields and send only what you change, e.g. kubectl patch ... --type=merge -p \
         '{\"metadata\":{...}}'",
    );
    for path in paths {
        refusal = refusal.cause("sallyport.dev/MaskedField", path, "placeholder");
    }
    refusal.final_if(false)
}

/// A stream (exec, attach, port-forward or another upgrade) that the gate does not open.
pub fn stream_denied(action: &Action) -> Refusal {
    Refusal::forbidden(
        action,
        Reason::StreamDenied,
        &format!("the gate does not open {} streams yet.", full_deed(action)),
    )
    .line("final", "yes, in this version. Retrying, waiting or asking for a grant cannot change this.")
    .line("instead", "kubectl logs, kubectl describe and kubectl get -o yaml, where policy allows them")
    .final_if(true)
}

/// A request that would tell a masked value by its effect, whoever approves it (B50, B51, B53, B54): `what` is a noun phrase,
/// `next` a way out.
pub fn tells_masked(action: &Action, what: &str, next: &str) -> Refusal {
    Refusal::forbidden(action, Reason::Forbidden, &format!("{what} would tell what is masked."))
        .line("next", next)
        .final_if(false)
}

/// A change of a masked value that no human is asked about (B52).
pub fn change_needs_approval(action: &Action) -> Refusal {
    let sentence =
        format!("no policy allows this {} of a masked value without a human's approval.", deed(action));
    Refusal::forbidden(action, Reason::NotAllowed, &sentence)
        .line("why", "The answer would tell whether the value was the stored one: nothing changes then.")
        .line(
            "final",
            "yes, until an administrator adds a rule with RequireApproval. There is nothing to request.",
        )
        .line("next", "leave the masked field out of the change, or ask a person to make it")
        .final_if(true)
}

/// What the gate itself refuses in a body, whatever any policy says: `what` is a noun phrase, `next` a way out.
pub fn gate_denies(action: &Action, what: &str, why: &str, next: &str) -> Refusal {
    Refusal::forbidden(action, Reason::PolicyDenied, &format!("the gate itself denies {what}."))
        .line("why", why)
        .line("final", FINAL)
        .line("next", next)
        .cause("sallyport.dev/Rule", "built-in", Effect::Deny.as_str())
        .final_if(true)
}

/// A feature that is not built yet: `what` is a noun phrase, `next` a way out.
pub fn not_supported(action: &Action, what: &str, next: &str) -> Refusal {
    Refusal::forbidden(action, Reason::NotSupportedYet, &format!("{what} is not supported yet."))
        .line("final", "yes, in this version. Retrying, waiting or asking for a grant cannot change this.")
        .line("next", next)
        .final_if(true)
}
