//! Does what a user does with kube-rs: reads one deed per line (JSON) and writes its events and its outcome.
//!
//! The programs in `e2e/clients` do the same with the clients of other languages.

use std::fmt::Debug;
use std::io::BufRead;
use std::path::PathBuf;

use anyhow::{Context, bail};
use e2e::kubeconfig::Kubeconfig;
use futures::{StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Deed {
    deed: String,
    namespace: String,
    name: String,
    text: String,
    verb: String,
    group: String,
    resource: String,
    until: String,
    resource_version: String,
    limit: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::var_os("KUBECONFIG").context("KUBECONFIG is not set")?;
    let client = Kubeconfig::client(&PathBuf::from(path)).await?;
    for line in std::io::stdin().lock().lines() {
        let deed: Deed = serde_json::from_str(&line?)?;
        println!("{}", outcome(act(&client, &deed).await));
    }
    Ok(())
}

fn outcome(said: anyhow::Result<Value>) -> Value {
    match said {
        Ok(said) => json!({"ok": true, "said": said}),
        Err(error) => {
            let mut outcome = json!({"ok": false, "said": format!("{error:#}")});
            if let Some(kube::Error::Api(status)) = error.downcast_ref() {
                outcome["code"] = status.code.into();
                outcome["reason"] = status.reason.clone().into();
            }
            outcome
        }
    }
}

async fn act(client: &Client, deed: &Deed) -> anyhow::Result<Value> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &deed.namespace);
    let (name, post) = (deed.name.as_str(), PostParams::default());
    let text = json!({"data": {"text": deed.text}});
    Ok(match deed.deed.as_str() {
        "whoami" => plain(Api::all(client.clone()).create(&post, &SelfSubjectReview::default()).await?)?,
        "can-i" => may_i(client, deed).await?,
        "discovery" => discovery(client).await?,
        "list" => plain(maps.list(&ListParams::default()).await?.items)?,
        "pages" => pages(&maps, deed.limit).await?,
        "secret" => plain(Api::<Secret>::namespaced(client.clone(), &deed.namespace).get(name).await?)?,
        "watch" if deed.resource == "services" => {
            watch(&Api::<Service>::namespaced(client.clone(), &deed.namespace), deed).await?
        }
        "watch" => watch(&maps, deed).await?,
        "informer" => informer(maps, deed).await?,
        "create" => {
            let mut map = text;
            map["metadata"] = json!({"name": name});
            plain(maps.create(&post, &serde_json::from_value(map)?).await?)?
        }
        "create-deployment" => {
            let all: Api<Deployment> = Api::namespaced(client.clone(), &deed.namespace);
            plain(all.create(&post, &deployment(name)?).await?)?
        }
        "apply-server-side" => {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": text["data"]});
            plain(maps.patch(name, &PatchParams::apply("clients").force(), &Patch::Apply(map)).await?)?
        }
        "patch" => plain(maps.patch(name, &PatchParams::default(), &Patch::Merge(text)).await?)?,
        "replace" => {
            let mut found = maps.get(name).await?;
            found.data.get_or_insert_default().insert("text".to_owned(), deed.text.clone());
            plain(maps.replace(name, &post, &found).await?)?
        }
        "delete" if deed.resource == "services" => {
            let all: Api<Service> = Api::namespaced(client.clone(), &deed.namespace);
            plain(all.delete(name, &DeleteParams::default()).await?.either(|_| Value::Null, |_| Value::Null))?
        }
        "delete" => {
            let all: Api<Deployment> = Api::namespaced(client.clone(), &deed.namespace);
            plain(all.delete(name, &DeleteParams::default()).await?.either(|_| Value::Null, |_| Value::Null))?
        }
        other => bail!("unknown deed `{other}`"),
    })
}

fn plain(answer: impl serde::Serialize) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(answer)?)
}

async fn may_i(client: &Client, deed: &Deed) -> anyhow::Result<Value> {
    let attributes = json!({"namespace": deed.namespace, "verb": deed.verb, "group": deed.group, "resource": deed.resource});
    let review: SelfSubjectAccessReview =
        serde_json::from_value(json!({"spec": {"resourceAttributes": attributes}}))?;
    plain(Api::all(client.clone()).create(&PostParams::default(), &review).await?)
}

async fn discovery(client: &Client) -> anyhow::Result<Value> {
    let found = kube::Discovery::new(client.clone()).run_aggregated().await?;
    let kinds = found.groups().flat_map(|group| group.resources_by_stability());
    Ok(kinds.map(|(kind, _)| json!(format!("{}/{}", kind.api_version, kind.plural))).collect())
}

async fn pages(maps: &Api<ConfigMap>, limit: u32) -> anyhow::Result<Value> {
    let (mut pages, mut names, mut params) = (0, Vec::new(), ListParams::default().limit(limit));
    loop {
        let page = maps.list(&params).await?;
        names.extend(page.items.iter().map(ResourceExt::name_any));
        pages += 1;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(json!({"pages": pages, "names": names})),
        }
    }
}

async fn watch<K>(all: &Api<K>, deed: &Deed) -> anyhow::Result<Value>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let version = if deed.resource_version.is_empty() { "0" } else { &deed.resource_version };
    let events = all.watch(&WatchParams::default(), version).await?;
    pin_mut!(events);
    while let Some(event) = events.try_next().await? {
        let (kind, object) = match event {
            WatchEvent::Added(object) => ("ADDED", object),
            WatchEvent::Modified(object) => ("MODIFIED", object),
            WatchEvent::Deleted(object) => ("DELETED", object),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        };
        println!("{}", json!({"event": kind, "name": object.name_any()}));
        if object.name_any() == deed.until {
            return Ok(Value::Null);
        }
    }
    bail!("the watch ended without an error")
}

async fn informer(maps: Api<ConfigMap>, deed: &Deed) -> anyhow::Result<Value> {
    let events = watcher::watcher(maps, watcher::Config::default());
    pin_mut!(events);
    while let Some(event) = events.next().await {
        let name = match event? {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => object.name_any(),
            watcher::Event::Init | watcher::Event::InitDone | watcher::Event::Delete(_) => continue,
        };
        println!("{}", json!({"event": "ADDED", "name": name}));
        if name == deed.until {
            return Ok(Value::Null);
        }
    }
    bail!("the informer ended")
}

fn deployment(name: &str) -> anyhow::Result<Deployment> {
    let labels = json!({"app": name});
    let container = json!({"name": "web", "image": "checkout:2.3.1"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": labels}, "template": template});
    Ok(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?)
}
