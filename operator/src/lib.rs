//! The hands on the cluster: certificates, live config, status, admission.

pub mod admin;
pub mod admit;
pub mod baseline;
pub mod boundary;
pub mod bypass;
pub mod certificates;
pub mod conditions;
pub mod config;
pub mod events;
pub mod grants;
pub mod index;
pub mod judge;
pub mod kubeconfig;
pub mod lead;
pub mod mirror;
pub mod plan;
pub mod programmed;
pub mod publish;
pub mod reconcile;
pub mod records;
pub mod retention;
pub mod run;
pub mod status;
pub mod telemetry;
pub mod tokens;
pub mod watch;
