//! Container images without a container engine: a file tree as one layer, written as an OCI archive that containerd imports.
//!
//! *Guarantees*: the same files give the same bytes, on any day and by anybody: no time, owner or order of a folder gets in.
//! *Assumption*: programs run on a machine of the kind that packs them. The layer is not compressed; registries' clients do
//! that when they push.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

const EPOCH: &str = "1970-01-01T00:00:00Z";

/// The files of an image by path without a leading slash. Folders above a file need not be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Tree {
    /// Adds a folder.
    #[must_use]
    pub fn folder(mut self, path: &str, mode: u32) -> Self {
        self.put(path, Entry::Folder { mode });
        self
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.put(path, Entry::File { mode, content: content.into() });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.put(path, Entry::Link { target: target.to_owned() });
        self
    }

    /// Adds a program of this machine as `path`, and the shared libraries that it needs where they are found here.
    ///
    /// # Errors
    /// When the program cannot be read or one of its libraries is not found.
    pub fn program(mut self, path: &str, program: &Path) -> anyhow::Result<Self> {
        self.put(path, Entry::File { mode: 0o755, content: read(program)? });
        for library in libraries(program)? {
            let content = read(&library)?;
            self.put(&library.display().to_string(), Entry::File { mode: 0o755, content });
        }
        Ok(self)
    }

    /// Every path that was added, without the folders above them.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Writes the tree below `folder`, which must be there.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn unpack(&self, folder: &Path) -> anyhow::Result<()> {
        let layer = self.layer()?;
        tar::Archive::new(layer.as_slice()).unpack(folder).with_context(|| folder.display().to_string())
    }

    fn put(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/').to_owned();
        let mut above = path.as_str();
        while let Some((parent, _)) = above.rsplit_once('/') {
            self.0.entry(parent.to_owned()).or_insert(Entry::Folder { mode: 0o755 });
            above = parent;
        }
        self.0.insert(path, entry);
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            match entry {
                Entry::Folder { mode } => {
                    let mut header = header(tar::EntryType::Directory, *mode, 0)?;
                    archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { mode, content } => {
                    let mut header = header(tar::EntryType::Regular, *mode, content.len())?;
                    archive.append_data(&mut header, path, content.as_slice())?;
                }
                Entry::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0)?;
                    archive.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(archive.into_inner()?)
    }
}

/// An image: a tree and how to run it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Full name with its tag, such as `ghcr.io/sallyport-dev/sallyport-proxy:0.1.0`.
    pub reference: String,
    /// Its files.
    pub tree: Tree,
    /// The program that a container runs, by its path in the tree.
    pub entrypoint: Vec<String>,
    /// Its arguments, unless the container names others.
    pub arguments: Vec<String>,
    /// `uid:gid`; empty for root.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Labels, as `org.opencontainers.image.*`.
    pub labels: BTreeMap<String, String>,
}

