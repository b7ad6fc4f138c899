//! Certificates that live for seconds: renewed, authorities and all, while agents and the API server go on connecting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{ControlPlane, Gate, Setup, wire};
use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, join_all};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use serde_json::json;

use crate::caller::Caller;
use crate::estate::Estate;
use crate::leader::window;
use crate::operator::{SYSTEM, get};

/// Lifetime of a serving certificate in seconds; that of an authority is four times as long. The issue's own line is 60.
const SECONDS: &str = "SALLYPORT_E2E_CERTIFICATE_SECONDS";
const RENEWALS: usize = 10;
const AUTHORITIES: usize = 2;
const PAUSE: Duration = Duration::from_millis(40);

/// What one kind of client did.
struct Load {
    name: &'static str,
    done: AtomicUsize,
    failed: std::sync::Mutex<Vec<String>>,
}

impl Load {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, done: AtomicUsize::new(0), failed: std::sync::Mutex::default() })
    }

    /// Does it again and again until `stop`.
    async fn run(self: Arc<Self>, stop: Arc<AtomicBool>, mut once: impl AsyncFnMut() -> anyhow::Result<()>) {
        while !stop.load(Ordering::Acquire) {
            match once().await {
                Ok(()) => drop(self.done.fetch_add(1, Ordering::AcqRel)),
                Err(error) => self
                    .failed
                    .lock()
                    .expect("no holder panics")
                    .push(format!("{:?}: {error:#}", Instant::now())),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn settle(&self) {
        let (done, failed) =
            (self.done.load(Ordering::Acquire), self.failed.lock().expect("no holder panics"));
        println!("{}: {done}, {} failed", self.name, failed.len());
        assert!(failed.is_empty(), "{}: {failed:#?}", self.name);
        assert!(done > RENEWALS * 5, "{}: {done} prove nothing", self.name);
    }
}

/// The serving certificates and authorities that were seen.
#[derive(Default)]
struct Seen {
    certificates: BTreeMap<&'static str, BTreeSet<String>>,
    authorities: BTreeSet<String>,
    trusted_at_once: usize,
}

impl Seen {
    async fn look(&mut self, secrets: &Api<Secret>, maps: &Api<ConfigMap>) -> anyhow::Result<()> {
        for name in [crds::names::PROXY_TLS_SECRET, crds::names::WEBHOOK_TLS_SECRET] {
            let data = secrets.get(name).await?.data.unwrap_or_default();
            let text = |key: &str| String::from_utf8(data[key].0.clone());
            self.certificates.entry(name).or_default().insert(text("tls.crt")?);
            let authority = text("ca.crt")?;
            let published = maps.get(crds::names::CA_CONFIG_MAP).await?.data.unwrap_or_default();
            let published = &published["ca.crt"];
            assert!(published.contains(authority.trim()), "what signs is published");
            self.trusted_at_once = self.trusted_at_once.max(published.matches("BEGIN CERTIFICATE").count());
            self.authorities.insert(authority);
        }
        Ok(())
    }

    async fn look_until_enough(
        &mut self,
        secrets: &Api<Secret>,
        maps: &Api<ConfigMap>,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        while !self.is_enough() {
            anyhow::ensure!(began.elapsed() < limit, "too few renewals");
            self.look(secrets, maps).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    fn is_enough(&self) -> bool {
        let renewed = self.certificates.values().map(BTreeSet::len).min().unwrap_or(0);
        renewed > RENEWALS && self.authorities.len() > AUTHORITIES
    }
}

/// The authorities in an agent's published kubeconfig.
async fn published(maps: &Api<ConfigMap>) -> anyhow::Result<String> {
    let map = maps.get("agent-kubeconfig").await?;
    let text = map.data.unwrap_or_default().remove("kubeconfig").context("a kubeconfig")?;
    let config = kube::config::Kubeconfig::from_yaml(&text)?;
    let cluster = config.clusters[0].cluster.as_ref().context("a cluster")?;
    let authorities = cluster.certificate_authority_data.as_ref().context("authorities")?;
    Ok(String::from_utf8(STANDARD.decode(authorities)?)?)
}

#[tokio::test]
async fn f24_ten_renewals_and_two_authorities_under_load_fail_nobody() -> anyhow::Result<()> {
    let seconds: u64 = std::env::var(SECONDS).ok().map_or(Ok(15), |text| text.parse())?;
    let plane = ControlPlane::start()?;
    let operator_flags = vec![
        format!("--certificate-lifetime-seconds={seconds}"),
        format!("--ca-lifetime-seconds={}", 4 * seconds),
    ];
    let gate = Gate::start(&plane, Setup { operators: 2, operator_flags, ..Setup::default() })?;
    let rules = json!({"rules": [{"name": "read", "effect": "Allow", "match": [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}]});
    let estate = Estate::new(&gate, "certificates", rules).await?;
    let namespace = estate.namespace.clone();
    let admin = Caller::admin(&plane).await?;
    admin
        .create(&window(&namespace, "waits"), "")
        .await?
        .map_err(|status| anyhow::anyhow!(status.message))?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut running: Vec<LocalBoxFuture<'_, ()>> = Vec::new();
    let mut loads = Vec::new();
    let fresh = Load::new("requests, the kubeconfig read again for each connection");
    let late = Load::new("requests, the kubeconfig as it was a while ago");
    // A mounted ConfigMap lags; a client may be a sixth of an authority's lifetime behind.
    let lag = Duration::from_secs(4 * seconds) / 9;
    for (load, lag) in [(&fresh, Duration::ZERO), (&fresh, Duration::ZERO), (&late, lag)] {
        running.push(load.clone().run(stop.clone(), requests(&estate, lag).await?).boxed_local());
    }
    let calls = Load::new("webhook calls by the API server");
    running.push(calls.clone().run(stop.clone(), webhook_calls(&plane, &namespace).await?).boxed_local());
    let handshakes = Load::new("webhook handshakes against the caBundle");
    running.push(handshakes.clone().run(stop.clone(), webhook_handshakes(&plane).await?).boxed_local());
    loads.extend([fresh, late, calls, handshakes]);

    let client = plane.admin().await?;
    let (secrets, maps) = (Api::namespaced(client.clone(), SYSTEM), Api::namespaced(client, SYSTEM));
    let (began, mut seen) = (Instant::now(), Seen::default());
    let watching = async {
        let outcome = seen.look_until_enough(&secrets, &maps, Duration::from_secs(20 * seconds)).await;
        stop.store(true, Ordering::Release);
        outcome
    };
    let (_ended, outcome) = tokio::join!(join_all(running), watching);
    outcome?;
    let renewals: Vec<usize> = seen.certificates.values().map(|seen| seen.len() - 1).collect();
    println!(
        "certificates of {seconds} s, authorities of {} s, for {:?}: renewals of proxy and webhook {renewals:?}, {} authorities signed, {} trusted at once",
        4 * seconds,
        began.elapsed(),
        seen.authorities.len(),
        seen.trusted_at_once
    );
    loads.iter().for_each(|load| load.settle());
    assert!(seen.trusted_at_once >= 2, "old and new are published together");
    Ok(())
}

/// An agent that opens a connection for each request, to the proxies in turn.
async fn requests(
    estate: &Estate,
    lag: Duration,
) -> anyhow::Result<impl AsyncFnMut() -> anyhow::Result<()> + use<>> {
    let maps: Api<ConfigMap> = Api::namespaced(estate.gate.plane().admin().await?, &estate.namespace);
    let target = format!("/api/v1/namespaces/{}/configmaps/kube-root-ca.crt", estate.namespace);
    let (request, urls) = (estate.agent.request("GET", &target, &[], b"")?, estate.gate.urls());
    let (mut read, mut authorities, mut turn) = (Instant::now(), published(&maps).await?, 0);
    Ok(async move || {
        if read.elapsed() >= lag {
            (read, authorities) = (Instant::now(), published(&maps).await?);
        }
        turn += 1;
        let answer = wire::exchange(&urls[turn % urls.len()], &authorities, &request).await?;
        anyhow::ensure!(answer.code == 200, "{}: {}", answer.code, answer.text());
        Ok(())
    })
}

/// What makes the API server call the webhook: a grant asked for, and one reviewed, both as a dry run.
async fn webhook_calls(
    plane: &ControlPlane,
    namespace: &str,
) -> anyhow::Result<impl AsyncFnMut() -> anyhow::Result<()> + use<>> {
    let (admin, namespace) = (Caller::admin(plane).await?, namespace.to_owned());
    let alice = Caller::user(plane, crate::estate::ALICE, &["system:masters"]).await?;
    let denied = json!({"spec": {"reviews": [{"decision": "Denied"}]}});
    Ok(async move || {
        let asked = admin.create(&window(&namespace, "asked"), "&dryRun=All").await?;
        asked.map_err(|status| anyhow::anyhow!(status.message))?;
        let reviewed = alice.merge(&window(&namespace, "waits"), "?dryRun=All", &denied).await?;
        reviewed.map_err(|status| anyhow::anyhow!(status.message))?;
        Ok(())
    })
}

/// Connects to the webhook as an API server would that has no connection open: by what both configurations say now.
async fn webhook_handshakes(
    plane: &ControlPlane,
) -> anyhow::Result<impl AsyncFnMut() -> anyhow::Result<()> + use<>> {
    let client = plane.admin().await?;
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client);
    Ok(async move || {
        let name = crds::names::WEBHOOK_CONFIGURATION;
        let (first, second) = tokio::try_join!(mutating.get(name), validating.get(name))?;
        let first = first.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
        let second = second.webhooks.into_iter().flatten().map(|webhook| webhook.client_config);
        for config in first.chain(second) {
            let url = config.url.context("a URL")?;
            let (server, _path) =
                url.split_at(url.rfind("/validate").or(url.rfind("/mutate")).context("a path")?);
            let bundle = String::from_utf8(config.ca_bundle.context("a caBundle")?.0)?;
            let answer = wire::exchange(server, &bundle, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await?;
            anyhow::ensure!(answer.code == 200, "{}", answer.code);
        }
        Ok(())
    })
}

#[tokio::test]
async fn f24_ready_means_that_the_api_server_accepts_the_certificate() -> anyhow::Result<()> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { operators: 2, proxies: 0, ..Setup::default() })?;
    // Both operators may only look from now on, so nobody puts back what is broken next.
    let binding = get(&plane, &["clusterrolebinding", "sallyport-operator"])?;
    let look = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "only-look"},
         "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]},
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "only-look"},
         "subjects": binding["subjects"],
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "only-look"}},
    ]);
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": look}).to_string())?;
    plane.kubectl(&["delete", "clusterrolebinding", "sallyport-operator"])?.success()?;
    // The authority that signed is no longer the one that is trusted.
    let bundle = STANDARD.encode(e2e::pki::Authority::new("foreign")?.cert());
    let patch =
        format!(r#"[{{"op":"replace","path":"/webhooks/0/clientConfig/caBundle","value":"{bundle}"}}]"#);
    let args = [
        "patch",
        "mutatingwebhookconfiguration",
        crds::names::WEBHOOK_CONFIGURATION,
        "--type=json",
        "-p",
        &patch,
    ];
    e2e::eventually("no operator to be ready", Duration::from_secs(40), async || {
        plane.kubectl(&args)?.success()?;
        let mut unready = true;
        for operator in gate.operators() {
            let answer = wire::get_plain(operator.admin_port(), "/readyz").await?;
            unready &= answer.code == 503 && answer.text().contains("certificates");
        }
        Ok(unready.then_some(()))
    })
    .await?;
    let mut back = binding.clone();
    back["metadata"] = json!({"name": "sallyport-operator"});
    plane.apply(&back.to_string())?;
    for operator in gate.operators() {
        operator.ready().await?;
    }
    Ok(())
}
