//! The local control plane itself: it starts, it tells what reached it, and it goes without a trace.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use e2e::{ControlPlane, Filter, Supervisor, Version, kubectl};

#[tokio::test]
async fn the_audit_log_tells_who_asked_what() -> anyhow::Result<()> {
    let plane = super::plane()?;
    let namespace = plane.namespace("ground").await?;
    let alice = plane.user_kubeconfig("alice@example.com", Some("payments-oncall"))?;
    for version in [Version::New, Version::Old] {
        let out =
            kubectl(version, &alice, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
        assert_eq!(out.success()?, "alice@example.com");
    }
    let refused = kubectl(Version::New, &alice, &["get", "configmaps", "-n", &namespace])?;
    assert_eq!(refused.code, 1, "{refused:?}");

    let asked = Filter::ran_as("alice@example.com").namespace(&namespace);
    let seen = plane.audit().requests(&asked).await?;
    let told: Vec<_> = seen.iter().map(|request| (request.verb.as_str(), request.code())).collect();
    assert_eq!(told, [("list", 403)]);
    assert!(seen[0].user.groups.contains(&"payments-oncall".to_owned()), "{seen:?}");

    let impersonating = ["get", "sa", "default", "-n", &namespace, "--as", "bob@example.com"];
    kubectl(Version::New, plane.admin_kubeconfig(), &impersonating)?;
    let seen = plane.audit().requests(&Filter::ran_as("bob@example.com").namespace(&namespace)).await?;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].user.username, e2e::control_plane::ADMIN);
    Ok(())
}

#[tokio::test]
async fn a_service_account_token_carries_its_audience() -> anyhow::Result<()> {
    let plane = super::plane()?;
    let namespace = plane.namespace("ground").await?;
    plane.service_account(&namespace, "agent").await?;
    let own = plane.service_account_kubeconfig(&namespace, "agent").await?;
    let out = kubectl(Version::New, &own, &["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    assert_eq!(out.success()?, format!("system:serviceaccount:{namespace}:agent"));

    let token = plane.token(&namespace, "agent", &["sallyport"], 600).await?;
    let login = e2e::kubeconfig::Login::Token(token);
    let foreign = e2e::kubeconfig::Kubeconfig::new(plane.server(), plane.ca(), login);
    let foreign = foreign.write(plane.scratch(), "foreign-audience")?;
    let out = kubectl(Version::New, &foreign, &["auth", "whoami"])?;
    assert_eq!(out.code, 1, "{out:?}");
    assert!(out.stderr.contains("must be logged in") || out.stderr.contains("Unauthorized"), "{out:?}");
    Ok(())
}

#[tokio::test]
async fn the_charts_manifests_are_accepted_by_the_api_server() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    e2e::gate::install(&plane).await?;
    let served = plane.kubectl(&["api-resources", "--api-group=sallyport.dev", "-o", "name"])?.success()?;
    let kinds = ["accessgrants", "accesspolicies", "agentidentities", "sessionrecords"];
    assert_eq!(
        served.lines().map(str::to_owned).collect::<Vec<_>>(),
        kinds.map(|kind| format!("{kind}.sallyport.dev"))
    );
    for name in ["world", "identity", "policy", "rbac", "alice", "read-all", "windows"] {
        let path = e2e::scenario::manifest(name).display().to_string();
        let out = plane.kubectl(&["apply", "-f", &path])?.success()?;
        assert!(!out.contains("Warning"), "{out}");
    }
    Ok(())
}

#[test]
fn kill_9_of_the_harness_leaves_no_process_and_no_folder() -> anyhow::Result<()> {
    let mut harness = Command::new("/proc/self/exe")
        .args(["--ignored", "--exact", "ground::stand_in_for_a_harness", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(harness.stdout.take().context("piped")?).lines();
    let told = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("RUNNING ")?.1.to_owned()));
    let told = told.context("the stand-in did not start a control plane")?;
    let (supervisor, scratch) = told.split_once(' ').context("two words")?;
    let mut pids = children_of(supervisor.parse()?);
    assert_eq!(pids.len(), 3, "etcd, kube-apiserver, kube-controller-manager");
    pids.push(supervisor.parse()?);

    harness.kill()?;
    harness.wait()?;
    gone(&pids, Duration::from_secs(5));
    assert!(!Path::new(scratch).exists(), "{scratch} is still there");
    Ok(())
}

#[test]
#[ignore = "not a test: the process that another test kills"]
fn stand_in_for_a_harness() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    println!("RUNNING {} {}", plane.supervisor().pid(), plane.scratch().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn kill_9_of_the_supervisor_ends_its_processes_and_the_folder_is_swept() -> anyhow::Result<()> {
    let supervisor = Supervisor::start()?;
    let scratch = supervisor.scratch().to_owned();
    let argv = ["sleep", "600"].map(str::to_owned).to_vec();
    let sleeper =
        supervisor.run("sleep", argv, BTreeMap::from([("PATH".to_owned(), std::env::var("PATH")?)]))?;
    assert_eq!(sleeper.ended()?, None);
    let kill = Command::new("kill").args(["-9", &supervisor.pid().to_string()]).status()?;
    assert!(kill.success());
    gone(&[sleeper.pid()], Duration::from_secs(5));
    assert!(scratch.exists(), "nobody was left to remove it");
    drop((sleeper, supervisor));
    drop(Supervisor::start()?);
    assert!(!scratch.exists(), "{} was not swept", scratch.display());
    Ok(())
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn gone(pids: &[u32], limit: Duration) {
    let deadline = Instant::now() + limit;
    for pid in pids {
        while runs(*pid) {
            assert!(Instant::now() < deadline, "process {pid} still runs");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Whether it runs; a zombie whose parent has not looked yet does not.
fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
