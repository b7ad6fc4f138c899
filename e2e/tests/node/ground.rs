//! The node itself: pods run and are reached, and nothing of it stays, however it ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::node::{AGNHOST, Options, Part, TOOLBOX, leftovers, traces_of};
use e2e::oci::{Image, Tree};
use e2e::{Filter, Node, Sign, Supervisor, eventually};

const GONE_WITHIN: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(90);

/// Two web servers behind a Service, a claim, and a toolbox that runs as a chart's pods do: no root, nothing writable but the claim.
fn world() -> String {
    format!(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: data}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: {AGNHOST}
        args: [netexec, --http-port=8080]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: tool}}
spec:
  securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]
  containers:
  - name: tool
    image: {TOOLBOX}
    command: [sh, -c, "echo first; echo second; exec sleep infinity"]
    volumeMounts: [{{name: data, mountPath: /data}}]
    securityContext: {{readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#
    )
}

/// Runs [`world`] in a namespace of its own; returns the namespace when all of it is ready.
async fn settle(node: &Node) -> anyhow::Result<String> {
    let namespace = node.plane().namespace("ground").await?;
    let manifest = node.scratch().join(format!("{namespace}.yaml"));
    std::fs::write(&manifest, world())?;
    let manifest = manifest.display().to_string();
    say(node, &["apply", "-n", &namespace, "-f", &manifest])?;
    let ready = say(node, &["rollout", "status", "deployment/web", "-n", &namespace, "--timeout=180s"])
        .and_then(|_web| {
            say(node, &["wait", "--for=condition=Ready", "pod/tool", "-n", &namespace, "--timeout=120s"])
        });
    ready.with_context(|| say(node, &["describe", "pods", "-n", &namespace]).unwrap_or_default())?;
    Ok(namespace)
}

fn say(node: &Node, args: &[&str]) -> anyhow::Result<String> {
    node.plane().kubectl(args)?.success()
}

fn in_toolbox(node: &Node, namespace: &str, script: &str) -> anyhow::Result<String> {
    say(node, &["exec", "tool", "-n", namespace, "--", "sh", "-c", script])
}

