//! The words that an agent reads, as kubectl prints them.

use policy::agent::Agent;
use policy::approve::{Deadline, Progress, Standing};
use policy::decision::Authority;
use policy::explain::{
    GrantWords, Refusal, access, approval_denied, approval_expired, approval_pending, approved, can_i,
    change_needs_approval, explain, gate_denies, grant as grant_document, list_rules, masked,
    masked_value_in_write, narrowed, not_supported, quoted, refuse, stream_denied, target_refused,
    target_refuses_too, tells_masked, too_many_pending, window_closes,
};
use policy::mask::{MaskPath, MaskRule, Replacement};
use serde_json::json;
use std::sync::Arc;

use crate::support::{
    NAMESPACE, action, agent_from_yaml, agent_of, decide, facts, identity, identity_spec, now, time,
    window_grant, windows,
};

const POLICIES: &str = r#"
- name: sallyport-baseline
  spec:
    agents: [{namespace: "*"}]
    rules:
    - {name: no-namespace-delete, effect: Deny, message: Deleting a namespace removes everything in it., match: [{apiGroups: [""], resources: [namespaces], verbs: [delete]}]}
    - {name: quiet, effect: Deny, match: [{apiGroups: [""], resources: [pods/exec], verbs: [create]}]}
    - {name: system, effect: Deny, match: [{namespaces: [sallyport-system], apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}
- name: payments-agents
  generation: 5
  spec:
    rules:
    - {name: read, effect: Allow, match: [{apiGroups: [apps], resources: [deployments], verbs: [get, list]}, {nonResourceURLs: [/metrics], verbs: [get]}]}
    - {name: ask-before-change, effect: RequireApproval, message: Changes to production workloads need a human., match: [{namespaces: [payments], apiGroups: [apps], resources: [deployments], verbs: [delete, patch]}]}
- name: payments-write
  spec:
    jit: {mode: Required}
    rules:
    - {name: flags, effect: Allow, match: [{namespaces: [payments], apiGroups: [""], resources: [configmaps], verbs: [patch]}]}
"#;

const ID: &str = "01JD9Z6T3E4";
const GRANT: GrantWords<'static> = GrantWords { namespace: "agents", name: "claude-code-7f3kq" };

fn agent() -> Arc<Agent> {
    agent_from_yaml(POLICIES)
}

/// What kubectl prints, apart from `Error from server`.
fn printed(refusal: &Refusal) -> String {
    format!("({}): {}", refusal.reason.as_str(), refusal.message(ID))
}

fn refused(act: &str) -> String {
    printed(&refuse(&decide(&agent(), act)).unwrap())
}

#[test]
fn policy_denied() {
    assert_eq!(
        refused("delete namespaces/payments"),
        r#"(PolicyDenied): namespaces "payments" is forbidden: sallyport/PolicyDenied: policy "sallyport-baseline" rule "no-namespace-delete" denies delete.
  why:     Deleting a namespace removes everything in it.
  final:   yes. Retrying, waiting or asking for a grant cannot change this. Do not try another route to the same effect.
  instead: kubectl auth can-i --list -n payments
  id:      01JD9Z6T3E4"#
    );
    assert_eq!(
        refused("create pods/web/exec -n payments"),
        r#"(PolicyDenied): pods "web" is forbidden: sallyport/PolicyDenied: policy "sallyport-baseline" rule "quiet" denies create pods/exec.
  final:   yes. Retrying, waiting or asking for a grant cannot change this. Do not try another route to the same effect.
  instead: kubectl auth can-i --list -n payments
  id:      01JD9Z6T3E4"#
    );
    assert_eq!(
        refused("patch accessgrants.sallyport.dev/g -n agents"),
        r#"(PolicyDenied): accessgrants.sallyport.dev "g" is forbidden: sallyport/PolicyDenied: the gate itself denies patch here.
  why:     An agent may read its own AccessGrants, create a Window for itself and delete its own; nothing else in this group, whatever any policy says.
  final:   yes. Retrying, waiting or asking for a grant cannot change this. Do not try another route to the same effect.
  instead: kubectl auth can-i --list -n agents
  id:      01JD9Z6T3E4"#
    );
}

#[test]
fn not_allowed() {
    assert_eq!(
        refused("list nodes"),
        r#"(NotAllowed): nodes is forbidden: sallyport/NotAllowed: no policy allows list nodes for agents/claude-code.
  final:   yes, until an administrator adds a rule. There is nothing to request.
  instead: kubectl get --raw /sallyport/v1/access
  id:      01JD9Z6T3E4"#
    );
    assert!(refused("get /livez").starts_with(
        r#"(NotAllowed): path "/livez" is forbidden: sallyport/NotAllowed: no policy allows get /livez for agents/claude-code."#
    ));
}

#[test]
fn b96_a_refused_apply_says_that_it_creates() {
    let agent = agent_from_yaml(
        "- {name: p, spec: {rules: [{name: r, effect: Allow, match: [{apiGroups: [apps], resources: [deployments], verbs: [patch]}]}]}}",
    );
    let decision = decide(&agent, "patch deployments.apps/web -n payments --server-side");
    assert_eq!(
        printed(&refuse(&decision).unwrap()),
        r#"(NotAllowed): deployments.apps "web" is forbidden: sallyport/NotAllowed: no policy allows create deployments.apps for agents/claude-code.
  why:     A server-side apply, and for some kinds an update, creates the object where there is none, unless it names metadata.uid; so it must be allowed to create too.
  final:   yes, until an administrator adds a rule. There is nothing to request.
  instead: kubectl get --raw /sallyport/v1/access
  id:      01JD9Z6T3E4"#
    );
}

#[test]
fn window_required() {
    assert_eq!(
        refused("patch configmaps/flags -n payments"),
        r#"(WindowRequired): configmaps "flags" is forbidden: sallyport/WindowRequired: policy "payments-write" allows this patch only inside a just-in-time window, and none is open for agents/claude-code.
  next:    echo '{"apiVersion":"sallyport.dev/v1alpha1","kind":"AccessGrant","metadata":{"generateName":"claude-code-","namespace":"agents"},"spec":{"agentRef":{"name":"claude-code"},"type":"Window","reason":"<one sentence: what and why>","window":{"durationSeconds":1800}}}' | kubectl create -f -
           then kubectl wait --for=condition=Decided accessgrant/<name printed above> -n agents --timeout=100s, then run the command again.
           Longest window allowed: 3600 seconds.
  id:      01JD9Z6T3E4"#
    );
}

#[test]
fn approval_pending_and_its_machine_form() {
    let decision = decide(&agent(), "delete deployments.apps/web -n payments");
    assert!(refuse(&decision).is_none());
    let refusal = approval_pending(&decision, GRANT, time("2026-11-20T15:31:40.7Z"));
    assert_eq!(
        printed(&refusal),
        r#"(ApprovalPending): deployments.apps "web" is forbidden: sallyport/ApprovalPending: policy "payments-agents" rule "ask-before-change" needs a human to approve this delete.
  why:     Changes to production workloads need a human. Nothing has been changed yet.
  grant:   claude-code-7f3kq (namespace agents), waits for review until 2026-11-20T15:31:40Z
  next:    kubectl wait --for=condition=Decided accessgrant/claude-code-7f3kq -n agents --timeout=100s
           then run exactly the same command again. A changed command needs a new approval.
           If the wait times out, wait again or report to the user that approval is pending.
  id:      01JD9Z6T3E4"#
    );
    let causes: Vec<_> =
        refusal.causes.iter().map(|c| (c.reason, c.field.as_str(), c.message.as_str())).collect();
    assert_eq!(
        causes,
        [
            ("sallyport.dev/Grant", "agents/claude-code-7f3kq", "WaitingForReview"),
            ("sallyport.dev/Rule", "payments-agents/ask-before-change", "RequireApproval"),
            ("sallyport.dev/Final", "", "false"),
        ]
    );
    assert_eq!((&*refusal.group, &*refusal.kind, &*refusal.name), ("apps", "deployments", "web"));
    assert_eq!(refusal.wait_seconds, Some(30));
}

#[test]
fn approval_denied_quotes_the_note() {
    let decision = decide(&agent(), "delete deployments.apps/web -n payments");
    let refusal = approval_denied(&decision, GRANT, "alice@example.com", Some("use the canary first"));
    assert_eq!(
        printed(&refusal),
        r#"(ApprovalDenied): deployments.apps "web" is forbidden: sallyport/ApprovalDenied: alice@example.com denied this delete (grant claude-code-7f3kq).
  why:     reviewer note: "use the canary first"
  final:   yes, for this request. Do not repeat it. A different request may be approved.
  next:    follow the reviewer's note, or report it to the user.
  id:      01JD9Z6T3E4"#
    );
    let refusal = approval_denied(&decision, GRANT, "alice@example.com", None);
    assert!(!refusal.message(ID).contains("note"));
}

#[test]
fn approval_expired_and_too_many() {
    let decision = decide(&agent(), "delete deployments.apps/web -n payments");
    let refusal = approval_expired(&decision, GRANT, Deadline::Use, time("2026-11-20T15:31:40Z"));
    assert_eq!(
        printed(&refusal),
        r#"(ApprovalExpired): deployments.apps "web" is forbidden: sallyport/ApprovalExpired: grant claude-code-7f3kq for this delete expired at 2026-11-20T15:31:40Z: it was approved, but not used in time.
  why:     An approval holds for a short time only. Nothing has been changed.
  next:    run exactly the same command again; it asks for a new approval.
  id:      01JD9Z6T3E4"#
    );
    assert_eq!(
        printed(&too_many_pending(&decision, &["a", "b", "c", "d", "e"])),
        r#"(TooManyPendingApprovals): deployments.apps "web" is forbidden: sallyport/TooManyPendingApprovals: agents/claude-code already has 5 grants waiting for review, and may have 5.
  why:     Every grant asks a human for attention. Nothing has been changed.
  next:    wait for a decision, or withdraw one: kubectl delete accessgrant a -n agents
           then run the command again.
  id:      01JD9Z6T3E4"#
    );
}

#[test]
fn masked_value_in_write_names_the_paths() {
    let act = action("patch secrets/db -n payments");
    assert_eq!(
        printed(&masked_value_in_write(&act, &[".data.password"])),
        r#"(MaskedValueInWrite): secrets "db" is forbidden: sallyport/MaskedValueInWrite: the body contains masked placeholders at .data.password; writing it would destroy the real value.
  next:    remove the masked fields and send only what you change, e.g. kubectl patch ... --type=merge -p '{"metadata":{...}}'
  id:      01JD9Z6T3E4"#
    );
    assert!(
        !masked_value_in_write(&act, &[".a\n  id:      forged"]).message(ID).contains("\n  id:      forged")
    );
}

#[test]
fn suspended_broken_streams_and_what_is_not_built() {
    let mut spec = identity_spec();
    spec.suspend = true;
    let suspended = agent_of(identity("claude-code", spec), Vec::new());
    let mut decision = decide(&suspended, "get /version");
    assert!(decision.take_permit().is_none());
    assert_eq!(
        printed(&refuse(&decision).unwrap()),
        r#"(AgentSuspended): path "/version" is forbidden: sallyport/AgentSuspended: agents/claude-code is suspended.
  why:     An administrator has stopped this agent. Every request is refused.
  final:   yes, until an administrator resumes it. Retrying, waiting or asking for a grant cannot change this.
  next:    stop
  id:      01JD9Z6T3E4"#
    );
    let broken = agent_from_yaml(
        "- {name: cel, spec: {rules: [{name: r, effect: Deny, match: [{apiGroups: [\"\"], resources: [Pods], verbs: [get]}]}]}}",
    );
    let text = printed(&refuse(&decide(&broken, "get pods/x -n a")).unwrap());
    assert!(text.starts_with("(PolicyBroken): pods \"x\" is forbidden: sallyport/PolicyBroken: policy \"cel\" cannot be understood, so everything is denied for agents/claude-code.\n  why:     spec.rules[0].match[0].resources[0]: `Pods` is not a resource"), "{text}");
    assert!(printed(&stream_denied(&action("create pods/web/exec -n a"))).starts_with("(StreamDenied): pods \"web\" is forbidden: sallyport/StreamDenied: the gate does not open create pods/exec streams yet.\n  final:   yes"));
    assert!(printed(&not_supported(&action("update secrets/s -n a"), "copying Secrets", "stop")).contains(
        "sallyport/NotSupportedYet: copying Secrets is not supported yet.\n  final:   yes, in this version."
    ));
    let patch = action("patch secrets/s -n a");
    assert_eq!(
        printed(&change_needs_approval(&patch)),
        r#"(NotAllowed): secrets "s" is forbidden: sallyport/NotAllowed: no policy allows this patch of a masked value without a human's approval.
  why:     The answer would tell whether the value was the stored one: nothing changes then.
  final:   yes, until an administrator adds a rule with RequireApproval. There is nothing to request.
  next:    leave the masked field out of the change, or ask a person to make it
  id:      01JD9Z6T3E4"#
    );
    assert_eq!(
        printed(&tells_masked(&patch, "a selector on a masked field", "select by name")),
        r#"(Forbidden): secrets "s" is forbidden: sallyport/Forbidden: a selector on a masked field would tell what is masked.
  next:    select by name
  id:      01JD9Z6T3E4"#
    );
    let denied = printed(&gate_denies(&patch, "changing owners", "Because.", "leave them out"));
    assert!(denied.starts_with("(PolicyDenied): secrets \"s\" is forbidden: sallyport/PolicyDenied: the gate itself denies changing owners.\n  why:     Because.\n  final:   yes. "), "{denied}");
}

#[test]
fn can_i_is_a_tri_state() {
    let agent = agent();
    let table = [
        ("get deployments.apps/web -n payments", true, false, ""),
        ("list deployments.apps -A", true, false, "without namespaces sallyport-system"),
        (
            "delete deployments.apps/web -n payments",
            false,
            false,
            r#"needs human approval (policy "payments-agents" rule "ask-before-change"): run the command; it pauses until a human decides"#,
        ),
        (
            "patch configmaps/f -n payments",
            false,
            false,
            r#"needs an open window (policy "payments-write" rule "flags"): how to ask for one: kubectl get --raw /sallyport/v1/access"#,
        ),
        (
            "delete namespaces/payments",
            false,
            true,
            r#"policy "sallyport-baseline" rule "no-namespace-delete" denies delete: Deleting a namespace removes everything in it."#,
        ),
        ("create accesspolicies.sallyport.dev/x", false, true, "the gate itself denies create"),
        ("list nodes", false, false, "no policy allows list nodes for agents/claude-code"),
    ];
    for (act, allowed, denied, reason) in table {
        let answer = can_i(&decide(&agent, act));
        assert_eq!(
            (answer.allowed, answer.denied, answer.reason.as_str()),
            (allowed, denied, reason),
            "{act}"
        );
    }
}

#[test]
fn can_i_list_says_what_it_leaves_out() {
    let agent = agent();
    let answer = list_rules(&agent, "payments", &facts(&[]));
    assert!(answer.incomplete);
    assert_eq!(
        answer.evaluation_error,
        "1 rule needs human approval, 1 rule needs an open window and 2 rules deny; full answer: kubectl get --raw /sallyport/v1/access"
    );
    assert_eq!(answer.resource_rules.len(), 1);
    assert_eq!(answer.resource_rules[0].verbs, ["get", "list"]);
    assert_eq!(answer.non_resource_rules.len(), 2);
    let open = windows(&agent, &[window_grant("w", json!({}))]);
    assert_eq!(list_rules(&agent, "payments", &facts(&open)).resource_rules.len(), 2);
    let narrow = json!({"spec": {"window": {"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}]}}});
    let open = windows(&agent, &[window_grant("w", narrow)]);
    assert_eq!(list_rules(&agent, "payments", &facts(&open)).resource_rules.len(), 1);
}

#[test]
fn the_access_document_says_everything() {
    let agent = agent();
    let open = windows(&agent, &[window_grant("w1", json!({}))]);
    let document = serde_json::to_value(access(&agent, &facts(&open))).unwrap();
    assert_eq!(document["agent"]["username"], "sallyport:agent:agents:claude-code");
    assert_eq!(document["agent"]["groups"], json!(["sallyport:agents", "sallyport:agents:agents"]));
    assert_eq!(
        document["allowed"][0]["match"][0],
        json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]})
    );
    assert_eq!(
        document["allowed"][0]["match"][1],
        json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]})
    );
    assert_eq!(document["needsApproval"][0]["rule"], "ask-before-change");
    assert_eq!(document["needsWindow"][0]["rule"], "flags");
    assert_eq!(document["denied"].as_array().unwrap().len(), 3);
    assert_eq!(document["limits"]["maxPendingGrants"], 5);
    assert_eq!(document["window"]["open"][0], json!({"grant": "w1", "until": "2026-11-20T15:00:00Z"}));
    assert_eq!(document["window"]["maxWindowSeconds"], 3600);
    assert!(document.get("blocked").is_none());
}

