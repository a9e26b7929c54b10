//! Whom a program runs as. The names are those of `/etc/passwd` and `/etc/group`; a number is taken
//! as it is. Users from elsewhere (LDAP) are written as numbers.

use std::fs;
use std::io;

/// keepalived's user for scripts, when it exists (vrrp.md 2.4).
const SCRIPT_USER: &str = "keepalived_script";

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user_id: u32,
    pub group_id: u32,
}

impl Identity {
    pub const ROOT: Self = Self { user_id: 0, group_id: 0 };
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("there is no user {0:?} in {PASSWD}; write an existing one, or its number")]
    User(String),
    #[error("there is no group {0:?} in {GROUP}; write an existing one, or its number")]
    Group(String),
    #[error("user {0} is not in {PASSWD}, so its group must be written as well")]
    GroupOfNumber(u32),
    #[error("{0} cannot be read: {1}")]
    Io(&'static str, io::Error),
}

/// `user` and `script_user`: a name or number, and a group if it is not the user's own.
pub fn look_up(user: &str, group: Option<&str>) -> Result<Identity, UserError> {
    let read = |path| fs::read_to_string(path).map_err(|error| UserError::Io(path, error));
    find(&read(PASSWD)?, &read(GROUP)?, user, group)
}

/// What scripts run as when nothing is configured: `keepalived_script` if there is such a user,
/// otherwise root.
pub fn script_default() -> Identity {
    look_up(SCRIPT_USER, None).unwrap_or(Identity::ROOT)
}

fn find(
    passwd: &str,
    groups: &str,
    user: &str,
    group: Option<&str>,
) -> Result<Identity, UserError> {
    let number = user.parse().ok();
    // name:password:uid:gid:...
    let entry = fields(passwd).find_map(|fields| {
        let (user_id, own_group_id) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        (fields[0] == user || number == Some(user_id)).then_some((user_id, own_group_id))
    });
    let (user_id, own_group_id) = match (entry, number) {
        (Some((user_id, own_group_id)), _) => (user_id, Some(own_group_id)),
        (None, Some(number)) => (number, None),
        (None, None) => return Err(UserError::User(user.to_owned())),
    };
    let group_id = match (group, own_group_id) {
        (Some(group), _) => find_group(groups, group)?,
        (None, Some(own)) => own,
        (None, None) => return Err(UserError::GroupOfNumber(user_id)),
    };
    Ok(Identity { user_id, group_id })
}

fn find_group(groups: &str, group: &str) -> Result<u32, UserError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let found = fields(groups).find(|fields| fields[0] == group);
    let id = found.and_then(|fields| fields.get(2)?.parse().ok());
    id.ok_or_else(|| UserError::Group(group.to_owned()))
}

fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &str =
        "root:x:0:0:root:/root:/bin/sh\n\nbroken\nscripts:x:812:813::/:/bin/false\n";
    const GROUPS: &str = "root:x:0:\nhaclient:x:900:a,b\n";

    #[test]
    fn names_and_numbers() {
        for (user, group, expected) in [
            ("root", None, Some((0, 0))),
            ("scripts", None, Some((812, 813))),
            ("scripts", Some("haclient"), Some((812, 900))),
            ("scripts", Some("7"), Some((812, 7))),
            ("812", None, Some((812, 813))),
            ("5000", Some("6000"), Some((5000, 6000))),
            ("5000", None, None),
            ("nobody-here", None, None),
            ("scripts", Some("no-group"), None),
            ("", None, None),
            ("broken", None, None),
            ("-1", None, None),
        ] {
            let found = find(USERS, GROUPS, user, group).ok();
            let expected = expected.map(|(user_id, group_id)| Identity { user_id, group_id });
            assert_eq!(found, expected, "{user} {group:?}");
        }
    }

    #[test]
    fn this_machine_has_root() {
        assert_eq!(look_up("root", None).expect("root"), Identity::ROOT);
    }
}