#[tokio::test]
async fn pods_have_logs_volumes_names_and_addresses() -> anyhow::Result<()> {
    let node = super::node()?;
    let namespace = settle(&node).await?;
    assert_eq!(say(&node, &["logs", "tool", "-n", &namespace])?, "first\nsecond\n");
    let wrote = in_toolbox(&node, &namespace, "echo kept > /data/file && cat /data/file")?;
    assert_eq!(wrote, "kept\n", "a claim is the pod's own by fsGroup");

    let pods = say(
        &node,
        &["get", "pods", "-l", "app=web", "-n", &namespace, "-o", "jsonpath={.items[*].metadata.name}"],
    )?;
    let pods: Vec<&str> = pods.split_whitespace().collect();
    let addresses = say(
        &node,
        &["get", "pods", "-l", "app=web", "-n", &namespace, "-o", "jsonpath={.items[*].status.podIP}"],
    )?;
    assert_eq!(pods.len(), 2);
    for (pod, address) in pods.iter().zip(addresses.split_whitespace()) {
        let said = in_toolbox(&node, &namespace, &format!("wget -qO- http://{address}:8080/hostname"))?;
        assert_eq!(said, **pod, "each pod by its own address");
    }
    for host in
        ["web".to_owned(), format!("web.{namespace}.svc"), format!("web.{namespace}.svc.cluster.local")]
    {
        let said = eventually("the Service's name", SOON, async || {
            Ok(in_toolbox(&node, &namespace, &format!("wget -qO- http://{host}/hostname")).ok())
        });
        let said = said.await?;
        assert!(pods.contains(&&*said), "{host}: {said}");
    }
    let version =
        in_toolbox(&node, &namespace, "for v in 1.29 1.31 1.33 1.36; do kubectl-$v version; done 2>&1")?;
    assert_eq!(
        version.matches("Server Version: v1.36").count(),
        4,
        "kubernetes.default.svc, by every kubectl: {version}"
    );
    let refused = in_toolbox(&node, &namespace, "nslookup example.com").unwrap_err().to_string();
    assert!(refused.contains("NXDOMAIN"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn services_are_reached_from_the_machine_and_from_inside_the_node() -> anyhow::Result<()> {
    let node = super::node()?;
    let namespace = settle(&node).await?;
    let relay = node.forward_service(&namespace, "web", 80).await?;
    let get = |address: String| -> anyhow::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        std::io::Write::write_all(&mut stream, b"GET /hostname HTTP/1.0\r\n\r\n")?;
        Ok(std::io::read_to_string(stream)?)
    };
    // kube-proxy learns of ready pods a moment after the Deployment does.
    let said = eventually("an answer through the Service", SOON, async || {
        Ok(get(format!("127.0.0.1:{}", relay.port())).ok().filter(|answer| !answer.is_empty()))
    });
    let said = said.await?;
    assert!(said.contains("\r\n\r\nweb-"), "{said}");

    let tools = e2e::Tools::get()?;
    let inside = node
        .in_namespace(&tools.kubectl)
        .arg("--kubeconfig")
        .arg(node.inside_kubeconfig())
        .args(["get", "nodes", "-o", "name"])
        .output()?;
    assert_eq!(String::from_utf8_lossy(&inside.stdout), "node/node1\n", "{inside:?}");

    let devices = node.in_namespace("ip").args(["-o", "link"]).output()?;
    let devices = String::from_utf8(devices.stdout)?;
    for device in devices.lines().filter_map(|line| line.split(": ").nth(1)) {
        let own = device == "lo" || ["up0", "cni0", "veth"].iter().any(|known| device.starts_with(known));
        assert!(own, "`{device}` may lead out of the machine");
    }
    Ok(())
}

#[tokio::test]
async fn the_api_server_comes_back_at_the_same_address_and_a_frozen_part_goes_on() -> anyhow::Result<()> {
    let node = Node::start(Options { volumes: 0, ..Options::default() })?;
    let url = node.host_url().to_owned();
    let before = node.part(Part::ApiServer).pid();
    node.restart_api_server()?;
    assert_ne!(node.part(Part::ApiServer).pid(), before);
    assert_eq!(node.host_url(), url);
    node.part(Part::Kubelet).signal(Sign::Stop)?;
    let run = format!("--image={AGNHOST}");
    let namespace = node.plane().namespace("frozen").await?;
    say(&node, &["run", "late", &run, "-n", &namespace, "--image-pull-policy=IfNotPresent", "--", "pause"])?;
    let phase = ["get", "pod", "late", "-n", &namespace, "-o", "jsonpath={.status.phase}"];
    eventually("the pod to be given to the node", SOON, async || {
        let place = ["get", "pod", "late", "-n", &namespace, "-o", "jsonpath={.spec.nodeName}"];
        Ok((say(&node, &place)? == "node1").then_some(()))
    })
    .await?;
    assert_eq!(say(&node, &phase)?, "Pending", "the kubelet is frozen");
    node.part(Part::Kubelet).signal(Sign::Cont)?;
    say(&node, &["wait", "--for=condition=Ready", "pod/late", "-n", &namespace, "--timeout=120s"])?;
    let asked =
        Filter::ran_as(e2e::control_plane::ADMIN).verb("create").resource("pods").namespace(&namespace);
    assert_eq!(node.audit().requests(&asked).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_image_that_was_packed_here_runs() -> anyhow::Result<()> {
    let node = super::node()?;
    let namespace = node.plane().namespace("image").await?;
    let tree = Tree::default().program("/say", std::path::Path::new("/bin/echo"))?;
    let archive = node.scratch().join("say.tar");
    Image::new("localhost/say:7", tree, &["/say", "packed here"]).write(&archive)?;
    node.import(&archive)?;
    say(&node, &["run", "say", "--image=localhost/say:7", "--restart=Never", "-n", &namespace])?;
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    say(&node, &["wait", done, "pod/say", "-n", &namespace, "--timeout=120s"])?;
    assert_eq!(say(&node, &["logs", "say", "-n", &namespace])?, "packed here\n");
    Ok(())
}

#[tokio::test]
async fn two_nodes_live_side_by_side_and_the_one_that_ends_leaves_nothing() -> anyhow::Result<()> {
    let other = super::node()?;
    let before = leftovers();
    let node = Node::start(Options::default())?;
    let name = node.name().to_owned();
    assert_ne!(name, other.name());
    settle(&node).await?;
    let traces = traces_of(&name);
    for kind in ["process", "control group", "folder"] {
        assert!(traces.iter().any(|trace| trace.starts_with(kind)), "no {kind} is seen: {traces:#?}");
    }
    assert!(
        !traces.iter().any(|trace| trace.starts_with("mount")),
        "mounts show on the machine: {traces:#?}"
    );
    drop(node);
    assert_eq!(traces_of(&name), Vec::<String>::new());
    assert_eq!(since(&before), Vec::<String>::new());
    say(&other, &["get", "--raw", "/readyz"])?;
    Ok(())
}

#[tokio::test]
async fn kill_9_of_the_harness_leaves_nothing() -> anyhow::Result<()> {
    let before = leftovers();
    let mut harness = Command::new("/proc/self/exe")
        .args(["--ignored", "--exact", "ground::stand_in_for_a_harness", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(harness.stdout.take().context("piped")?).lines();
    let told = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("RUNNING ")?.1.to_owned()));
    let name = told.context("the stand-in did not start a node")?;
    assert!(!traces_of(&name).is_empty());
    harness.kill()?;
    harness.wait()?;
    gone(&name).await?;
    assert_eq!(since(&before), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
#[ignore = "not a test: the process that another test kills"]
async fn stand_in_for_a_harness() -> anyhow::Result<()> {
    let node = Node::start(Options::default())?;
    settle(&node).await?;
    println!("RUNNING {}", node.name());
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn kill_9_of_the_supervisor_ends_every_process_and_the_rest_is_swept() -> anyhow::Result<()> {
    let node = Node::start(Options { volumes: 0, ..Options::default() })?;
    let name = node.name().to_owned();
    settle_without_claim(&node).await?;
    let killed = Command::new("kill").args(["-9", &node.plane().supervisor().pid().to_string()]).status()?;
    ensure!(killed.success(), "no supervisor to kill");
    eventually("the end of every process", GONE_WITHIN, async || {
        Ok((!traces_of(&name).iter().any(|trace| trace.starts_with("process"))).then_some(()))
    })
    .await?;
    drop(node);
    drop(Supervisor::start()?);
    assert_eq!(traces_of(&name), Vec::<String>::new());
    Ok(())
}

async fn settle_without_claim(node: &Node) -> anyhow::Result<()> {
    let image = format!("--image={AGNHOST}");
    say(node, &["run", "one", &image, "--", "pause"])?;
    say(node, &["wait", "--for=condition=Ready", "pod/one", "--timeout=120s"])?;
    Ok(())
}

async fn gone(name: &str) -> anyhow::Result<()> {
    let left =
        eventually("the end of the node", GONE_WITHIN, async || Ok(traces_of(name).is_empty().then_some(())));
    left.await.with_context(|| format!("{:#?}", traces_of(name)))
}

/// What is left now and was not before.
fn since(before: &[String]) -> Vec<String> {
    leftovers().into_iter().filter(|line| !before.contains(line)).collect()
}