#[test]
fn the_explain_document_holds_every_rule_that_matched() {
    let decision = decide(&agent(), "delete deployments.apps/web -n payments");
    assert_eq!(
        serde_json::to_value(explain(&decision)).unwrap(),
        json!({
            "request": "delete deployments.apps/web -n payments",
            "decision": "ApprovalPending",
            "reason": "needs human approval (policy \"payments-agents\" rule \"ask-before-change\"): run the command; it pauses until a human decides",
            "rules": [{"policy": "payments-agents", "rule": "ask-before-change", "generation": 5, "effect": "RequireApproval", "mode": "Enforce", "message": "Changes to production workloads need a human."}],
            "approval": [{"policy": "payments-agents", "minApprovals": 1, "restricted": false}],
            "recording": "Request",
        })
    );
}

#[test]
fn warnings() {
    let agent = agent();
    let mask = |name: &str| MaskRule {
        policy: "p".into(),
        name: name.into(),
        paths: vec![MaskPath::parse(".data.*").unwrap()],
        replacement: Replacement::Placeholder,
    };
    assert_eq!(
        masked(Some(2), &[mask("pod-env")]),
        "sallyport: 2 values masked (pod-env). They are placeholders, not data."
    );
    assert_eq!(
        masked(None, &[mask("b"), mask("a"), mask("b")]),
        "sallyport: values are masked (a, b). They are placeholders, not data."
    );
    let until = time("2026-11-20T14:34:30Z");
    let approval = Authority::Approval {
        grant: "claude-code-7f3kq".into(),
        by: vec!["alice@example.com".into()],
        until,
    };
    assert_eq!(
        approved(&approval).unwrap(),
        "sallyport: approved by alice@example.com (claude-code-7f3kq), ran once."
    );
    let window = Authority::Window { grant: "w".into(), until };
    assert_eq!(
        window_closes(&window, now()).unwrap(),
        "sallyport: your window closes in 4m; ask for a new one before then."
    );
    assert_eq!(window_closes(&window, time("2026-11-20T14:00:00Z")), None);
    let decision = decide(&agent, "list deployments.apps -A");
    assert_eq!(
        narrowed(&decision).unwrap(),
        r#"sallyport: left out of this answer: namespaces sallyport-system (policy "sallyport-baseline" rule "system")."#
    );
    assert_eq!(narrowed(&decide(&agent, "list deployments.apps -n payments")), None);
    assert_eq!(
        target_refused(&agent),
        "Sallyport allowed this request; Kubernetes RBAC on the target denied it for user sallyport:agent:agents:claude-code. An administrator must add a RoleBinding."
    );
    assert_eq!(NAMESPACE, agent.namespace());
}

