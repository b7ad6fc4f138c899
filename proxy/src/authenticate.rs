//! A session becomes a subject: one bearer token, reviewed by the API server for our audience, of a known agent.
mod again;
mod aws;
mod kept;
mod oidc;
mod review;

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use parsing::header::Token;
use policy::agent::Agent;
use policy::bundle::{Bundle, Trusted};
use policy::subject::Subject;
use thiserror::Error;
use tokio::time::Instant;

pub use self::again::ask_again;
pub use self::aws::AwsSettings;
use self::aws::AwsTokens;
use self::oidc::{Match, Oidc};
use self::review::Reviews;
use crate::limits::Limits;
use crate::live::{AgentKey, Live, Standing};
use crate::refuse::{Reason, Refusal};
use crate::telemetry::Telemetry;
use crate::token::Claims;

const NO_ROLES: &str = "no AgentIdentity of this gate names an AWS IAM role; next: ask an administrator to add yours to an \
                        AgentIdentity's `subjects`";

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The agent it is.
    pub agent: Arc<Agent>,
    /// Its namespace and name.
    pub key: AgentKey,
    /// What it proved.
    pub subject: Subject,
    /// The name of that subject in the AgentIdentity.
    pub subject_name: Arc<str>,
    /// When the token ends; streams end with it (F23).
    pub token_expires: Option<Timestamp>,
    /// What the bearer calls itself, where its credential says it: the name of an AWS role session, chosen by whoever assumed
    /// the role. For the record, never for a decision (D09).
    pub session: Option<Arc<str>>,
    /// With what it proved it; asked about again while a stream is open.
    pub token: Token,
}

impl Caller {
    fn new(
        agent: &Arc<Agent>,
        subject: Subject,
        subject_name: &Arc<str>,
        token: &Token,
        token_expires: Option<Timestamp>,
    ) -> Self {
        let key = AgentKey::new(agent.namespace(), agent.name());
        let (agent, subject_name) = (Arc::clone(agent), Arc::clone(subject_name));
        Self { agent, key, subject, subject_name, token_expires, session: None, token: token.clone() }
    }
}

/// Why a caller is refused.
#[derive(Debug, Error)]
pub enum AuthenticateError {
    /// The API server does not accept the token.
    #[error("{0}")]
    Rejected(String),
    /// The API server cannot be asked (F25).
    #[error("the token cannot be reviewed: {0}")]
    Unavailable(String),
    /// What it takes to verify the token cannot be had (F25).
    #[error("the token cannot be verified: {0} cannot be had")]
    Unverifiable(String),
    /// The token fits subjects of more than one AgentIdentity.
    #[error("the token fits subjects of several agents: {}", _0.iter().map(|one| one.full_name()).collect::<Vec<_>>().join(", "))]
    Ambiguous(Vec<Arc<Agent>>),
    /// A valid subject that no AgentIdentity names.
    #[error("no AgentIdentity names the subject `{0}`")]
    NotAnAgent(String),
    /// The kill switch.
    #[error("agent {0} is suspended")]
    Suspended(AgentKey),
    /// More requests than the limit.
    #[error("agent {0} may send {1} requests per second")]
    TooMany(AgentKey, u32),
}

impl AuthenticateError {
    /// What the client reads.
    pub fn refusal(&self) -> Refusal {
        match self {
            AuthenticateError::Rejected(why) => Refusal::new(Reason::Unauthorized, why.clone()),
            AuthenticateError::NotAnAgent(_) => {
                let why =
                    format!("{self}; next: ask an administrator to add it to an AgentIdentity's `subjects`");
                Refusal::new(Reason::Unauthorized, why)
            }
            AuthenticateError::Unavailable(_) => Refusal::new(
                Reason::ServiceUnavailable,
                "sallyport/ServiceUnavailable: the API server cannot review tokens at the moment.",
            ),
            AuthenticateError::Unverifiable(what) => Refusal::new(
                Reason::ServiceUnavailable,
                format!(
                    "sallyport/ServiceUnavailable: the token cannot be verified: {what} cannot be had at the moment."
                ),
            ),
            AuthenticateError::Ambiguous(_) => Refusal::new(
                Reason::Unauthorized,
                "the token fits the subjects of more than one AgentIdentity; next: ask an administrator to narrow their `claimValidationRules`",
            ),
            AuthenticateError::Suspended(agent) => Refusal::new(
                Reason::AgentSuspended,
                format!("sallyport/AgentSuspended: agent {agent} is suspended by an administrator."),
            )
            .line("final", "yes, until an administrator resumes the agent. Do not retry.")
            .next("stop"),
            AuthenticateError::TooMany(agent, most) => Refusal::new(
                Reason::TooManyRequests,
                format!("sallyport/TooManyRequests: agent {agent} may send {most} requests per second."),
            ),
        }
    }
}

