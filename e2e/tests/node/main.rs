//! Tests on a whole node, with pods: Linux and root only. One binary, one shared node; a test that kills something starts its own.
//!
//! `cargo test --workspace` leaves them out; `cargo test -p sallyport-e2e --test node` runs them.

mod ground;

use std::sync::OnceLock;

use e2e::Node;
use e2e::node::Options;

/// The node that tests share; started by the first that asks.
pub fn node() -> anyhow::Result<Node> {
    static NODE: OnceLock<Result<Node, String>> = OnceLock::new();
    let start = || Node::start(Options::default()).map_err(|error| format!("{error:#}"));
    NODE.get_or_init(start).clone().map_err(|error| anyhow::anyhow!("no node: {error}"))
}
