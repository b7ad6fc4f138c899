//! An agent that works: asks the gate at a steady rate with one watch open, and says what came of every request.
//!
//! It runs in a pod with the published kubeconfig. No request is tried twice. One JSON line per failure and per end of the watch;
//! the last line is the sum.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

#[derive(Parser)]
#[command(name = "e2e-load", about = "A steady agent")]
struct Args {
    /// Where the ConfigMaps are.
    #[arg(long)]
    namespace: String,
    /// The ConfigMap that is read, and changed by one request in ten.
    #[arg(long)]
    name: String,
    /// Requests a second.
    #[arg(long, default_value_t = 25)]
    rate: u32,
    /// How long.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Default)]
struct Sum {
    sent: u64,
    failed: u64,
    slowest: Duration,
    watch_ends: BTreeMap<String, u64>,
}

type Shared = Arc<Mutex<Sum>>;

const WRITE_EVERY: u64 = 10;
const CONNECTIONS: usize = 4;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e2e-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    e2e::install_crypto();
    let mut apis: Vec<Api<ConfigMap>> = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut config =
            kube::Config::from_custom_kubeconfig(Kubeconfig::read()?, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        apis.push(Api::namespaced(Client::try_from(config)?, &args.namespace));
    }
    let sum = Shared::default();
    let watch = tokio::spawn(watch(apis[0].clone(), sum.clone()));
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let pause = Duration::from_secs(1) * u32::try_from(apis.len())? / args.rate;
    let mut workers = JoinSet::new();
    for (place, api) in apis.into_iter().enumerate() {
        let first = Instant::now() + pause * u32::try_from(place)? / u32::try_from(CONNECTIONS)?;
        workers.spawn(work(api, args.name.clone(), first, pause, until, sum.clone()));
    }
    workers.join_all().await;
    watch.abort();
    let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    let slowest = u64::try_from(sum.slowest.as_millis())?;
    println!(
        "{}",
        json!({"sum": {"sent": sum.sent, "failed": sum.failed, "slowestMillis": slowest, "watchEnds": sum.watch_ends}})
    );
    Ok(())
}

/// One request after another on one connection. A gate that answers slowly is asked less often, never more at once.
async fn work(
    api: Api<ConfigMap>,
    name: String,
    first: Instant,
    pause: Duration,
    until: Instant,
    sum: Shared,
) {
    let mut beat = tokio::time::interval_at(first.into(), pause);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0;
    while Instant::now() < until {
        beat.tick().await;
        one(&api, &name, number, &sum).await;
        number += 1;
    }
}

async fn one(api: &Api<ConfigMap>, name: &str, number: u64, sum: &Shared) {
    let started = Instant::now();
    let write = number % WRITE_EVERY == WRITE_EVERY - 1;
    let outcome = if write {
        let patch = json!({"metadata": {"annotations": {"e2e/number": number.to_string()}}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    } else {
        api.get(name).await
    };
    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    sum.sent += 1;
    sum.slowest = sum.slowest.max(started.elapsed());
    if let Err(error) = outcome {
        sum.failed += 1;
        let took = started.elapsed().as_secs_f64();
        println!("{}", json!({"at": now(), "write": write, "took": took, "error": format!("{error:?}")}));
    }
}

/// Watches for ever; notes how each watch ended: `clean`, `told: <reason>` or `broken`.
async fn watch(api: Api<ConfigMap>, sum: Shared) {
    let mut version = "0".to_owned();
    loop {
        let end = watch_once(&api, &mut version).await;
        println!("{}", json!({"at": now(), "watch": end}));
        *sum.lock().unwrap_or_else(PoisonError::into_inner).watch_ends.entry(end).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn watch_once(api: &Api<ConfigMap>, version: &mut String) -> String {
    let stream = match api.watch(&WatchParams::default().timeout(290), version).await {
        Ok(stream) => stream,
        Err(error) => return format!("refused: {error:?}"),
    };
    futures::pin_mut!(stream);
    loop {
        match stream.try_next().await {
            Ok(None) => return "clean".to_owned(),
            Ok(Some(WatchEvent::Error(status))) => {
                "0".clone_into(version);
                return format!("told: {}", status.reason);
            }
            Ok(Some(WatchEvent::Bookmark(mark))) => version.clone_from(&mark.metadata.resource_version),
            Ok(Some(WatchEvent::Added(map) | WatchEvent::Modified(map) | WatchEvent::Deleted(map))) => {
                if let Some(seen) = map.resource_version() {
                    *version = seen;
                }
            }
            Err(error) => return format!("broken: {error:?}"),
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