/// What a verified credential proves.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proven {
    /// Whose it is.
    subject: Subject,
    /// When it ends.
    expires: Option<Timestamp>,
    /// What the bearer calls itself, where the credential says it; it proves nothing (D09).
    session: Option<Arc<str>>,
}

/// Tells from a bearer token who asks.
#[derive(Clone)]
pub struct Authenticator {
    reviews: Reviews,
    oidc: Oidc,
    aws: AwsTokens,
    limits: Limits,
    telemetry: Telemetry,
}

impl Authenticator {
    /// Asks the API server with the proxy's own client, and issuers by themselves.
    pub fn new(client: Client, aws: AwsSettings, limits: Limits, telemetry: Telemetry) -> Self {
        let (oidc, aws) = (Oidc::default(), AwsTokens::new(aws, telemetry.clone()));
        Self { reviews: Reviews::new(client), oidc, aws, limits, telemetry }
    }

    /// Keeps what tokens are verified with, for ever.
    pub async fn keep_fresh(&self, live: &Live) {
        self.oidc.keep_fresh(live, &self.telemetry).await;
    }

    /// Who the bearer of `token` is.
    ///
    /// *Guarantees* (B122, F25): whoever can vouch for the token did so a few seconds ago at most; it has not ended; exactly one
    /// AgentIdentity has a subject that it fits.
    ///
    /// # Errors
    /// If the token is not accepted or is nobody's we know.
    pub async fn caller(
        &self,
        token: &Token,
        bundle: &Bundle,
        live: &Live,
    ) -> Result<Caller, AuthenticateError> {
        let all = self.callers(token, bundle).await?;
        let is_there = |one: &Caller| live.standing(&one.key, one.agent.uid()) != Standing::Gone;
        let (mut callers, gone): (Vec<Caller>, Vec<Caller>) = all.into_iter().partition(is_there);
        let Some(first) = callers.first() else {
            let subject = gone.first().map(|one| one.subject.username());
            return Err(AuthenticateError::NotAnAgent(subject.unwrap_or_default()));
        };
        if callers.iter().any(|one| one.key != first.key) {
            return Err(AuthenticateError::Ambiguous(callers.into_iter().map(|one| one.agent).collect()));
        }
        if first.token_expires.is_some_and(|end| end <= Timestamp::now()) {
            return Err(AuthenticateError::Rejected("the token has expired; next: get a new one".to_owned()));
        }
        Ok(callers.swap_remove(0))
    }

    /// Every agent whose subject the token fits, at least one. A token of a trusted issuer is verified with the issuer's keys;
    /// one of this cluster's own issuer may be a ServiceAccount's as well, and then the API server is asked too.
    async fn callers(&self, token: &Token, bundle: &Bundle) -> Result<Vec<Caller>, AuthenticateError> {
        if token.expose().starts_with(aws::PREFIX) {
            // Nobody makes the gate ask AWS where no agent is of AWS.
            if !bundle.subjects().any(|subject| matches!(subject, Subject::AwsIamRole { .. })) {
                return Err(AuthenticateError::Rejected(NO_ROLES.to_owned()));
            }
            let proven = self.aws.prove(token.expose()).await?;
            return Ok(vec![named(proven, token, bundle)?]);
        }
        let claims = Claims::peek(token.expose());
        let issuer = claims.as_ref().and_then(Claims::issuer).unwrap_or_default();
        let trusted = bundle.trusts(issuer);
        if trusted.is_empty() {
            return Ok(vec![self.by_review(token, bundle).await?]);
        }
        let by_issuer = self.by_issuer(token, bundle, trusted).await;
        if !claims.as_ref().is_some_and(Claims::names_service_account) {
            return by_issuer;
        }
        match (by_issuer, self.by_review(token, bundle).await) {
            (Ok(callers), Ok(caller)) => Ok(callers.into_iter().chain([caller]).collect()),
            (Ok(callers), Err(AuthenticateError::NotAnAgent(_))) => Ok(callers),
            // Revoked at its source, or nobody can say whether: keys alone do not tell that (F25).
            (Ok(_), Err(error)) => Err(error),
            (Err(_), Ok(caller)) => Ok(vec![caller]),
            (Err(by_issuer), Err(by_review)) => Err(better(by_issuer, by_review, self.reviews.knows(issuer))),
        }
    }

