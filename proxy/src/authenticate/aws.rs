//! A token of stock `aws eks get-token`: a presigned GetCallerIdentity, checked, written anew, and asked of STS for this gate's
//! own cluster name. What aws-iam-authenticator does for EKS.
mod hosts;
mod presigned;
mod sts;

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use jiff::Timestamp;
use policy::aws::{AssumedRole, assumed_role};
use policy::subject::Subject;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::hosts::Hosts;
pub use self::presigned::PREFIX;
use self::presigned::{Fault, Presigned};
use self::sts::{Identity, Refused, Sts, StsError};
use super::kept::{self, Kept};
use super::{AuthenticateError, Proven};
use crate::telemetry::Telemetry;

const ASKED_AT_ONCE: usize = 32;
const UNNAMED: &str = "this gate takes no tokens of AWS: it has the name that every gate has at first; next: ask an administrator to \
                       set `hub.name` of the chart";
/// So long a token waits for its turn to be asked about.
const QUEUED: Duration = Duration::from_secs(5);

/// How tokens of AWS are verified.
#[derive(Clone, Debug, Default)]
pub struct AwsSettings {
    /// The name of the gate, in the place of an EKS cluster's: `sallyport.<hub>`. A cluster's name has no dot, so that a token
    /// for one is worth nothing at the other.
    pub cluster: String,
    /// The hub has a name of its own. With the default one a token for this gate would be good at others, and theirs here.
    pub is_named: bool,
    /// Hosts that a token may name; none: every public STS.
    pub hosts: Vec<String>,
    /// Where STS is asked, if not at the host that the token names.
    pub endpoint: Option<Authority>,
}

/// Verifies tokens of AWS and remembers the answers for a few seconds.
#[derive(Clone)]
pub struct AwsTokens {
    is_named: bool,
    cluster: Arc<str>,
    hosts: Arc<Hosts>,
    sts: Sts,
    kept: Kept<Result<Proven, String>>,
    slots: Arc<Semaphore>,
    telemetry: Telemetry,
}

impl AwsTokens {
    /// Asks STS by itself.
    pub fn new(settings: AwsSettings, telemetry: Telemetry) -> Self {
        Self {
            is_named: settings.is_named,
            cluster: settings.cluster.into(),
            hosts: Arc::new(Hosts::new(settings.hosts)),
            sts: Sts::new(settings.endpoint),
            kept: Kept::default(),
            slots: Arc::new(Semaphore::new(ASKED_AT_ONCE)),
            telemetry,
        }
    }

    /// Whose token it is.
    ///
    /// *Guarantees*: STS itself, at a host of the list, said so for a request that was signed for this gate's name by a session
    /// of that role; an answer is reused for ten seconds at most and never beyond the 15 minutes of the signature; a STS that
    /// does not answer lets nobody in (F25).
    ///
    /// # Errors
    /// What is wrong with the token, or that this cannot be told now.
    pub async fn prove(&self, token: &str) -> Result<Proven, AuthenticateError> {
        if !self.is_named {
            return Err(AuthenticateError::Rejected(UNNAMED.to_owned()));
        }
        let presigned = Presigned::read(token, &self.hosts).map_err(|fault| self.faulty(fault))?;
        presigned.check_time(Timestamp::now()).map_err(|fault| self.faulty(fault))?;
        let hash = kept::hash(token);
        if let Some(kept) = self.kept.get(&hash) {
            return kept.map_err(AuthenticateError::Rejected);
        }
        let Ok(_slot) = timeout(QUEUED, self.slots.acquire()).await else {
            return Err(AuthenticateError::Unverifiable("the word of AWS STS".to_owned()));
        };
        if let Some(kept) = self.kept.get(&hash) {
            return kept.map_err(AuthenticateError::Rejected);
        }
        match self.ask(&presigned).await {
            Ok(proven) => {
                self.kept.good(hash, proven.expires, Ok(proven.clone()));
                Ok(proven)
            }
            Err(AuthenticateError::Rejected(why)) => {
                self.kept.bad(hash, Err(why.clone()));
                Err(AuthenticateError::Rejected(why))
            }
            Err(error) => {
                self.telemetry.sts_failure();
                Err(error)
            }
        }
    }

    async fn ask(&self, presigned: &Presigned) -> Result<Proven, AuthenticateError> {
        match self.sts.ask(presigned, &self.cluster).await {
            Ok(identity) => self.judge(identity, presigned.end()),
            Err(StsError::Refused(why)) => Err(AuthenticateError::Rejected(self.refused(why))),
            Err(StsError::Unavailable(why)) => {
                tracing::warn!(host = presigned.host(), why, "STS cannot be asked about a token");
                Err(AuthenticateError::Unverifiable("the word of AWS STS".to_owned()))
            }
        }
    }

    fn judge(&self, identity: Identity, end: Timestamp) -> Result<Proven, AuthenticateError> {
        let Some(AssumedRole { role, account, session }) = assumed_role(&identity.arn) else {
            let why = "the token is not of a session of an IAM role: users, root and federated users are no agents; next: assume \
                       the role that the AgentIdentity names, then run aws eks get-token";
            return Err(AuthenticateError::Rejected(why.to_owned()));
        };
        let is_one = identity.account == account
            && identity.user_id.split_once(':').is_some_and(|(id, of)| !id.is_empty() && of == session);
        if !is_one {
            tracing::warn!("STS contradicts itself about the account or the session of a token");
            return Err(AuthenticateError::Unverifiable("the word of AWS STS".to_owned()));
        }
        let subject = Subject::AwsIamRole { arn: role };
        Ok(Proven { subject, expires: Some(end), session: Some(session.into()) })
    }

