//! The hands on the cluster: certificates, live config, status, admission.

pub mod admin;
pub mod admit;
pub mod certificates;
pub mod config;
pub mod lead;
pub mod telemetry;
