//! What a node could leave behind, looked for on the machine itself rather than in the node's own book-keeping.

use std::path::Path;
use std::process::Command;

use super::cgroup;
use crate::supervision::{PREFIX, abandoned};

/// Places outside a scratch folder where containerd, CNI and the kubelet write when nobody hides them.
const PLACES: [&str; 6] = [
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/pods",
];
/// How tables, chains and interfaces of a node are named.
const NETWORK: [&str; 5] = ["kube-proxy", "KUBE-", "CNI-", "cni0", "up0"];

/// Everything on this machine that looks left by a node whose harness is gone, one line each; nodes that live are left out.
/// For machines that run no other Kubernetes: its traces would be listed too.
pub fn leftovers() -> Vec<String> {
    let mut found = of(PREFIX).into_iter().filter(|line| !belongs_to_the_living(line)).collect::<Vec<_>>();
    for place in PLACES {
        let entries = std::fs::read_dir(place).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
    }
    for (tool, words) in
        [("nft", &["list", "ruleset"][..]), ("iptables-save", &[]), ("ip", &["link"]), ("ip", &["netns"])]
    {
        // No such program, no such rules.
        let Ok(output) = Command::new(tool).args(words).output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let marks = |line: &&str| {
            NETWORK.iter().any(|mark| line.contains(mark)) || (words == ["netns"] && !line.is_empty())
        };
        found.extend(text.lines().filter(marks).map(|line| format!("{tool} {}", line.trim())));
    }
    found
}

/// What there is of the node `name`, dead or alive: processes, mounts, control groups, folders, one line each.
pub fn of(name: &str) -> Vec<String> {
    let mut found: Vec<String> =
        cgroup::named(name).iter().map(|path| format!("control group {}", path.display())).collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(name) {
            found.push(format!("folder {}", entry.path().display()));
        }
    }
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if pid == own || !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let read = |file: &str| {
            String::from_utf8_lossy(&std::fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
        };
        let command = read("cmdline").replace('\0', " ");
        // Processes of a node see its scratch folder as their /var/lib; those of its pods sit in its control group.
        let trace = [read("mountinfo"), read("cgroup"), command.clone()]
            .iter()
            .find_map(|text| Some(text[text.find(name)?..].split([' ', '/']).next()?.to_owned()));
        if let Some(trace) = trace {
            found
                .push(format!("process {pid} of {trace}: {}", command.chars().take(120).collect::<String>()));
        }
    }
    found
}

fn belongs_to_the_living(line: &str) -> bool {
    let Some(start) = line.find(PREFIX) else { return false };
    let rest = &line[start..];
    let name: String =
        rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter)).collect();
    let scratch = std::env::temp_dir().join(name);
    Path::new(&scratch).is_dir() && !abandoned(&scratch)
}
