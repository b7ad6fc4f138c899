//! The table of clients and deeds: what is run, which cells are known to be red and why, and the page that says so.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Context;
use futures::future::LocalBoxFuture;

use super::row::{Row, Source};
use super::{cells, helm};

/// What one cell does.
pub type Cell = for<'a> fn(&'a mut Row) -> LocalBoxFuture<'a, anyhow::Result<()>>;
/// How a cell came out: none is a pass, some the reason of a red one.
pub type Results = BTreeMap<String, Option<&'static str>>;

/// Several clients that do the same deeds.
pub struct Table {
    pub clients: &'static [(&'static str, &'static str, Source)],
    pub deeds: &'static [(&'static str, &'static str, Cell)],
}

/// A cell that is red, and must be: when it turns green this entry has to go.
pub struct Red {
    pub clients: &'static [&'static str],
    pub deeds: &'static [&'static str],
    /// What the client's error says.
    pub said: &'static str,
    /// What the page says.
    pub why: &'static str,
}

pub const LIBRARIES: Table = Table {
    clients: &[
        ("kubectl-1.29", "kubectl 1.29", Source::Tool("kubectl-1.29")),
        ("kubectl-1.31", "kubectl 1.31", Source::Tool("kubectl-old")),
        ("kubectl-1.33", "kubectl 1.33", Source::Tool("kubectl-1.33")),
        ("kubectl-1.36", "kubectl 1.36", Source::Tool("kubectl")),
        ("client-go", "client-go 0.36", Source::Built("go")),
        ("python", "kubernetes-python 36", Source::Built("python")),
        ("kube-rs", "kube-rs 5", Source::Own("e2e-client")),
        ("java", "Java client 27", Source::Built("java")),
    ],
    deeds: &[
        ("whoami", "ask who I am", |row| Box::pin(cells::whoami(row))),
        ("can-i", "ask what I may, with the reason of a no", |row| Box::pin(cells::can_i(row))),
        ("discovery", "discover kinds", |row| Box::pin(cells::discovery(row))),
        ("list", "list", |row| Box::pin(cells::list(row))),
        ("pages", "page through a large list (limit, continue)", |row| Box::pin(cells::pages(row))),
        ("secret", "read a Secret: placeholders, never data", |row| Box::pin(cells::secret(row))),
        ("watch", "watch: each event at once", |row| Box::pin(cells::watch(row))),
        ("resumed-watch", "resume a watch at a resourceVersion", |row| Box::pin(cells::resumed_watch(row))),
        ("informer", "wait with an informer (`kubectl wait`)", |row| Box::pin(cells::informer(row))),
        ("create", "create a ConfigMap the client's own way", |row| Box::pin(cells::create(row))),
        ("create-deployment", "create a Deployment the client's own way", |row| {
            Box::pin(cells::create_deployment(row))
        }),
        ("create-json", "create a Deployment as JSON (`kubectl create -f`)", |row| {
            Box::pin(cells::create_json(row))
        }),
        ("apply-client-side", "apply, client-side", |row| Box::pin(cells::apply_client_side(row))),
        ("apply-server-side", "apply, server-side", |row| Box::pin(cells::apply_server_side(row))),
        ("patch", "patch", |row| Box::pin(cells::patch(row))),
        ("replace", "read, change, replace", |row| Box::pin(cells::replace(row))),
        ("delete-held", "delete: held, approved, run again", |row| Box::pin(cells::delete_held(row))),
        ("denied", "be denied, and read why", |row| Box::pin(cells::denied(row))),
        ("refused-once", "be refused once: nothing is retried", |row| Box::pin(cells::refused_once(row))),
        ("window-cut", "have a watch cut by the end of a window, and read why", |row| {
            Box::pin(cells::window_cut(row))
        }),
        ("exec", "have exec refused, and read why", |row| Box::pin(cells::exec(row))),
    ],
};

