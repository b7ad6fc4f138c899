//! A node's control groups: all its pods live below one group that bears the node's name, in every hierarchy of the machine.

use std::path::{Path, PathBuf};

use anyhow::Context;

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the group `name` in every hierarchy.
///
/// # Errors
/// When the machine has no control groups or this process may not make one.
pub(super) fn create(name: &str) -> anyhow::Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(name);
        std::fs::create_dir(&group).with_context(|| format!("cannot make `{}`", group.display()))?;
    }
    Ok(())
}

/// Removes the group `name` and all below it from every hierarchy; none there is no error.
///
/// # Errors
/// When a process still lives in one.
pub(crate) fn remove(name: &str) -> anyhow::Result<()> {
    for group in hierarchies().iter().map(|hierarchy| hierarchy.join(name)).filter(|group| group.exists()) {
        remove_below(&group).with_context(|| format!("cannot remove `{}`", group.display()))?;
    }
    Ok(())
}

/// Groups of all hierarchies whose names begin with `prefix`.
pub(super) fn named(prefix: &str) -> Vec<PathBuf> {
    let all = hierarchies();
    let entries =
        all.iter().flat_map(|hierarchy| std::fs::read_dir(hierarchy).into_iter().flatten().flatten());
    let of_prefix = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    of_prefix.map(|entry| entry.path()).collect()
}

/// The root of control groups v2, or one per controller of v1.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().filter_map(|line| line.split_whitespace().nth(1)).map(PathBuf::from);
    mounted.filter(|path| path.parent() == Some(root)).collect()
}

fn remove_below(group: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}
