//! An act that is only asked about, made from words and from what the target serves.
use parsing::discovery::{Discovery, Resource};
use parsing::query::Query;
use parsing::review::{Asked, ResourceAttributes};
use policy::action::{Action, ResourceAction, Scope, Verb};
use thiserror::Error;

/// Why words are no act. None of the texts repeats what the agent wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAnAct {
    /// A verb that no request has, or none.
    #[error("the verb must be one of get, list, watch, create, update, patch, delete, deletecollection")]
    Verb,
    /// `*`, or nothing.
    #[error("ask about one resource of one API group")]
    Resource,
    /// Discovery does not know it.
    #[error(
        "the target has no such resource; write the plural and its API group, as in `deployments.apps` or `pods`"
    )]
    UnknownResource,
    /// Discovery does not know it.
    #[error("the resource has no such subresource; write it as in `pods/log`")]
    UnknownSubresource,
    /// No path, or one that is none.
    #[error("ask about one path that begins with `/`, and with get, post, put, patch or delete")]
    Path,
}

/// The act of an access review.
pub fn asked(asked: &Asked, discovery: &Discovery) -> Result<Action, NotAnAct> {
    match asked {
        Asked::NonResource { path, verb } => non_resource(verb, path),
        Asked::Resource(attributes) => resource(attributes, discovery),
    }
}

/// What `/sallyport/v1/explain?verb=&resource=&namespace=&name=` asks about.
pub fn from_query(query: &Query) -> Asked {
    let text = |key: &str| query.get(key).unwrap_or_default().to_owned();
    if let Some(path) = query.get("path") {
        let verb = query.get("verb").unwrap_or("get").to_owned();
        return Asked::NonResource { path: path.to_owned(), verb };
    }
    let named = text("resource");
    let (named, subresource) = match named.split_once('/') {
        Some((named, subresource)) => (named.to_owned(), subresource.to_owned()),
        None => (named, text("subresource")),
    };
    let (resource_name, group) = named.split_once('.').unwrap_or((&named, ""));
    Asked::Resource(ResourceAttributes {
        namespace: text("namespace"),
        verb: text("verb"),
        group: group.to_owned(),
        version: String::new(),
        resource: resource_name.to_owned(),
        subresource,
        name: text("name"),
    })
}

fn non_resource(verb: &str, path: &str) -> Result<Action, NotAnAct> {
    let known = ["get", "post", "put", "patch", "delete"].contains(&verb);
    if !known {
        return Err(NotAnAct::Verb);
    }
    if !path.starts_with('/') || path.contains('*') {
        return Err(NotAnAct::Path);
    }
    Ok(Action::NonResource { verb: verb.to_owned(), path: path.to_owned() })
}

fn resource(asked: &ResourceAttributes, discovery: &Discovery) -> Result<Action, NotAnAct> {
    let verb = Verb::ALL.into_iter().find(|verb| verb.as_str() == asked.verb).ok_or(NotAnAct::Verb)?;
    if asked.resource.is_empty() || asked.resource == "*" || asked.group == "*" {
        return Err(NotAnAct::Resource);
    }
    let (version, facts) = served(asked, discovery).ok_or(NotAnAct::UnknownResource)?;
    let subresource = Some(asked.subresource.clone()).filter(|sub| !sub.is_empty());
    if subresource.as_ref().is_some_and(|sub| !facts.subresources.contains_key(sub)) {
        return Err(NotAnAct::UnknownSubresource);
    }
    let name = Some(asked.name.clone()).filter(|name| !name.is_empty() && verb != Verb::DeleteCollection);
    let is_connect = matches!(subresource.as_deref(), Some("exec" | "attach" | "portforward" | "proxy"));
    Ok(Action::Resource(ResourceAction {
        verb: if is_connect { Verb::Create } else { verb },
        group: asked.group.clone(),
        version: version.to_owned(),
        resource: asked.resource.clone(),
        subresource,
        scope: scope(asked, facts),
        name,
        dry_run: false,
        may_create: false,
    }))
}

fn served<'a>(asked: &ResourceAttributes, discovery: &'a Discovery) -> Option<(&'a str, &'a Resource)> {
    let any = matches!(asked.version.as_str(), "" | "*");
    let of = |(group, version, resource, facts): (&'a str, &'a str, &'a str, &'a Resource)| {
        let same = group == asked.group && resource == asked.resource && (any || version == asked.version);
        same.then_some((version, facts))
    };
    discovery.iter().find_map(of)
}

fn scope(asked: &ResourceAttributes, facts: &Resource) -> Scope {
    let is_namespace = asked.group.is_empty() && asked.resource == "namespaces";
    match (facts.namespaced, asked.namespace.as_str()) {
        (false, _) if is_namespace && !asked.name.is_empty() => Scope::Namespace(asked.name.clone()),
        (false, _) => Scope::Cluster,
        (true, "") => Scope::AllNamespaces,
        (true, namespace) => Scope::Namespace(namespace.to_owned()),
    }
}

