//! What an agent is told beside an answer, as the text of a `Warning: 299` header.

use jiff::Timestamp;

use super::words::source;
use crate::agent::Agent;
use crate::decision::{Authority, Decision};
use crate::mask::MaskRule;

/// Namespaces that a warning names before it only counts them.
const NAMED: usize = 10;

/// The namespaces that were taken out of a cluster-wide list or watch; `None` where none were.
pub fn narrowed(decision: &Decision) -> Option<String> {
    let excluded = &decision.obligations().excluded_namespaces;
    let rule = decision.narrowed_by().first()?;
    let named: Vec<&str> = excluded.iter().take(NAMED).map(|namespace| &**namespace).collect();
    let more = match excluded.len().saturating_sub(named.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "sallyport: left out of this answer: namespaces {}{more} ({}).",
        named.join(", "),
        source(&rule.policy, &rule.rule)
    ))
}

/// The values that were masked: `count` where the body was held whole.
pub fn masked<'a>(count: Option<u64>, rules: impl IntoIterator<Item = &'a MaskRule>) -> String {
    let mut names: Vec<&str> = rules.into_iter().map(|rule| &*rule.name).collect();
    names.sort_unstable();
    names.dedup();
    let names = names.join(", ");
    match count {
        Some(1) => format!("sallyport: 1 value masked ({names}). It is a placeholder, not data."),
        Some(count) => {
            format!("sallyport: {count} values masked ({names}). They are placeholders, not data.")
        }
        None => format!("sallyport: values are masked ({names}). They are placeholders, not data."),
    }
}

/// Who approved the request that ran; `None` where no grant was used up.
pub fn approved(authority: &Authority) -> Option<String> {
    match authority {
        Authority::Approval { grant, by, .. } => {
            Some(format!("sallyport: approved by {} ({grant}), ran once.", by.join(", ")))
        }
        Authority::BuiltIn | Authority::Rule | Authority::DryRun | Authority::Window { .. } => None,
    }
}

/// That the window ends soon: within five minutes.
pub fn window_closes(authority: &Authority, now: Timestamp) -> Option<String> {
    let Authority::Window { until, .. } = authority else {
        return None;
    };
    let seconds = until.as_second().saturating_sub(now.as_second());
    let left = match seconds {
        0..60 => format!("{seconds}s"),
        60..=300 => format!("{}m", seconds.checked_div(60)?),
        _ => return None,
    };
    Some(format!("sallyport: your window closes in {left}; ask for a new one before then."))
}

/// That the target's RBAC refuses what a human may still allow: nobody should be asked for it. `reason` is that of
/// [`super::can_i`].
pub fn target_refuses_too(reason: &str, agent: &Agent) -> String {
    // Not how to ask: that would be in vain.
    let what = reason.split_once("): ").map_or_else(|| reason.to_owned(), |(what, _)| format!("{what})"));
    format!(
        "{what}, and in vain: Kubernetes RBAC on the target denies it for user {}. An administrator must add a RoleBinding first",
        agent.username()
    )
}

/// The target's RBAC refused what the policies allowed.
pub fn target_refused(agent: &Agent) -> String {
    format!(
        "Sallyport allowed this request; Kubernetes RBAC on the target denied it for user {}. An administrator must add a \
         RoleBinding.",
        agent.username()
    )
}
