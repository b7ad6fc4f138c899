//! A token of an OpenID Connect issuer: verified with the issuer's keys, then held against the claim rules of every agent that
//! trusts the issuer.
mod claims;
mod fetch;
mod issuers;
mod jws;
mod keys;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use policy::agent::Agent;
use policy::bundle::{Bundle, Trusted};
use policy::cel::Document;
use policy::oidc::Issuer;
use policy::subject::Subject;
use serde_json::Value;

use self::claims::Registered;
use self::issuers::Issuers;
use self::jws::Jws;
use self::keys::Signature;
use super::AuthenticateError;
use super::kept::{self, Kept};
use crate::budget::Budget;
use crate::live::Live;
use crate::telemetry::Telemetry;

const MOST_WORDS: usize = 8;
const GET_ANOTHER: &str = "get a new token from the issuer";
const ASK: &str = "ask an administrator which claims the AgentIdentity demands";

/// A verified token is this agent's.
#[derive(Clone, Debug)]
pub struct Match {
    /// The agent.
    pub agent: Arc<Agent>,
    /// The name of the entry in its AgentIdentity.
    pub subject_name: Arc<str>,
    /// Whom the issuer vouches for.
    pub subject: Subject,
    /// When the token ends.
    pub expires: Timestamp,
}

/// What was found out about a token under one bundle: the agents, or why there is none.
type Finding = (Arc<str>, Result<Vec<Match>, String>);

/// Verifies tokens and remembers the findings for a few seconds.
#[derive(Clone, Default)]
pub struct Oidc {
    issuers: Issuers,
    kept: Kept<Finding>,
    budget: Budget,
}

impl Oidc {
    /// Keeps the keys of every issuer in force, for ever.
    pub async fn keep_fresh(&self, live: &Live, telemetry: &Telemetry) {
        self.issuers.keep_fresh(live, telemetry).await;
    }

    /// The agents that the token's bearer is, at least one, of those that trust its issuer.
    ///
    /// *Guarantees*: the issuer's own key signed it with an algorithm of that key; `iss` is exact; one of `aud` is demanded by
    /// the agent; `exp`, `nbf` and `iat` are right now; every claim rule of the agent holds. A finding is reused for ten seconds
    /// at most, never beyond the token's end or a change of the live config (F25).
    ///
    /// # Errors
    /// What is wrong with the token, or that this cannot be told now.
    pub async fn prove(
        &self,
        token: &str,
        bundle: &Bundle,
        trusted: &[Trusted],
    ) -> Result<Vec<Match>, AuthenticateError> {
        let hash = kept::hash(token);
        if let Some((under, finding)) = self.kept.get(&hash)
            && *under == *bundle.hash()
        {
            return finding.map_err(AuthenticateError::Rejected);
        }
        let finding = self.find(token, trusted).await;
        let under: Arc<str> = bundle.hash().into();
        match &finding {
            Ok(found) => {
                let expires = found.iter().map(|one| one.expires).min();
                self.kept.good(hash, expires, (under, Ok(found.clone())));
            }
            Err(AuthenticateError::Rejected(why)) => self.kept.bad(hash, (under, Err(why.clone()))),
            Err(_) => {}
        }
        finding
    }

    /// Agents may trust one issuer under different authorities: what one of them cannot tell concerns the others only where
    /// the token would be its agent's too.
    async fn find(&self, token: &str, trusted: &[Trusted]) -> Result<Vec<Match>, AuthenticateError> {
        let jws = Jws::read(token).map_err(|fault| rejected(fault, GET_ANOTHER))?;
        let issuers: BTreeSet<&Issuer> = trusted.iter().map(|one| one.trust.issuer()).collect();
        let (mut found, mut untold) = (Vec::new(), Vec::new());
        let (mut refused, mut unavailable) = (None, None);
        for issuer in issuers {
            let trusting: Vec<&Trusted> = trusted.iter().filter(|one| one.trust.issuer() == issuer).collect();
            match self.find_by(issuer, &jws, &trusting).await {
                Ok(more) => found.extend(more),
                Err(error @ AuthenticateError::Rejected(_)) => refused = refused.or(Some(error)),
                Err(error) => {
                    unavailable = Some(error);
                    untold.extend(trusting);
                }
            }
        }
        match unavailable.or(refused) {
            Some(error) if found.is_empty() || self.may_be_others(&jws, &untold, &found).await => Err(error),
            Some(_) | None => Ok(found),
        }
    }

    /// Whether the token, if those whose keys cannot be had would vouch for it, is another agent's than the one found (F25).
    async fn may_be_others(&self, jws: &Jws<'_>, untold: &[&Trusted], found: &[Match]) -> bool {
        let others: Vec<&Trusted> =
            untold.iter().copied().filter(|one| found.iter().any(|found| found.agent != one.agent)).collect();
        if others.is_empty() {
            return false;
        }
        !matches!(self.obeying(jws, &others).await, Err(AuthenticateError::Rejected(_)))
    }

    async fn find_by(
        &self,
        issuer: &Issuer,
        jws: &Jws<'_>,
        trusting: &[&Trusted],
    ) -> Result<Vec<Match>, AuthenticateError> {
        let Some(signature) = self.issuers.get(issuer).verify(jws).await else {
            return Err(AuthenticateError::Unverifiable(format!("the keys of issuer `{}`", issuer.url)));
        };
        check_signature(signature, jws)?;
        self.obeying(jws, trusting).await
    }

