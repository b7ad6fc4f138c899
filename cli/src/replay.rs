//! `replay`: what an agent did in a session, line by line.

use std::io::{self, BufWriter, Write};

use anyhow::bail;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use recording::event::Event;
use recording::replay::{Line, Timeline};
use recording::segment::Stamp;
use recording::store::read_session;
use recording::verify::{Report, Verdict};

use crate::cluster::Flags;
use crate::escape;
use crate::recordings::Source;
use crate::verify::problems;

/// What `replay` takes.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Output format: lines for people, or the events as one JSON object per line.
    #[arg(short, long)]
    output: Option<Format>,
}

/// How events are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object per line.
    Json,
}

/// Prints a session in order of time, all replicas in one row, and says when the recording does not hold.
pub async fn run(flags: &Flags, arguments: &Arguments) -> anyhow::Result<()> {
    let source = &arguments.source;
    let opened = source.open(flags).await?;
    let mut timeline = Timeline::default();
    let mut raw = Vec::new();
    let as_json = arguments.output == Some(Format::Json);
    let mut visit = |replica: &str, at: Stamp, event: Event| {
        if as_json {
            raw.push((at.wall_us, object(replica, at, &event)));
        } else {
            timeline.add(replica, at, event);
        }
    };
    let mut report = read_session(&*opened.store, &opened.namespace, &source.name, &mut visit).await?;
    if let Some(expected) = &opened.expected {
        report.expect(expected);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    raw.sort_by_key(|(at, _)| *at);
    for (_, line) in raw {
        writeln!(out, "{}", line?)?;
    }
    show(&timeline.lines(), &mut out)?;
    out.flush()?;
    say(&report, &source.name)
}

/// Lines, and the day where it changes.
fn show(lines: &[Line], out: &mut impl Write) -> io::Result<()> {
    let day = |line: &Line| {
        Timestamp::from_microsecond(line.wall_us).map(|at| at.to_zoned(TimeZone::UTC).date()).ok()
    };
    let mut today = lines.first().and_then(day);
    for line in lines {
        let its = day(line);
        if its != today
            && let Some(date) = its
        {
            writeln!(out, "-- {date}")?;
        }
        today = its;
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn object(replica: &str, at: Stamp, event: &Event) -> anyhow::Result<String> {
    let mut json = Vec::new();
    event.encode_into(&mut json)?;
    let event_type = match event {
        Event::SessionStart(_) => "SessionStart",
        Event::Intent(_) => "Intent",
        Event::Outcome(_) => "Outcome",
        Event::Refusal(_) => "Refusal",
        Event::Review(_) => "Review",
        Event::Grant(_) => "Grant",
        Event::SessionEnd(_) => "SessionEnd",
        Event::Gap(_) => "Gap",
    };
    let line = serde_json::json!({
        "time": Timestamp::from_microsecond(at.wall_us)?,
        "replica": replica,
        "type": event_type,
        "event": serde_json::from_slice::<serde_json::Value>(&json)?,
    });
    Ok(escape::json(&line.to_string()))
}

fn say(report: &Report, name: &str) -> anyhow::Result<()> {
    if report.chains.is_empty() {
        bail!("nothing is recorded under `{name}`");
    }
    if report.verdict() == Verdict::Broken {
        for problem in report.chains.iter().flat_map(problems) {
            eprintln!("{problem}");
        }
        bail!("the hash chain is BROKEN: do not trust what is shown above");
    }
    Ok(())
}
