//! The local cluster and the scenarios.
