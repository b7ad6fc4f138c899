//! What no rule allows, and what the gate refuses where all agents of a target have one credential there (security B6, B82 to B93).

use policy::decision::{Authority, Verdict};
use policy::evaluate::reserved;
use serde_json::{Value, json};

use super::support::{PolicyText, agent_of, decide, from, identity, identity_spec};

fn agent(target: Value) -> std::sync::Arc<policy::agent::Agent> {
    let everything: PolicyText = from(json!({"name": "all", "spec": {"rules": [
        {"name": "all", "effect": "Allow", "match": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]},
    ]}}));
    let mut spec = identity_spec();
    spec.target = from(target);
    agent_of(identity("edge", spec), vec![everything.publish()])
}

fn fixed() -> Value {
    json!({"type": "Static", "static": {
        "server": "https://edge.example", "caBundle": "LS0=", "tokenSecretRef": {"name": "t", "key": "t"}}})
}

#[test]
fn b82_to_b93_user_keyed_acts_are_refused_through_a_shared_credential_and_nowhere_else() {
    let (remote, home) = (agent(fixed()), agent(json!({"type": "InCluster"})));
    assert!(remote.shares_credential() && !home.shares_credential());
    for (id, act) in [
        ("b83", "create roles.rbac.authorization.k8s.io/x -n a"),
        ("b83", "patch clusterroles.rbac.authorization.k8s.io/x"),
        ("b83", "delete rolebindings.rbac.authorization.k8s.io/x -n a"),
        ("b83", "update clusterrolebindings.rbac.authorization.k8s.io/x"),
        ("b83", "deletecollection roles.rbac.authorization.k8s.io -n a"),
        ("b83", "patch configmaps/aws-auth -n kube-system"),
        ("b83", "create secrets/bootstrap-token-abcdef -n kube-system"),
        ("b83", "create iamidentitymappings.iamauthenticator.k8s.aws/x"),
        ("b83", "deletecollection secrets/* -A"),
        ("b85", "create certificatesigningrequests.certificates.k8s.io/x"),
        ("b85", "update certificatesigningrequests.certificates.k8s.io/x/approval"),
        ("b86", "create mutatingwebhookconfigurations.admissionregistration.k8s.io/x"),
        ("b86", "delete validatingadmissionpolicybindings.admissionregistration.k8s.io/x"),
        ("b87", "create customresourcedefinitions.apiextensions.k8s.io/x"),
        ("b87", "patch apiservices.apiregistration.k8s.io/x"),
        ("b88", "create pods/x/binding -n a"),
        ("b88", "create bindings/x -n a"),
        ("b88", "patch nodes/x"),
        ("b88", "update nodes/x/status"),
        ("b88", "update leases.coordination.k8s.io/x -n kube-node-lease"),
        ("b86", "create podsecuritypolicies.policy/x"),
        ("b88", "create csinodes.storage.k8s.io/x"),
        ("b88", "create volumeattachments.storage.k8s.io/x"),
        ("b88", "update resourceslices.resource.k8s.io/x"),
        ("f06", "update flowschemas.flowcontrol.apiserver.k8s.io/x"),
        ("b89", "patch namespaces/x"),
        ("b92", "update namespaces/x/finalize"),
        ("b93", "delete namespaces/x"),
        ("b58", "create subjectaccessreviews.authorization.k8s.io/x"),
        ("b58", "create tokenreviews.authentication.k8s.io/x"),
    ] {
        let decision = decide(&remote, act);
        assert_eq!(*decision.verdict(), Verdict::Denied, "{id}: {act}");
        assert!(reserved(&remote, decision.action()).is_some(), "{id}: {act}");
        assert!(reserved(&home, decision.action()).is_none(), "{id}: {act}");
        let refusal = policy::explain::refuse(&decision).expect("refused").message("1");
        assert!(
            refusal.contains("the gate itself denies") && !refusal.contains("AccessGrants"),
            "{id}: {refusal}"
        );
        let at_home = if id == "b85" { Verdict::NotAllowed } else { Verdict::Allowed(Authority::Rule) };
        assert_eq!(*decide(&home, act).verdict(), at_home, "{id}: {act}");
    }
    for act in [
        "get clusterroles.rbac.authorization.k8s.io/x",
        "list certificatesigningrequests.certificates.k8s.io",
        "get nodes/x",
        "get configmaps/aws-auth -n kube-system",
        "patch configmaps/x -n a",
        "create pods/x -n a",
        "update leases.coordination.k8s.io/x -n a",
        "delete deployments.apps/x -n a",
    ] {
        assert_eq!(*decide(&remote, act).verdict(), Verdict::Allowed(Authority::Rule), "{act}");
    }
}

