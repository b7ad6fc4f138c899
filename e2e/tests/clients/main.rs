//! Every client through the gate: each cell of the table in docs/clients.md is one test here, named `<client>::<deed>`.
//!
//! `make clients` runs all and fails when the page is stale; `make gen-clients` writes it. `SALLYPORT_E2E_ENV=file` runs the same against
//! a gate that stands already.

mod cells;
mod client;
mod helm;
mod kubectl;
mod row;
mod site;
mod table;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use row::{Row, Source};
use site::Site;
use table::{Cell, HELM, LIBRARIES, Results, Table};

/// Environment variable that makes a whole run write the page.
const WRITE: &str = "SALLYPORT_WRITE_DOCS";
/// Rows that work at once.
const THREADS: usize = 4;

static RESULTS: Mutex<Results> = Mutex::new(Results::new());

/// A row that is opened by the first of its cells.
struct Opened {
    name: &'static str,
    source: Source,
    row: Mutex<Option<Result<Row, String>>>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let trials: Vec<Trial> = [LIBRARIES, HELM].iter().flat_map(trials).collect();
    let whole = trials.len();
    let conclusion = libtest_mimic::run(&arguments, trials);
    close();
    let all = usize::try_from(conclusion.num_passed).is_ok_and(|passed| passed == whole);
    if conclusion.has_failed() || arguments.list || !all {
        return conclusion.exit_code();
    }
    match document() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The trials of a table, deed by deed, so that neighbours belong to different rows.
fn trials(table: &Table) -> Vec<Trial> {
    let rows: Vec<Arc<Opened>> = table
        .clients
        .iter()
        .map(|&(name, _, source)| Arc::new(Opened { name, source, row: Mutex::new(None) }))
        .collect();
    let mut trials = Vec::new();
    for &(deed, _, cell) in table.deeds {
        for row in rows.iter().filter(|row| table::exists(row.name, deed)) {
            let row = Arc::clone(row);
            let name = table::test_name(row.name, deed);
            trials.push(Trial::test(name, move || run(&row, deed, cell)));
        }
    }
    trials
}

fn run(opened: &Opened, deed: &str, cell: Cell) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // A cell that panics must not take the rest of its row along.
    let mut row = opened.row.lock().unwrap_or_else(PoisonError::into_inner);
    let open = || runtime.block_on(Row::open(site()?, opened.name, opened.source));
    let row = row.get_or_insert_with(|| open().map_err(|error| format!("{error:#}")));
    let row = row.as_mut().map_err(|error| format!("no row: {error}"))?;
    let outcome = runtime.block_on(cell(row));
    let red = table::red(opened.name, deed);
    let why = match (outcome, red) {
        (Ok(()), None) => None,
        (Ok(()), Some(_)) => return Err("it is green now: take it out of table::RED".into()),
        (Err(error), Some(red)) if format!("{error:#}").contains(red.said) => Some(red.why),
        (Err(error), _) => return Err(format!("{error:#}").into()),
    };
    let mut results = RESULTS.lock().unwrap_or_else(PoisonError::into_inner);
    results.insert(table::test_name(opened.name, deed), why);
    Ok(())
}

type SiteOrWhy = Result<Arc<Site>, String>;

static SITE: Mutex<Option<SiteOrWhy>> = Mutex::new(None);

/// The gate that all rows use, found or started by the first that asks.
fn site() -> anyhow::Result<Arc<Site>> {
    let open = || -> anyhow::Result<Arc<Site>> {
        let site = Site::open()?;
        row::crowd(&site)?;
        Ok(Arc::new(site))
    };
    let mut site = SITE.lock().unwrap_or_else(PoisonError::into_inner);
    let site = site.get_or_insert_with(|| open().map_err(|error| format!("{error:#}")));
    site.clone().map_err(|error| anyhow::anyhow!("no gate: {error}"))
}

/// Ends what was started: statics are not dropped.
fn close() {
    SITE.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Writes the page, or says that it is stale.
fn document() -> anyhow::Result<()> {
    let path = e2e::workspace_root().join("docs/clients.md");
    let old = std::fs::read_to_string(&path)?;
    let new = table::page(&old, &RESULTS.lock().unwrap_or_else(PoisonError::into_inner))?;
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, new)?;
    } else {
        anyhow::ensure!(old == new, "docs/clients.md does not say what was run: run `make gen-clients`");
    }
    Ok(())
}
