//! The commands, each of which shows the canary to who asks the API server itself.

use super::objects::KINDS;

/// A command line without its namespace; `{ns}`, `{vaults}` and `{group}` are filled in.
pub struct Command {
    pub line: &'static str,
    pub stdin: &'static str,
}

/// A change of labels alone, which a server-side apply by another manager merges.
const LABELS: &str = r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "one", "namespace": "{ns}", "labels": {"more": "yes"}}}"#;
const MAP_LABELS: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "flags", "namespace": "{ns}", "labels": {"more": "yes"}}}"#;
const VAULT_LABELS: &str = r#"{"apiVersion": "{group}/v1", "kind": "Vault", "metadata": {"name": "one", "namespace": "{ns}", "labels": {"more": "yes"}}}"#;
/// A pod without its environment, which the API server refuses with the old and the new spec in its words (B44).
const IMMUTABLE: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "{ns}"}, "spec": {"containers": [{"name": "c", "image": "y", "command": ["z"]}]}}"#;

const LINES: [(&str, &str); 82] = [
    ("get pod one", ""),
    ("get pods -o wide", ""),
    ("get pods --show-labels", ""),
    ("get pod one -o json", ""),
    ("get pod one -o jsonpath={.spec.containers[*].env[*].value}", ""),
    ("get pod one -o jsonpath={.metadata.annotations}", ""),
    ("get pod one -o jsonpath-as-json={.spec.initContainers}", ""),
    ("get pod one -o jsonpath={.spec.ephemeralContainers}", ""),
    ("get pod one -o go-template={{.spec}}", ""),
    ("get pods -o custom-columns=ENV:.spec.containers[*].env[*].value", ""),
    ("get pods --sort-by=.spec.containers[0].env[0].value", ""),
    ("get pods --sort-by=.metadata.name -o wide", ""),
    ("get pods -o yaml --chunk-size=1", ""),
    ("get pods -o json -w --request-timeout=1s", ""),
    ("get pod one --subresource=status -o yaml", ""),
    ("get deployment one --subresource=status -o yaml", ""),
    ("get all -o yaml", ""),
    ("get deployments -l app=web -o json", ""),
    ("get pods --field-selector=metadata.name=one -o json", ""),
    ("get pods,configmaps,replicasets -A -o json", ""),
    ("get configmap flags", ""),
    ("get configmap flags -o jsonpath={.data}", ""),
    ("get configmap flags -o go-template={{.binaryData.blob|base64decode}}", ""),
    ("get configmaps -w -o yaml --request-timeout=1s", ""),
    ("get {vaults}", ""),
    ("get {vaults} -A", ""),
    ("get {vaults} -o wide --sort-by=.spec.password", ""),
    ("get {vaults} one --subresource=status -o yaml", ""),
    ("get {vaults} -w --request-timeout=1s", ""),
    ("get --raw /api/v1/namespaces/{ns}/pods", ""),
    ("get --raw /api/v1/namespaces/{ns}/pods?watch=true&timeoutSeconds=1", ""),
    ("get --raw /api/v1/namespaces/{ns}/pods/one/ephemeralcontainers", ""),
    ("get --raw /api/v1/namespaces/{ns}/configmaps?pretty=true", ""),
    ("get --raw /apis/apps/v1/namespaces/{ns}/controllerrevisions", ""),
    ("get --raw /apis/{group}/v1/namespaces/{ns}/vaults", ""),
    ("set env pods --all --list", ""),
    ("set env deployments,daemonsets,statefulsets,jobs,cronjobs,rc,rs --all --list", ""),
    ("set env deployment/one --list --resolve", ""),
    ("rollout history deployment/one --revision=1", ""),
    ("rollout history daemonset/one --revision=1", ""),
    ("rollout history statefulset/one --revision=1", ""),
    ("rollout history deployment/one -o yaml", ""),
    ("rollout status deployment/one --timeout=5s", ""),
    ("wait pod/one --for=jsonpath={.metadata.name}=one -o yaml --timeout=5s", ""),
    ("cluster-info dump --namespaces={ns}", ""),
    ("apply view-last-applied pod/one", ""),
    ("apply view-last-applied deployment/one -o json", ""),
    ("apply view-last-applied configmap/flags", ""),
    ("apply view-last-applied {vaults}/one", ""),
    ("apply edit-last-applied configmap/flags", ""),
    ("edit pod one", ""),
    ("edit deployment one -o json", ""),
    ("edit configmap flags", ""),
    ("edit {vaults} one", ""),
    ("diff -f -", LABELS),
    ("diff --server-side --field-manager=other -f -", MAP_LABELS),
    ("apply -f - --dry-run=server -o yaml", MAP_LABELS),
    ("apply --server-side --field-manager=other -f - --dry-run=server -o yaml", MAP_LABELS),
    ("apply --server-side --field-manager=other -f - --dry-run=server -o yaml", VAULT_LABELS),
    ("label pod one more=yes -o yaml", ""),
    ("label cronjob one more=yes -o json", ""),
    ("annotate configmap flags more=yes -o yaml", ""),
    ("annotate {vaults} one more=yes --dry-run=server -o yaml", ""),
    ("patch pod one -p {} -o yaml", ""),
    ("patch statefulset one -p {} --dry-run=server -o json", ""),
    ("patch configmap flags --type=merge -p {} -o yaml", ""),
    ("patch {vaults} one --type=merge -p {} --subresource=status -o yaml", ""),
    (r#"patch cronjob one --type=json -p [{"op":"add","path":"/spec/suspend","value":true}] -o yaml"#, ""),
    (r#"patch job one -p {"spec":{"template":{"spec":{"containers":[{"name":"c","command":["y"]}]}}}}"#, ""),
    ("replace -f -", IMMUTABLE),
    ("scale deployment one --replicas=0 -o yaml", ""),
    ("autoscale deployment one --max=2 --dry-run=server -o yaml", ""),
    ("expose deployment one --port=80 --dry-run=server -o yaml", ""),
    ("set image deployment/one c=y -o yaml", ""),
    ("set resources daemonset/one -c=c --limits=cpu=1 -o yaml", ""),
    ("set serviceaccount statefulset one default -o yaml", ""),
    ("set env cronjob/one --from=configmap/flags -o yaml", ""),
    ("set env deployment/one NEW=1", ""),
    ("rollout restart deployment/one", ""),
    ("rollout pause deployment/one", ""),
    ("rollout resume deployment/one", ""),
    ("rollout undo deployment/one --to-revision=1", ""),
];

/// Those that read the object before they fail, or that end it; in this order, at the end.
const LAST: [(&str, &str); 11] = [
    ("create job copy --from=cronjob/one --dry-run=server -o yaml", ""),
    ("debug one --copy-to=copy --image=y --attach=false", ""),
    ("debug one --image=y --attach=false", ""),
    ("logs one -c c", ""),
    ("exec one -c c -- env", ""),
    ("attach one -c c --pod-running-timeout=1s", ""),
    ("port-forward pod/one 0:80 --pod-running-timeout=1s", ""),
    ("delete pod two --wait=false", ""),
    ("delete configmap two --wait=false", ""),
    ("delete {vaults} two --wait=false", ""),
    ("delete --raw /api/v1/namespaces/{ns}/configmaps?labelSelector=victim%3Dyes", ""),
];

/// All of them, in an order in which each still finds what it shows.
pub fn all() -> Vec<Command> {
    let by_kind = KINDS.iter().flat_map(|kind| {
        ["get {kind} -o yaml --show-managed-fields", "describe {kind}"]
            .map(|line| (&*line.replace("{kind}", kind).leak(), ""))
    });
    let all = by_kind.chain(LINES).chain(LAST);
    all.map(|(line, stdin)| Command { line, stdin }).collect()
}
