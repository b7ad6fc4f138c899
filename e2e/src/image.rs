//! The three images that people install: one program each, the libraries that it needs, CA certificates, and nothing else.
//!
//! No shell, no package manager, no writable folder; uid and gid 65532. The CA certificates are Mozilla's, pinned by Cargo.lock.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::oci::{Image, Tree};

/// The programs that have an image of their own, by the image's name.
pub const NAMES: [&str; 3] = ["sallyport-operator", "sallyport-proxy", "kubectl-sallyport"];
/// Where the images are published.
pub const REGISTRY: &str = "ghcr.io/sallyport-dev";
/// Version and tag: the workspace's, and the chart's `appVersion`.
pub const TAG: &str = env!("CARGO_PKG_VERSION");
/// uid and gid of the programs.
pub const USER: u32 = 65532;
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Full name of an image of this version.
pub fn reference(name: &str) -> String {
    format!("{REGISTRY}/{name}:{TAG}")
}

/// The image of a program: `programs` is the folder where it was built (`target/release`).
///
/// # Errors
/// When it is not built, or a library or `strip` is missing.
pub fn image(name: &str, programs: &Path) -> anyhow::Result<Image> {
    let path = format!("/usr/local/bin/{name}");
    let mut image = Image::new(&reference(name), tree(name, &path, programs)?, &[&path]);
    image.user = format!("{USER}:{USER}");
    image.env = vec!["PATH=/usr/local/bin".to_owned()];
    image.labels = [
        ("title", name),
        ("version", TAG),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("source", env!("CARGO_PKG_REPOSITORY")),
    ]
    .map(|(label, value)| (format!("org.opencontainers.image.{label}"), value.to_owned()))
    .into();
    Ok(image)
}

/// Writes `<folder>/<name>.tar` for each of [`NAMES`]; returns the archives with the digests of their manifests.
///
/// # Errors
/// As [`image`], or when an archive cannot be written.
pub fn write_all(programs: &Path, folder: &Path) -> anyhow::Result<Vec<(PathBuf, String)>> {
    std::fs::create_dir_all(folder)?;
    let write = |name: &str| {
        let path = folder.join(format!("{name}.tar"));
        let digest = image(name, programs)?.write(&path)?;
        Ok((path, digest))
    };
    NAMES.iter().map(|name| write(name)).collect()
}

fn tree(name: &str, path: &str, programs: &Path) -> anyhow::Result<Tree> {
    let built = programs.join(name);
    ensure!(built.is_file(), "`{}` is not built", built.display());
    let folder = tempfile::tempdir()?;
    let stripped = folder.path().join(name);
    // Names of functions stay for backtraces; line tables, four fifths of the size, go.
    let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(&built).status();
    ensure!(status.context("cannot run strip (binutils)")?.success(), "cannot strip `{}`", built.display());
    let passwd =
        format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{USER}:{USER}:nonroot:/:/sbin/nologin\n");
    let group = format!("root:x:0:\nnonroot:x:{USER}:\n");
    Tree::default()
        .file("/etc/passwd", 0o644, passwd)
        .file("/etc/group", 0o644, group)
        .file("/etc/nsswitch.conf", 0o644, "hosts: files dns\n")
        .file(CA_BUNDLE, 0o644, ca_bundle())
        .program(path, &stripped)
}

fn ca_bundle() -> String {
    let mut bundle = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        bundle.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(certificate).as_bytes().chunks(64) {
            bundle.push_str(&String::from_utf8_lossy(line));
            bundle.push('\n');
        }
        bundle.push_str("-----END CERTIFICATE-----\n");
    }
    bundle
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test program stands for the three: it is linked as they are.
    fn sample() -> (tempfile::TempDir, Image) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), folder.path().join("sallyport-proxy")).unwrap();
        let image = image("sallyport-proxy", folder.path()).unwrap();
        (folder, image)
    }

    #[test]
    fn an_image_holds_one_program_its_libraries_the_ca_bundle_and_nothing_to_log_in_with() {
        let (_folder, image) = sample();
        let libraries = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"];
        let files =
            image.tree.paths().filter(|path| !image.tree.paths().any(|p| p.starts_with(&format!("{path}/"))));
        for path in files {
            let name = path.rsplit('/').next().unwrap_or_default();
            let expected = path.starts_with("etc/")
                || path == "usr/local/bin/sallyport-proxy"
                || name.starts_with("ld-linux")
                || libraries.contains(&name);
            assert!(expected, "`{path}` has no business in the image");
        }
        assert_eq!(image.user, "65532:65532");
        assert!(!image.tree.paths().any(|path| path == "tmp"), "nothing is writable");
    }

    #[test]
    fn two_runs_write_the_same_archive() {
        let (folder, first) = sample();
        let second = image("sallyport-proxy", folder.path()).unwrap();
        let [one, two] = ["one.tar", "two.tar"].map(|name| folder.path().join(name));
        assert_eq!(first.write(&one).unwrap(), second.write(&two).unwrap());
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }

    #[test]
    fn the_ca_bundle_is_pem_that_rustls_reads() {
        use rustls::pki_types::CertificateDer;
        use rustls::pki_types::pem::PemObject;
        let bundle = ca_bundle();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        assert!(roots.len() > 100, "{} certificates", roots.len());
    }
}
