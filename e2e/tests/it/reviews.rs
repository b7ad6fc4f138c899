//! Who may review a grant, asked of the real API server with the real webhook and RBAC, one person or program at a time.

use std::path::PathBuf;
use std::time::Duration;

use e2e::{ControlPlane, Output, Version, eventually, kubectl};
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::operator::operated;

const SYSTEM: &str = crds::names::SYSTEM_NAMESPACE;
const ALICE: &str = "alice@example.com";
const BOB: &str = "bob@example.com";
const FINGERPRINT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A namespace with an agent, a policy that asks for approval, and a grant that waits.
struct Court {
    plane: ControlPlane,
    namespace: String,
}

impl Court {
    /// `approval` is the policy's; alice and bob hold the RBAC verb `approve`.
    async fn open(approval: Value) -> anyhow::Result<Self> {
        let plane = operated()?.plane().clone();
        let namespace = plane.namespace("court").await?;
        let court = Self { plane, namespace };
        court.plane.apply(&court.world(&approval).to_string())?;
        for object in [format!("accesspolicy/{}", court.namespace), "agentidentity/claude-code".to_owned()] {
            let wait = ["wait", "--for=condition=Accepted", "--timeout=30s", "-n", &court.namespace, &object];
            court.plane.kubectl(&wait)?.success()?;
        }
        let proxy = Caller::account(&court.plane, SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?;
        let made = proxy.create(&court.grant(), "").await?;
        made.map_err(|status| anyhow::anyhow!(status.message))?;
        Ok(court)
    }

    fn world(&self, approval: &Value) -> Value {
        let namespace = &self.namespace;
        let people = [ALICE, BOB]
            .map(|name| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}));
        let identity = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AgentIdentity",
            "metadata": {"name": "claude-code", "namespace": namespace},
            "spec": {"target": {"type": "InCluster"}, "subjects": [{"name": "in-cluster", "type": "ServiceAccount",
                     "serviceAccount": {"namespace": namespace, "name": "claude-code"}}]},
        });
        let deployments = json!([{"namespaces": [namespace], "apiGroups": ["apps"], "resources": ["deployments"],
                                  "verbs": ["delete"]}]);
        let flags = json!([{"namespaces": [namespace], "apiGroups": [""], "resources": ["configmaps"],
                            "verbs": ["patch"]}]);
        let policy = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": namespace},
            "spec": {"agents": [{"namespace": namespace}], "approval": approval, "jit": {"mode": "Required"}, "rules": [
                {"name": "ask", "effect": "RequireApproval", "match": deployments},
                {"name": "flags", "effect": "Allow", "match": flags},
            ]},
        });
        let approvers = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "approvers", "namespace": namespace}, "subjects": people,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sallyport-approver"},
        });
        json!({"apiVersion": "v1", "kind": "List", "items": [identity, policy, approvers]})
    }

    fn grant(&self) -> Value {
        let user = format!("sallyport:agent:{}:claude-code", self.namespace);
        let by = json!({"username": user, "subject": {"name": "in-cluster", "type": "ServiceAccount"}});
        let request = json!({"verb": "delete", "apiGroup": "apps", "apiVersion": "v1", "resource": "deployments",
                             "namespace": self.namespace, "name": "web", "fingerprint": FINGERPRINT});
        json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": "web", "namespace": self.namespace},
            "spec": {"agentRef": {"name": "claude-code"}, "type": "SingleRequest", "requestedBy": by, "request": request},
        })
    }

    fn window(&self, name: &str) -> Value {
        json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessGrant",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"agentRef": {"name": "claude-code"}, "type": "Window", "reason": "INC-4312",
                     "window": {"durationSeconds": 1800}},
        })
    }

    /// Binds a role of these verbs on `resources` to a user or a ServiceAccount (`system:serviceaccount:...`).
    fn bind(&self, name: &str, user: &str, resources: &[&str], verbs: &[&str]) -> anyhow::Result<()> {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": name, "namespace": self.namespace},
            "rules": [{"apiGroups": ["sallyport.dev"], "resources": resources, "verbs": verbs}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": name, "namespace": self.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
        });
        self.plane
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [role, binding]}).to_string())?;
        Ok(())
    }

    fn person(&self, user: &str) -> anyhow::Result<PathBuf> {
        self.plane.user_kubeconfig(user, None)
    }

    /// The one line of the documentation, with this review.
    fn patch(&self, kubeconfig: &std::path::Path, grant: &str, review: &str) -> anyhow::Result<Output> {
        let patch = format!(r#"{{"spec":{{"reviews":[{review}]}}}}"#);
        let args = ["patch", "accessgrant", grant, "-n", &self.namespace, "--type=merge", "-p", &patch];
        kubectl(Version::New, kubeconfig, &args)
    }

    fn read(&self, grant: &str) -> anyhow::Result<Value> {
        let args = ["get", "accessgrant", grant, "-n", &self.namespace, "-o", "json"];
        Ok(serde_json::from_str(&self.plane.kubectl(&args)?.success()?)?)
    }

    fn reviews(&self, grant: &str) -> anyhow::Result<Vec<Value>> {
        let stored = self.read(grant)?;
        Ok(stored.pointer("/spec/reviews").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Waits until `kind` has this reason; returns its status and message.
    async fn condition(&self, grant: &str, kind: &str, reason: &str) -> anyhow::Result<(String, String)> {
        eventually(&format!("condition {kind}={reason} of {grant}"), Duration::from_secs(20), async || {
            let stored = self.read(grant)?;
            let conditions = stored.pointer("/status/conditions").and_then(Value::as_array).cloned();
            let found =
                conditions.into_iter().flatten().find(|one| one["type"] == kind && one["reason"] == reason);
            let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
            Ok(found.map(|one| (text(&one, "status"), text(&one, "message"))))
        })
        .await
    }

    #[track_caller]
    fn refused(&self, out: &Output, words: &str) -> anyhow::Result<()> {
        assert!(out.code != 0 && out.stderr.contains(words), "wanted `{words}`: {out:?}");
        assert!(self.reviews("web")?.is_empty(), "refused, but stored");
        Ok(())
    }
}

const APPROVED: &str = r#"{"decision":"Approved"}"#;

#[tokio::test]
async fn the_one_line_merge_patch_approves() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let (_, message) = court.condition("web", "Active", "WaitingForReview").await?;
    assert_eq!(message, "");
    let out = court.patch(&court.person(ALICE)?, "web", APPROVED)?;
    assert!(
        out.stderr.contains("Warning: approval recorded for alice@example.com; 1 of 1 required"),
        "{out:?}"
    );
    let wait =
        ["wait", "--for=condition=Decided", "accessgrant/web", "-n", &court.namespace, "--timeout=20s"];
    court.plane.kubectl(&wait)?.success()?;
    let review = &court.reviews("web")?[0];
    assert_eq!(review["reviewer"], ALICE);
    assert!(review["reviewTime"].as_str().is_some_and(|at| at.ends_with('Z')), "{review}");
    let (status, message) = court.condition("web", "Approved", "Approved").await?;
    assert_eq!((status.as_str(), message.as_str()), ("True", "1 of 1 by alice@example.com"));
    let (status, message) = court.condition("web", "Active", "ReadyToUse").await?;
    assert!(status == "True" && message.starts_with("one use before "), "{message}");
    let stored = court.read("web")?;
    let summary = format!("delete deployments.apps/web -n {}", court.namespace);
    assert_eq!(stored.pointer("/status/summary"), Some(&json!(summary)));
    assert_eq!(stored.pointer("/status/expirationTime"), stored.pointer("/status/useDeadlineTime"));
    assert!(stored.pointer("/status/reviewDeadlineTime").is_some());
    Ok(())
}

#[tokio::test]
async fn a_second_approver_is_needed_where_the_policy_says_so() -> anyhow::Result<()> {
    let court = Court::open(json!({"minApprovals": 2})).await?;
    let out = court.patch(&court.person(ALICE)?, "web", APPROVED)?;
    assert!(out.stderr.contains("approval recorded for alice@example.com; 1 of 2 required"), "{out:?}");
    let (status, message) = court.condition("web", "Approved", "QuorumNotReached").await?;
    assert!(status == "Unknown" && message.contains("1 of 2"), "{status} {message}");

    let again = court.patch(&court.person(ALICE)?, "web", APPROVED)?;
    assert!(again.stderr.contains("you recorded this decision before"), "{again:?}");
    assert_eq!(court.reviews("web")?.len(), 1, "one person is one approval");

    let out = court.patch(&court.person(BOB)?, "web", APPROVED)?;
    assert!(out.stderr.contains("approval recorded for bob@example.com; 2 of 2 required"), "{out:?}");
    let names: Vec<_> = court.reviews("web")?.iter().map(|review| review["reviewer"].clone()).collect();
    assert_eq!(names, [ALICE, BOB], "the same line for the second approver keeps the first");
    let (_, message) = court.condition("web", "Approved", "Approved").await?;
    assert_eq!(message, "2 of 2 by alice@example.com, bob@example.com");
    Ok(())
}

#[tokio::test]
async fn an_approval_is_revoked_and_a_denial_is_final() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let alice = court.person(ALICE)?;
    let early = court.patch(&alice, "web", r#"{"decision":"Revoked"}"#)?;
    assert!(early.stderr.contains("only an approved grant can be revoked; use 'Denied'"), "{early:?}");
    court.patch(&alice, "web", APPROVED)?.success()?;
    // Stamps are whole seconds, and in one second a refusal counts before an approval.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    court.patch(&alice, "web", r#"{"decision":"Revoked","note":"wrong one"}"#)?.success()?;
    let (status, message) = court.condition("web", "Active", "Revoked").await?;
    assert_eq!((status.as_str(), message.as_str()), ("False", "alice@example.com: \"wrong one\""));
    let late = court.patch(&court.person(BOB)?, "web", APPROVED)?;
    assert!(late.stderr.contains("the grant was revoked by `alice@example.com`"), "{late:?}");

    let court = Court::open(json!({})).await?;
    court.patch(&alice, "web", r#"{"decision":"Denied","note":"use the canary first"}"#)?.success()?;
    let (status, _) = court.condition("web", "Decided", "Denied").await?;
    assert_eq!(status, "True", "a denial ends the wait too");
    let late = court.patch(&court.person(BOB)?, "web", APPROVED)?;
    assert!(late.stderr.contains("the grant was denied by `alice@example.com`"), "{late:?}");
    Ok(())
}

#[tokio::test]
async fn d06_a_cluster_admin_who_edits_the_reviewer_is_refused() -> anyhow::Result<()> {
    let court = Court::open(json!({"minApprovals": 2})).await?;
    let admin = court.plane.admin_kubeconfig().to_owned();
    let forged =
        format!(r#"{{"decision":"Approved","reviewer":"{ALICE}","reviewTime":"2026-11-20T14:32:10Z"}}"#);
    let out = court.patch(&admin, "web", &forged)?;
    court.refused(&out, "a new review must carry the name of the user who writes it")?;

    court.patch(&court.person(ALICE)?, "web", APPROVED)?.success()?;
    let before = court.reviews("web")?;
    let renamed = json!([{"op": "replace", "path": "/spec/reviews/0/reviewer", "value": BOB}]).to_string();
    let args = ["patch", "accessgrant", "web", "-n", &court.namespace, "--type=json", "-p", &renamed];
    let out = court.plane.kubectl(&args)?;
    assert!(out.code != 0, "{out:?}");
    let emptied = [
        "patch",
        "accessgrant",
        "web",
        "-n",
        &court.namespace,
        "--type=merge",
        "-p",
        r#"{"spec":{"reviews":null}}"#,
    ];
    court.plane.kubectl(&emptied)?.success()?;
    assert_eq!(court.reviews("web")?, before, "nothing was changed, nothing removed");
    Ok(())
}

#[tokio::test]
async fn the_webhook_stands_without_the_second_wall() -> anyhow::Result<()> {
    // The admission policies would speak first; a server where they do not exist shows the webhook alone.
    let plane = ControlPlane::start()?;
    let setup = e2e::Setup { proxies: 0, ..e2e::Setup::default() };
    e2e::Gate::start(&plane, setup)?;
    for kind in ["validatingadmissionpolicybinding", "validatingadmissionpolicy"] {
        plane.kubectl(&["delete", kind, "--all"])?.success()?;
    }
    let court = Court { namespace: plane.namespace("court").await?, plane };
    court.plane.apply(&court.world(&json!({})).to_string())?;
    let wait = [
        "wait",
        "--for=condition=Accepted",
        "--timeout=30s",
        "-n",
        &court.namespace,
        "agentidentity/claude-code",
    ];
    court.plane.kubectl(&wait)?.success()?;
    let admin = Caller::admin(&court.plane).await?;
    let words = "a grant of type 'SingleRequest' is made only by the proxy";
    eventually("the admission policies to be gone", Duration::from_secs(30), async || {
        let answer = admin.create(&court.grant(), "&dryRun=All").await?;
        Ok(answer.err().filter(|status| status.message.contains(words)).map(|_status| ()))
    })
    .await?;
    let proxy = Caller::account(&court.plane, SYSTEM, crds::names::PROXY_SERVICE_ACCOUNT).await?;
    proxy.create(&court.grant(), "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    let forged =
        format!(r#"{{"decision":"Approved","reviewer":"{ALICE}","reviewTime":"2026-11-20T14:32:10Z"}}"#);
    let out = court.patch(court.plane.admin_kubeconfig(), "web", &forged)?;
    court.refused(&out, "can only come from `alice@example.com`")?;
    let agent = format!("sallyport:agent:{}:claude-code", court.namespace);
    court.bind("mistake", &agent, &["accessgrants"], &["get", "patch", "approve"])?;
    let out =
        court.patch(&court.plane.user_kubeconfig(&agent, Some("sallyport:agents"))?, "web", APPROVED)?;
    court.refused(&out, "an agent may not review")?;
    court.bind("editor", "eve@example.com", &["accessgrants"], &["get", "patch", "update"])?;
    let out = court.patch(&court.person("eve@example.com")?, "web", APPROVED)?;
    let words = format!(
        "user `eve@example.com` needs the RBAC verb `approve` on accessgrants.sallyport.dev in namespace `{}`",
        court.namespace
    );
    court.refused(&out, &words)?;
    let patch = r#"{"status":{"consumedBy":"somebody"}}"#;
    let namespace = court.namespace.as_str();
    let status =
        ["patch", "accessgrant", "web", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch];
    court.plane.kubectl(&status)?.success()?;
    let used = court.patch(&court.person(ALICE)?, "web", APPROVED)?;
    court.refused(&used, "the grant was used by request `somebody`")
}

#[tokio::test]
async fn d07_an_agent_that_was_given_patch_and_approve_is_refused() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let impersonated = format!("sallyport:agent:{}:claude-code", court.namespace);
    court.bind("mistake", &impersonated, &["accessgrants"], &["get", "patch", "approve"])?;
    let out = court.patch(
        &court.plane.user_kubeconfig(&impersonated, Some("sallyport:agents"))?,
        "web",
        APPROVED,
    )?;
    // Two policies refuse it; which of them the API server names is not fixed.
    court.refused(&out, "denied request: agents ")?;

    let account = format!("system:serviceaccount:{}:claude-code", court.namespace);
    court.plane.service_account(&court.namespace, "claude-code").await?;
    court.bind("mistake-too", &account, &["accessgrants"], &["get", "create", "patch", "approve"])?;
    let own = court.plane.service_account_kubeconfig(&court.namespace, "claude-code").await?;
    court.refused(&court.patch(&own, "web", APPROVED)?, "an agent may not review")?;
    let account = Caller::account(&court.plane, &court.namespace, "claude-code").await?;
    let direct = account.create(&court.window("direct"), "").await?;
    let status = direct.err().map(|status| status.message).unwrap_or_default();
    assert!(status.contains("an agent asks through the gate"), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_reviewer_without_the_verb_approve_is_refused() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    court.bind("editor", "eve@example.com", &["accessgrants"], &["get", "patch", "update"])?;
    let out = court.patch(&court.person("eve@example.com")?, "web", APPROVED)?;
    court.refused(&out, "needs the RBAC verb `approve` on accessgrants.sallyport.dev")
}

#[tokio::test]
async fn a_writer_of_the_status_is_refused() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let verbs = ["get", "patch", "update"];
    court.bind("writer", "eve@example.com", &["accessgrants", "accessgrants/status"], &verbs)?;
    let patch = r#"{"status":{"conditions":[{"type":"Approved","status":"True","reason":"Approved","message":"","lastTransitionTime":"2026-11-20T14:32:10Z"}]}}"#;
    let namespace = court.namespace.as_str();
    let args =
        ["patch", "accessgrant", "web", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch];
    for kubeconfig in [court.person("eve@example.com")?, court.plane.admin_kubeconfig().to_owned()] {
        let out = kubectl(Version::New, &kubeconfig, &args)?;
        let words = "the status of an AccessGrant is written only by Sallyport's operator and proxy";
        assert!(out.code != 0 && out.stderr.contains(words), "{out:?}");
    }
    let (status, _) = court.condition("web", "Approved", "WaitingForReview").await?;
    assert_eq!(status, "Unknown");
    Ok(())
}

#[tokio::test]
async fn d07_whoever_asked_does_not_review() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    court.bind("asks", ALICE, &["accessgrants"], &["create"])?;
    let alice = Caller::user(&court.plane, ALICE, &["system:authenticated"]).await?;
    let mut forged = court.window("mine");
    forged["spec"]["requestedBy"] = json!({"username": BOB});
    let made = alice.create(&forged, "").await?.map_err(|status| anyhow::anyhow!(status.message))?;
    assert_eq!(made.pointer("/spec/requestedBy"), Some(&json!({"username": ALICE})), "stamped, not chosen");
    let out = court.patch(&court.person(ALICE)?, "mine", APPROVED)?;
    assert!(out.stderr.contains("the requester may not review their own request"), "{out:?}");
    assert!(court.reviews("mine")?.is_empty());
    let mut approved = court.window("approved-at-once");
    approved["spec"]["reviews"] = json!([{"decision": "Approved"}]);
    let status = alice.create(&approved, "").await?.err().map(|status| status.message).unwrap_or_default();
    assert!(status.contains("the requester may not review their own request"), "{status}");

    court
        .patch(&court.person(BOB)?, "mine", r#"{"decision":"Approved","durationSeconds":120}"#)?
        .success()?;
    let (status, _) = court.condition("mine", "Active", "WindowOpen").await?;
    assert_eq!(status, "True");
    let status = court.read("mine")?["status"].clone();
    let moment = |field: &str| status[field].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let length =
        moment("expirationTime").zip(moment("windowStartTime")).map(|(end, start)| end.duration_since(start));
    assert_eq!(length.map(|length| length.as_secs()), Some(120), "{status}");
    Ok(())
}

#[tokio::test]
async fn a_service_account_reviews_only_where_approvers_names_it() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let account = format!("system:serviceaccount:{}:bot", court.namespace);
    court.plane.service_account(&court.namespace, "bot").await?;
    court.bind("bot", &account, &["accessgrants"], &["get", "patch", "approve"])?;
    let bot = court.plane.service_account_kubeconfig(&court.namespace, "bot").await?;
    court.refused(&court.patch(&bot, "web", APPROVED)?, "do not name you in `approvers`")?;

    let wanted =
        json!({"approvers": [{"kind": "ServiceAccount", "namespace": court.namespace, "name": "bot"}]});
    court.plane.apply(&court.world(&wanted).to_string())?;
    let recorded = eventually("the new approvers to be in force", Duration::from_secs(20), async || {
        let out = court.patch(&bot, "web", APPROVED)?;
        Ok((out.code == 0).then_some(out.stderr))
    })
    .await?;
    assert!(recorded.contains("1 of 1 required"), "{recorded}");
    Ok(())
}

#[tokio::test]
async fn only_approvers_approve_and_their_group_is_stamped() -> anyhow::Result<()> {
    let court = Court::open(json!({"approvers": [{"kind": "Group", "name": "payments-oncall"}]})).await?;
    let outside = court.patch(&court.person(ALICE)?, "web", APPROVED)?;
    court.refused(&outside, "do not name you in `approvers`")?;
    let oncall = court.plane.user_kubeconfig(ALICE, Some("payments-oncall"))?;
    let chosen = r#"{"decision":"Approved","groups":["somebody-elses"]}"#;
    court.patch(&oncall, "web", chosen)?.success()?;
    assert_eq!(court.reviews("web")?[0]["groups"], json!(["payments-oncall"]));
    court.condition("web", "Active", "ReadyToUse").await?;
    Ok(())
}

#[tokio::test]
async fn one_decision_at_a_time() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let both = r#"{"decision":"Approved"},{"decision":"Revoked","reviewer":"alice@example.com"}"#;
    court.refused(&court.patch(&court.person(ALICE)?, "web", both)?, "one decision at a time")
}

#[tokio::test]
async fn sallyports_own_programs_do_not_review() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    for name in [crds::names::PROXY_SERVICE_ACCOUNT, crds::names::OPERATOR_SERVICE_ACCOUNT] {
        let user = format!("system:serviceaccount:{SYSTEM}:{name}");
        court.bind(name, &user, &["accessgrants"], &["get", "patch", "approve"])?;
        let own = court.plane.service_account_kubeconfig(SYSTEM, name).await?;
        court.refused(&court.patch(&own, "web", APPROVED)?, "may not review")?;
    }
    Ok(())
}

#[tokio::test]
async fn nothing_but_reviews_changes_in_a_grant() -> anyhow::Result<()> {
    let court = Court::open(json!({})).await?;
    let patch = r#"{"spec":{"request":{"name":"db"}}}"#;
    let args = ["patch", "accessgrant", "web", "-n", &court.namespace, "--type=merge", "-p", patch];
    let out = court.plane.kubectl(&args)?;
    assert!(out.stderr.contains("only `reviews` may change after creation"), "{out:?}");
    Ok(())
}
