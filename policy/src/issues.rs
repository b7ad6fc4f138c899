//! What is wrong with a manifest: where, of which kind, and what to do about it.

use std::fmt;

/// The reason of condition `Accepted` that an issue gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IssueReason {
    /// A word that can never match, or does not parse.
    InvalidPattern,
    /// An expression that is not CEL, or that could take long.
    InvalidExpression,
    /// In the schema, not yet in the program (ruling on fields whose feature is not built).
    NotSupportedYet,
}

impl IssueReason {
    /// The reason token.
    pub const fn as_str(self) -> &'static str {
        match self {
            IssueReason::InvalidPattern => "InvalidPattern",
            IssueReason::InvalidExpression => "InvalidExpression",
            IssueReason::NotSupportedYet => "NotSupportedYet",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The field, such as `spec.rules[2].match[0].verbs[1]`.
    pub path: String,
    /// What kind of thing it is.
    pub reason: IssueReason,
    /// What to do about it.
    pub message: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong; never empty where it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issues(Vec<Issue>);

impl Issues {
    /// The issues in the order of the fields.
    pub fn all(&self) -> &[Issue] {
        &self.0
    }

    /// The reason for condition `Accepted`: what is wrong comes before what is not built.
    pub fn reason(&self) -> IssueReason {
        self.0.iter().map(|issue| issue.reason).min().unwrap_or(IssueReason::NotSupportedYet)
    }

    pub(crate) fn invalid(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Issue {
            path: path.into(),
            reason: IssueReason::InvalidPattern,
            message: message.into(),
        });
    }

    pub(crate) fn expression(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Issue {
            path: path.into(),
            reason: IssueReason::InvalidExpression,
            message: message.into(),
        });
    }

    pub(crate) fn unsupported(&mut self, path: impl Into<String>, what: &str) {
        self.0.push(Issue {
            path: path.into(),
            reason: IssueReason::NotSupportedYet,
            message: format!("{what} is not supported yet"),
        });
    }

    pub(crate) fn into_result(self) -> Result<(), Issues> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Issues {
    /// The issues, joined by `; `.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, issue) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("; ")?;
            }
            issue.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}
