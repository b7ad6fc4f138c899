//! Leaves a local cluster with operator and two proxies running, for `make up`.

fn main() {}
