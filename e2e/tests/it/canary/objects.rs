//! Every built-in kind that holds a pod's environment, a ConfigMap and a custom object, each with the canary in it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::kubectl::kubectl_stdin;
use e2e::{Agent, ControlPlane, Gate, Version, eventually};
use serde_json::{Value, json};

/// 24 bytes that occur nowhere else. The `/` is escaped in URLs, and some programs escape it in JSON.
pub const CANARY: &str = "canary/5b1de0a97c4f2e83x";
/// The kinds of which there is an object, as kubectl takes them; `{vaults}` is the custom one.
pub const KINDS: [&str; 12] = [
    "pods",
    "podtemplates",
    "replicationcontrollers",
    "replicasets",
    "deployments",
    "daemonsets",
    "statefulsets",
    "jobs",
    "cronjobs",
    "controllerrevisions",
    "configmaps",
    "{vaults}",
];

/// A namespace behind the mask, and one with the same objects for who asks the API server itself.
pub struct Ground {
    pub masked: String,
    pub open: String,
    group: String,
}

impl Ground {
    /// Puts the names of this ground into a text.
    pub fn fill(&self, text: &str, namespace: &str) -> String {
        let vaults = format!("vaults.{}", self.group);
        text.replace("{ns}", namespace).replace("{vaults}", &vaults).replace("{group}", &self.group)
    }
}

/// Every form in which the canary would give itself away.
pub fn forms() -> Vec<String> {
    let base64 = |before: &str| {
        let encoded = STANDARD.encode(format!("{before}{CANARY}"));
        // The first and last characters also depend on what stands beside it.
        encoded[(before.len() * 8).div_ceil(6)..encoded.len() - 4].to_owned()
    };
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let escaped: String = CANARY.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
    let url = CANARY.replace('/', "%2F");
    // Its longer half alone is told from everything else, whatever became of the slash.
    vec![CANARY[7..].to_owned(), base64(""), base64("x"), base64("xx"), hex, escaped, url]
}

/// What stands where the canary stood, as text and in base64.
pub fn placeholders() -> Vec<String> {
    let rules = ["pod-env", "config", "vault"].map(|rule| format!("[MASKED:{rule}]"));
    let encoded = rules.each_ref().map(|text| STANDARD.encode(text));
    rules.into_iter().chain(encoded).collect()
}

fn spec() -> Value {
    let env = json!([
        {"name": "TOKEN", "value": CANARY},
        {"name": "FLAG", "valueFrom": {"configMapKeyRef": {"name": "flags", "key": "token"}}},
    ]);
    let container = |name: &str| json!({"name": name, "image": "x", "env": env});
    json!({"containers": [container("c")], "initContainers": [container("i")]})
}

fn object(api_version: &str, kind: &str, namespace: &str, name: &str, body: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}}});
    if let (Some(object), Value::Object(body)) = (object.as_object_mut(), body) {
        object.extend(body);
    }
    if name != "one" && name != "flags" {
        object["metadata"]["labels"]["victim"] = json!("yes");
        object["metadata"]["finalizers"] = json!(["example.com/stays"]);
    }
    // As `kubectl apply` leaves it (B20); controllers copy it from sets to their revisions.
    let applied = object.to_string();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": applied});
    object
}

fn objects(namespace: &str, group: &str) -> Vec<Value> {
    let mut once = spec();
    once["restartPolicy"] = json!("Never");
    let template = |app: &str, spec: &Value| json!({"metadata": {"labels": {"app": app}}, "spec": spec});
    let set =
        |app: &str| json!({"selector": {"matchLabels": {"app": app}}, "template": template(app, &spec())});
    let with = |mut spec: Value, more: Value| {
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        json!({"spec": spec})
    };
    let job = json!({"suspend": true, "template": {"spec": once}});
    let config = json!({"data": {"token": CANARY}, "binaryData": {"blob": STANDARD.encode(CANARY)}});
    let vault = json!({"spec": {"password": CANARY, "open": "x"}});
    let make = |api_version: &str, kind: &str, name: &str, body: Value| {
        object(api_version, kind, namespace, name, body)
    };
    let custom = format!("{group}/v1");
    vec![
        make("v1", "Pod", "one", json!({"spec": spec()})),
        make("v1", "Pod", "two", json!({"spec": spec()})),
        make("v1", "Pod", "three", json!({"spec": spec()})),
        make("v1", "PodTemplate", "one", json!({"template": template("web", &spec())})),
        make(
            "v1",
            "ReplicationController",
            "one",
            json!({"spec": {"replicas": 0, "selector": {"app": "rc"}, "template": template("rc", &spec())}}),
        ),
        make("apps/v1", "ReplicaSet", "one", with(set("rs"), json!({"replicas": 0}))),
        make("apps/v1", "Deployment", "one", with(set("deploy"), json!({"replicas": 0}))),
        make("apps/v1", "DaemonSet", "one", with(set("ds"), json!({}))),
        make("apps/v1", "StatefulSet", "one", with(set("sts"), json!({"replicas": 0, "serviceName": "x"}))),
        make("batch/v1", "Job", "one", json!({"spec": job})),
        make(
            "batch/v1",
            "CronJob",
            "one",
            json!({"spec": {"suspend": true, "schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}}),
        ),
        make("v1", "ConfigMap", "flags", config.clone()),
        make("v1", "ConfigMap", "two", config.clone()),
        make("v1", "ConfigMap", "three", config),
        make(&custom, "Vault", "one", vault.clone()),
        make(&custom, "Vault", "two", vault),
    ]
}

fn definition(group: &str) -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut spec = open.clone();
    spec["properties"] = json!({"password": {"type": "string"}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("vaults.{group}")},
        "spec": {"group": group, "scope": "Namespaced", "names": {"kind": "Vault", "plural": "vaults"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": open}}},
                "selectableFields": [{"jsonPath": ".spec.password"}], "additionalPrinterColumns":
                    [{"name": "Password", "type": "string", "jsonPath": ".spec.password"}]}]},
    })
}

