//! Roles that are no way past anything: what every client of a cluster may do, judged by their rules and not by their names.

use k8s_openapi::api::rbac::v1::PolicyRule;

/// Discovery, health and the cluster's public keys.
const PATHS: [&str; 18] = [
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/openapi",
    "/openapi/*",
    "/version",
    "/version/",
    "/healthz",
    "/healthz/*",
    "/livez",
    "/livez/*",
    "/readyz",
    "/readyz/*",
    "/.well-known/openid-configuration",
    "/.well-known/openid-configuration/",
    "/openid/v1/jwks",
    "/openid/v1/jwks/",
];
/// Group, resource, verbs: questions about oneself, and certificates that are meant for everybody.
const RESOURCES: [(&str, &str, &[&str]); 4] = [
    ("authorization.k8s.io", "selfsubjectaccessreviews", &["create"]),
    ("authorization.k8s.io", "selfsubjectrulesreviews", &["create"]),
    ("authentication.k8s.io", "selfsubjectreviews", &["create"]),
    ("certificates.k8s.io", "clustertrustbundles", &["get", "list", "watch"]),
];

/// Whether the rules of a role give nothing but that.
pub fn is_harmless(rules: &[PolicyRule]) -> bool {
    rules.iter().all(|rule| {
        let of = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
        let (urls, groups, resources) =
            (of(&rule.non_resource_urls), of(&rule.api_groups), of(&rule.resources));
        let paths_alone = resources.is_empty()
            && urls.iter().all(|url| PATHS.contains(&url.as_str()))
            && rule.verbs.iter().all(|verb| matches!(verb.as_str(), "get" | "head" | "options"));
        let is_known = |group: &str, resource: &str| {
            let known = RESOURCES.iter().find(|known| (known.0, known.1) == (group, resource));
            known.is_some_and(|known| rule.verbs.iter().all(|verb| known.2.contains(&verb.as_str())))
        };
        let resources_alone = urls.is_empty()
            && !groups.is_empty()
            && groups.iter().all(|group| resources.iter().all(|resource| is_known(group, resource)));
        paths_alone || resources_alone
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(group: &str, resource: &str, verbs: &[&str], urls: &[&str]) -> PolicyRule {
        let some = |words: &[&str]| {
            let words: Vec<String> =
                words.iter().filter(|word| !word.is_empty()).map(|word| (*word).to_owned()).collect();
            (!words.is_empty()).then_some(words)
        };
        PolicyRule {
            api_groups: some(&[group]),
            resources: some(&[resource]),
            verbs: some(verbs).unwrap_or_default(),
            non_resource_urls: some(urls),
            resource_names: None,
        }
    }

    #[test]
    fn what_every_client_may_is_harmless_and_nothing_else() {
        for (rule, harmless) in [
            (rule("", "", &["get"], &["/api", "/apis/*", "/version"]), true),
            (rule("", "", &["get"], &["/openid/v1/jwks"]), true),
            (rule("authorization.k8s.io", "selfsubjectaccessreviews", &["create"], &[]), true),
            (rule("certificates.k8s.io", "clustertrustbundles", &["get", "list", "watch"], &[]), true),
            (rule("", "", &["*"], &["/api"]), false),
            (rule("", "", &["get"], &["*"]), false),
            (rule("", "", &["get"], &["/metrics"]), false),
            (rule("", "", &["get"], &["/api", "/logs/*"]), false),
            (rule("authorization.k8s.io", "subjectaccessreviews", &["create"], &[]), false),
            (rule("authentication.k8s.io", "selfsubjectreviews", &["*"], &[]), false),
            (rule("*", "selfsubjectreviews", &["create"], &[]), false),
            (rule("apps", "deployments", &["get"], &[]), false),
            (rule("*", "*", &["*"], &[]), false),
        ] {
            assert_eq!(is_harmless(std::slice::from_ref(&rule)), harmless, "{rule:?}");
        }
        assert!(is_harmless(&[]), "a role without rules");
        let core =
            PolicyRule { api_groups: Some(vec![String::new()]), ..rule("x", "secrets", &["get"], &[]) };
        let mixed = [rule("", "", &["get"], &["/api"]), core];
        assert!(!is_harmless(&mixed));
    }
}
