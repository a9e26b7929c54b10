//! A node asks its witness. Every failure is "not granted".

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::message::{Answer, Cluster, LINE_BYTES_MAX, Request};

/// From the first packet to the answer. A witness that takes longer is as good as none: the node asks
/// again.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("witness {0} does not answer within {limit} s", limit = ANSWER_LIMIT.as_secs())]
    Silent(String),
    #[error("witness {0}: {1}")]
    Io(String, std::io::Error),
    #[error("witness {0} answers what is none: {1}")]
    Strange(String, String),
    #[error("witness {0} refuses: {1}")]
    Refused(String, String),
}

/// Who asks whom, for which pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// `HOST:PORT`.
    pub address: String,
    pub cluster: Cluster,
    pub node: String,
}

impl Witness {
    /// May this node go on without its peer? An answer is `Granted` or `Held`.
    pub async fn ask(&self) -> Result<Answer, AskError> {
        self.in_time(async {
            let mut stream = self.connect().await?;
            let (cluster, node) = (self.cluster.clone(), self.node.clone());
            match self.say(&mut stream, &Request::Ask { cluster, node }).await? {
                answer @ (Answer::Granted { .. } | Answer::Held { .. }) => Ok(answer),
                other => Err(self.strange(format!("{other:?}"))),
            }
        })
        .await
    }

    /// Gives the grant back if this node holds it, and says whether it did: for a node that is
    /// connected and in sync, as long as `still` says so.
    pub async fn release(&self, still: impl Fn() -> bool) -> Result<bool, AskError> {
        self.in_time(async {
            let mut stream = self.connect().await?;
            let cluster = self.cluster.clone();
            match self.say(&mut stream, &Request::Look { cluster }).await? {
                // Asked for again meanwhile, it may be this very grant: it is wanted then.
                Answer::State { .. } if !still() => Ok(false),
                Answer::State { epoch, holder: Some(holder) } if holder == self.node => {
                    let (cluster, node) = (self.cluster.clone(), self.node.clone());
                    self.say(&mut stream, &Request::Release { cluster, node, epoch }).await?;
                    Ok(true)
                }
                Answer::State { .. } => Ok(false),
                other => Err(self.strange(format!("{other:?}"))),
            }
        })
        .await
    }

    async fn in_time<T>(
        &self,
        conversation: impl Future<Output = Result<T, AskError>>,
    ) -> Result<T, AskError> {
        let outcome = timeout(ANSWER_LIMIT, conversation).await;
        outcome.unwrap_or_else(|_| Err(AskError::Silent(self.address.clone())))
    }

    async fn connect(&self) -> Result<BufReader<TcpStream>, AskError> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| self.io(error))?;
        Ok(BufReader::new(stream))
    }

    async fn say(
        &self,
        stream: &mut BufReader<TcpStream>,
        request: &Request,
    ) -> Result<Answer, AskError> {
        let mut text = serde_json::to_string(request).expect("numbers and names");
        text.push('\n');
        stream.write_all(text.as_bytes()).await.map_err(|error| self.io(error))?;
        let mut line = String::new();
        let mut bounded = stream.take(LINE_BYTES_MAX as u64);
        bounded.read_line(&mut line).await.map_err(|error| self.io(error))?;
        match serde_json::from_str(&line) {
            Ok(Answer::Failed { why }) => Err(AskError::Refused(self.address.clone(), why)),
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.strange(format!("{line:?}: {error}"))),
        }
    }

    fn io(&self, error: std::io::Error) -> AskError {
        AskError::Io(self.address.clone(), error)
    }

    fn strange(&self, what: String) -> AskError {
        AskError::Strange(self.address.clone(), what)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::net::TcpListener;

    use super::*;
    use crate::witness::{Store, server};

    fn node(name: &str, address: &str) -> Witness {
        let cluster = Cluster::new("r0", "alice", "bob").expect("names");
        Witness { address: address.to_owned(), cluster, node: name.to_owned() }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    #[test]
    fn one_of_two_goes_on_until_it_gives_the_grant_back() {
        run(async {
            let folder = tempfile::tempdir().expect("a folder");
            let store = Store::create(folder.path()).expect("a store");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound").to_string();
            tokio::task::spawn_local(server::serve(listener, store, Rc::new(|_| true)));
            let (alice, bob) = (node("alice", &address), node("bob", &address));
            assert_eq!(alice.ask().await.expect("an answer"), Answer::Granted { epoch: 1 });
            let held = Answer::Held { epoch: 1, holder: "alice".to_owned() };
            assert_eq!(bob.ask().await.expect("an answer"), held);
            assert!(!bob.release(|| true).await.expect("an answer"), "not his");
            assert!(!alice.release(|| false).await.expect("an answer"), "wanted again");
            assert!(alice.release(|| true).await.expect("an answer"));
            assert_eq!(bob.ask().await.expect("an answer"), Answer::Granted { epoch: 2 });
            let stranger = node("carol", &address).ask().await;
            assert!(matches!(stranger, Err(AskError::Refused(..))), "{stranger:?}");
        });
    }

    #[test]
    fn nobody_is_granted_anything_by_silence_or_nonsense() {
        run(async {
            let nobody = node("alice", "127.0.0.1:1").ask().await;
            assert!(matches!(nobody, Err(AskError::Io(..))), "{nobody:?}");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound").to_string();
            tokio::task::spawn_local(async move {
                for answer in
                    ["", "granted\n", "{\"answer\":\"state\",\"epoch\":1,\"holder\":null}\n"]
                {
                    let (mut stream, _) = listener.accept().await.expect("a connection");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                std::future::pending::<()>().await;
            });
            for _ in 0..3 {
                let answer = node("alice", &address).ask().await;
                let granted = matches!(answer, Ok(Answer::Granted { .. }));
                assert!(!granted, "{answer:?}");
            }
            let silent = node("alice", &address).ask().await;
            assert!(matches!(silent, Err(AskError::Silent(_))), "{silent:?}");
        });
    }
}