pub const HELM: Table = Table {
    clients: &[
        ("helm-configmap", "helm 3.21, `HELM_DRIVER=configmap`", Source::Tool("helm")),
        ("helm-secret", "helm 3.21, its default driver (Secrets)", Source::Tool("helm")),
    ],
    deeds: &[
        ("install", "install, list", |row| Box::pin(helm::install(row))),
        ("upgrade", "upgrade --wait", |row| Box::pin(helm::upgrade(row))),
        ("rollback", "rollback, history", |row| Box::pin(helm::rollback(row))),
        ("uninstall", "uninstall", |row| Box::pin(helm::uninstall(row))),
        ("refused", "be refused another namespace, and read why", |row| Box::pin(helm::refused(row))),
    ],
};

/// Cells that do not exist: the client has no such thing.
const NONE: &[(&[&str], &[&str])] = &[
    (&["client-go", "python", "kube-rs", "java"], &["apply-client-side"]),
    (&["python", "kube-rs", "java"], &["create-json"]),
    (&["python"], &["informer"]),
    (&["kube-rs"], &["exec"]),
];

/// What is red.
pub const RED: &[Red] = &[
    Red {
        clients: &["helm-secret"],
        deeds: &["install", "upgrade", "rollback", "uninstall"],
        said: "keeping a Helm release in a Secret",
        why: "helm keeps each release in a Secret and reads it back, but the data of Secrets is masked. Set \
              `HELM_DRIVER=configmap`; the refusal says so",
    },
    Red {
        clients: &["java"],
        deeds: &["exec"],
        said: "Expected HTTP 101 response but was '403 Forbidden'",
        why: "exec is refused, but the client's WebSocket library drops the body of a refusal: its user reads `403 Forbidden` \
              and no reason. The reason is in the recording",
    },
];

/// Whether there is such a cell.
pub fn exists(client: &str, deed: &str) -> bool {
    !NONE.iter().any(|(clients, deeds)| clients.contains(&client) && deeds.contains(&deed))
}

/// Why a cell is red, if it has to be.
pub fn red(client: &str, deed: &str) -> Option<&'static Red> {
    RED.iter().find(|red| red.clients.contains(&client) && red.deeds.contains(&deed))
}

/// A cell's test, as it is named on the command line.
pub fn test_name(client: &str, deed: &str) -> String {
    format!("{client}::{deed}")
}

const BEGIN: &str = "<!-- made by `make gen-clients`: begin -->\n";
const END: &str = "<!-- made by `make gen-clients`: end -->\n";

/// The page with its tables as the results say.
pub fn page(old: &str, results: &Results) -> anyhow::Result<String> {
    let (head, rest) = old.split_once(BEGIN).context("docs/clients.md has no begin marker")?;
    let (_, tail) = rest.split_once(END).context("docs/clients.md has no end marker")?;
    let mut reasons = Vec::new();
    let mut made = String::new();
    for table in [LIBRARIES, HELM] {
        made.push_str(&table.markdown(results, &mut reasons));
    }
    for (number, why) in reasons.iter().enumerate() {
        writeln!(made, "red {}: {why}.\n", number + 1)?;
    }
    Ok(format!("{head}{BEGIN}\n{made}{END}{tail}"))
}

impl Table {
    fn markdown(&self, results: &Results, reasons: &mut Vec<&'static str>) -> String {
        let titles: Vec<_> = self.clients.iter().map(|(_, title, _)| *title).collect();
        let mut text = format!("| | {} |\n|{}\n", titles.join(" | "), " --- |".repeat(titles.len() + 1));
        for (deed, title, _) in self.deeds {
            text.push_str(&format!("| {title} |"));
            for (client, ..) in self.clients {
                let name = test_name(client, deed);
                let cell = match results.get(&name) {
                    Some(None) => format!("pass<br>`{name}`"),
                    Some(Some(why)) => {
                        let number = reasons.iter().position(|reason| reason == why).unwrap_or(reasons.len());
                        if number == reasons.len() {
                            reasons.push(why)
                        }
                        format!("**red {}**<br>`{name}`", number + 1)
                    }
                    None => "-".to_owned(),
                };
                text.push_str(&format!(" {cell} |"));
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }
}
