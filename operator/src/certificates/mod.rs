//! Certificates: authorities of our own, serving certificates for proxy and webhook, and the trust in them.

pub mod authorities;
pub mod check;
pub mod keep;
pub mod mint;
pub mod renew;
pub mod serve;
pub mod trust;
