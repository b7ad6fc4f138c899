//! The meaning: what an agent may do, decided without clock, network or randomness.

pub mod action;
