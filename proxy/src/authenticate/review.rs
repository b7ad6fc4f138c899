//! A token of this cluster: the API server reviews it for our audience, and says whose it is.
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use policy::subject::Subject;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::kept::{self, Kept};
use super::{AuthenticateError, Proven};
use crate::token::{Claims, LONGEST};

const REVIEW: Duration = Duration::from_secs(5);
const REVIEWS_AT_ONCE: usize = 32;
/// In what the API server says of a token whose object is gone, or has a namesake in its place (k8s.io/kubernetes
/// pkg/serviceaccount, `claims.go`).
const GONE: [&str; 4] = ["not found", "does not match claim", "has been invalidated", "has been deleted"];
const MOUNT: &str = "mount a projected token with audience sallyport";

/// Has tokens reviewed and remembers the answers for a few seconds.
#[derive(Clone)]
pub struct Reviews {
    api: Api<TokenReview>,
    kept: Kept<Result<Reviewed, String>>,
    slots: Arc<Semaphore>,
    issuer: Arc<ArcSwapOption<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reviewed {
    username: String,
    expires: Option<Timestamp>,
}

impl Reviews {
    /// Asks with the proxy's own client.
    pub fn new(client: Client) -> Self {
        let slots = Arc::new(Semaphore::new(REVIEWS_AT_ONCE));
        Self { api: Api::all(client), kept: Kept::default(), slots, issuer: Arc::default() }
    }

    /// Whose token it is.
    ///
    /// *Guarantees* (B122): the API server said `authenticated`, and that the token is for our audience, and who it
    /// is; a review is reused for ten seconds at most and never beyond the token's own end (F25). What by its own words is no
    /// ServiceAccount's token for our audience can be no agent's and is never shown to the API server: whatever a client
    /// sends by mistake would stand in its audit log.
    ///
    /// # Errors
    /// If the token is not accepted, or is nobody's who could be an agent.
    pub async fn prove(&self, token: &str) -> Result<Proven, AuthenticateError> {
        if token.len() > LONGEST {
            let what = format!("the token is longer than {LONGEST} bytes; next: {MOUNT}");
            return Err(AuthenticateError::Rejected(what));
        }
        let claims = Claims::peek(token);
        if !claims.as_ref().is_some_and(Claims::names_service_account) {
            return Err(AuthenticateError::Rejected(rejection(claims.as_ref(), "", Timestamp::now())));
        }
        let Reviewed { username, expires } = self.review(token).await?;
        let subject = Subject::from_username(&username).ok_or(AuthenticateError::NotAnAgent(username))?;
        Ok(Proven { subject, expires, session: None })
    }

    /// Whether the API server has vouched for a token of this issuer: then its word about another one counts most.
    pub fn knows(&self, issuer: &str) -> bool {
        self.issuer.load().as_ref().is_some_and(|known| known.as_str() == issuer)
    }

    async fn review(&self, token: &str) -> Result<Reviewed, AuthenticateError> {
        let hash = kept::hash(token);
        if let Some(finding) = self.kept.get(&hash) {
            return finding.map_err(AuthenticateError::Rejected);
        }
        let _slot = self.slots.acquire().await;
        if let Some(finding) = self.kept.get(&hash) {
            return finding.map_err(AuthenticateError::Rejected);
        }
        let audience = crds::names::TOKEN_AUDIENCE.to_owned();
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let params = PostParams::default();
        let answered = match timeout(REVIEW, self.api.create(&params, &review)).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(error)) => return Err(AuthenticateError::Unavailable(error.to_string())),
            Err(_) => return Err(AuthenticateError::Unavailable("no answer in time".to_owned())),
        };
        let claims = Claims::peek(token);
        let reviewed = judge(&answered, claims.as_ref());
        match &reviewed {
            Ok(yes) => {
                if let Some(issuer) = claims.as_ref().and_then(Claims::issuer) {
                    self.issuer.store(Some(Arc::new(issuer.to_owned())));
                }
                self.kept.good(hash, yes.expires, Ok(yes.clone()));
            }
            Err(why) => self.kept.bad(hash, Err(why.clone())),
        }
        reviewed.map_err(AuthenticateError::Rejected)
    }
}

fn judge(review: &TokenReview, claims: Option<&Claims>) -> Result<Reviewed, String> {
    let status = review.status.clone().unwrap_or_default();
    let ours = |audiences: &Vec<String>| audiences.iter().any(|one| one == crds::names::TOKEN_AUDIENCE);
    let username = status.user.and_then(|user| user.username).unwrap_or_default();
    let accepted = status.authenticated == Some(true) && status.audiences.as_ref().is_some_and(ours);
    if accepted && !username.is_empty() && username != "system:anonymous" {
        return Ok(Reviewed { username, expires: claims.and_then(Claims::expires) });
    }
    let said = status.error.unwrap_or_default();
    tracing::info!(said, "the API server does not accept a token");
    Err(rejection(claims, &said, Timestamp::now()))
}

