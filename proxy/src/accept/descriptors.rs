//! Open files: a connection takes one, and what it asks of the API server may take another (F28).
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the program has open besides: logs, spool, listeners, the ways to the API server and the store.
const OTHERS: u64 = 256;

/// Raises the limit on open files as far as the system allows, and says how many of the connections `wanted` fit into it.
pub fn connections_that_fit(wanted: u32) -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
    let fit = fitting(getrlimit(Resource::Nofile).current, wanted);
    if fit < wanted {
        tracing::warn!(wanted, fit, "the limit on open files is too low for --max-connections");
    }
    fit
}

fn fitting(files: Option<u64>, wanted: u32) -> u32 {
    let Some(files) = files else { return wanted };
    u32::try_from(files.saturating_sub(OTHERS) / 2).unwrap_or(wanted).clamp(2, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f28_no_more_connections_than_there_are_open_files() {
        assert_eq!(fitting(None, 4096), 4096);
        assert_eq!(fitting(Some(1 << 20), 4096), 4096);
        assert_eq!(fitting(Some(4096), 4096), 1920);
        assert_eq!(fitting(Some(64), 4096), 2);
    }
}
