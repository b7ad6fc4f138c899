//! Protobuf bodies of real clients (B04, B99, B103): kubectl asked to do one thing past the gate and one through it leaves the same
//! object in the API server.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::{Agent, ControlPlane, Filter, Gate, Output, Setup, Version, kubectl};
use serde_json::{Value, json};

/// What sends protobuf: 1.32 and newer.
const VERSIONS: [Version; 2] = [Version::V133, Version::New];

/// Commands of a namespace, and the objects that they make; `NS` is the namespace.
const COMMANDS: [(&str, &[&str]); 18] = [
    ("create secret generic db --from-literal=password=hunter2 --from-literal=empty=", &["secret/db"]),
    ("create secret tls web --cert=CERT --key=KEY", &["secret/web"]),
    ("create secret docker-registry pull --docker-username=u --docker-password=p", &["secret/pull"]),
    ("create configmap flags --from-literal=a=b", &["configmap/flags"]),
    ("create serviceaccount robot", &["serviceaccount/robot"]),
    ("create role reader --verb=get,list --resource=pods --resource-name=a", &["role/reader"]),
    ("create rolebinding readers --role=reader --serviceaccount=NS:robot", &["rolebinding/readers"]),
    ("create job once --image=x -- sleep 1", &["job/once"]),
    ("create cronjob nightly --image=x --schedule=1,2\u{a0}*\u{a0}*\u{a0}*\u{a0}*", &["cronjob/nightly"]),
    ("create job now --from=cronjob/nightly", &["job/now"]),
    ("create deployment web --image=x --port=80 --replicas=0", &["deployment/web"]),
    ("autoscale deployment web --min=1 --max=3 --cpu-percent=80", &["hpa/web"]),
    ("create quota small --hard=pods=50,secrets=1k", &["quota/small"]),
    ("create pdb web --min-available=50% --selector=app=web", &["pdb/web"]),
    ("create service clusterip web --tcp=80:http", &["service/web"]),
    ("create ingress web --rule=a.example.com/=web:80,tls=web", &["ingress/web"]),
    ("create priorityclass NS --value=7 --description=x", &["priorityclass/NS"]),
    ("create clusterrole NS --verb=get --non-resource-url=/livez", &["clusterrole/NS"]),
];

/// Whose kubectl: a person's past the gate, or the agent's through it.
struct Hand<'a> {
    plane: &'a ControlPlane,
    version: Version,
    kubeconfig: &'a Path,
    namespace: String,
}

impl Hand<'_> {
    fn run(&self, command: &str) -> anyhow::Result<Output> {
        let folder = self.plane.scratch().display().to_string();
        let words: Vec<String> = command
            .split(' ')
            .map(|word| {
                let word = word.replace('\u{a0}', " ").replace("NS", &self.namespace);
                word.replace("CERT", &format!("{folder}/pair.crt"))
                    .replace("KEY", &format!("{folder}/pair.key"))
            })
            .collect();
        let mut args: Vec<&str> = vec!["-n", &self.namespace];
        args.extend(words.iter().map(String::as_str));
        kubectl(self.version, self.kubeconfig, &args)
    }

    /// The object as the API server has it, without what differs between two of the same.
    fn stored(&self, object: &str) -> anyhow::Result<Value> {
        let object = object.replace("NS", &self.namespace);
        let text = self.plane.kubectl(&["get", &object, "-n", &self.namespace, "-o", "json"])?.success()?;
        self.comparable(&text)
    }

    fn comparable(&self, text: &str) -> anyhow::Result<Value> {
        let uid =
            serde_json::from_str::<Value>(text)?["metadata"]["uid"].as_str().unwrap_or("none").to_owned();
        let mut object: Value =
            serde_json::from_str(&text.replace(&self.namespace, "NS").replace(&uid, "UID"))?;
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for key in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"] {
                metadata.remove(key);
            }
            if let Some(owners) = metadata.get_mut("ownerReferences").and_then(Value::as_array_mut) {
                owners.iter_mut().for_each(|owner| owner["uid"] = Value::Null);
            }
        }
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        Ok(object)
    }
}

