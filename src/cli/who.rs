//! Who runs a command.

use std::os::unix::fs::MetadataExt as _;

/// The variable that names who runs a command.
pub(super) const VARIABLE: &str = "DAYMEND_USER";

/// Who runs this command, for the audit trail.
pub(super) fn who() -> String {
    let variable = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let name = [VARIABLE, "SUDO_USER", "USER", "LOGNAME"].iter().find_map(variable);
    name.or_else(os_user).unwrap_or_else(|| "unknown".to_owned())
}

/// The OS user, for containers and cron, which set no variable for it: by name, or as `uid 1000`. `None` if there is no
/// /proc.
fn os_user() -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Some(user_name(&users, uid).map_or_else(|| format!("uid {uid}"), ToOwned::to_owned))
}

/// The name of a user in /etc/passwd (`name:password:uid:…`).
fn user_name(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_uid_and_by_no_other_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7:7::/:/bin/sh\nlab:x:1000:0::/home/lab:/bin/sh\n";
        assert_eq!([0, 1000, 7, 10].map(|uid| user_name(users, uid)), [Some("root"), Some("lab"), None, None]);
    }
}
