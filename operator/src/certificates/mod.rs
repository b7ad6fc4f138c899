//! Certificates: an authority of our own, serving certificates for proxy and webhook, and the trust in them.

pub mod keep;
pub mod mint;
pub mod serve;
pub mod trust;