    async fn by_review(&self, token: &Token, bundle: &Bundle) -> Result<Caller, AuthenticateError> {
        named(self.reviews.prove(token.expose()).await?, token, bundle)
    }

    async fn by_issuer(
        &self,
        token: &Token,
        bundle: &Bundle,
        trusted: &[Trusted],
    ) -> Result<Vec<Caller>, AuthenticateError> {
        let matches = self.oidc.prove(token.expose(), bundle, trusted).await?;
        let caller =
            |one: Match| Caller::new(&one.agent, one.subject, &one.subject_name, token, Some(one.expires));
        Ok(matches.into_iter().map(caller).collect())
    }

    /// Whether the caller may ask now. Apart from [`Authenticator::caller`], so that the refusal is recorded.
    ///
    /// # Errors
    /// If its agent is suspended or asks too often.
    pub fn admit(&self, caller: &Caller, live: &Live) -> Result<(), AuthenticateError> {
        let (key, agent) = (&caller.key, &caller.agent);
        if agent.identity().spec.suspend || live.standing(key, agent.uid()) != Standing::Good {
            return Err(AuthenticateError::Suspended(key.clone()));
        }
        let most = u32::try_from(agent.limits().requests_per_second).unwrap_or(1);
        if !self.limits.admit(key, most, Instant::now()) {
            return Err(AuthenticateError::TooMany(key.clone(), most));
        }
        Ok(())
    }
}

/// The better word of two about a token that could be a ServiceAccount's: the API server's, where it knows whose the token is,
/// cannot be asked, or vouches for the issuer (`is_own`). A token that was revoked there is not for another audience (F23).
fn better(by_issuer: AuthenticateError, by_review: AuthenticateError, is_own: bool) -> AuthenticateError {
    match (&by_issuer, &by_review) {
        (_, AuthenticateError::NotAnAgent(_) | AuthenticateError::Unavailable(_)) => by_review,
        (AuthenticateError::Rejected(_), AuthenticateError::Rejected(_)) if is_own => by_review,
        (
            _,
            AuthenticateError::Rejected(_)
            | AuthenticateError::Unverifiable(_)
            | AuthenticateError::Ambiguous(_)
            | AuthenticateError::Suspended(_)
            | AuthenticateError::TooMany(..),
        ) => by_issuer,
    }
}

/// The agent that names a subject.
fn named(proven: Proven, token: &Token, bundle: &Bundle) -> Result<Caller, AuthenticateError> {
    let Proven { subject, expires, session } = proven;
    let found = bundle.find(&subject).ok_or_else(|| AuthenticateError::NotAnAgent(subject.username()))?;
    Ok(Caller { session, ..Caller::new(&found.agent, subject, &found.subject_name, token, expires) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f23_f25_the_api_servers_word_about_its_own_token_counts_most() {
        let rejected = |why: &str| AuthenticateError::Rejected(why.to_owned());
        let stranger = || AuthenticateError::NotAnAgent("a".to_owned());
        let (away, keyless) = (
            || AuthenticateError::Unavailable("down".to_owned()),
            || AuthenticateError::Unverifiable("keys".to_owned()),
        );
        for (by_issuer, by_review, is_own, says) in [
            (rejected("audience"), rejected("revoked"), true, "revoked"),
            (rejected("audience"), rejected("no token of mine"), false, "audience"),
            (rejected("audience"), stranger(), false, "no AgentIdentity names the subject `a`"),
            (rejected("audience"), away(), false, "the token cannot be reviewed: down"),
            (
                keyless(),
                rejected("no token of mine"),
                true,
                "the token cannot be verified: keys cannot be had",
            ),
        ] {
            assert_eq!(better(by_issuer, by_review, is_own).to_string(), says);
        }
    }
}
