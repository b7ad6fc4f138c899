//! The cluster's DNS: dnsmasq in the node's network behind the selector-less Service kube-dns, fed with the Services that are there.
//!
//! *Guarantees*: `<service>.<namespace>.svc.cluster.local` has the Service's address within a second of the Service's creation, and
//! none after its deletion. Headless Services have no names here; nothing outside the cluster has one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::oneshot;

use super::{ADDRESS, CLUSTER_DNS};
use crate::control_plane::ControlPlane;
use crate::kubeconfig::Kubeconfig;
use crate::supervision::{Process, Sign, Supervisor};

const PORT: u16 = 5353;

/// The server and the thread that feeds it; both end with this.
#[derive(Debug)]
pub(super) struct Dns {
    server: Process,
    ends_the_feeder: Option<oneshot::Sender<()>>,
    feeder: Option<JoinHandle<()>>,
}

impl Drop for Dns {
    /// Waits for the thread: it holds the supervisor, which must be gone when the node is.
    fn drop(&mut self) {
        drop(self.ends_the_feeder.take());
        let _panicked = self.feeder.take().map(JoinHandle::join);
    }
}

impl Dns {
    /// Starts it; names are served when this returns.
    ///
    /// # Errors
    /// When dnsmasq cannot be started or the API server refuses the Service.
    pub(super) fn start(supervisor: &Supervisor, plane: &ControlPlane) -> anyhow::Result<Self> {
        let hosts = supervisor.scratch().join("files/dns-hosts");
        std::fs::write(&hosts, "")?;
        let argv = [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--local=/#/",
            "--bind-interfaces",
            &format!("--listen-address={ADDRESS}"),
            &format!("--port={PORT}"),
            &format!("--addn-hosts={}", hosts.display()),
        ];
        let argv = argv.map(str::to_owned).into();
        let server = supervisor.run("dnsmasq", argv, super::parts::environment())?;
        plane.apply(&service())?;
        let (ends, ended) = oneshot::channel();
        let (first, fed) = std::sync::mpsc::channel();
        let names = Names { admin: plane.admin_kubeconfig().to_owned(), hosts, server: server.clone() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let feeder = std::thread::spawn(move || {
            runtime.block_on(async {
                let _sent = first.send(names.feed().await);
                tokio::select! {
                    _ = ended => {}
                    _ = names.follow() => {}
                }
            });
        });
        fed.recv().context("the thread that feeds the DNS ended")??;
        Ok(Self { server, ends_the_feeder: Some(ends), feeder: Some(feeder) })
    }

    /// dnsmasq's process.
    pub(super) fn server(&self) -> &Process {
        &self.server
    }
}

struct Names {
    admin: PathBuf,
    hosts: PathBuf,
    server: Process,
}

impl Names {
    /// Feeds again whenever a Service changes; a broken watch begins anew.
    async fn follow(&self) -> anyhow::Result<()> {
        let services: Api<Service> = Api::all(Kubeconfig::client(&self.admin).await?);
        let mut changes = watcher(services, watcher::Config::default()).default_backoff().boxed();
        while let Some(change) = changes.next().await {
            let init_or_error =
                matches!(change, Err(_) | Ok(watcher::Event::Init | watcher::Event::InitApply(_)));
            if !init_or_error {
                // The API server may be away: its return brings a change.
                let _away = self.feed().await;
            }
        }
        Ok(())
    }

    async fn feed(&self) -> anyhow::Result<()> {
        let services: Api<Service> = Api::all(Kubeconfig::client(&self.admin).await?);
        let lines: BTreeSet<String> =
            services.list(&ListParams::default()).await?.items.iter().filter_map(line).collect();
        replace(&self.hosts, &lines.into_iter().collect::<String>())?;
        self.server.signal(Sign::Hup)
    }
}

fn line(service: &Service) -> Option<String> {
    let address = service.spec.as_ref()?.cluster_ip.as_deref().filter(|address| *address != "None")?;
    let (name, namespace) = (service.metadata.name.as_deref()?, service.metadata.namespace.as_deref()?);
    Some(format!("{address} {name}.{namespace}.svc.cluster.local\n"))
}

fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    Ok(std::fs::rename(part, path)?)
}

fn service() -> String {
    format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: kube-dns, namespace: kube-system, labels: {{k8s-app: kube-dns}}}}
spec:
  clusterIP: {CLUSTER_DNS}
  ports:
  - {{name: dns, port: 53, protocol: UDP, targetPort: {PORT}}}
  - {{name: dns-tcp, port: 53, protocol: TCP, targetPort: {PORT}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: kube-dns-1, namespace: kube-system, labels: {{kubernetes.io/service-name: kube-dns}}}}
addressType: IPv4
ports:
- {{name: dns, port: {PORT}, protocol: UDP}}
- {{name: dns-tcp, port: {PORT}, protocol: TCP}}
endpoints: [{{addresses: ["{ADDRESS}"], conditions: {{ready: true}}}}]
"#
    )
}