/// The agent may do anything to these kinds; one rule for each of the three places, none of which names a template.
fn policy(namespace: &str, group: &str, user: &str) -> Vec<Value> {
    let groups = ["", "apps", "autoscaling", "batch", group];
    let all = json!([{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}]);
    let to = |group: &str, resource: &str| json!([{"apiGroups": [group], "resources": [resource], "verbs": ["get"]}]);
    let fields = |name: &str, to: Value, paths: Value| json!({"name": name, "type": "Fields", "match": to, "fields": {"paths": paths}});
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let policy = json!({
        "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace},
        "spec": {
            "agents": [{"namespace": namespace}],
            "rules": [{"name": "all", "effect": "Allow", "match": all}],
            "masking": [
                fields("pod-env", to("", "pods"), json!([".spec.containers[*].env[*].value"])),
                fields("config", to("", "configmaps"), json!([".data.*", ".binaryData.*"])),
                fields("vault", to(group, "vaults"), json!([".spec.password"])),
            ],
        },
    });
    vec![binding, policy]
}

/// An agent behind the mask, and `count` grounds; `open`: with the same objects for who asks the API server itself.
pub async fn ground(count: usize, open: bool) -> anyhow::Result<(Gate, Agent, Vec<Ground>)> {
    let gate = crate::gate()?;
    let plane = gate.plane();
    let home = plane.namespace("canary").await?;
    let agent = gate.agent(&home, "reader", &[]).await?;
    let group = format!("{home}.example.com");
    let limits =
        json!({"spec": {"limits": {"requestsPerSecond": 2000, "maxConcurrentStreams": 50}}}).to_string();
    plane
        .kubectl(&["patch", "agentidentity", "reader", "-n", &home, "--type=merge", "-p", &limits])?
        .success()?;
    plane.apply(&definition(&group).to_string())?;
    let crd = format!("crd/vaults.{group}");
    plane.kubectl(&["wait", "--for=condition=Established", &crd, "--timeout=30s"])?.success()?;
    let mut items = policy(&home, &group, &agent.username());
    let (mut grounds, mut namespaces) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut names = vec![plane.namespace("canary-masked").await?];
        if open {
            names.push(plane.namespace("canary-open").await?);
        }
        items.extend(names.iter().flat_map(|name| objects(name, &group)));
        let [masked, open] = [0, names.len() - 1].map(|at| names[at].clone());
        grounds.push(Ground { masked, open, group: group.clone() });
        namespaces.extend(names);
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    kubectl_stdin(Version::New, plane.admin_kubeconfig(), &["create", "-f", "-"], &list)?.success()?;
    for namespace in &namespaces {
        settled(plane, namespace).await?;
    }
    let policy = format!("accesspolicy/{home}");
    plane.kubectl(&["wait", "--for=condition=Programmed", &policy, "--timeout=60s"])?.success()?;
    Ok((gate, agent, grounds))
}

/// Waits for what controllers make of the objects, and gives the pod an ephemeral container.
async fn settled(plane: &ControlPlane, namespace: &str) -> anyhow::Result<()> {
    let value = format!("--env=TOKEN={CANARY}");
    let debug = ["debug", "one", "--image=x", "--attach=false", "-c", "e", &value, "-n", namespace];
    plane.kubectl(&debug)?.success()?;
    eventually("the revisions of the sets", Duration::from_secs(60), async || {
        let kinds = "replicasets,controllerrevisions";
        let made = plane.kubectl(&["get", kinds, "-n", namespace, "-o", "name"])?.success()?;
        Ok((made.lines().count() >= 4).then_some(()))
    })
    .await
}
