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
    pub(crate) fn new(name: &str, spec: &OidcSubject) -> Result<Trust, CompileError> {
        let rules = spec.claim_validation_rules.iter().filter_map(Rule::new).collect::<Result<_, _>>()?;
        let issuer = Issuer {
            url: spec.issuer.url.as_str().into(),
            certificate_authority: spec.issuer.certificate_authority.as_deref().map(Arc::from),
        };
        Ok(Trust { name: name.into(), issuer, audiences: spec.issuer.audiences.clone(), rules })
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

/// Finds what is wrong with an OIDC entry beyond its schema.
pub(crate) fn validate(path: &str, spec: &OidcSubject, issues: &mut Issues) {
    validate_issuer(&format!("{path}.issuer"), &spec.issuer, issues);
    let rules = &spec.claim_validation_rules;
    let pins = |rule: &ClaimValidationRule| {
        rule.expression.is_some() || rule.claim.as_deref() == Some("sub") && rule.required_value.is_some()
    };
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
