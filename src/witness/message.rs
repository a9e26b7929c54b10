//! What nodes and witness say to each other: one line of JSON each way, several in one connection.

use serde::{Deserialize, Serialize};

/// A line is shorter: three names of at most 80 bytes and the words around them.
pub const LINE_BYTES_MAX: usize = 1024;
/// Three of them and three signs between fit into a file's name of 255 bytes.
const NAME_BYTES_MAX: usize = 80;

/// Two nodes with one resource. The order of the nodes does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub resource: String,
    pub nodes: [String; 2],
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name: 1 to 80 letters, digits, '.', '_' or '-', not beginning with '.'")]
pub struct NameError(pub String);

impl Cluster {
    pub fn new(resource: &str, one: &str, other: &str) -> Result<Self, NameError> {
        let mut nodes = [one.to_owned(), other.to_owned()];
        nodes.sort();
        let cluster = Self { resource: resource.to_owned(), nodes };
        cluster.check()?;
        Ok(cluster)
    }

    /// The names become a file's name: nothing else gets through.
    pub fn check(&self) -> Result<(), NameError> {
        for name in [&self.resource, &self.nodes[0], &self.nodes[1]] {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.');
            if !fits || !name.bytes().all(good) {
                return Err(NameError(name.clone()));
            }
        }
        Ok(())
    }

    pub fn has(&self, node: &str) -> bool {
        self.nodes.iter().any(|name| name == node)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// May `node` go on without its peer?
    Ask { cluster: Cluster, node: String },
    /// Who may?
    Look { cluster: Cluster },
    /// `node` is in sync with its peer again and gives grant number `epoch` back.
    Release { cluster: Cluster, node: String, epoch: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// The node that asked may go on alone; nobody else until it gives the grant back.
    Granted { epoch: u64 },
    /// The other node holds the grant.
    Held { epoch: u64, holder: String },
    /// To `Look` and `Release`.
    State { epoch: u64, holder: Option<String> },
    /// The request was not understood, or the store could not be written: nothing changed.
    Failed { why: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_folder() {
        assert!(Cluster::new("r0", "alice", "bob.example-1").is_ok());
        let long = "x".repeat(81);
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "a\n", "ä", long.as_str()] {
            assert_eq!(Cluster::new("r0", "alice", bad), Err(NameError(bad.to_owned())));
            assert_eq!(Cluster::new(bad, "alice", "bob"), Err(NameError(bad.to_owned())));
        }
        let one = Cluster::new("r0", "alice", "bob");
        assert_eq!(one, Cluster::new("r0", "bob", "alice"), "in either order");
    }

    #[test]
    fn lines_are_short_and_stay_what_they_are() {
        let name = "x".repeat(80);
        let cluster = Cluster::new(&name, &name, &name).expect("the longest names");
        let longest = Request::Release { cluster, node: name, epoch: u64::MAX };
        let line = serde_json::to_string(&longest).expect("JSON");
        assert!(line.len() < LINE_BYTES_MAX, "{}", line.len());
        assert_eq!(serde_json::from_str::<Request>(&line).expect("read back"), longest);
        let text = r#"{"answer":"held","epoch":3,"holder":"bob"}"#;
        let held = Answer::Held { epoch: 3, holder: "bob".to_owned() };
        assert_eq!(serde_json::from_str::<Answer>(text).expect("an answer"), held);
        assert!(serde_json::from_str::<Answer>(r#"{"answer":"held","epoch":3}"#).is_err());
    }
}
