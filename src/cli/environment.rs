//! Environment variables of daymend's that no option reads: a misspelt one would change nothing, silently.

use std::{collections::BTreeSet, ffi::OsStr};

use super::who;

/// How the names of daymend's own variables begin.
const OWN: &str = "DAYMEND_";

/// Warns of the variables that nothing reads, once. Their values may be secrets, and are not shown.
pub(super) fn warn_of_unknown(command: &clap::Command) {
    let set = std::env::vars_os().filter(|(_, value)| !value.is_empty());
    let set: Vec<String> = set.filter_map(|(name, _)| name.into_string().ok()).collect();
    let unknown = unknown(command, set.iter().map(String::as_str));
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        tracing::warn!("no option of any command reads {names} of the environment: see --help for how they are spelt");
    }
}

/// Those of the names that begin like daymend's own, and that nothing reads.
fn unknown<'a>(command: &clap::Command, set: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut known = BTreeSet::from([OsStr::new(who::VARIABLE)]);
    add_known(command, &mut known);
    let is_unknown =
        |name: &&str| name.starts_with(OWN) && !known.contains(OsStr::new(name)) && !is_of_kubernetes(name);
    let mut unknown: Vec<&str> = set.filter(is_unknown).collect();
    unknown.sort_unstable();
    unknown
}

/// Adds the variables of all options of a command and of its subcommands.
fn add_known<'a>(command: &'a clap::Command, known: &mut BTreeSet<&'a OsStr>) {
    known.extend(command.get_arguments().filter_map(clap::Arg::get_env));
    command.get_subcommands().for_each(|command| add_known(command, known));
}

/// Whether Kubernetes sets a variable in every container, for a Service whose name begins with `daymend-`:
/// `DAYMEND_METRICS_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_HTTP`, `…_PORT`, `…_PORT_9187_TCP_ADDR`.
fn is_of_kubernetes(name: &str) -> bool {
    let is_of_a_port = || {
        let mut rest = name.split("_PORT_").skip(1).filter_map(|rest| rest.split_once('_'));
        rest.any(|(port, rest)| {
            port.parse::<u16>().is_ok() && ["TCP", "UDP", "SCTP"].iter().any(|protocol| rest.starts_with(protocol))
        })
    };
    name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || name.ends_with("_PORT") || is_of_a_port()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn a_variable_that_no_command_reads_is_unknown_unless_kubernetes_sets_it() {
        let set = [
            "PATH",
            "DAYMEND_CONCURENCY",
            "DAYMEND_DATABASE_URL",
            "DAYMEND_CONCURRENCY",
            "DAYMEND_KEEP_DAILY_SNAPSHOTS",
            "DAYMEND_USER",
            "DAYMEND_METRICS_SERVICE_HOST",
            "DAYMEND_METRICS_SERVICE_PORT",
            "DAYMEND_METRICS_SERVICE_PORT_HTTP",
            "DAYMEND_METRICS_PORT",
            "DAYMEND_METRICS_PORT_9187_TCP",
            "DAYMEND_METRICS_PORT_9187_TCP_ADDR",
            "DAYMEND_AUDIT_BUGDET",
        ];
        let expected = ["DAYMEND_AUDIT_BUGDET", "DAYMEND_CONCURENCY", "DAYMEND_KEEP_DAILY_SNAPSHOTS"];
        assert_eq!(unknown(&Cli::command(), set.into_iter()), expected);
    }

    #[test]
    fn none_of_daymends_own_variables_looks_like_one_of_kubernetes() {
        let command = Cli::command();
        let mut known = BTreeSet::new();
        add_known(&command, &mut known);
        assert!(known.len() > 20, "{known:?}");
        for name in known.into_iter().filter_map(OsStr::to_str) {
            assert!(!is_of_kubernetes(name), "{name}");
        }
    }
}