/// A control plane of its own: the baseline is taken over by people who let this agent approve certificates and change roles.
async fn open() -> anyhow::Result<(ControlPlane, Gate, Agent)> {
    let plane = ControlPlane::start()?;
    let gate = Gate::start(&plane, Setup { proxies: 1, ..Setup::default() })?;
    let baseline = ["accesspolicy", crds::names::BASELINE_POLICY];
    let annotate = ["annotate", baseline[0], baseline[1], "sallyport.dev/autoupdate=false", "--overwrite"];
    plane.kubectl(&annotate)?.success()?;
    let keep = r#"[{"op":"replace","path":"/spec/rules","value":[{"name":"no-namespace-delete","effect":"Deny",
        "match":[{"apiGroups":[""],"resources":["namespaces"],"verbs":["delete"]}]}]}]"#;
    plane.kubectl(&["patch", baseline[0], baseline[1], "--type=json", "-p", keep])?.success()?;
    let namespace = plane.namespace("agents").await?;
    let agent = gate.agent(&namespace, "agent", &[]).await?;
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": agent.username()});
    let objects = json!([
        {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "agent"}, "subjects": [user],
         "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}},
        {"apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "all"}, "spec": {
            "agents": [{"namespace": namespace}],
            "rules": [{"name": "all", "effect": "Allow", "match": [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"apiGroups": [""], "resources": ["serviceaccounts/token", "pods/eviction"], "verbs": ["create"]},
                {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]}]}]}},
    ]);
    plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
    for policy in ["accesspolicy/all", "accesspolicy/sallyport-baseline"] {
        plane.kubectl(&["wait", "--for=condition=Programmed", policy, "--timeout=60s"])?.success()?;
    }
    Ok((plane, gate, agent))
}

#[tokio::test]
async fn b04_what_kubectl_creates_through_the_gate_is_what_it_creates_past_it() -> anyhow::Result<()> {
    let (plane, _gate, agent) = open().await?;
    let pair = e2e::pki::Authority::new("web")?.server("web", &["web"])?;
    std::fs::write(plane.scratch().join("pair.crt"), &pair.cert)?;
    std::fs::write(plane.scratch().join("pair.key"), &pair.key)?;
    for version in VERSIONS {
        let mut hands = Vec::new();
        for kubeconfig in [plane.admin_kubeconfig(), agent.kubeconfig(0)] {
            let namespace = plane.namespace("work").await?;
            hands.push(Hand { plane: &plane, version, kubeconfig, namespace });
        }
        let [direct, gated] = &hands[..] else { anyhow::bail!("two hands") };
        for (command, objects) in COMMANDS {
            direct.run(command)?.success()?;
            let out = gated.run(command)?;
            assert_eq!(out.code, 0, "{version:?} {command}: {out:?}");
            for object in objects {
                assert_eq!(gated.stored(object)?, direct.stored(object)?, "{version:?} {command}");
            }
        }
        token(gated)?;
        certificate(direct, gated)?;
        debug_node(direct, gated)?;
        drain(&agent, gated).await?;
        let can =
            |verb: &str| Ok::<_, anyhow::Error>(gated.run(&format!("auth can-i {verb} namespaces"))?.stdout);
        assert!(can("list")?.starts_with("yes") && can("delete")?.starts_with("no"), "{version:?}");
    }
    Ok(())
}

/// B24, B82: nobody can let an agent have a token, and the refusal is of the deed and not of the body.
fn token(hand: &Hand<'_>) -> anyhow::Result<()> {
    let out = hand.run("create token robot --duration=10m")?;
    assert!(out.code != 0 && out.stdout.is_empty() && !out.stderr.contains("eyJ"), "{out:?}");
    assert!(out.stderr.contains("the gate itself denies create serviceaccounts/token"), "{out:?}");
    Ok(())
}

