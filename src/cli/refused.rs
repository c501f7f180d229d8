//! Arguments that cannot be parsed, and requests for help.

use std::{env, ffi::OsString, process};

use clap::error::ErrorKind;

use super::{LogFormat, init_log};

/// Exits with what is wrong with the arguments, or with the help that was asked for.
pub(super) fn end(error: &clap::Error) -> ! {
    let format = given_format(env::args_os().skip(1)).or_else(|| env::var("DAYMEND_LOG_FORMAT").ok());
    let is_help = !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if is_help || format.is_none_or(|format| format != "json") {
        error.exit();
    }
    init_log(LogFormat::Json, None, false);
    // The usage follows after the first empty line.
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let what: Vec<&str> = what.trim_start_matches("error: ").split_whitespace().collect();
    LogFormat::Json.error(what.join(" "));
    process::exit(error.exit_code())
}

/// The `--log-format` among arguments that cannot be parsed.
fn given_format(args: impl Iterator<Item = OsString>) -> Option<String> {
    let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    args.iter().enumerate().find_map(|(at, arg)| match arg.strip_prefix("--log-format") {
        Some("") => Some(args.get(at + 1).cloned().unwrap_or_default()),
        rest => rest?.strip_prefix('=').map(ToOwned::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_given_in_either_form() {
        let given = |args: &[&str]| given_format(args.iter().map(OsString::from));
        assert_eq!(given(&["repair", "--log-format", "json"]).as_deref(), Some("json"));
        assert_eq!(given(&["--log-format=json", "repair"]).as_deref(), Some("json"));
        assert_eq!(given(&["repair", "--log-format"]).as_deref(), Some(""));
        assert_eq!(given(&["--log-formats=json", "--log", "json"]), None);
    }
}