/// What the gate refuses although policy may allow it: what needs a stream in both directions.
pub fn not_served(action: &Action) -> Option<&'static str> {
    let Action::Resource(action) = action else { return None };
    match action.subresource.as_deref() {
        Some("exec" | "attach" | "portforward" | "proxy") => Some("the gate does not open streams yet"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovery() -> Discovery {
        let mut discovery = Discovery::new();
        let namespaced = Resource { namespaced: true, ..Resource::default() };
        let mut pods = namespaced.clone();
        pods.subresources.insert("log".into(), Default::default());
        pods.subresources.insert("exec".into(), Default::default());
        discovery.insert("", "v1", "pods", pods);
        discovery.insert("apps", "v1", "deployments", namespaced.clone());
        discovery.insert("", "v1", "secrets", namespaced);
        discovery.insert("", "v1", "namespaces", Resource::default());
        discovery.insert("", "v1", "nodes", Resource::default());
        discovery
    }

    fn attributes(verb: &str, group: &str, resource: &str, sub: &str, namespace: &str, name: &str) -> Asked {
        Asked::Resource(ResourceAttributes {
            namespace: namespace.into(),
            verb: verb.into(),
            group: group.into(),
            version: String::new(),
            resource: resource.into(),
            subresource: sub.into(),
            name: name.into(),
        })
    }

    #[test]
    fn words_become_the_act_that_the_request_would_be() {
        let of = |asked_about: Asked| match asked(&asked_about, &discovery()) {
            Ok(Action::Resource(a)) => {
                let name = a.name.clone().unwrap_or_default();
                format!("{} {} {:?} {name}", a.verb, a.qualified_resource(), a.scope)
            }
            Ok(Action::NonResource { verb, path }) => format!("{verb} {path}"),
            Err(why) => format!("{why:?}"),
        };
        for (asked, want) in [
            (
                attributes("delete", "apps", "deployments", "", "a", "web"),
                r#"delete deployments Namespace("a") web"#,
            ),
            (attributes("list", "", "pods", "", "", ""), "list pods AllNamespaces "),
            (attributes("get", "", "nodes", "", "a", "n"), "get nodes Cluster n"),
            (attributes("delete", "", "namespaces", "", "a", "b"), r#"delete namespaces Namespace("b") b"#),
            (attributes("list", "", "namespaces", "", "a", ""), "list namespaces Cluster "),
            (attributes("get", "", "pods", "exec", "a", "x"), r#"create pods/exec Namespace("a") x"#),
            (attributes("get", "", "pods", "log", "a", "x"), r#"get pods/log Namespace("a") x"#),
            (
                attributes("deletecollection", "", "pods", "", "a", "x"),
                r#"deletecollection pods Namespace("a") "#,
            ),
            (attributes("approve", "", "pods", "", "a", ""), "Verb"),
            (attributes("*", "", "pods", "", "a", ""), "Verb"),
            (attributes("get", "*", "pods", "", "a", ""), "Resource"),
            (attributes("get", "", "*", "", "a", ""), "Resource"),
            (attributes("get", "", "", "", "a", ""), "Resource"),
            (attributes("get", "", "gizmos", "", "a", ""), "UnknownResource"),
            (attributes("get", "", "deployments", "", "a", ""), "UnknownResource"),
            (attributes("get", "", "pods", "gizmo", "a", ""), "UnknownSubresource"),
            (Asked::NonResource { path: "/livez".into(), verb: "get".into() }, "get /livez"),
            (Asked::NonResource { path: "/api/*".into(), verb: "get".into() }, "Path"),
            (Asked::NonResource { path: "livez".into(), verb: "get".into() }, "Path"),
            (Asked::NonResource { path: "/livez".into(), verb: "GET".into() }, "Verb"),
        ] {
            assert_eq!(of(asked), want);
        }
    }

    #[test]
    fn can_i_never_says_yes_to_what_the_gate_refuses() {
        for (asked_about, refused) in [
            (attributes("create", "", "pods", "exec", "a", "x"), true),
            (attributes("get", "", "pods", "exec", "a", "x"), true),
            (attributes("patch", "", "secrets", "", "a", "s"), false),
            (attributes("get", "", "secrets", "", "a", "s"), false),
            (attributes("delete", "", "secrets", "", "a", "s"), false),
            (attributes("create", "apps", "deployments", "", "a", ""), false),
        ] {
            let action = asked(&asked_about, &discovery()).expect("an act");
            assert_eq!(not_served(&action).is_some(), refused, "{asked_about:?}");
        }
    }
}
