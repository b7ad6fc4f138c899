//! The meaning and the memory stay free of runtime, network and cluster client.

use std::process::Command;

#[test]
fn policy_and_recording_build_without_tokio_hyper_and_kubes_client() {
    for package in ["sallyport-policy", "sallyport-recording"] {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--edges",
                "normal",
                "--prefix",
                "none",
                "--format",
                "{p}",
                "-p",
                package,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let crates: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert!(crates.contains(&package) && crates.len() > 10, "{tree}");
        for unwanted in
            ["tokio", "hyper", "hyper-util", "kube", "kube-client", "kube-runtime", "reqwest", "rustls"]
        {
            assert!(!crates.contains(&unwanted), "{package} depends on {unwanted}");
        }
    }
}
