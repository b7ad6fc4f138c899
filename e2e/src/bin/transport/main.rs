//! Many at once, in front of a real API server: idle connections and watches (memory of the proxy, events that arrive, requests
//! that are refused), and what a slow loris does to everybody else. `make bench`.
//!
//! Latencies are compared with themselves, round by round in one run; absolute figures say nothing on a shared machine.

mod crowd;
mod loris;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use e2e::load::{Client, Protocol, Who};
use e2e::{ControlPlane, Gate, Setup};

use crowd::Crowd;
use loris::Loris;

#[derive(Parser)]
#[command(name = "e2e-transport", about = "Idle connections, watches and slow lorises, in figures")]
struct Args {
    /// Idle TLS connections; every other one speaks HTTP/1.1.
    #[arg(long, default_value_t = 2000)]
    idle: usize,
    /// Watches; half of them on HTTP/1.1, each with a connection of its own.
    #[arg(long, default_value_t = 1000)]
    watches: usize,
    /// Connections of the slow loris: a third trickle a handshake, a third a head, a third a body.
    #[arg(long, default_value_t = 200)]
    lorises: usize,
    /// Rounds with and without the loris.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Requests of the probe in each half round.
    #[arg(long, default_value_t = 60)]
    probes: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let plane = ControlPlane::start()?;
    let flags = ["--max-connections=8192", "--max-connections-per-agent=2000"].map(str::to_owned);
    let gate = Gate::start(&plane, Setup { proxies: 1, proxy_flags: flags.into(), ..Setup::default() })?;
    let mut crowd = Crowd::new(&gate, args.watches).await?;
    let url = gate.urls()[0].clone();
    let mut probe = Probe::new(&url, &crowd.agents()[0]);
    probe.once(true).await?;

    let rest = resident(&gate)?;
    let alone = probe.medians(args.probes * 2).await?;
    println!("proxy at rest: {rest} KiB resident; a request {alone}");
    let started = Instant::now();
    crowd.idle(args.idle).await?;
    let idle = resident(&gate)?;
    let took = started.elapsed();
    println!(
        "{} idle connections: {idle} KiB, {:.1} KiB each, in {took:.1?}",
        args.idle,
        each(rest, idle, args.idle)
    );
    let started = Instant::now();
    crowd.watch().await?;
    let watched = resident(&gate)?;
    let took = started.elapsed();
    println!(
        "{} watches: {watched} KiB, {:.1} KiB each, in {took:.1?}",
        args.watches,
        each(idle, watched, args.watches)
    );
    for _ in 0..3 {
        let slowest = crowd.event(&gate).await?;
        println!("an event reached all {} watches within {slowest:.1?}", args.watches);
    }
    println!("after the events: {} KiB", resident(&gate)?);
    let crowded = probe.medians(args.probes * 2).await?;
    println!("a request among them {crowded}: {} of the one before", crowded.over(&alone));
    let (late, all) = crowd.idle_still_there().await?;
    println!("{all} connections asked again; {late} were idle for longer than the gate keeps them");

    let (mut without, mut with, mut opened) = (Times::default(), Times::default(), 0);
    for _ in 0..args.rounds {
        probe.times(args.probes, &mut without).await?;
        let loris = Loris::start(&url, &crowd.agents()[1], args.lorises)?;
        loris.all_open().await?;
        probe.times(args.probes, &mut with).await?;
        opened += loris.stop().await;
    }
    let (without, with) = (without.medians(), with.medians());
    println!("a request without a loris {without}; with {} {with}: {}", args.lorises, with.over(&without));
    println!("{opened} connections of the loris were opened; {} KiB", resident(&gate)?);
    for line in gate.proxies()[0].program().metrics().await?.lines() {
        if line.starts_with("sallyport_connections") || line.starts_with("sallyport_streams") {
            println!("  {line}");
        }
    }
    let (kept, fresh) = with.ratios(&without);
    ensure!(kept <= 2.0 && fresh <= 2.0, "the loris slows a probe to {kept:.2} and {fresh:.2} times");
    Ok(())
}

fn each(before: u64, after: u64, count: usize) -> f64 {
    let grown = u32::try_from(after.saturating_sub(before)).unwrap_or(u32::MAX);
    f64::from(grown) / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX))
}

/// Resident memory of the proxy in KiB.
fn resident(gate: &Gate) -> anyhow::Result<u64> {
    let pid = gate.proxies()[0].program().process().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// An ordinary request, on a kept connection and on one of its own.
struct Probe {
    kept: Client,
    fresh: Client,
    target: String,
}

#[derive(Default)]
struct Times {
    kept: Vec<Duration>,
    fresh: Vec<Duration>,
}

/// Median of the request on a kept connection, and of one with a handshake.
struct Medians {
    kept: f64,
    fresh: f64,
}

impl Probe {
    fn new(url: &str, who: &Who) -> Self {
        let client = |keeps| Client::new(url, who, Protocol::Http1, keeps);
        let target = format!("/api/v1/namespaces/{}/configmaps/load", who.namespace);
        Self { kept: client(true), fresh: client(false), target }
    }

    async fn once(&mut self, kept: bool) -> anyhow::Result<Duration> {
        let client = if kept { &mut self.kept } else { &mut self.fresh };
        let started = Instant::now();
        client.whole("GET", &self.target, "").await.map_err(|lost| anyhow::anyhow!("a probe: {lost}"))?;
        ensure!(client.again() == 0, "a probe was sent again");
        Ok(started.elapsed())
    }

    async fn times(&mut self, count: usize, times: &mut Times) -> anyhow::Result<()> {
        for _ in 0..count {
            times.kept.push(self.once(true).await?);
            times.fresh.push(self.once(false).await?);
        }
        Ok(())
    }

    async fn medians(&mut self, count: usize) -> anyhow::Result<Medians> {
        let mut times = Times::default();
        self.times(count, &mut times).await?;
        Ok(times.medians())
    }
}

impl Times {
    fn medians(&mut self) -> Medians {
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        Medians { kept: median(&mut self.kept), fresh: median(&mut self.fresh) }
    }
}

impl Medians {
    fn ratios(&self, other: &Self) -> (f64, f64) {
        (self.kept / other.kept, self.fresh / other.fresh)
    }

    fn over(&self, other: &Self) -> String {
        let (kept, fresh) = self.ratios(other);
        format!("{kept:.2} and {fresh:.2} times")
    }
}

impl std::fmt::Display for Medians {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "takes {:.2} ms (kept) and {:.2} ms (new connection)", self.kept, self.fresh)
    }
}
