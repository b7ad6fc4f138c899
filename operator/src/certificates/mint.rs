//! Minting: a certificate authority, and serving certificates signed by it. Pure but for the key generator.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;

const AUTHORITY_NAME: &str = "sallyport-ca";
const AUTHORITY_DAYS: i64 = 3650;
const SERVING_DAYS: i64 = 90;

/// What stops a certificate from being minted or read.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// Key generation or signing failed.
    #[error("certificate cannot be made: {0}")]
    Sign(#[from] rcgen::Error),
    /// Stored PEM is not what it should be.
    #[error("stored certificate cannot be read: {0}")]
    Read(String),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Pair {
    /// Certificate, PEM.
    pub certificate: String,
    /// PKCS #8 private key, PEM.
    pub key: String,
}

/// The certificate authority: signs what proxy and webhook serve.
pub struct Authority {
    certificate: String,
    key: KeyPair,
}

impl Authority {
    /// A new authority with a new key, valid for ten years.
    pub fn create(now: Timestamp) -> Result<Self, MintError> {
        let key = KeyPair::generate()?;
        let certificate = authority_params(now)?.self_signed(&key)?.pem();
        Ok(Self { certificate, key })
    }

    /// The authority that [`Authority::pair`] stored.
    pub fn read(pair: &Pair) -> Result<Self, MintError> {
        let key = KeyPair::from_pem(&pair.key)?;
        Facts::read(&pair.certificate)?;
        Ok(Self { certificate: pair.certificate.clone(), key })
    }

    /// The same key and name with a new term: what old certificates of this authority vouch for stays vouched for, so
    /// published kubeconfigs keep working across the renewal.
    pub fn renewed(self, now: Timestamp) -> Result<Self, MintError> {
        let certificate = authority_params(now)?.self_signed(&self.key)?.pem();
        Ok(Self { certificate, key: self.key })
    }

    /// For storing.
    pub fn pair(&self) -> Pair {
        Pair { certificate: self.certificate.clone(), key: self.key.serialize_pem() }
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A serving certificate with a new key for these DNS names and IP addresses, valid for 90 days.
    pub fn issue(&self, names: &[String], now: Timestamp) -> Result<Pair, MintError> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = common_name(names.first().map_or("sallyport", String::as_str));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_term(&mut params, SERVING_DAYS, now);
        let issuing = authority_params(now)?;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &Issuer::from_params(&issuing, &self.key))?.pem();
        Ok(Pair { certificate, key: key.serialize_pem() })
    }
}

/// What a stored certificate says of itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Facts {
    /// DNS names and IP addresses, sorted.
    pub names: BTreeSet<String>,
    /// Start of the term.
    pub not_before: Timestamp,
    /// End of the term.
    pub not_after: Timestamp,
}

impl Facts {
    /// Reads the first certificate of a PEM text.
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
        let validity = certificate.validity();
        Ok(Self {
            names,
            not_before: instant(validity.not_before.timestamp())?,
            not_after: instant(validity.not_after.timestamp())?,
        })
    }

    /// Whether less than a third of the term is left.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let term = self.not_after.duration_since(self.not_before);
        self.not_after.duration_since(now) < term / 3
    }
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

fn authority_params(now: Timestamp) -> Result<CertificateParams, MintError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = common_name(AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_term(&mut params, AUTHORITY_DAYS, now);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

// Whole days, and one day early: clocks of the readers may lag.
fn set_term(params: &mut CertificateParams, days: i64, now: Timestamp) {
    let day = |offset: i64| {
        let moment = now.saturating_add(SignedDuration::from_hours(24 * offset)).unwrap_or(now);
        let date = moment.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(-1);
    params.not_after = day(days);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["sallyport-proxy.sallyport-system.svc".to_owned(), "127.0.0.1".to_owned()]
    }

    #[test]
    fn an_issued_certificate_carries_exactly_the_names() {
        let now = Timestamp::now();
        let pair = Authority::create(now).unwrap().issue(&names(), now).unwrap();
        let facts = Facts::read(&pair.certificate).unwrap();
        assert_eq!(facts.names, names().into_iter().collect());
        assert!(!facts.is_due(now));
        assert!(facts.is_due(now.saturating_add(SignedDuration::from_hours(24 * 61)).unwrap()));
    }

    #[test]
    fn a_renewed_authority_vouches_for_what_the_old_one_signed() {
        let now = Timestamp::now();
        let old = Authority::create(now).unwrap();
        let old_certificate = old.certificate().to_owned();
        let renewed = Authority::read(&old.pair()).unwrap().renewed(now).unwrap();
        let leaf = renewed.issue(&names(), now).unwrap();
        assert!(accepts(&old_certificate, &leaf), "a kubeconfig made before the renewal still works");
        assert!(accepts(renewed.certificate(), &leaf));
        let stranger = Authority::create(now).unwrap();
        assert!(!accepts(stranger.certificate(), &leaf));
    }

    fn accepts(authority: &str, leaf: &Pair) -> bool {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
        let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now()).is_ok()
    }
}
