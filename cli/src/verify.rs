//! `verify`: whether a session's recording is what was recorded.

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use recording::plain::Plain;
use recording::store::read_session;
use recording::verify::{ChainReport, Report, Verdict};

use crate::cluster::Flags;
use crate::recordings::Source;

/// What `verify` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
}

/// Computes every hash chain of a session again and holds it against the SessionRecord.
pub async fn run(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    let source = &arguments.source;
    let opened = source.open(flags).await?;
    let mut report = read_session(&*opened.store, &opened.namespace, &source.name, &mut |_, _, _| {}).await?;
    if let Some(expected) = &opened.expected {
        report.expect(expected);
    }
    for line in unknown(&report) {
        println!("{line}");
    }
    say(&report, &source.name)
}

/// Prints the verdict; an error unless the recording holds.
fn say(report: &Report, name: &str) -> anyhow::Result<()> {
    let chains = match report.chains.len() {
        1 => String::new(),
        count => format!(" in {count} chains"),
    };
    let root = report.root().map_or_else(|| "none".to_owned(), |root| root.to_string());
    let sum = format!("{} segments{chains}, root {root}", report.segments());
    match report.verdict() {
        Verdict::Intact => println!("hash chain ok ({sum})"),
        Verdict::Running => println!(
            "hash chain ok ({sum}; the session is still active, its record vouches for {} segments so far)",
            report.vouched()
        ),
        Verdict::Open => {
            for chain in report.chains.iter().filter(|chain| !chain.closed) {
                println!("chain {}: no final seal", Plain(&chain.replica));
            }
            bail!(
                "hash chain open or truncated ({sum}): what is there holds, but its end is missing: it still runs, its \
                 proxy died, or its tail was removed"
            );
        }
        Verdict::Broken if report.chains.is_empty() => bail!("nothing is recorded under `{name}`"),
        Verdict::Broken => {
            let problems: Vec<String> = report.chains.iter().flat_map(problems).collect();
            for problem in &problems {
                println!("{problem}");
            }
            bail!("hash chain BROKEN ({} problems)", problems.len());
        }
    }
    Ok(())
}

/// What is wrong with a chain, a line each.
pub fn problems(chain: &ChainReport) -> impl Iterator<Item = String> {
    chain.problems.iter().map(|problem| format!("chain {}: {problem}", Plain(&chain.replica)))
}

fn unknown(report: &Report) -> impl Iterator<Item = String> {
    report.chains.iter().flat_map(|chain| &chain.unknown).map(|request| {
        let at = Timestamp::from_microsecond(request.at.wall_us).unwrap_or_default();
        let summary = request.act.summary();
        format!("unknown: {} (id {}, {at:.0})", Plain(&summary), Plain(&request.request_id))
    })
}
