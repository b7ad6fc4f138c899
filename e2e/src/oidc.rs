//! Issuers of OpenID Connect tokens for agents: a fake one that does what no real one does on command, and a real Keycloak.

pub mod browser;
pub mod fake_issuer;
pub mod keycloak;

pub use fake_issuer::{FakeIssuer, Kind, Mood, forge};
pub use keycloak::Keycloak;
