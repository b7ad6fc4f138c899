//! Minting: a certificate authority, and serving certificates signed by it. Pure but for the key generator.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

// Certificates start a little before they are made: clocks of the readers may lag.
const MOST_BACKDATED: SignedDuration = SignedDuration::from_hours(1);
const BACKDATED_PART: i32 = 10;

/// What stops a certificate from being minted or read.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// Key generation or signing failed.
    #[error("certificate cannot be made: {0}")]
    Sign(#[from] rcgen::Error),
    /// Stored PEM is not what it should be.
    #[error("stored certificate cannot be read: {0}")]
    Read(String),
    /// The authority's own term is over, so that nothing it signs would be accepted.
    #[error("the certificate authority has ended at {0}")]
    Ended(Timestamp),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// Certificate, PEM.
    pub certificate: String,
    /// PKCS #8 private key, PEM.
    pub key: String,
}

/// A certificate authority: signs what proxy and webhook serve.
#[derive(Clone)]
pub struct Authority {
    pair: Pair,
    facts: Facts,
}

impl Authority {
    /// A new authority with a new key and a name of its own, so that no reader confuses two authorities.
    ///
    /// # Errors
    /// [`MintError::Sign`].
    pub fn create(now: Timestamp, lifetime: SignedDuration) -> Result<Self, MintError> {
        let key = KeyPair::generate()?;
        let born = now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string();
        let mut params = authority_params(&format!("sallyport-ca-{born}"))?;
        set_term(&mut params, now, lifetime);
        let certificate = params.self_signed(&key)?.pem();
        Self::read(&Pair { certificate, key: key.serialize_pem() })
    }

    /// The authority that [`Authority::pair`] stored.
    ///
    /// # Errors
    /// Certificate or key do not read, or do not belong together.
    pub fn read(pair: &Pair) -> Result<Self, MintError> {
        let (key, facts) = (KeyPair::from_pem(&pair.key)?, Facts::read(&pair.certificate)?);
        if key.subject_public_key_info() != facts.public_key {
            return Err(MintError::Read("the key is not the certificate's".to_owned()));
        }
        Ok(Self { pair: pair.clone(), facts })
    }

    /// For storing.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// What the certificate says of itself.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// A serving certificate with a new key for these DNS names and IP addresses. It never outlives its authority.
    ///
    /// # Errors
    /// [`MintError::Ended`], [`MintError::Sign`].
    pub fn issue(
        &self,
        names: &[String],
        now: Timestamp,
        lifetime: SignedDuration,
    ) -> Result<Pair, MintError> {
        let left = self.facts.not_after.duration_since(now);
        if left <= SignedDuration::ZERO {
            return Err(MintError::Ended(self.facts.not_after));
        }
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = common_name(names.first().map_or("sallyport", String::as_str));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_term(&mut params, now, lifetime.min(left));
        let issuing = authority_params(&self.facts.common_name)?;
        let (key, signing) = (KeyPair::generate()?, KeyPair::from_pem(&self.pair.key)?);
        let certificate = params.signed_by(&key, &Issuer::from_params(&issuing, &signing))?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// What a stored certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// DNS names and IP addresses, sorted.
    pub names: BTreeSet<String>,
    /// When it was made: its start, without what it is dated back.
    pub issued: Timestamp,
    /// End of the term.
    pub not_after: Timestamp,
    common_name: String,
    public_key: Vec<u8>,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`MintError::Read`].
    pub fn read(pem: &str) -> Result<Self, MintError> {
        let unreadable = |what: String| MintError::Read(what);
        let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|error| unreadable(error.to_string()))?;
        let certificate = block.parse_x509().map_err(|error| unreadable(error.to_string()))?;
        let mut names = BTreeSet::new();
        let alternative =
            certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            if let GeneralName::DNSName(dns) = name {
                names.insert((*dns).to_owned());
            } else if let GeneralName::IPAddress(bytes) = name {
                names.extend(address(bytes));
            } else {
                return Err(unreadable(format!("unexpected name {name}")));
            }
        }
        let common_name = certificate.subject().iter_common_name().next();
        let common_name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default().to_owned();
        let validity = certificate.validity();
        let not_before = instant(validity.not_before.timestamp())?;
        let not_after = instant(validity.not_after.timestamp())?;
        let back = (not_after.duration_since(not_before) / (BACKDATED_PART + 1)).min(MOST_BACKDATED);
        Ok(Self {
            names,
            issued: later(not_before, back),
            not_after,
            common_name,
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// From being made to its end.
    pub fn lifetime(&self) -> SignedDuration {
        self.not_after.duration_since(self.issued)
    }

    /// When it should be replaced: after two thirds of its lifetime.
    pub fn due(&self) -> Timestamp {
        later(self.issued, self.lifetime() / 3 * 2)
    }

    /// Whether that time has come.
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.due()
    }
}

/// `at` and `by`; the end of time where that is too far.
pub fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::IpAddr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| std::net::IpAddr::from(sixteen).to_string())
}

fn instant(seconds: i64) -> Result<Timestamp, MintError> {
    Timestamp::from_second(seconds).map_err(|error| MintError::Read(error.to_string()))
}

fn authority_params(name: &str) -> Result<CertificateParams, MintError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn set_term(params: &mut CertificateParams, now: Timestamp, lifetime: SignedDuration) {
    let back = (lifetime / BACKDATED_PART).min(MOST_BACKDATED);
    let moment = |at: Timestamp| {
        let since_1970 = u64::try_from(at.as_second()).unwrap_or(0);
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970)
    };
    params.not_before = moment(later(now, -back));
    params.not_after = moment(later(now, lifetime));
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn names() -> Vec<String> {
        vec!["sallyport-proxy.sallyport-system.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    #[test]
    fn an_issued_certificate_carries_exactly_the_names_and_is_due_after_two_thirds() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let authority = Authority::create(now, DAY * 3650).unwrap();
        for lifetime in [SignedDuration::from_secs(60), DAY, DAY * 90] {
            let facts = Facts::read(&authority.issue(&names(), now, lifetime).unwrap().certificate).unwrap();
            assert_eq!(facts.names, names().into_iter().collect());
            assert_eq!(facts.not_after, later(now, lifetime));
            let slack = SignedDuration::from_secs(1);
            assert!(!facts.is_due(later(now, lifetime / 3 * 2 - slack)), "{lifetime:?}: {facts:?}");
            assert!(facts.is_due(later(now, lifetime / 3 * 2 + slack)), "{lifetime:?}: {facts:?}");
        }
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let now = Timestamp::from_second(1_795_000_000).unwrap();
        let authority = Authority::create(now, DAY).unwrap();
        let late = later(now, DAY / 2);
        let facts = Facts::read(&authority.issue(&names(), late, DAY).unwrap().certificate).unwrap();
        assert_eq!(facts.not_after, later(now, DAY));
        assert!(matches!(authority.issue(&names(), later(now, DAY), DAY), Err(MintError::Ended(_))));
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let now = Timestamp::now();
        let (one, other) = (Authority::create(now, DAY).unwrap(), Authority::create(now, DAY).unwrap());
        let mixed = Pair { certificate: one.certificate().to_owned(), key: other.pair().key.clone() };
        assert!(Authority::read(&mixed).is_err());
        assert!(Authority::read(one.pair()).is_ok());
    }
}
