//! The approved object and no other: uid and resourceVersion go with the write (D10, D13).

use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::request::Request;
use crate::target::{Method, Path};

/// Whether a request can carry preconditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// They are in the body now.
    Set,
    /// The request creates an object, so there is none to compare.
    NotNeeded,
    /// The API has no place for them: connect, `deletecollection`, and creates under an object other than evictions.
    Impossible,
}

impl Request {
    /// Binds a write to the object that has this uid and resourceVersion; what the client sent there is overwritten.
    /// The server answers 409 (for a JSON patch 422) if the object is another one by then.
    pub fn require(&mut self, uid: &str, resource_version: &str) -> Precondition {
        let Path::Resource(path) = &self.target.path else { return Precondition::Impossible };
        let created = self.target.method == Method::Post && path.name.is_none();
        let evicts = path.subresource.as_deref() == Some("eviction");
        if self.connect || path.name.is_none() && !created {
            return Precondition::Impossible;
        }
        match &mut self.body {
            Body::Object(_) if created => return Precondition::NotNeeded,
            Body::Object(object) if self.target.method == Method::Put => {
                bind_metadata(object, uid, resource_version)
            }
            Body::Object(object) if evicts => bind_options(object, uid, resource_version),
            Body::Merge(object) | Body::Strategic(object) | Body::Apply(object) => {
                bind_metadata(object, uid, resource_version);
            }
            Body::JsonPatch(operations) => {
                let test = |path: &str, value: &str| json!({"op": "test", "path": path, "value": value});
                let tests = [test("/metadata/uid", uid), test("/metadata/resourceVersion", resource_version)];
                operations.splice(0..0, tests);
            }
            Body::Delete(options) => {
                options.uid = Some(uid.to_owned());
                options.resource_version = Some(resource_version.to_owned());
            }
            Body::Object(_) | Body::Empty | Body::Review(_) => return Precondition::Impossible,
        }
        Precondition::Set
    }
}

fn entry<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let inner = object.as_object_mut()?.entry(key).or_insert_with(|| Value::Object(Map::new()));
    if inner.is_null() {
        *inner = Value::Object(Map::new());
    }
    inner.as_object_mut()
}

fn bind_metadata(object: &mut Value, uid: &str, resource_version: &str) {
    if let Some(metadata) = entry(object, "metadata") {
        metadata.insert("uid".to_owned(), uid.into());
        metadata.insert("resourceVersion".to_owned(), resource_version.into());
    }
}

fn bind_options(object: &mut Value, uid: &str, resource_version: &str) {
    let preconditions = json!({"uid": uid, "resourceVersion": resource_version});
    if let Some(options) = entry(object, "deleteOptions") {
        options.insert("preconditions".to_owned(), preconditions);
    }
}
