//! `helm test`: what somebody runs after an install proves the boundary, and leaves nothing.

use std::time::Instant;

use e2e::eventually;

use super::estate::SOON;

#[tokio::test]
async fn c_helm_test_proves_the_boundary_and_leaves_nothing() -> anyhow::Result<()> {
    let release = super::installed(None).await?;
    let cluster = super::cluster()?;
    let began = Instant::now();
    release.test()?;
    println!("FIGURE helm test: {:.1} s", began.elapsed().as_secs_f64());
    eventually("the check's namespace to be gone", SOON, async || {
        let gone = cluster.kubectl(&["get", "namespace", "sallyport-check"])?;
        Ok(gone.stderr.contains("NotFound").then_some(()))
    })
    .await
}
