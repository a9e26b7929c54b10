//! When this node was Primary. DRBD's metadata has no place for it, so it is kept in a small file
//! beside the sockets; without the file nobody knows. It serves the operator of a split brain, and
//! nothing is decided by it.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use twinblk_proto::state::Role;

/// Seconds since 1970; none: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleTimes {
    pub promoted_s: Option<u64>,
    /// Of the last promotion; none while it lasts, or when it ended in a crash.
    pub demoted_s: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct RoleKeeper {
    path: Option<PathBuf>,
    pub(super) times: RoleTimes,
}

impl RoleKeeper {
    pub(super) fn load(path: Option<PathBuf>) -> Self {
        let text = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        Self { path, times: parse(&text.unwrap_or_default()) }
    }

    pub(super) fn changed(&mut self, old: Role, new: Role) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs());
        match (old, new) {
            (_, Role::Primary) if old != Role::Primary => {
                self.times = RoleTimes { promoted_s: now, demoted_s: None };
            }
            (Role::Primary, _) if new != Role::Primary => self.times.demoted_s = now,
            _ => return,
        }
        if let Some(path) = &self.path {
            // Whole or not at all: a half-written time would be a lie.
            let new = path.with_extension("roles.new");
            let written = std::fs::write(&new, format(&self.times))
                .and_then(|()| std::fs::rename(&new, path));
            if let Err(error) = written {
                tracing::warn!(path = %path.display(), %error, "cannot keep the times of the role");
            }
        }
    }
}

fn format(times: &RoleTimes) -> String {
    let line = |name: &str, time: Option<u64>| match time {
        Some(seconds) => format!("{name} {seconds}\n"),
        None => String::new(),
    };
    line("promoted", times.promoted_s) + &line("demoted", times.demoted_s)
}

fn parse(text: &str) -> RoleTimes {
    let find = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    };
    RoleTimes { promoted_s: find("promoted "), demoted_s: find("demoted ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_program() {
        let folder = tempfile::tempdir().expect("folder");
        let path = Some(folder.path().join("r0.roles"));
        let mut keeper = RoleKeeper::load(path.clone());
        assert_eq!(keeper.times, RoleTimes::default());
        keeper.changed(Role::Secondary, Role::Secondary);
        assert_eq!(keeper.times, RoleTimes::default());
        keeper.changed(Role::Secondary, Role::Primary);
        let promoted = keeper.times;
        assert!(promoted.promoted_s.is_some() && promoted.demoted_s.is_none());
        assert_eq!(RoleKeeper::load(path.clone()).times, promoted, "after a crash");
        keeper.changed(Role::Primary, Role::Secondary);
        assert!(keeper.times.demoted_s >= promoted.promoted_s);
        assert_eq!(RoleKeeper::load(path).times, keeper.times);
        assert_eq!(parse("promoted x\nnonsense"), RoleTimes::default());
    }
}
