//! Whether somebody else than root could have written a program, or put another in its place
//! (`enable_script_security`, vrrp.md 2.4): the file and every directory on the way to it belong to
//! root and are writable by root alone, links included.

use std::env;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As the kernel counts them.
const LINKS_MAX: usize = 40;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;

#[derive(Debug, thiserror::Error)]
pub enum Insecure {
    #[error("{} belongs to user {user_id}, not to root; chown root it, or run the script as another user", path.display())]
    Owner { path: PathBuf, user_id: u32 },
    #[error("{} is writable by others than root; chmod go-w it, or run the script as another user", path.display())]
    Writable { path: PathBuf },
    #[error("{} leads through more than {LINKS_MAX} links", path.display())]
    Links { path: PathBuf },
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// A name without a slash is looked up as the kernel's callers do.
pub fn check(program: &Path) -> Result<(), Insecure> {
    let named = program.components().count() == 1 && program.is_relative();
    let full = if named { search(program) } else { None };
    walk(full.as_deref().unwrap_or(program), &|path| fs::symlink_metadata(path).map(Entry::from))
}

fn search(name: &Path) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    user_id: u32,
    group_id: u32,
    mode: u32,
    is_link: bool,
}

impl From<Metadata> for Entry {
    fn from(metadata: Metadata) -> Self {
        let is_link = metadata.file_type().is_symlink();
        let (user_id, group_id) = (metadata.uid(), metadata.gid());
        Self { user_id, group_id, mode: metadata.mode(), is_link }
    }
}

fn walk(path: &Path, look: &dyn Fn(&Path) -> io::Result<Entry>) -> Result<(), Insecure> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |error| Insecure::Io { path, error }
    };
    let mut here = PathBuf::from("/");
    judge(&here, look(&here).map_err(io(&here))?)?;
    // Still to be gone, the next step last.
    let mut steps: Vec<OsString> = steps_of(path);
    let mut links = 0;
    while let Some(step) = steps.pop() {
        if step == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&step);
        let entry = look(&next).map_err(io(&next))?;
        judge(&next, entry)?;
        if !entry.is_link {
            here = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(Insecure::Links { path: path.to_owned() });
        }
        let target = fs::read_link(&next).map_err(io(&next))?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        steps.extend(steps_of(&target));
    }
    Ok(())
}

fn steps_of(path: &Path) -> Vec<OsString> {
    let named = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    let mut steps: Vec<OsString> = path.components().filter_map(named).collect();
    steps.reverse();
    steps
}

fn judge(path: &Path, entry: Entry) -> Result<(), Insecure> {
    if entry.user_id != 0 {
        return Err(Insecure::Owner { path: path.to_owned(), user_id: entry.user_id });
    }
    // The mode of a link means nothing.
    let group_writes = entry.mode & GROUP_WRITES != 0 && entry.group_id != 0;
    if !entry.is_link && (group_writes || entry.mode & OTHERS_WRITE != 0) {
        return Err(Insecure::Writable { path: path.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Of a tree with these exceptions; everything else is root's with mode 755.
    fn verdict(path: &str, exceptions: &[(&str, u32, u32, u32)]) -> Option<String> {
        let exceptions: BTreeMap<_, _> = exceptions
            .iter()
            .map(|&(path, user_id, group_id, mode)| {
                (PathBuf::from(path), (user_id, group_id, mode))
            })
            .collect();
        let look = |path: &Path| {
            let (user_id, group_id, mode) = exceptions.get(path).copied().unwrap_or((0, 0, 0o755));
            Ok(Entry { user_id, group_id, mode, is_link: false })
        };
        match walk(Path::new(path), &look) {
            Ok(()) => None,
            Err(Insecure::Owner { path, .. } | Insecure::Writable { path }) => {
                Some(path.display().to_string())
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn every_element_of_the_path_counts() {
        const SCRIPT: &str = "/etc/keepalived/check.sh";
        assert_eq!(verdict(SCRIPT, &[]), None);
        for (element, user_id, group_id, mode, is_bad) in [
            ("/", 0, 0, 0o777, true),
            ("/etc", 1000, 0, 0o755, true),
            ("/etc/keepalived", 0, 1000, 0o775, true),
            ("/etc/keepalived", 0, 0, 0o775, false),
            ("/etc/keepalived", 0, 1000, 0o755, false),
            // Sticky keeps others from replacing a file, not from being there first.
            ("/etc/keepalived", 0, 0, 0o1777, true),
            ("/etc/keepalived/check.sh", 0, 0, 0o702, true),
            ("/etc/keepalived/other.sh", 0, 0, 0o777, false),
        ] {
            let expected = is_bad.then(|| element.to_owned());
            assert_eq!(verdict(SCRIPT, &[(element, user_id, group_id, mode)]), expected);
        }
        let odd = verdict("/usr/../etc//./keepalived/check.sh", &[("/etc", 3, 0, 0o755)]);
        assert_eq!(odd.as_deref(), Some("/etc"));
    }

    #[test]
    fn the_shell_is_secure_and_a_link_into_a_public_folder_is_not() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can have files of root");
            return;
        }
        let shell = check(Path::new("/bin/sh"));
        assert!(shell.is_ok(), "{shell:?}");
        assert!(check(Path::new("sh")).is_ok());
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        symlink("/bin/sh", &link).expect("a link");
        // The folder for temporary files is everybody's.
        let found = check(&link);
        assert!(matches!(found, Err(Insecure::Writable { .. })), "{found:?}");
        let missing = check(Path::new("/no/such/program"));
        assert!(matches!(missing, Err(Insecure::Io { .. })), "{missing:?}");
    }
}
