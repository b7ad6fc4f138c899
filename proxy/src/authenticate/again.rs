//! Whoever opened a stream is asked again who they are, as long as it is open: a token that was revoked, or that no subject
//! fits any more, opens nothing and keeps nothing open (F23).
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use policy::bundle::Bundle;
use tokio::time::{Instant, sleep};

use super::kept::{self, TokenHash};
use super::{AuthenticateError, Authenticator, Caller};
use crate::live::Live;
use crate::refuse::Refusal;
use crate::streams::Streams;

/// What is remembered of a token is asked for; that lasts ten seconds, so that streams end twelve after a revocation.
const PAUSE: Duration = Duration::from_secs(2);
/// As long as the gate goes on without a sight of the API server, or of an issuer's keys (F21, F25).
const PATIENCE: Duration = Duration::from_secs(600);
const AT_ONCE: usize = 8;

/// Asks again about the tokens of all open streams, for ever.
pub async fn ask_again(authenticator: &Authenticator, streams: &Streams, live: &Live) {
    let mut good: HashMap<TokenHash, Instant> = HashMap::new();
    let mut changes = live.changes();
    loop {
        tokio::select! {
            () = sleep(PAUSE) => {}
            Ok(()) = changes.changed() => {}
        }
        // Without a bundle every stream is cut anyway.
        let Ok(bundle) = live.bundle() else { continue };
        let open: Vec<(u64, TokenHash, Caller)> = streams
            .callers()
            .into_iter()
            .map(|(number, caller)| (number, kept::hash(caller.token.expose()), caller))
            .collect();
        good.retain(|token, _| open.iter().any(|(_, open, _)| open == token));
        let asked = open.into_iter().map(|(number, token, opener)| {
            let bundle = Arc::clone(&bundle);
            async move { (number, token, ask(authenticator, &opener, &bundle, live).await) }
        });
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        for (number, token, answer) in answers {
            let last_good = *good.entry(token).or_insert_with(Instant::now);
            match answer {
                Answer::Same => {
                    good.insert(token, Instant::now());
                }
                Answer::Unknown(refusal) if last_good.elapsed() > PATIENCE => streams.cut(number, refusal),
                Answer::Unknown(_) => {}
                Answer::Other(refusal) => streams.cut(number, refusal),
            }
        }
    }
}

enum Answer {
    Same,
    Unknown(Box<Refusal>),
    Other(Box<Refusal>),
}

async fn ask(authenticator: &Authenticator, opener: &Caller, bundle: &Bundle, live: &Live) -> Answer {
    match authenticator.caller(&opener.token, bundle, live).await {
        Ok(caller) if caller.key == opener.key && caller.subject == opener.subject => Answer::Same,
        Ok(caller) => {
            Answer::Other(Box::new(AuthenticateError::NotAnAgent(caller.subject.username()).refusal()))
        }
        Err(error @ (AuthenticateError::Unavailable(_) | AuthenticateError::Unverifiable(_))) => {
            Answer::Unknown(Box::new(error.refusal()))
        }
        Err(error) => Answer::Other(Box::new(error.refusal())),
    }
}