/// The words of a 401. The claims are unverified: they and what the API server said choose the words, nothing else.
fn rejection(claims: Option<&Claims>, said: &str, now: Timestamp) -> String {
    let audience = crds::names::TOKEN_AUDIENCE;
    let Some(claims) = claims else {
        return format!(
            "the token is not valid: damaged, cut off, encrypted or of no known kind; next: {MOUNT}"
        );
    };
    if let Some(issuer) = claims.foreign_issuer() {
        let next = "ask an administrator to name it in an AgentIdentity's `subjects`";
        return format!(
            "token issuer is \"{issuer}\", which no AgentIdentity names; next: {next}, or {MOUNT}"
        );
    }
    if claims.expires().is_some_and(|end| end <= now) {
        return format!("the token has expired; next: read the token file again, or {MOUNT}");
    }
    if claims.not_before().is_some_and(|start| start > now) {
        return format!(
            "the token is not valid yet; next: set the clocks of who made it and of the cluster, or {MOUNT}"
        );
    }
    let audiences = claims.audiences();
    if audiences != audience && !audiences.is_empty() {
        return format!("token audience is \"{audiences}\" but must be \"{audience}\"; next: {MOUNT}");
    }
    let what = if GONE.iter().any(|word| said.contains(word)) {
        "the token was revoked: its ServiceAccount, or the Pod that it is bound to, is gone"
    } else if said.contains("cryptographic primitive") || said == "invalid bearer token" {
        "the token's signature is of no key of this cluster"
    } else {
        "the token is not valid"
    };
    format!("{what}; next: {MOUNT}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};

    fn review(
        authenticated: Option<bool>,
        audiences: Option<&[&str]>,
        username: Option<&str>,
    ) -> TokenReview {
        let user = UserInfo { username: username.map(str::to_owned), ..UserInfo::default() };
        let audiences = audiences.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
        let status = TokenReviewStatus { authenticated, audiences, user: Some(user), error: None };
        TokenReview { status: Some(status), ..TokenReview::default() }
    }

    #[test]
    fn b122_all_three_must_hold() {
        let good = review(Some(true), Some(&["sallyport"]), Some("system:serviceaccount:a:b"));
        assert!(judge(&good, None).is_ok());
        for bad in [
            TokenReview::default(),
            review(None, Some(&["sallyport"]), Some("u")),
            review(Some(false), Some(&["sallyport"]), Some("u")),
            review(Some(true), None, Some("u")),
            review(Some(true), Some(&[]), Some("u")),
            review(Some(true), Some(&["https://kubernetes.default.svc"]), Some("u")),
            review(Some(true), Some(&["sallyport"]), None),
            review(Some(true), Some(&["sallyport"]), Some("")),
            review(Some(true), Some(&["sallyport"]), Some("system:anonymous")),
        ] {
            assert!(judge(&bad, None).is_err(), "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f25_no_more_than_32_are_reviewed_at_once() {
        let config = kube::Config::new(http::Uri::from_static("http://127.0.0.1:1"));
        let reviews = Reviews::new(Client::try_from(config).expect("a client"));
        let all = reviews.slots.acquire_many(32).await.expect("32 places");
        assert!(timeout(REVIEW * 10, reviews.review("token")).await.is_err(), "it waits for its turn");
        drop(all);
        assert!(matches!(reviews.review("token").await, Err(AuthenticateError::Unavailable(_))));
    }

    #[test]
    fn an_end_is_told_and_no_audience_is_none() {
        let of = |claims: &str| {
            use base64::Engine as _;
            let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
            rejection(
                Claims::peek(&format!("e30.{payload}.c2ln")).as_ref(),
                "",
                Timestamp::from_second(100).expect("a time"),
            )
        };
        assert!(of(r#"{"exp":100,"aud":"sallyport"}"#).starts_with("the token has expired"));
        for valid in [r#"{"exp":101,"aud":"sallyport"}"#, r#"{"exp":101}"#] {
            assert!(of(valid).starts_with("the token is not valid;"), "{valid}");
        }
    }

    #[test]
    fn a_wrong_audience_is_named() {
        let token = "e30.eyJhdWQiOlsiaHR0cHM6Ly9rdWJlcm5ldGVzLmRlZmF1bHQuc3ZjIl19.c2ln";
        let words = rejection(Claims::peek(token).as_ref(), "", Timestamp::now());
        assert_eq!(
            words,
            "token audience is \"https://kubernetes.default.svc\" but must be \"sallyport\"; next: mount a projected \
             token with audience sallyport"
        );
    }
}
