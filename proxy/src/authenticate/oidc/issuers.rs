//! Every issuer that some agent trusts: its keys, kept fresh in the background and fetched anew for a token that names an
//! unknown one.
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use policy::oidc::Issuer;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::fetch::{FetchError, Fetcher};
use super::jws::Jws;
use super::keys::{Keys, Signature};
use crate::live::Live;
use crate::telemetry::Telemetry;

/// A key that the issuer drops works for this long, and what was verified with it for ten seconds more.
const REFRESH: Duration = Duration::from_secs(30);
/// An issuer that did not answer is asked again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// Tokens with unknown keys make the gate ask no more often than this: strangers send them too.
const PAUSE: Duration = Duration::from_secs(2);
/// Without an answer for this long the keys count for nothing (F25).
const STALE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(1);
/// One that is slow does not hold up the others.
const AT_ONCE: usize = 32;

/// The issuers. Cloning shares them.
#[derive(Clone, Default)]
pub struct Issuers {
    known: Arc<Mutex<HashMap<Issuer, Arc<Watched>>>>,
}

impl Issuers {
    /// The issuer, known from now on.
    pub fn get(&self, issuer: &Issuer) -> Arc<Watched> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(issuer.clone()).or_insert_with(|| Arc::new(Watched::new(issuer))))
    }

    /// Keeps the keys of every issuer of the bundle in force, for ever, and tells how many issuers are away.
    pub async fn keep_fresh(&self, live: &Live, telemetry: &Telemetry) {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            if let Some(bundle) = live.latest_bundle() {
                let wanted = bundle.issuers();
                self.forget_all_but(&wanted);
                for issuer in wanted.into_iter().map(|issuer| self.get(issuer)).filter(|one| one.is_due()) {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { break };
                    tokio::spawn(async move {
                        issuer.refresh().await;
                        drop(place);
                    });
                }
                telemetry.issuers_away(self.away());
            }
            sleep(LOOK).await;
        }
    }

    fn away(&self) -> usize {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|issuer| issuer.lock().error.is_some()).count()
    }

    fn forget_all_but(&self, wanted: &BTreeSet<&Issuer>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|one, _| wanted.contains(one));
    }
}

/// One issuer and what is known of its keys.
pub struct Watched {
    url: Arc<str>,
    fetcher: Fetcher,
    known: Mutex<Known>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: Option<(Arc<Keys>, Instant)>,
    asked: Option<Instant>,
    error: Option<FetchError>,
}

/// What can be told of a token's signature from what is known.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Told(Signature),
    Ask,
    Unavailable,
}

