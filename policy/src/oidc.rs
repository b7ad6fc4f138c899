//! OIDC subjects: which verified tokens are which agent's.

use std::collections::BTreeSet;
use std::sync::Arc;

use crds::agent_identity::{ClaimValidationRule, OidcIssuer, OidcSubject};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Map, Value};

use crate::cel::{CompileError, Document, Expression};
use crate::issues::Issues;
use crate::subject::Subject;

/// What expressions call the token's claims.
const CLAIMS: &str = "claims";

/// Whose tokens are taken, and how its certificate is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Issuer {
    /// Exactly as in claim `iss`.
    pub url: Arc<str>,
    /// PEM of the only authorities that its certificate may come from; `None`: those of the system.
    pub certificate_authority: Option<Arc<str>>,
}

/// One OIDC entry of an AgentIdentity, ready to be asked.
#[derive(Clone, Debug)]
pub struct Trust {
    name: Arc<str>,
    issuer: Issuer,
    audiences: Vec<String>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    check: Check,
    message: Arc<str>,
}

#[derive(Clone, Debug)]
enum Check {
    Equals { claim: String, value: String },
    Expression(Expression),
}

impl Trust {
    /// `None` where a rule is not understood or none says which tokens are the agent's: [`validate`] refuses such an entry, and
    /// one that was published all the same lets nobody in (F21).
    pub(crate) fn new(name: &str, spec: &OidcSubject) -> Option<Trust> {
        let rules = &spec.claim_validation_rules;
        if !rules.iter().any(pins) {
            return None;
        }
        let rules = rules.iter().map(|rule| Rule::new(rule)?.ok()).collect::<Option<_>>()?;
        let issuer = Issuer {
            url: spec.issuer.url.as_str().into(),
            certificate_authority: spec.issuer.certificate_authority.as_deref().map(Arc::from),
        };
        Some(Trust { name: name.into(), issuer, audiences: spec.issuer.audiences.clone(), rules })
    }

    /// Its name in `AgentIdentity.spec.subjects`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whose tokens it takes.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Those of which a token must carry one.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The messages of the rules that do not hold for a verified token's claims: none, and the token is this agent's.
    ///
    /// *Assumptions*: issuer, signature, audience and times were verified. May take as long as [`crate::cel`] allows.
    pub fn failing(&self, claims: &Map<String, Value>, document: &Document) -> Vec<Arc<str>> {
        let fails = |rule: &&Rule| match &rule.check {
            Check::Equals { claim, value } => claims.get(claim).and_then(Value::as_str) != Some(value),
            Check::Expression(expression) => expression.holds(CLAIMS, document) != Ok(true),
        };
        self.rules.iter().filter(fails).map(|rule| Arc::clone(&rule.message)).collect()
    }
}

impl Rule {
    /// `None` for a rule that says nothing; [`validate`] refuses it.
    fn new(rule: &ClaimValidationRule) -> Option<Result<Rule, CompileError>> {
        let worded = |default: String| rule.message.clone().unwrap_or(default).into();
        match (&rule.claim, &rule.required_value, &rule.expression) {
            (Some(claim), Some(value), None) => Some(Ok(Rule {
                check: Check::Equals { claim: claim.clone(), value: value.clone() },
                message: worded(format!("claim `{claim}` must have the required value")),
            })),
            (None, None, Some(source)) => {
                Some(Expression::compile(source, &[CLAIMS]).map(|expression| Rule {
                    check: Check::Expression(expression),
                    message: worded(format!("`{source}` must be true")),
                }))
            }
            _ => None,
        }
    }
}

/// Whether a rule says which of an issuer's tokens are meant.
fn pins(rule: &ClaimValidationRule) -> bool {
    rule.expression.is_some() || rule.claim.as_deref() == Some("sub") && rule.required_value.is_some()
}

/// Finds what is wrong with an OIDC entry beyond its schema.
pub(crate) fn validate(path: &str, spec: &OidcSubject, issues: &mut Issues) {
    validate_issuer(&format!("{path}.issuer"), &spec.issuer, issues);
    let rules = &spec.claim_validation_rules;
    if !rules.iter().any(pins) {
        let message = "at least one rule must pin claim 'sub' or be an `expression`";
        issues.invalid(format!("{path}.claimValidationRules"), message);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = format!("{path}.claimValidationRules[{at}]");
        match Rule::new(rule) {
            Some(Ok(_)) => {}
            Some(Err(error)) => issues.expression(format!("{path}.expression"), error.to_string()),
            None => issues.invalid(path, "set either `claim`+`requiredValue` or `expression`"),
        }
    }
}

