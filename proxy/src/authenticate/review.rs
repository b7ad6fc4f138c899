//! A token of this cluster: the API server reviews it for our audience, and says whose it is.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use policy::subject::Subject;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{AuthenticateError, Proven};
use crate::token::Claims;

const KEEP: Duration = Duration::from_secs(10);
const KEEP_NO: Duration = Duration::from_secs(2);
const MOST_KEPT: usize = 10_000;
const REVIEW: Duration = Duration::from_secs(5);
const REVIEWS_AT_ONCE: usize = 32;
const MOUNT: &str = "mount a projected token with audience sallyport";

/// Has tokens reviewed and remembers the answers for a few seconds.
#[derive(Clone)]
pub struct Reviews {
    api: Api<TokenReview>,
    kept: Arc<Mutex<HashMap<[u8; 32], Kept>>>,
    slots: Arc<Semaphore>,
}

#[derive(Clone)]
struct Kept {
    until: Instant,
    reviewed: Result<Reviewed, String>,
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
        Self { api: Api::all(client), kept: Arc::default(), slots }
    }

    /// Whose token it is.
    ///
    /// *Guarantees* (B122): the API server said `authenticated`, and that the token is for our audience, and who it
    /// is; a review is reused for ten seconds at most and never beyond the token's own end (F25).
    ///
    /// # Errors
    /// If the token is not accepted, or is nobody's who could be an agent.
    pub async fn prove(&self, token: &str) -> Result<Proven, AuthenticateError> {
        let Reviewed { username, expires } = self.review(token).await?;
        let subject = Subject::from_username(&username).ok_or(AuthenticateError::NotAnAgent(username))?;
        Ok(Proven { subject, expires })
    }

    async fn review(&self, token: &str) -> Result<Reviewed, AuthenticateError> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        if let Some(kept) = self.remembered(&key) {
            return kept.map_err(AuthenticateError::Rejected);
        }
        let _slot = self.slots.acquire().await;
        if let Some(kept) = self.remembered(&key) {
            return kept.map_err(AuthenticateError::Rejected);
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
        self.remember(key, &reviewed);
        reviewed.map_err(AuthenticateError::Rejected)
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Result<Reviewed, String>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|one| one.until > Instant::now()).map(|one| one.reviewed.clone())
    }

    fn remember(&self, key: [u8; 32], reviewed: &Result<Reviewed, String>) {
        let life = match reviewed {
            Ok(yes) => yes.expires.map_or(KEEP, |end| {
                let left = end.duration_since(Timestamp::now());
                KEEP.min(Duration::try_from(left).unwrap_or_default())
            }),
            Err(_) => KEEP_NO,
        };
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, one| one.until > now);
        }
        if kept.len() < MOST_KEPT {
            kept.insert(key, Kept { until: now + life, reviewed: reviewed.clone() });
        }
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
    tracing::info!(
        said = status.error.as_deref().unwrap_or_default(),
        "the API server does not accept a token"
    );
    Err(rejection(claims, Timestamp::now()))
}

/// The words of a 401. The claims are unverified: they choose the words, nothing else.
fn rejection(claims: Option<&Claims>, now: Timestamp) -> String {
    let audience = crds::names::TOKEN_AUDIENCE;
    let Some(claims) = claims else {
        return format!("the token is not valid; next: {MOUNT}");
    };
    if claims.expires().is_some_and(|end| end <= now) {
        return format!("the token has expired; next: read the token file again, or {MOUNT}");
    }
    let audiences = claims.audiences();
    if audiences != audience && !audiences.is_empty() {
        return format!("token audience is \"{audiences}\" but must be \"{audience}\"; next: {MOUNT}");
    }
    format!("the token is not valid; next: {MOUNT}")
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

    #[test]
    fn a_wrong_audience_is_named() {
        let token = "e30.eyJhdWQiOlsiaHR0cHM6Ly9rdWJlcm5ldGVzLmRlZmF1bHQuc3ZjIl19.c2ln";
        let words = rejection(Claims::peek(token).as_ref(), Timestamp::now());
        assert_eq!(
            words,
            "token audience is \"https://kubernetes.default.svc\" but must be \"sallyport\"; next: mount a projected \
             token with audience sallyport"
        );
    }
}