#[test]
fn b24_b68_b82_a_rule_for_everything_opens_neither_tokens_nor_nodes_and_no_rule_does() {
    let named: PolicyText = from(json!({"name": "named", "spec": {"rules": [
        {"name": "named", "effect": "Allow", "match": [
            {"apiGroups": [""], "resources": ["serviceaccounts/token", "nodes/proxy"], "verbs": ["*"]}]},
    ]}}));
    let named = agent_of(identity("edge", identity_spec()), vec![named.publish()]);
    for agent in [&agent(fixed()), &agent(json!({"type": "InCluster"})), &named] {
        for act in [
            "create serviceaccounts/x/token -n a",
            "get serviceaccounts/x/token -n a",
            "get nodes/x/proxy",
            "create nodes/x/proxy",
        ] {
            let decision = decide(agent, act);
            assert_eq!(*decision.verdict(), Verdict::Denied, "{act}");
            let refusal = policy::explain::refuse(&decision).expect("refused").message("1");
            assert!(refusal.contains("the gate itself denies") && refusal.contains("past"), "{refusal}");
            let can = policy::explain::can_i(&decision);
            assert!(can.denied && can.reason.contains("past"), "{can:?}");
        }
        assert!(reserved(agent, decide(agent, "get serviceaccounts/x -n a").action()).is_none());
    }
}

#[test]
fn b85_only_a_rule_that_names_certificates_allows_them() {
    let group = "certificates.k8s.io";
    let with = |groups: Value, resources: Value| {
        let policy: PolicyText =
            from(json!({"name": "p", "spec": {"rules": [{"name": "r", "effect": "Allow",
            "match": [{"apiGroups": groups, "resources": resources, "verbs": ["*"]}]}]}}));
        agent_of(identity("home", identity_spec()), vec![policy.publish()])
    };
    let approval = "certificatesigningrequests/approval";
    for (groups, resources, act, is_allowed) in [
        (json!(["*"]), json!(["*"]), "create certificatesigningrequests.certificates.k8s.io/x", false),
        (
            json!(["*"]),
            json!(["*"]),
            "update certificatesigningrequests.certificates.k8s.io/x/approval",
            false,
        ),
        (
            json!([group]),
            json!(["*"]),
            "patch certificatesigningrequests.certificates.k8s.io/x/approval",
            false,
        ),
        (
            json!([group]),
            json!(["*/approval"]),
            "update certificatesigningrequests.certificates.k8s.io/x/approval",
            false,
        ),
        (
            json!(["*"]),
            json!([approval]),
            "update certificatesigningrequests.certificates.k8s.io/x/approval",
            false,
        ),
        (
            json!([group]),
            json!([approval]),
            "update certificatesigningrequests.certificates.k8s.io/x/approval",
            true,
        ),
        (json!([group]), json!([approval]), "create certificatesigningrequests.certificates.k8s.io/x", false),
        (json!(["*"]), json!(["*"]), "list certificatesigningrequests.certificates.k8s.io", true),
        (json!(["*"]), json!(["*"]), "delete certificatesigningrequests.certificates.k8s.io/x", true),
    ] {
        let decision = decide(&with(groups.clone(), resources.clone()), act);
        let expected = if is_allowed { Verdict::Allowed(Authority::Rule) } else { Verdict::NotAllowed };
        assert_eq!(*decision.verdict(), expected, "{groups} {resources}: {act}");
        if !is_allowed {
            let refusal = policy::explain::refuse(&decision).expect("refused").message("1");
            assert!(refusal.contains("names group and resource"), "{refusal}");
        }
    }
}
