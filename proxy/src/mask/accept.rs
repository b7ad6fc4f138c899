//! What is asked upstream: JSON, in the form the client wanted, and nothing that cannot be read (B02, B03, B05).

/// Most entries of an Accept header that are looked at.
const ENTRIES: usize = 32;

/// `Accept` for objects: every entry becomes its JSON form; what has none is dropped; never empty.
pub fn for_objects(client: Option<&str>) -> String {
    let mut entries: Vec<(u16, String)> =
        client.unwrap_or_default().split(',').take(ENTRIES).filter_map(readable).collect();
    entries.sort_by_key(|(quality, _)| std::cmp::Reverse(*quality));
    let mut kept: Vec<String> = Vec::new();
    for (_, entry) in entries {
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    if kept.is_empty() { "application/json".to_owned() } else { kept.join(", ") }
}

/// `Accept` for logs: the text, or an error as JSON.
pub fn for_logs() -> String {
    "application/json, */*".to_owned()
}

/// `Accept` outside the resource API: as it is (ruling on non-resource paths).
pub fn as_it_is(client: Option<&str>) -> String {
    client.filter(|text| !text.trim().is_empty()).unwrap_or("*/*").to_owned()
}

/// An entry in its JSON form, with its quality in thousandths.
fn readable(entry: &str) -> Option<(u16, String)> {
    let mut parts = entry.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    if !matches!(media.as_str(), "*/*") && !media.starts_with("application/") {
        return None;
    }
    let (mut quality, mut form, mut group, mut version) = (1000, "", "", "");
    for part in parts {
        let (name, value) = part.split_once('=')?;
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "q" => quality = thousandths(value)?,
            "as" => form = value,
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    if quality == 0 {
        return None;
    }
    if form.is_empty() {
        return Some((quality, "application/json".to_owned()));
    }
    let known = matches!(form, "Table" | "PartialObjectMetadata" | "PartialObjectMetadataList")
        && group == "meta.k8s.io"
        && matches!(version, "v1" | "v1beta1");
    known.then(|| (quality, format!("application/json;as={form};v={version};g={group}")))
}

fn thousandths(text: &str) -> Option<u16> {
    let quality: f32 = text.parse().ok()?;
    (0.0..=1.0).contains(&quality).then_some((quality * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b02_b03_b05_only_json_is_asked_for() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let cases = [
            (None, "application/json".to_owned()),
            (Some(""), "application/json".to_owned()),
            (Some("*/*"), "application/json".to_owned()),
            (Some("application/*"), "application/json".to_owned()),
            (Some("application/yaml"), "application/json".to_owned()),
            (Some("application/cbor, application/cbor-seq"), "application/json".to_owned()),
            (Some("application/vnd.kubernetes.protobuf"), "application/json".to_owned()),
            (Some("application/vnd.kubernetes.protobuf,application/json"), "application/json".to_owned()),
            (Some("text/html"), "application/json".to_owned()),
            (Some("application/json;stream=watch"), "application/json".to_owned()),
            (
                Some(
                    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                ),
                format!("{table}, application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json"),
            ),
            (
                Some("application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"),
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io".to_owned(),
            ),
            (
                Some("application/json;q=0.1,application/json;as=Table;g=meta.k8s.io;v=v1"),
                format!("{table}, application/json"),
            ),
            (Some("application/json;as=Table;g=meta.k8s.io;v=v1;q=0"), "application/json".to_owned()),
            (Some("application/json;as=Secret;g=meta.k8s.io;v=v1"), "application/json".to_owned()),
            (Some("application/json;as=Table;g=acme.example;v=v1"), "application/json".to_owned()),
            (Some("application/json;as=Table;g=meta.k8s.io;v=v2"), "application/json".to_owned()),
            (Some("application/json;as=Table;g=meta.k8s.io;v=v1;q=1.5"), "application/json".to_owned()),
            (Some("text/html;as=Table;g=meta.k8s.io;v=v1"), "application/json".to_owned()),
            (Some("application/json;q=x;y"), "application/json".to_owned()),
        ];
        for (client, want) in cases {
            assert_eq!(for_objects(client), want, "{client:?}");
        }
    }
}
