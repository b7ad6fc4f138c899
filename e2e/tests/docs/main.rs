//! The documentation is part of the product: every page is reachable, every link leads somewhere, the commands are run.

mod book;
mod expect;
mod explain;
mod page;
mod play;
mod reference;
mod shell;

use std::sync::OnceLock;

use e2e::{ControlPlane, Gate, Setup};
use tokio::sync::{Mutex, MutexGuard};

/// One gate for all pages; started by the first test that asks.
fn gate() -> anyhow::Result<Gate> {
    static GATE: OnceLock<Result<Gate, String>> = OnceLock::new();
    let start = || Gate::start(&ControlPlane::start()?, Setup::default());
    let gate = GATE.get_or_init(|| start().map_err(|error| format!("{error:#}")));
    gate.clone().map_err(|error| anyhow::anyhow!("no gate: {error}"))
}

/// The world of the first half hour for one test at a time: pages list every grant that there is.
async fn world() -> MutexGuard<'static, ()> {
    static WORLD: Mutex<()> = Mutex::const_new(());
    WORLD.lock().await
}
