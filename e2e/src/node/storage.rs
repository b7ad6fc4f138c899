//! Storage for the claims of pods: a default StorageClass, and volumes that are there before anybody asks.

use std::path::Path;

use super::NAME;

const STORAGE_CLASS: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
"#;

/// The StorageClass and `count` volumes, whose folders are made in the node's `/var/lib`.
///
/// # Errors
/// When a folder cannot be made.
pub(super) fn manifests(scratch: &Path, count: usize) -> anyhow::Result<String> {
    let mut manifests = String::from(STORAGE_CLASS);
    for number in 0..count {
        std::fs::create_dir(scratch.join(format!("lib/node-volumes/{number}")))?;
        manifests += &volume(number);
    }
    Ok(manifests)
}

/// A volume of type `local`: unlike `hostPath`, the kubelet hands it to the pod's `fsGroup`, as it does with a cloud's disk.
fn volume(number: usize) -> String {
    format!(
        r#"---
apiVersion: v1
kind: PersistentVolume
metadata: {{name: local-{number}}}
spec:
  storageClassName: local
  capacity: {{storage: 10Gi}}
  accessModes: [ReadWriteOnce, ReadWriteMany, ReadOnlyMany]
  persistentVolumeReclaimPolicy: Retain
  local: {{path: /var/lib/node-volumes/{number}}}
  nodeAffinity:
    required:
      nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{NAME}]}}]}}]
"#
    )
}
