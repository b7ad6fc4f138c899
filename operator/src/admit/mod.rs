//! Admission: what people and programs may write into grants, policies and identities.

pub mod listen;
