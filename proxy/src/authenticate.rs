//! A session becomes a subject: one bearer token, reviewed by the API server for our audience, of a known agent.
mod review;

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use policy::agent::Agent;
use policy::bundle::Bundle;
use policy::subject::Subject;
use thiserror::Error;
use tokio::time::Instant;

use self::review::Reviews;
use crate::limits::Limits;
use crate::live::{AgentKey, Live, Standing};
use crate::refuse::{Reason, Refusal};

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
}

/// Tells from a bearer token who asks.
#[derive(Clone)]
pub struct Authenticator {
    reviews: Reviews,
    limits: Limits,
}

impl Authenticator {
    /// Asks the API server with the proxy's own client.
    pub fn new(client: Client, limits: Limits) -> Self {
        Self { reviews: Reviews::new(client), limits }
    }

    /// Who the bearer of `token` is.
    ///
    /// *Guarantees* (B122, F25): whoever can vouch for the token did so a few seconds ago at most, and one AgentIdentity names its subject.
    ///
    /// # Errors
    /// If the token is not accepted or is nobody's we know.
    pub async fn caller(
        &self,
        token: &str,
        bundle: &Bundle,
        live: &Live,
    ) -> Result<Caller, AuthenticateError> {
        let Proven { subject, expires } = self.reviews.prove(token).await?;
        let unknown = || AuthenticateError::NotAnAgent(subject.username());
        let found = bundle.find(&subject).ok_or_else(unknown)?;
        let agent = Arc::clone(&found.agent);
        let key = AgentKey::new(agent.namespace(), agent.name());
        if live.standing(&key, agent.uid()) == Standing::Gone {
            return Err(unknown());
        }
        let subject_name = Arc::clone(&found.subject_name);
        Ok(Caller { agent, key, subject, subject_name, token_expires: expires })
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