impl Image {
    /// An image that runs `entrypoint` as root, without environment and labels.
    pub fn new(reference: &str, tree: Tree, entrypoint: &[&str]) -> Self {
        Self {
            reference: reference.to_owned(),
            tree,
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
            arguments: Vec::new(),
            user: String::new(),
            env: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// Writes the OCI archive for `ctr images import`, `skopeo copy oci-archive:`, `docker load`; returns the manifest's digest.
    ///
    /// # Errors
    /// When the file cannot be written or the reference has no tag.
    pub fn write(&self, path: &Path) -> anyhow::Result<String> {
        let layer = self.tree.layer()?;
        let config = serde_json::to_vec(&self.config(&sha256(&layer))?)?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", &config),
            "layers": [blob("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let index = serde_json::to_vec(&self.index(&manifest)?)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = std::fs::File::create(&part).with_context(|| part.display().to_string())?;
        let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
        let mut put = |name: &str, content: &[u8]| -> anyhow::Result<()> {
            let mut header = header(tar::EntryType::Regular, 0o644, content.len())?;
            Ok(archive.append_data(&mut header, name, content)?)
        };
        put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        put("index.json", &index)?;
        for content in [&config, &manifest, &layer] {
            put(&format!("blobs/sha256/{}", sha256(content)), content)?;
        }
        archive.into_inner()?.flush()?;
        // Whoever waits for the archive must never read half of it.
        std::fs::rename(&part, path)?;
        Ok(format!("sha256:{}", sha256(&manifest)))
    }

    fn config(&self, layer: &str) -> anyhow::Result<Value> {
        Ok(json!({
            "architecture": architecture()?, "os": "linux", "created": EPOCH,
            "config": {
                "User": self.user, "Env": self.env, "Entrypoint": self.entrypoint, "Cmd": self.arguments,
                "WorkingDir": "/", "Labels": self.labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created": EPOCH, "created_by": "e2e-image"}],
        }))
    }

    fn index(&self, manifest: &[u8]) -> anyhow::Result<Value> {
        let name = self.reference.rsplit('/').next().unwrap_or_default();
        let (_, tag) = name.rsplit_once(':').with_context(|| format!("`{}` has no tag", self.reference))?;
        let mut entry = blob("application/vnd.oci.image.manifest.v1+json", manifest);
        entry["platform"] = json!({"architecture": architecture()?, "os": "linux"});
        entry["annotations"] =
            json!({"io.containerd.image.name": self.reference, "org.opencontainers.image.ref.name": tag});
        let media_type = "application/vnd.oci.image.index.v1+json";
        Ok(json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [entry]}))
    }
}

/// The shared libraries of a program and its loader, in order of path; none for a static one.
///
/// # Errors
/// When the dynamic loader cannot be asked or misses one.
pub fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env_clear().env("PATH", "/usr/bin:/bin").output();
    let output = output.context("cannot run ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if [&said, &complaint].iter().any(|text| text.contains("not a dynamic executable"))
        || said.contains("statically linked")
    {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "ldd {}: {complaint}", program.display());
    let mut found = Vec::new();
    for line in said.lines().filter(|line| !line.trim().starts_with("linux-vdso")) {
        if line.contains("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        found.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn header(kind: tar::EntryType, mode: u32, size: usize) -> anyhow::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(u64::try_from(size)?);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    Ok(header)
}

fn blob(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", sha256(content)), "size": content.len()})
}

fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn architecture() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no name for the architecture `{other}` in an image"),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(marker: &str) -> Image {
        let tree = Tree::default()
            .file("/etc/passwd", 0o644, marker)
            .folder("/data", 0o1777)
            .link("/bin", "usr/bin")
            .file("/usr/bin/hello", 0o755, "#!");
        Image::new("localhost/hello:1", tree, &["/usr/bin/hello"])
    }

    fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        let read = |entry: std::io::Result<tar::Entry<'_, std::fs::File>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_another_file_gives_others() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two, three] = ["one", "two", "three"].map(|name| folder.path().join(name));
        let first = sample("nonroot").write(&one).unwrap();
        assert_eq!(sample("nonroot").write(&two).unwrap(), first);
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        assert_ne!(sample("root").write(&three).unwrap(), first);
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_the_index_leads_to_the_layer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello.tar");
        let digest = sample("nonroot").write(&path).unwrap();
        let members = members(&path);
        let json = |name: &str| serde_json::from_slice::<Value>(&members[name]).unwrap();
        let at = |digest: &Value| format!("blobs/sha256/{}", &digest.as_str().unwrap()["sha256:".len()..]);
        for (name, content) in members.iter().filter(|(name, _)| name.starts_with("blobs/")) {
            assert_eq!(*name, format!("blobs/sha256/{}", sha256(content)));
        }
        let index = json("index.json");
        assert_eq!(index["manifests"][0]["digest"], digest.as_str());
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], "localhost/hello:1");
        let manifest = json(&at(&index["manifests"][0]["digest"]));
        let config = json(&at(&manifest["config"]["digest"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        let layer = &members[&at(&manifest["layers"][0]["digest"])];
        let mut layer = tar::Archive::new(layer.as_slice());
        let paths =
            layer.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        let paths: Vec<_> = paths.collect();
        assert_eq!(paths, ["bin", "data/", "etc/", "etc/passwd", "usr/", "usr/bin/", "usr/bin/hello"]);
    }

    #[test]
    fn a_program_brings_its_libraries_and_a_tree_unpacks() {
        let own = std::env::current_exe().unwrap();
        let tree = Tree::default().program("/usr/bin/own", &own).unwrap();
        assert!(tree.paths().any(|path| path.contains("libc.so")), "{:?}", tree.paths().collect::<Vec<_>>());
        assert!(tree.paths().any(|path| path.contains("ld-linux")));
        let folder = tempfile::tempdir().unwrap();
        tree.unpack(folder.path()).unwrap();
        let there = std::fs::read(folder.path().join("usr/bin/own")).unwrap();
        assert_eq!(there, std::fs::read(&own).unwrap());
    }

    #[test]
    fn an_image_without_a_tag_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut image = sample("nonroot");
        image.reference = "localhost:5000/hello".to_owned();
        let error = image.write(&folder.path().join("x.tar")).unwrap_err();
        assert!(error.to_string().contains("has no tag"), "{error}");
    }
}
