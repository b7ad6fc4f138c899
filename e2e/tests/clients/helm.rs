//! helm through the gate: a small chart installed, changed, taken back and removed, with both of helm's storage drivers.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{bail, ensure};
use e2e::Output;

use super::client::{Client, assert_clean, clean};
use super::row::Row;

/// Runs helm as the row's agent with the driver that the row is named after.
fn helm(row: &Row, args: &[&str]) -> anyhow::Result<Output> {
    let Client::Kubectl { program, .. } = &row.client else { bail!("helm is a program like kubectl") };
    let driver = if row.name.ends_with("configmap") { "configmap" } else { "secret" };
    let out = clean(program, &row.kubeconfig)
        .args(args)
        .env("HELM_DRIVER", driver)
        .stdin(Stdio::null())
        .output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Output {
        stdout: text(&out.stdout),
        stderr: text(&out.stderr),
        code: out.status.code().unwrap_or(-1),
    };
    said.stdout.lines().chain(said.stderr.lines()).for_each(assert_clean);
    Ok(said)
}

fn chart() -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("charts/small").display().to_string()
}

async fn installed(row: &mut Row) -> anyhow::Result<String> {
    let release = row.fresh("small");
    let out = helm(row, &["install", &release, &chart()])?;
    let made = row.reached_name("create", &format!("{release}-web")).await?;
    if out.code != 0 {
        ensure!(made.is_empty(), "refused, and yet: {made:?}");
        bail!("{}", out.stderr);
    }
    ensure!(made.len() == 1 && made[0].code() == 201, "{made:?}");
    ensure!(row.text_of(&format!("{release}-flags"))? == "first");
    Ok(release)
}

async fn upgraded(row: &mut Row) -> anyhow::Result<String> {
    let release = installed(row).await?;
    helm(row, &["upgrade", &release, &chart(), "--set", "text=second", "--wait", "--timeout=60s"])?
        .success()?;
    ensure!(row.text_of(&format!("{release}-flags"))? == "second");
    let patched = row.reached_name("patch", &format!("{release}-web")).await?;
    ensure!(patched.len() == 1 && patched[0].code() == 200, "{patched:?}");
    Ok(release)
}

pub async fn install(row: &mut Row) -> anyhow::Result<()> {
    let release = installed(row).await?;
    let listed = helm(row, &["list", "--short"])?.success()?;
    ensure!(listed.lines().any(|line| line == release), "{listed}");
    Ok(())
}

pub async fn upgrade(row: &mut Row) -> anyhow::Result<()> {
    upgraded(row).await.map(drop)
}

pub async fn rollback(row: &mut Row) -> anyhow::Result<()> {
    let release = upgraded(row).await?;
    helm(row, &["rollback", &release, "1"])?.success()?;
    ensure!(row.text_of(&format!("{release}-flags"))? == "first");
    let history = helm(row, &["history", &release])?.success()?;
    ensure!(history.contains("Rollback to 1"), "{history}");
    Ok(())
}

pub async fn uninstall(row: &mut Row) -> anyhow::Result<()> {
    let release = installed(row).await?;
    helm(row, &["uninstall", &release])?.success()?;
    let deleted = row.reached_name("delete", &format!("{release}-web")).await?;
    ensure!(deleted.len() == 1 && deleted[0].code() == 200, "{deleted:?}");
    ensure!(row.text_of(&format!("{release}-flags")).is_err(), "it is still there");
    Ok(())
}

pub async fn refused(row: &mut Row) -> anyhow::Result<()> {
    let release = row.fresh("small");
    let out = helm(row, &["install", &release, &chart(), "-n", "default"])?;
    ensure!(out.code != 0 && out.stderr.contains("sallyport/NotAllowed"), "{out:?}");
    let reached = row.reached(|all| all.namespace("default")).await?;
    ensure!(reached.is_empty(), "{reached:?}");
    Ok(())
}