#[test]
fn d20_quoted_text_cannot_steer_a_terminal() {
    assert_eq!(quoted("a\"b\\c\n\u{1b}[2J\u{202e}x"), "\"a\\\"b\\\\c\\u{a}\\u{1b}[2J\\u{202e}x\"");
}

#[test]
fn a_grant_that_is_waited_for_says_what_comes_next() {
    let said = |standing: Option<Standing>| {
        let grant = window_grant("claude-code-7f3kq", json!({}));
        serde_json::to_value(grant_document(&grant, standing.as_ref())).unwrap()
    };
    let until = time("2026-11-20T15:31:40Z");
    let waiting = said(Some(Standing::Waiting {
        progress: vec![
            Progress { policy: "a".into(), needed: 2, have: 1 },
            Progress { policy: "b".into(), needed: 1, have: 3 },
        ],
        until,
    }));
    assert_eq!(
        waiting,
        json!({
            "grant": "claude-code-7f3kq", "namespace": "agents", "decided": false, "state": "WaitingForReview",
            "message": "no decision yet: 2 of 3 approvals.", "until": "2026-11-20T15:31:40Z",
            "next": "kubectl get --raw '/sallyport/v1/grants/claude-code-7f3kq/wait?timeoutSeconds=50'",
        })
    );
    let note = Some("x\u{202e}\n# stop".to_owned());
    for (standing, state, message) in [
        (None, "NotNeeded", "no policy asks for this approval any more."),
        (
            Some(Standing::Scheduled { by: vec![], from: until, until }),
            "Scheduled",
            "opens at 2026-11-20T15:31:40Z",
        ),
        (
            Some(Standing::Approved { by: vec!["alice".into()], from: until, until }),
            "Approved",
            "approved by alice.",
        ),
        (Some(Standing::Approved { by: vec![], from: until, until }), "Approved", "approved by policy."),
        (
            Some(Standing::Denied { by: "bob".into(), note, until }),
            "Denied",
            r#"denied by bob; reviewer note: "x\u{202e}\u{a}# stop""#,
        ),
        (Some(Standing::Expired { of: Deadline::Window, at: until }), "Expired", "its window is over"),
        (Some(Standing::Revoked { by: None, note: None }), "Revoked", "revoked."),
        (Some(Standing::Used { request_id: "01X".into() }), "Used", "used up by request 01X."),
    ] {
        let said = said(standing);
        assert_eq!((&said["state"], &said["decided"]), (&json!(state), &json!(true)));
        assert!(said["message"].as_str().unwrap().contains(message), "{said}");
    }
}

#[test]
fn nobody_is_asked_for_what_rbac_refuses_anyway() {
    let decision = decide(&agent(), "delete deployments.apps/web -n payments");
    assert_eq!(
        target_refuses_too(&can_i(&decision).reason, &agent()),
        "needs human approval (policy \"payments-agents\" rule \"ask-before-change\"), and in vain: Kubernetes RBAC on the target \
         denies it for user sallyport:agent:agents:claude-code. An administrator must add a RoleBinding first"
    );
    assert!(can_i(&decide(&agent(), "list nodes")).never);
    assert!(!can_i(&decision).never, "a human can say yes");
}
