//! What the witness remembers: a folder with one file a pair. A decision is on disk before anybody
//! hears of it. A witness that forgot would give a grant twice, so a folder is made by hand, once, and
//! a witness never begins with an empty one by itself.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::ledger::Entry;
use super::message::{Answer, Cluster, NameError, Request};

/// Marks a folder as a witness's, and is locked by the one that runs.
const MARK: &str = "twinblk-witness";
const MARK_TEXT: &[u8] = b"1\n";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{0} holds no witness's memory; if it never did: add --create. If it was lost: both nodes of \
         each pair must be connected and in sync first, or both may be told to go on alone"
    )]
    Missing(PathBuf),
    #[error("{0} holds a witness's memory already; leave --create away")]
    Exists(PathBuf),
    #[error("{0} is in use: another witness runs with it")]
    InUse(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is damaged: {1}; both nodes connected and in sync, remove it")]
    Damaged(PathBuf, serde_json::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{node} is none of the nodes {nodes:?}")]
    Stranger { node: String, nodes: [String; 2] },
}

/// The folder, for this process alone.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Its lock is the claim on the folder.
    _mark: File,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { path: path.to_owned(), source }
}

impl Store {
    /// Makes an empty memory.
    pub fn create(folder: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        let mark = folder.join(MARK);
        match File::create_new(&mark) {
            Ok(mut file) => {
                file.write_all(MARK_TEXT).and_then(|()| file.sync_all()).map_err(at(&mark))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists(folder.to_owned()));
            }
            Err(error) => return Err(at(&mark)(error)),
        }
        sync_folder(folder)?;
        Self::open(folder)
    }

    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(MARK);
        let mark = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing(folder.to_owned()));
            }
            Err(error) => return Err(at(&path)(error)),
        };
        if rustix::fs::flock(&mark, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(StoreError::InUse(folder.to_owned()));
        }
        Ok(Self { folder: folder.to_owned(), _mark: mark })
    }

    /// Decides, and remembers it before it returns.
    pub fn answer(&mut self, request: &Request) -> Result<Answer, StoreError> {
        let cluster = match request {
            Request::Ask { cluster, node } | Request::Release { cluster, node, .. } => {
                if !cluster.has(node) {
                    let (node, nodes) = (node.clone(), cluster.nodes.clone());
                    return Err(StoreError::Stranger { node, nodes });
                }
                cluster
            }
            Request::Look { cluster } => cluster,
        };
        cluster.check()?;
        let path = self.path(cluster);
        let before = load(&path)?;
        let mut entry = before.clone();
        let answer = match request {
            Request::Ask { node, .. } => entry.ask(node),
            Request::Look { .. } => entry.state(),
            Request::Release { node, epoch, .. } => entry.release(node, *epoch),
        };
        if entry != before {
            self.save(&path, &entry)?;
        }
        Ok(answer)
    }

    /// All that is remembered: the name of the file, the number, the holder.
    pub fn list(&self) -> Result<Vec<(String, u64, Option<String>)>, StoreError> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.folder).map_err(at(&self.folder))? {
            let path = file.map_err(at(&self.folder))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let Entry { epoch, holder } = load(&path)?;
                found.push((name, epoch, holder));
            }
        }
        found.sort();
        Ok(found)
    }

    fn path(&self, cluster: &Cluster) -> PathBuf {
        let mut nodes = cluster.nodes.clone();
        nodes.sort();
        let [one, other] = nodes;
        // A name holds neither '@' nor '+', and three of them fit into a file's name.
        self.folder.join(format!("{}@{}+{}.json", cluster.resource, one, other))
    }

    /// Written beside, made durable, renamed, and the new name made durable.
    fn save(&self, path: &Path, entry: &Entry) -> Result<(), StoreError> {
        let new = self.folder.join("new");
        let text = serde_json::to_vec(entry).expect("numbers and names");
        let mut file = File::create(&new).map_err(at(&new))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(at(&new))?;
        fs::rename(&new, path).map_err(at(path))?;
        sync_folder(&self.folder)
    }
}

fn load(path: &Path) -> Result<Entry, StoreError> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|why| StoreError::Damaged(path.to_owned(), why))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entry::default()),
        Err(error) => Err(at(path)(error)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(node: &str) -> Request {
        let cluster = Cluster::new("r0", "alice", "bob").expect("names");
        Request::Ask { cluster, node: node.to_owned() }
    }

    #[test]
    fn what_was_granted_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("witness");
        assert!(matches!(Store::open(&path), Err(StoreError::Missing(_))));
        let mut store = Store::create(&path).expect("made");
        assert!(matches!(Store::open(&path), Err(StoreError::InUse(_))));
        assert_eq!(store.answer(&ask("bob")).expect("answer"), Answer::Granted { epoch: 1 });
        drop(store);
        assert!(matches!(Store::create(&path), Err(StoreError::Exists(_))));
        let mut store = Store::open(&path).expect("there");
        let held = Answer::Held { epoch: 1, holder: "bob".to_owned() };
        assert_eq!(store.answer(&ask("alice")).expect("answer"), held);
        let known = ("r0@alice+bob".to_owned(), 1, Some("bob".to_owned()));
        assert_eq!(store.list().expect("a list"), [known]);
        assert!(matches!(store.answer(&ask("carol")), Err(StoreError::Stranger { .. })));
    }

    #[test]
    fn a_damaged_file_grants_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut store = Store::create(folder.path()).expect("made");
        store.answer(&ask("alice")).expect("granted");
        let path = folder.path().join("r0@alice+bob.json");
        for damaged in [&b""[..], b"{}", b"{\"epoch\":1}\0", b"{\"epoch\":1,\"holder\":7}"] {
            fs::write(&path, damaged).expect("written");
            assert!(matches!(store.answer(&ask("bob")), Err(StoreError::Damaged(..))));
        }
    }
}
