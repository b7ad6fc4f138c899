//! A cluster as AWS describes it: endpoint and certificate authority.
use std::sync::Arc;

use aws_sdk_eks::types::Cluster as Described;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::Instant;

use super::super::fixed;
use super::super::{Fault, NoAccess};
use crate::upstream::Road;

/// What was described, and the connections that follow from it.
pub(super) struct Cluster {
    pub road: Arc<Road>,
    pub described: Instant,
    endpoint: String,
    authority: String,
}

impl Cluster {
    /// Of this description; the connections of `before` are kept where nothing changed.
    pub(super) fn of(described: &Described, before: Option<&Cluster>) -> Result<Self, NoAccess> {
        let endpoint = described.endpoint().unwrap_or_default().to_owned();
        if endpoint.is_empty() {
            let status = described.status().map_or("unknown", |status| status.as_str());
            let message = format!("the cluster has no endpoint; its status is {status}");
            return Err(NoAccess { fault: Fault::ConnectionFailed, message });
        }
        let authority = described.certificate_authority().and_then(|authority| authority.data());
        let authority = authority.unwrap_or_default().to_owned();
        let same = before.filter(|before| before.endpoint == endpoint && before.authority == authority);
        let road = match same {
            Some(before) => Arc::clone(&before.road),
            None => Arc::new(fixed::to(&endpoint, authorities(&authority)?)?),
        };
        Ok(Self { road, described: Instant::now(), endpoint, authority })
    }
}

fn authorities(data: &str) -> Result<Vec<Vec<u8>>, NoAccess> {
    let invalid = || NoAccess {
        fault: Fault::CertificateInvalid,
        message: "AWS describes the cluster without a usable certificate authority".to_owned(),
    };
    let pem = STANDARD.decode(data).map_err(|_| invalid())?;
    let all: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(&pem)
        .map(|one| one.map(|one| one.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| invalid())?;
    if all.is_empty() { Err(invalid()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_eks::types::Certificate;

    fn described(endpoint: &str, pem: &str) -> Described {
        let authority = Certificate::builder().data(STANDARD.encode(pem)).build();
        Described::builder().endpoint(endpoint).certificate_authority(authority).build()
    }

    fn pem() -> String {
        rcgen::generate_simple_self_signed(vec!["eks".to_owned()]).expect("made").cert.pem()
    }

    #[test]
    fn f24_f31_connections_are_kept_until_endpoint_or_authority_are_others() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (one, two) = (pem(), pem());
        let first = Cluster::of(&described("https://a.example", &one), None).expect("usable");
        let same = Cluster::of(&described("https://a.example", &one), Some(&first)).expect("usable");
        assert!(Arc::ptr_eq(&first.road, &same.road));
        for (endpoint, authority) in [("https://b.example", &one), ("https://a.example", &two)] {
            let other = Cluster::of(&described(endpoint, authority), Some(&first)).expect("usable");
            assert!(!Arc::ptr_eq(&first.road, &other.road), "{endpoint}");
        }
    }

    #[test]
    fn a_cluster_without_endpoint_or_authority_is_not_entered() {
        let fault = |one: &Described| Cluster::of(one, None).err().map(|error| error.fault);
        assert_eq!(fault(&Described::builder().build()), Some(Fault::ConnectionFailed));
        assert_eq!(fault(&described("https://a.example", "")), Some(Fault::CertificateInvalid));
        assert_eq!(fault(&described("https://a.example", "no pem")), Some(Fault::CertificateInvalid));
        assert_eq!(fault(&described("http://a.example", &pem())), Some(Fault::ConnectionFailed));
    }
}
