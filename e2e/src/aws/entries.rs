//! `ListAccessEntries` and `DeleteAccessEntry` of EKS: which principals have an access entry in a cluster. A fake, because moto knows no
//! access entries; it answers in small pages, and refuses whom it is told to refuse, in AWS's words.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use serde_json::json;

use super::FakeAuthenticator;
use super::sigv4::parameters;

/// AWS sends up to a hundred.
const PAGE: usize = 2;

/// Access entries by cluster. Cheap to clone.
#[derive(Clone, Default)]
pub struct FakeAccessEntries(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// By the cluster's ARN: what its authenticator lets in.
    clusters: HashMap<String, FakeAuthenticator>,
    /// By the same: entries of clusters that have no API server here.
    more: HashMap<String, Vec<String>>,
    /// Clusters that nobody may ask about.
    denied: HashSet<String>,
    asked: Vec<Asked>,
}

/// One ListAccessEntries that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// ARN of the cluster.
    pub cluster: String,
    /// ARN of who asked.
    pub by: String,
    /// Whether another page was asked for.
    pub further: bool,
}

impl FakeAccessEntries {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entries of this cluster are those that its authenticator goes by.
    pub(super) fn cluster(&self, arn: &str, authenticator: &FakeAuthenticator) {
        self.known().clusters.insert(arn.to_owned(), authenticator.clone());
    }

    /// Further entries of a cluster, which need not have an API server here.
    pub fn set(&self, cluster_arn: &str, principals: &[&str]) {
        let principals = principals.iter().map(|&arn| arn.to_owned()).collect();
        self.known().more.insert(cluster_arn.to_owned(), principals);
    }

    /// Whether the permission to list the entries of a cluster is taken from everybody.
    pub fn deny(&self, cluster_arn: &str, is_denied: bool) {
        let mut known = self.known();
        if is_denied {
            known.denied.insert(cluster_arn.to_owned());
        } else {
            known.denied.remove(cluster_arn);
        }
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.known().asked.clone()
    }

    /// Removes an entry of a principal from the cluster with this ARN; a path `/clusters/NAME/access-entries/PRINCIPAL` names both.
    pub(super) fn delete(&self, cluster: &str, principal: &str) -> anyhow::Result<Response<Bytes>> {
        let mut known = self.known();
        let mut is_there = false;
        if let Some(authenticator) = known.clusters.get(cluster) {
            is_there |= authenticator.principals().iter().any(|known| known == principal);
            authenticator.remove(principal);
        }
        if let Some(more) = known.more.get_mut(cluster) {
            is_there |= more.iter().any(|known| known == principal);
            more.retain(|known| known != principal);
        }
        if !is_there {
            return refuse(
                404,
                "ResourceNotFoundException",
                "The specified principalArn could not be found.",
            );
        }
        Ok(Response::builder().header("content-type", "application/json").body(Bytes::from("{}"))?)
    }

    /// Answers for the cluster with this ARN to `by`, the ARN of a user or of a session of a role.
    pub(super) fn answer(
        &self,
        request: &Request<Bytes>,
        cluster: &str,
        by: &str,
    ) -> anyhow::Result<Response<Bytes>> {
        let query = parameters(request.uri().query().unwrap_or_default());
        let token = query.iter().find(|(name, _)| name == "nextToken").map(|(_, value)| value.clone());
        let mut known = self.known();
        known.asked.push(Asked { cluster: cluster.to_owned(), by: by.to_owned(), further: token.is_some() });
        if known.denied.contains(cluster) {
            let words = format!(
                "User: {by} is not authorized to perform: eks:ListAccessEntries on resource: {cluster}"
            );
            return refuse(403, "AccessDeniedException", &words);
        }
        let of_authenticator = known.clusters.get(cluster).map(FakeAuthenticator::principals);
        let more = known.more.get(cluster).cloned();
        if of_authenticator.is_none() && more.is_none() {
            return refuse(404, "ResourceNotFoundException", "No cluster found for name.");
        }
        let all: Vec<String> = [of_authenticator, more].into_iter().flatten().flatten().collect();
        let from: usize = token.map_or(Ok(0), |token| token.parse())?;
        let until = (from + PAGE).min(all.len());
        let page: Vec<&String> = all.iter().take(until).skip(from).collect();
        let mut body = json!({"accessEntries": page});
        if until < all.len() {
            body["nextToken"] = until.to_string().into();
        }
        let body = Bytes::from(body.to_string());
        Ok(Response::builder().header("content-type", "application/json").body(body)?)
    }
}

fn refuse(code: u16, kind: &str, words: &str) -> anyhow::Result<Response<Bytes>> {
    let body = Bytes::from(json!({"message": words}).to_string());
    let response = Response::builder().status(code).header("content-type", "application/json");
    Ok(response.header("x-amzn-errortype", kind).body(body)?)
}
