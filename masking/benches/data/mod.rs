//! Lists as an API server prints them, of any size, written piece by piece.
#![allow(dead_code, reason = "each bench uses its own part")]

use masking::{Cells, Encoding, Expectation, FieldPath, FieldRule, Form, GroupKind, Plans, Segment, Which};
use serde_json::{Value, json};
use std::sync::Arc;

/// The plans of a baseline and of one more policy.
pub fn plans() -> Arc<Plans> {
    let env = ["spec", "containers", "[*]", "env", "[*]", "value"];
    let rules = [
        rule("secret-data", "Secret", &["data", "*"]),
        rule("secret-data", "Secret", &["stringData", "*"]),
        rule("pod-env", "Pod", &env),
        rule("config", "ConfigMap", &["data", "*"]),
    ];
    Arc::new(Plans::compile(rules.to_vec()).expect("few rules"))
}

fn rule(name: &str, kind: &str, path: &[&str]) -> FieldRule {
    let segment = |key: &&str| match *key {
        "*" => Segment::AnyKey,
        "[*]" => Segment::Items,
        key => Segment::Field(key.to_owned()),
    };
    FieldRule {
        name: name.into(),
        group: Which::is(""),
        kind: Which::is(kind),
        path: FieldPath::new(path.iter().map(segment).collect()).expect("a short path"),
        encoding: Encoding::Text,
    }
}

pub fn expectation(kind: &str) -> Expectation {
    Expectation { kind: GroupKind::new("", kind), also: Vec::new(), form: Form::List, cells: Cells::Keep }
}

/// Calls `sink` with the pieces of a list of about `bytes` bytes.
pub fn list(kind: &str, bytes: usize, mut sink: impl FnMut(&[u8])) {
    let samples: Vec<String> = (0..8).map(|n| item(kind, n).to_string()).collect();
    let head = format!(
        r#"{{"kind":"{kind}List","apiVersion":"v1","metadata":{{"resourceVersion":"4711"}},"items":["#
    );
    sink(head.as_bytes());
    let mut written = head.len();
    let mut at = 0;
    while written < bytes {
        if at > 0 {
            sink(b",");
        }
        let sample = samples[at % samples.len()].as_bytes();
        sink(sample);
        written += sample.len() + 1;
        at += 1;
    }
    sink(b"]}\n");
}

pub fn whole_list(kind: &str, bytes: usize) -> Vec<u8> {
    let mut list_bytes = Vec::with_capacity(bytes + 64 * 1024);
    list(kind, bytes, |piece| list_bytes.extend_from_slice(piece));
    list_bytes
}

fn item(kind: &str, n: usize) -> Value {
    match kind {
        "Pod" => pod(n),
        "Secret" => json!({"metadata": metadata(n), "type": "Opaque", "data": {
            "username": "YWRtaW4=", "password": "x".repeat(24), "tls.crt": "LS0tLS1CRUdJTg==".repeat(90), "tls.key": "LS0tLS1CRUdJTg==".repeat(80)}}),
        _ => json!({"metadata": metadata(n), "data": {
            "application.yaml": "server:\n  port: 8080\n  name: \"shop\"\nlog:\n\tlevel: debug\n".repeat(40), "flags": "a=b\n".repeat(30)}}),
    }
}

fn metadata(n: usize) -> Value {
    let fields = json!({"f:metadata": {"f:annotations": {".": {}, "f:checksum/config": {}}, "f:labels": {".": {}, "f:app.kubernetes.io/name": {}, "f:pod-template-hash": {}}, "f:ownerReferences": {".": {}, "k:{\"uid\":\"0f8fad5b-d9cb-469f-a165-70867728950e\"}": {}}}});
    json!({
        "name": format!("checkout-7c9d8f6b5d-{n:05}"), "generateName": "checkout-7c9d8f6b5d-", "namespace": "payments",
        "uid": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "resourceVersion": "123456789", "creationTimestamp": "2026-11-20T10:00:00Z",
        "labels": {"app.kubernetes.io/name": "checkout", "app.kubernetes.io/instance": "checkout-prod", "pod-template-hash": "7c9d8f6b5d", "topology.kubernetes.io/zone": "eu-central-1a"},
        "annotations": {"checksum/config": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "prometheus.io/scrape": "true"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "checkout-7c9d8f6b5d", "uid": "0f8fad5b-d9cb-469f-a165-70867728950e", "controller": true, "blockOwnerDeletion": true}],
        "managedFields": [
            {"manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1", "time": "2026-11-20T10:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields},
            {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "time": "2026-11-20T10:00:09Z", "fieldsType": "FieldsV1", "subresource": "status", "fieldsV1": {"f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:lastProbeTime": {}, "f:lastTransitionTime": {}, "f:status": {}, "f:type": {}}}, "f:containerStatuses": {}, "f:hostIP": {}, "f:phase": {}, "f:podIP": {}, "f:startTime": {}}}},
        ],
    })
}

fn pod(n: usize) -> Value {
    let env: Vec<Value> = (0..6)
        .map(|at| match at {
            0 => json!({"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}),
            _ => json!({"name": format!("SETTING_{at}"), "value": "postgres://shop:hunter2@db.payments.svc:5432/shop?sslmode=require"}),
        })
        .collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.example.com/payments/checkout:2026.11.20-1", "args": ["serve", "--config=/etc/checkout/application.yaml"],
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}], "env": env,
            "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "250m", "memory": "512Mi"}},
            "volumeMounts": [{"name": "config", "readOnly": true, "mountPath": "/etc/checkout"}, {"name": "kube-api-access-x7f2k", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}
        })
    };
    let state = |name: &str| json!({"name": name, "state": {"running": {"startedAt": "2026-11-20T10:00:07Z"}}, "lastState": {}, "ready": true, "restartCount": 0, "image": "registry.example.com/payments/checkout:2026.11.20-1", "imageID": "registry.example.com/payments/checkout@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "containerID": "containerd://e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "started": true});
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-20T10:00:09Z"});
    json!({
        "metadata": metadata(n),
        "spec": {
            "volumes": [{"name": "config", "configMap": {"name": "checkout", "defaultMode": 420}}, {"name": "kube-api-access-x7f2k", "projected": {"sources": [{"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}, {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}], "defaultMode": 420}}],
            "containers": [container("checkout"), container("sidecar")],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "checkout", "nodeName": "ip-10-0-1-17.eu-central-1.compute.internal", "securityContext": {"fsGroup": 1000}, "schedulerName": "default-scheduler",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}, {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "priority": 0, "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority"
        },
        "status": {"phase": "Running", "conditions": [condition("PodReadyToStartContainers"), condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
            "hostIP": "10.0.1.17", "podIP": "10.0.1.203", "podIPs": [{"ip": "10.0.1.203"}], "startTime": "2026-11-20T10:00:00Z", "containerStatuses": [state("checkout"), state("sidecar")], "qosClass": "Burstable"}
    })
}
