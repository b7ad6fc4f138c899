//! The hands on the cluster.