fn certificate(direct: &Hand<'_>, gated: &Hand<'_>) -> anyhow::Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?.pem()?;
    let mut approved = Vec::new();
    for hand in [direct, gated] {
        let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": hand.namespace},
            "spec": {"request": STANDARD.encode(&request), "signerName": "example.com/none", "usages": ["client auth"]}});
        hand.plane.apply(&object.to_string())?;
        hand.run("certificate approve NS")?.success()?;
        let stored = hand.plane.kubectl(&["get", "csr", &hand.namespace, "-o", "json"])?.success()?;
        let mut conditions = serde_json::from_str::<Value>(&stored)?["status"]["conditions"].clone();
        for condition in conditions.as_array_mut().into_iter().flatten() {
            condition["lastUpdateTime"] = Value::Null;
            condition["lastTransitionTime"] = Value::Null;
        }
        approved.push((hand.comparable(&stored)?, conditions));
    }
    assert_eq!(approved[0], approved[1]);
    assert_eq!(approved[1].1[0]["type"], "Approved");
    Ok(())
}

/// A Pod with the node's whole file system: the kind of thing that a body must not hide.
fn debug_node(direct: &Hand<'_>, gated: &Hand<'_>) -> anyhow::Result<()> {
    let mut pods = Vec::new();
    for hand in [direct, gated] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": hand.namespace}});
        hand.plane.apply(&node.to_string())?;
        hand.run("debug node/NS --image=x -- sleep 1")?.success()?;
        let listed = hand.plane.kubectl(&["get", "pods", "-n", &hand.namespace, "-o", "json"])?.success()?;
        let listed: Value = serde_json::from_str(&listed)?;
        let pod = listed["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|pod| pod["spec"]["nodeName"] == hand.namespace);
        let pod = pod.map(ToString::to_string).unwrap_or_default();
        let word = |start: &str| {
            let rest = pod.split(start).nth(1).unwrap_or_default();
            format!("{start}{}", rest.split('"').next().unwrap_or_default())
        };
        let pod = pod.replace(&word("node-debugger-"), "POD").replace(&word("kube-api-access-"), "ACCESS");
        pods.push(hand.comparable(&pod)?);
    }
    assert_eq!(pods[0], pods[1]);
    assert_eq!(pods[1]["spec"]["volumes"][0]["hostPath"]["path"], "/", "{}", pods[1]);
    Ok(())
}

/// B99: the options of evictions and deletes are in protobuf too.
async fn drain(agent: &Agent, hand: &Hand<'_>) -> anyhow::Result<()> {
    for flags in ["", " --disable-eviction"] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": hand.namespace},
            "spec": {"nodeName": hand.namespace, "containers": [{"name": "c", "image": "x"}]}});
        hand.plane.apply(&pod.to_string())?;
        let here = format!("--field-selector=spec.nodeName={}", hand.namespace);
        let pods =
            || hand.plane.kubectl(&["get", "pods", "-n", &hand.namespace, &here, "-o", "name"])?.success();
        // Without evictions kubectl waits for what a dry run leaves, past the gate too.
        if flags.is_empty() {
            let dry = hand.run("drain NS --force --grace-period=0 --dry-run=server")?;
            assert_eq!(dry.code, 0, "{dry:?}");
            assert!(pods()?.contains("pod/p"), "a dry run deletes nothing");
        }
        let out = hand.run(&format!("drain NS --force --grace-period=0 --timeout=30s{flags}"))?;
        assert_eq!((out.code, pods()?.as_str()), (0, ""), "{:?}{flags}: {out:?}", hand.version);
        hand.plane.kubectl(&["uncordon", &hand.namespace])?.success()?;
    }
    let of_agent = || Filter::ran_as(&agent.username()).namespace(&hand.namespace);
    let audit = hand.plane.audit();
    let evicted = audit.requests(&of_agent().verb("create").resource("pods").subresource("eviction")).await?;
    let deleted = audit.requests(&of_agent().verb("delete").resource("pods")).await?;
    assert!(
        !evicted.is_empty() && !deleted.is_empty(),
        "{} evicted, {} deleted",
        evicted.len(),
        deleted.len()
    );
    Ok(())
}
