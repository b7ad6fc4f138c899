//! The meaning: what an agent may do, decided without clock, network or randomness.
//!
//! Expected flow: the operator [`compile`]s policies and publishes [`shard`]s; the proxy loads a [`bundle`], finds the
//! [`agent::Agent`] of a [`subject::Subject`], asks [`evaluate::evaluate`] for a [`decision::Decision`] and takes its
//! [`permit::Permit`], or asks [`approve`] about a grant first. [`explain`] turns a decision into words.
//!
//! Guarantees: deny beats approval beats allow, silence is no; the order of files, policies, rules and entries never
//! matters; no input makes these functions panic.

#![deny(missing_docs)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod action;
pub mod agent;
pub mod approve;
pub mod aws;
pub mod bundle;
pub mod cel;
pub mod compile;
pub mod decision;
pub mod evaluate;
pub mod explain;
pub mod grant;
pub mod hash;
mod index;
mod issues;
pub mod lint;
pub mod mask;
pub mod matcher;
pub mod oidc;
pub mod permit;
pub mod reviewers;
pub mod rule;
pub mod shard;
pub mod subject;
pub mod terms;
pub mod validate;
mod verdict;
