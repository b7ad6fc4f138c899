//! The replica's Lease: it says "ready, with this bundle", and its renewal says that the API server is there.
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use super::Live;

const RENEW_EVERY: Duration = Duration::from_secs(5);
const DURATION_SECONDS: i32 = 15;

/// Renews the Lease `sallyport-proxy-<replica>` every five seconds, and at once after a change of the bundle, for as
/// long as the replica is ready; deletes it when `ended`.
pub async fn renew(client: Client, namespace: String, replica: String, live: Live, ended: CancellationToken) {
    let leases = Api::<Lease>::namespaced(client, &namespace);
    let name = format!("sallyport-proxy-{replica}");
    let mut changes = live.changes();
    loop {
        renew_once(&leases, &name, &replica, &live).await;
        tokio::select! {
            () = tokio::time::sleep(RENEW_EVERY) => {}
            Ok(()) = changes.changed() => {}
            () = ended.cancelled() => break,
        }
    }
    if let Err(error) = leases.delete(&name, &DeleteParams::default()).await {
        tracing::warn!(%error, "the lease was not deleted");
    }
}

async fn renew_once(leases: &Api<Lease>, name: &str, replica: &str, live: &Live) {
    let Some(hash) = live.hash_when_ready() else {
        if leases.get_opt(name).await.is_ok() {
            live.api_server_seen();
        }
        return;
    };
    let lease = serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": {
                crds::names::LABEL_COMPONENT: crds::names::COMPONENT_PROXY,
                crds::names::LABEL_MANAGED_BY: crds::names::MANAGED_BY,
            },
            "annotations": {crds::names::ANNOTATION_HASH: hash},
        },
        "spec": {
            "holderIdentity": replica,
            "leaseDurationSeconds": DURATION_SECONDS,
            "renewTime": format!("{:.6}", jiff::Timestamp::now()),
        },
    });
    let params = PatchParams::apply(crds::names::PROXY_SERVICE_ACCOUNT).force();
    match leases.patch(name, &params, &Patch::Apply(&lease)).await {
        Ok(_) => live.api_server_seen(),
        Err(error) => tracing::warn!(%error, "the lease was not renewed"),
    }
}