    fn faulty(&self, fault: Fault) -> AuthenticateError {
        let why = match fault {
            Fault::Host | Fault::Scope => {
                format!("{fault}; next: {} --region <a region of AWS>", self.get_token())
            }
            Fault::Future => format!("{fault}; next: set that clock, then {}", self.get_token()),
            Fault::TooLong
            | Fault::Encoding
            | Fault::Url
            | Fault::Unknown
            | Fault::Doubled(_)
            | Fault::Missing(_)
            | Fault::Value(_)
            | Fault::SignedHeaders
            | Fault::Expired => format!("{fault}; next: {}", self.get_token()),
        };
        AuthenticateError::Rejected(why)
    }

    fn refused(&self, why: Refused) -> String {
        match why {
            Refused::Signature => format!(
                "{why}: it was made for another cluster name than \"{}\", or with another key, or was changed; next: {}",
                self.cluster,
                self.get_token()
            ),
            Refused::Expired | Refused::UnknownKey => {
                format!("{why}; next: get new AWS credentials, then {}", self.get_token())
            }
            Refused::Other => format!("{why}; next: {}", self.get_token()),
        }
    }

    fn get_token(&self) -> String {
        format!("aws eks get-token --cluster-name {}", self.cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:sts::111122223333:assumed-role/Runner/alice";

    fn judge(arn: &str, account: &str, user_id: &str) -> Result<Proven, AuthenticateError> {
        let [account, arn, user_id] = [account, arn, user_id].map(str::to_owned);
        let settings =
            AwsSettings { cluster: "sallyport.hub".to_owned(), is_named: true, ..AwsSettings::default() };
        let telemetry = Telemetry::new().expect("unique names");
        AwsTokens::new(settings, telemetry).judge(Identity { account, arn, user_id }, Timestamp::UNIX_EPOCH)
    }

    #[tokio::test]
    async fn d09_only_a_session_of_a_role_proves_the_role_and_its_name_nothing() {
        let proven = judge(ARN, "111122223333", "AROAEXAMPLE:alice").expect("a session of a role");
        assert_eq!(
            proven.subject,
            Subject::AwsIamRole { arn: "arn:aws:iam::111122223333:role/runner".to_owned() }
        );
        assert_eq!(proven.session.as_deref(), Some("alice"));
        assert_eq!(proven.expires, Some(Timestamp::UNIX_EPOCH));
        for arn in ["arn:aws:iam::111122223333:user/runner", "arn:aws:iam::111122223333:root", ""] {
            let refused = judge(arn, "111122223333", "AIDAEXAMPLE");
            assert!(matches!(refused, Err(AuthenticateError::Rejected(_))), "{arn}: {refused:?}");
        }
        for (account, user_id) in [
            ("444455556666", "AROAEXAMPLE:alice"),
            ("", "AROAEXAMPLE:alice"),
            ("111122223333", "AROAEXAMPLE:mallory"),
            ("111122223333", "AROAEXAMPLE:alice:x"),
            ("111122223333", "AROAEXAMPLE"),
            ("111122223333", ":alice"),
            ("111122223333", ""),
        ] {
            let refused = judge(ARN, account, user_id);
            assert!(
                matches!(refused, Err(AuthenticateError::Unverifiable(_))),
                "{account} {user_id}: {refused:?}"
            );
        }
    }

    /// Verifies with an STS that nobody is.
    fn tokens() -> AwsTokens {
        let settings = AwsSettings {
            cluster: "sallyport.hub".to_owned(),
            is_named: true,
            endpoint: "127.0.0.1:1".parse().ok(),
            ..AwsSettings::default()
        };
        AwsTokens::new(settings, Telemetry::new().expect("unique names"))
    }

    fn fresh() -> String {
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let url = format!(
            "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=ASIAEXAMPLE000000000%2F{}%2Fus-east-1%2Fsts%2Faws4_request&X-Amz-Date={now}&X-Amz-Expires=60\
             &X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&X-Amz-Signature={}",
            &now[..8],
            "a".repeat(64)
        );
        format!("{PREFIX}{}", base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, url))
    }

    #[tokio::test]
    async fn f25_no_sts_no_entry() {
        let tokens = tokens();
        let refused = tokens.prove(&fresh()).await;
        assert!(matches!(refused, Err(AuthenticateError::Unverifiable(_))), "{refused:?}");
        let told = String::from_utf8(tokens.telemetry.render().expect("encodes")).expect("text");
        assert!(told.contains("\nsallyport_sts_failures_total 1\n"), "{told}");
        let unnamed = AwsTokens { is_named: false, ..tokens };
        let refused = unnamed.prove(&fresh()).await.expect_err("a name that every gate has");
        assert!(refused.to_string().contains("`hub.name`"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn f25_no_more_than_32_are_asked_about_at_once_and_nobody_waits_long_for_that() {
        let (tokens, began) = (tokens(), tokio::time::Instant::now());
        let _all = tokens.slots.acquire_many(32).await.expect("32 places");
        let refused = tokens.prove(&fresh()).await;
        assert!(matches!(refused, Err(AuthenticateError::Unverifiable(_))), "{refused:?}");
        assert_eq!(began.elapsed().as_secs(), 5);
    }
}