fn validate_issuer(path: &str, issuer: &OidcIssuer, issues: &mut Issues) {
    let rest = issuer.url.strip_prefix("https://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() || host.contains('@') || rest.contains(['?', '#']) {
        issues.invalid(
            format!("{path}.url"),
            "must be an https URL with a host, without user, query or fragment",
        );
    }
    if issuer.audiences.is_empty() {
        issues.invalid(format!("{path}.audiences"), "must name at least one audience");
    }
    let Some(pem) = &issuer.certificate_authority else { return };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    if certificates.map_or(true, |all| all.is_empty()) {
        issues.invalid(format!("{path}.certificateAuthority"), "must be the PEM of at least one certificate");
    }
}

/// The subject that an entry pins by claim `sub`, if it does.
pub fn pinned(spec: &OidcSubject) -> Option<Subject> {
    let is_sub = |rule: &&ClaimValidationRule| rule.claim.as_deref() == Some("sub");
    let sub = spec.claim_validation_rules.iter().find(is_sub)?.required_value.clone()?;
    Some(Subject::Oidc { issuer: spec.issuer.url.clone(), sub })
}

/// Whether every token that one entry takes is taken by the other too, as far as their texts tell: then both name one
/// subject.
pub fn overlap(one: &OidcSubject, other: &OidcSubject) -> bool {
    let (ours, theirs) = (conditions(one), conditions(other));
    let audiences = &other.issuer.audiences;
    one.issuer.url == other.issuer.url
        && one.issuer.audiences.iter().any(|audience| audiences.contains(audience))
        && (ours.is_subset(&theirs) || theirs.is_subset(&ours))
}

type Condition<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>);

fn conditions(spec: &OidcSubject) -> BTreeSet<Condition<'_>> {
    spec.claim_validation_rules.iter().map(condition).collect()
}

fn condition(rule: &ClaimValidationRule) -> Condition<'_> {
    let ClaimValidationRule { claim, required_value, expression, message: _ } = rule;
    (claim.as_deref(), required_value.as_deref(), expression.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(rules: &Value) -> OidcSubject {
        let entry =
            json!({"issuer": {"url": "https://i", "audiences": ["a"]}, "claimValidationRules": rules});
        serde_json::from_value(entry).unwrap()
    }

    fn faults(entry: &OidcSubject) -> usize {
        let mut issues = Issues::default();
        validate("", entry, &mut issues);
        issues.all().len()
    }

    #[test]
    fn b122_every_rule_of_an_entry_must_hold() {
        let rules = json!([
            {"claim": "sub", "requiredValue": "s", "message": "sub"},
            {"expression": "claims.level >= 3", "message": "level"},
        ]);
        let trust = Trust::new("entry", &entry(&rules)).unwrap();
        for (claims, expected) in [
            (json!({"sub": "s", "level": 3}), vec![]),
            (json!({"sub": "S", "level": 3}), vec!["sub"]),
            (json!({"sub": ["s"], "level": 3}), vec!["sub"]),
            (json!({"level": 3}), vec!["sub"]),
            (json!({"sub": "s", "level": 2}), vec!["level"]),
            (json!({"sub": "s", "level": "3"}), vec!["level"]),
            (json!({"sub": "s"}), vec!["level"]),
            (json!({}), vec!["sub", "level"]),
        ] {
            let failing = trust.failing(claims.as_object().unwrap(), &Document::new(&claims).unwrap());
            assert_eq!(failing.iter().map(|word| &**word).collect::<Vec<_>>(), expected, "{claims}");
        }
    }

    #[test]
    fn f21_an_entry_that_is_not_wholly_understood_lets_nobody_in() {
        let pin = json!({"claim": "sub", "requiredValue": "s"});
        for rules in [json!([pin]), json!([{"expression": "claims.sub == 's'"}])] {
            assert!(Trust::new("entry", &entry(&rules)).is_some() && faults(&entry(&rules)) == 0, "{rules}");
        }
        for rules in [
            json!([]),
            json!([{"claim": "repository", "requiredValue": "r"}]),
            json!([{"claim": "sub"}]),
            json!([pin, {}]),
            json!([pin, {"claim": "repository"}]),
            json!([pin, {"requiredValue": "r"}]),
            json!([pin, {"claim": "repository", "expression": "true"}]),
            json!([pin, {"requiredValue": "r", "expression": "true"}]),
            json!([pin, {"claim": "repository", "requiredValue": "r", "expression": "true"}]),
            json!([pin, {"expression": "claims."}]),
        ] {
            assert!(Trust::new("entry", &entry(&rules)).is_none() && faults(&entry(&rules)) > 0, "{rules}");
        }
    }

    #[test]
    fn f24_an_authority_is_one_certificate_at_least() {
        for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"] {
            let mut entry = entry(&json!([{"claim": "sub", "requiredValue": "s"}]));
            entry.issuer.certificate_authority = Some(pem.to_owned());
            assert_eq!(faults(&entry), 1, "{pem}");
        }
    }
}