impl Known {
    fn verify(&self, token: &Jws<'_>, now: Instant) -> Look {
        let usable = self.keys.as_ref().filter(|(_, since)| now.duration_since(*since) <= STALE);
        let signature = usable.map(|(keys, _)| keys.verify(token));
        if let Some(told) = signature.filter(|one| *one != Signature::UnknownKey) {
            return Look::Told(told);
        }
        if self.asked.is_none_or(|asked| now.duration_since(asked) >= PAUSE) {
            return Look::Ask;
        }
        match (signature, &self.error) {
            (Some(unknown), None) => Look::Told(unknown),
            (_, _) => Look::Unavailable,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let pause = if self.error.is_some() { AGAIN } else { REFRESH };
        self.asked.is_none_or(|asked| now.duration_since(asked) >= pause)
    }
}

impl Watched {
    fn new(issuer: &Issuer) -> Self {
        let url = Arc::clone(&issuer.url);
        Self {
            url,
            fetcher: Fetcher::new(issuer),
            known: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Checks a token's signature; `None` if the issuer's keys cannot be had.
    pub async fn verify(&self, token: &Jws<'_>) -> Option<Signature> {
        if let Look::Told(signature) = self.look(token) {
            return Some(signature);
        }
        let _turn = self.turn.lock().await;
        if self.look(token) == Look::Ask {
            self.fetch().await;
        }
        match self.look(token) {
            Look::Told(signature) => Some(signature),
            Look::Ask | Look::Unavailable => None,
        }
    }

    async fn refresh(&self) {
        let _turn = self.turn.lock().await;
        let is_due = self.lock().is_due(Instant::now());
        if is_due {
            self.fetch().await;
        }
    }

    async fn fetch(&self) {
        let fetched = self.fetcher.keys().await;
        let mut known = self.lock();
        let now = Instant::now();
        known.asked = Some(now);
        match fetched {
            Ok(keys) => {
                if known.error.take().is_some() || known.keys.is_none() {
                    tracing::info!(issuer = &*self.url, keys = keys.count(), "the issuer's keys are known");
                }
                known.keys = Some((Arc::new(keys), now));
            }
            Err(error) => {
                if known.error.as_ref() != Some(&error) {
                    tracing::warn!(issuer = &*self.url, %error, "the issuer's keys cannot be fetched");
                }
                known.error = Some(error);
            }
        }
    }

    fn look(&self, token: &Jws<'_>) -> Look {
        self.lock().verify(token, Instant::now())
    }

    fn is_due(&self) -> bool {
        self.turn.try_lock().is_ok() && self.lock().is_due(Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(key_id: &str) -> Jws<'static> {
        let (algorithm, signature) = (super::super::jws::Algorithm::ES256, vec![0]);
        Jws { key_id: key_id.to_owned(), algorithm, claims: Default::default(), signed: "", signature }
    }

    fn keys() -> Arc<Keys> {
        let set = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"a","use":"sig",
            "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
        Arc::new(Keys::read(set.as_bytes()).expect("a set"))
    }

    #[tokio::test(start_paused = true)]
    async fn f25_keys_count_ten_minutes_and_strangers_cannot_make_the_gate_ask_often() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut known = Known::default();
        assert_eq!(known.verify(&token("a"), start), Look::Ask, "nothing was ever asked");
        known.asked = Some(start);
        known.error = Some(FetchError::Slow);
        assert_eq!(known.verify(&token("a"), at(1)), Look::Unavailable);
        assert_eq!((known.is_due(at(4)), known.is_due(at(5))), (false, true));
        known = Known { keys: Some((keys(), start)), asked: Some(start), error: None };
        assert_eq!(known.verify(&token("a"), at(1)), Look::Told(Signature::Bad), "the key is known");
        assert_eq!(known.verify(&token("b"), at(1)), Look::Told(Signature::UnknownKey), "asked a second ago");
        assert_eq!(known.verify(&token("b"), at(2)), Look::Ask);
        assert_eq!((known.is_due(at(29)), known.is_due(at(30))), (false, true));
        (known.asked, known.error) = (Some(at(599)), Some(FetchError::Slow));
        assert_eq!(known.verify(&token("a"), at(600)), Look::Told(Signature::Bad), "ten minutes are bridged");
        assert_eq!(known.verify(&token("b"), at(600)), Look::Unavailable, "it may be a new key");
        assert_eq!(known.verify(&token("a"), at(600) + Duration::from_millis(1)), Look::Unavailable);
    }

    #[tokio::test]
    async fn f25_strangers_who_come_at_once_make_the_gate_ask_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("bound"));
        let pem = rcgen::generate_simple_self_signed(vec!["issuer".to_owned()]).expect("made").cert.pem();
        let issuer = Issuer { url: url.into(), certificate_authority: Some(pem.into()) };
        let watched = Issuers::default().get(&issuer);
        let (hanging_up, asked) = (Arc::new(Mutex::new(0)), 8);
        let connections = Arc::clone(&hanging_up);
        let accepting = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                *connections.lock().expect("not poisoned") += 1;
            }
        });
        let verified =
            futures::future::join_all((0..asked).map(|_| async { watched.verify(&token("b")).await })).await;
        accepting.abort();
        assert_eq!(verified, vec![None; asked]);
        // One, unless the machine took longer than the pause for all of them.
        let connections = *hanging_up.lock().expect("not poisoned");
        assert!((1..asked).contains(&connections), "{connections} connections for {asked} tokens");
    }

    #[test]
    fn an_issuer_that_nobody_trusts_any_more_is_forgotten() {
        let named = |url: &str| Issuer { url: url.into(), certificate_authority: None };
        let (issuers, kept, gone) = (Issuers::default(), named("https://a"), named("https://b"));
        let watched = issuers.get(&kept);
        issuers.get(&gone);
        issuers.forget_all_but(&BTreeSet::from([&kept]));
        assert_eq!(issuers.known.lock().expect("not poisoned").len(), 1);
        assert!(Arc::ptr_eq(&issuers.get(&kept), &watched), "with the keys that are known");
    }
}
