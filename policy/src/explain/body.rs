//! What the agent reads about a request that the gate does not pass on, whatever policy says.

use super::reason::Reason;
use super::refusal::Refusal;
use super::words::{full_deed, one_line};
use crate::action::Action;

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

/// A feature that is not built yet: `what` is a noun phrase, `next` a way out.
pub fn not_supported(action: &Action, what: &str, next: &str) -> Refusal {
    Refusal::forbidden(action, Reason::NotSupportedYet, &format!("{what} is not supported yet."))
        .line("final", "yes, in this version. Retrying, waiting or asking for a grant cannot change this.")
        .line("next", next)
        .final_if(true)
}
