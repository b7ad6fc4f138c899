//! What holds for every message: no panic; the object that it becomes is in normal form, and is read again as itself.

use parsing::json;
use parsing::protobuf::{Envelope, normalise};

/// One byte that chooses a kind, message.
pub fn message(input: &[u8]) {
    let Some((choice, raw)) = input.split_first() else { return };
    let (api_version, kind) = KINDS[usize::from(*choice) % KINDS.len()];
    let Ok(object) = (Envelope { api_version, kind, raw }).object() else { return };
    let text = json::write(&object);
    assert_eq!(json::read(&text).as_ref(), Ok(&object), "another reader sees another object");
    let mut normal = object.clone();
    normalise(&mut normal);
    assert_eq!(normal, object, "something is in it that says nothing");
}

/// Any bytes as a whole body.
pub fn envelope(input: &[u8]) {
    let Ok(envelope) = Envelope::open(input) else { return };
    if let Ok(object) = envelope.object() {
        assert_eq!(object["kind"], envelope.kind);
        assert_eq!(json::read(&json::write(&object)).as_ref(), Ok(&object));
    }
}

/// The order is part of the corpus: only append.
pub const KINDS: [(&str, &str); 16] = [
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "DeleteOptions"),
    ("v1", "Event"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "ControllerRevision"),
    ("batch/v1", "CronJob"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("coordination.k8s.io/v1", "Lease"),
    ("certificates.k8s.io/v1", "CertificateSigningRequest"),
    ("authorization.k8s.io/v1", "SubjectAccessReview"),
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ("resource.k8s.io/v1", "ResourceClaim"),
    ("policy/v1", "Eviction"),
];
