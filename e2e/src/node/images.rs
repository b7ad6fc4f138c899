//! The images that tests run in pods, packed once per machine into the cache from programs that are there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{AGNHOST, PAUSE, TOOLBOX};
use crate::oci::{Image, Tree};
use crate::tools::{tools, workspace_root};

/// What busybox is called as in the toolbox.
const APPLETS: [&str; 40] = [
    "awk", "base64", "basename", "cat", "chmod", "cp", "cut", "date", "dd", "dirname", "echo", "env",
    "false", "find", "grep", "head", "hostname", "id", "kill", "ln", "ls", "mkdir", "mv", "nc", "nslookup",
    "printf", "ps", "pwd", "rm", "sed", "seq", "sh", "sleep", "sort", "tail", "tar", "test", "touch", "true",
    "wget",
];

/// The archives of the test images, written when they are not in the cache or one of their programs changed.
///
/// # Errors
/// When a program is missing or an archive cannot be written.
pub(super) fn archives() -> anyhow::Result<[PathBuf; 3]> {
    let [agnhost, new, v1_29, v1_31, v1_33] =
        tools(["agnhost", "kubectl", "kubectl-1.29", "kubectl-old", "kubectl-1.33"])?;
    let folder =
        agnhost.parent().and_then(Path::parent).context("the cache has a folder")?.join("node-images");
    std::fs::create_dir_all(&folder)?;
    let lock = std::fs::File::create(folder.join("lock"))?;
    lock.lock().context("cannot wait for the one who packs the test images")?;

    let source = workspace_root().join("e2e/tools/node-pause.c");
    let pause = packed(&folder, "pause", &[&source], || {
        let program = compiled(&folder, &source)?;
        Ok(Image::new(PAUSE, Tree::default().program("/pause", &program)?, &["/pause"]))
    })?;
    let host = packed(&folder, "agnhost", &[&agnhost], || {
        let tree = Tree::default().folder("/tmp", 0o1777).program("/agnhost", &agnhost)?;
        Ok(Image::new(AGNHOST, tree, &["/agnhost"]))
    })?;
    let busybox = which("busybox")?;
    let toolbox = packed(&folder, "toolbox", &[&agnhost, &new, &v1_29, &v1_31, &v1_33, &busybox], || {
        let mut tree = Tree::default()
            .folder("/tmp", 0o1777)
            .file(
                "/etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\nagent:x:1000:1000:agent:/tmp:/bin/sh\n",
            )
            .file("/etc/group", 0o644, "root:x:0:\nagent:x:1000:\n")
            .file("/etc/nsswitch.conf", 0o644, "hosts: files dns\n")
            .program("/bin/busybox", &busybox)?
            .program("/usr/local/bin/agnhost", &agnhost)?;
        for applet in APPLETS {
            tree = tree.link(&format!("/bin/{applet}"), "busybox");
        }
        for (name, program) in [("1.29", &v1_29), ("1.31", &v1_31), ("1.33", &v1_33), ("1.36", &new)] {
            tree = tree.program(&format!("/usr/local/bin/kubectl-{name}"), program)?;
        }
        let mut image = Image::new(
            TOOLBOX,
            tree.link("/usr/local/bin/kubectl", "kubectl-1.36"),
            &["/bin/sleep", "infinity"],
        );
        image.env = vec!["PATH=/usr/local/bin:/bin".to_owned(), "HOME=/tmp".to_owned()];
        Ok(image)
    })?;
    Ok([pause, host, toolbox])
}

/// Imports an OCI archive into containerd.
///
/// # Errors
/// When `ctr` fails; the message is its own.
pub(super) fn import(socket: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
    let output = command.output().context("cannot run ctr")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot import `{}`: {complaint}", archive.display());
    Ok(())
}

/// The archive `<name>-<stamp>.tar`, whose stamp tells which state of its sources went into it.
fn packed(
    folder: &Path,
    name: &str,
    sources: &[&Path],
    image: impl FnOnce() -> anyhow::Result<Image>,
) -> anyhow::Result<PathBuf> {
    let mut stamp = String::from(env!("CARGO_PKG_VERSION"));
    for source in sources {
        let facts = std::fs::metadata(source).with_context(|| source.display().to_string())?;
        stamp += &format!("\n{} {} {}.{}", source.display(), facts.len(), facts.mtime(), facts.mtime_nsec());
    }
    let [archive, stamped] = [folder.join(format!("{name}.tar")), folder.join(format!("{name}.stamp"))];
    if !archive.exists() || std::fs::read_to_string(&stamped).ok().as_deref() != Some(&*stamp) {
        image()?.write(&archive)?;
        std::fs::write(stamped, stamp)?;
    }
    Ok(archive)
}

fn compiled(folder: &Path, source: &Path) -> anyhow::Result<PathBuf> {
    let program = folder.join("pause");
    let output = Command::new("cc").args(["-Os", "-static", "-o"]).arg(&program).arg(source).output();
    let output = output.context("cannot run cc")?;
    ensure!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(program)
}

fn which(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no `{name}` in PATH"))
}