    /// Those of one `iss` that the claims are right for, whoever signed them.
    async fn obeying(&self, jws: &Jws<'_>, trusting: &[&Trusted]) -> Result<Vec<Match>, AuthenticateError> {
        let Some(first) = trusting.first() else { return Ok(Vec::new()) };
        let claims = Registered::check(&jws.claims, &first.trust.issuer().url, Timestamp::now())
            .map_err(|fault| rejected(fault, GET_ANOTHER))?;
        let addressed: Vec<&Trusted> =
            trusting.iter().copied().filter(|one| claims.is_for(one.trust.audiences())).collect();
        if addressed.is_empty() {
            return Err(other_audience(&claims, trusting));
        }
        self.obey(jws, &claims, &addressed).await
    }

    /// Those whose claim rules all hold.
    async fn obey(
        &self,
        jws: &Jws<'_>,
        registered: &Registered,
        addressed: &[&Trusted],
    ) -> Result<Vec<Match>, AuthenticateError> {
        let document = Document::new(&Value::Object(jws.claims.clone()))
            .map_err(|error| rejected(format!("the token's claims are too large: {error}"), GET_ANOTHER))?;
        let trusts: Vec<_> = addressed.iter().map(|one| Arc::clone(&one.trust)).collect();
        let claims = jws.claims.clone();
        let judge = move || -> Vec<Vec<Arc<str>>> {
            trusts.iter().map(|trust| trust.failing(&claims, &document)).collect()
        };
        let unverifiable = |_| AuthenticateError::Unverifiable("the rules for the token's claims".to_owned());
        let failing = self.budget.run(judge).await.map_err(unverifiable)?;
        let obeyed = addressed.iter().zip(&failing).filter(|(_, failing)| failing.is_empty());
        let found: Vec<Match> = obeyed
            .map(|(one, _)| Match {
                agent: Arc::clone(&one.agent),
                subject_name: Arc::clone(one.trust.name()),
                subject: Subject::Oidc {
                    issuer: one.trust.issuer().url.to_string(),
                    sub: registered.sub.clone(),
                },
                expires: registered.expires,
            })
            .collect();
        if found.is_empty() { Err(no_rule_set_holds(&failing)) } else { Ok(found) }
    }
}

fn check_signature(signature: Signature, jws: &Jws<'_>) -> Result<(), AuthenticateError> {
    match signature {
        Signature::Good => Ok(()),
        Signature::Bad => Err(rejected("the token's signature is not the issuer's", GET_ANOTHER)),
        Signature::OtherAlgorithm => {
            let what = format!("the token's algorithm `{:?}` is not that of the issuer's key", jws.algorithm);
            Err(rejected(what, GET_ANOTHER))
        }
        Signature::UnknownKey => {
            Err(rejected("the issuer does not publish the key that signed the token", GET_ANOTHER))
        }
    }
}

fn other_audience(claims: &Registered, trusting: &[&Trusted]) -> AuthenticateError {
    let demanded: BTreeSet<&str> =
        trusting.iter().flat_map(|one| one.trust.audiences()).map(String::as_str).collect();
    let quoted = |all: Vec<&str>, join: &str| {
        let one = |text: &str| {
            let clean: String =
                text.chars().filter(|c| c.is_ascii_graphic() && *c != '"').take(128).collect();
            format!("\"{clean}\"")
        };
        all.into_iter().take(4).map(one).collect::<Vec<_>>().join(join)
    };
    let has = quoted(claims.audiences.iter().map(String::as_str).collect(), ", ");
    let wants = quoted(demanded.into_iter().collect(), " or ");
    rejected(format!("token audience is {has} but must be {wants}"), "get a token for that audience")
}

/// Each rule's own message, of every agent that the token could have been.
fn no_rule_set_holds(failing: &[Vec<Arc<str>>]) -> AuthenticateError {
    let mut words: Vec<&str> = Vec::new();
    for word in failing.iter().flatten() {
        if !words.contains(&&**word) && words.len() < MOST_WORDS {
            words.push(word);
        }
    }
    rejected(format!("the token breaks a claim rule: {}", words.join("; ")), ASK)
}

fn rejected(what: impl ToString, next: &str) -> AuthenticateError {
    AuthenticateError::Rejected(format!("{}; next: {next}", what.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::shard::{GUARDRAILS_NAME, Shard};

    #[tokio::test]
    async fn f20_what_was_found_under_another_config_counts_for_nothing() {
        let shard = Shard { format_version: 1, identity: None, policies: Vec::new() };
        let texts = [(GUARDRAILS_NAME.to_owned(), shard.encode().expect("encodes"))].into();
        let bundle = Bundle::load(&texts, None).expect("loads");
        for (under, is_reused) in [(bundle.hash(), true), ("another", false)] {
            let oidc = Oidc::default();
            oidc.kept.good(kept::hash("token"), None, (under.into(), Ok(Vec::new())));
            assert_eq!(oidc.prove("token", &bundle, &[]).await.is_ok(), is_reused, "{under}");
        }
    }
}
