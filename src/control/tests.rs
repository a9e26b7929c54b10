//! Client and server against each other over a real socket, with a handler whose resource the test
//! moves from state to state.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use twinblk_proto::state::ConnectionState;

use super::outcome::exit;
use super::server::{ListenError, listen, serve};
use super::*;

/// What the test changes while the server runs.
#[derive(Clone)]
struct Stage {
    resources: Arc<Mutex<Vec<ResourceStatus>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Stage {
    fn new(connection: ConnectionState) -> Self {
        let status =
            ResourceStatus { name: "r0".to_owned(), connection, ..ResourceStatus::default() };
        Self {
            resources: Arc::new(Mutex::new(vec![status])),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    fn set(&self, connection: ConnectionState) {
        self.resources.lock().expect("no panic")[0].connection = connection;
        self.changes.send_modify(|count| *count += 1);
    }
}

struct FakeHandler {
    stage: Stage,
    performed: RefCell<Vec<Command>>,
}

impl Handler for FakeHandler {
    async fn perform(&self, resource: Option<&str>, command: &Command) -> Outcome {
        self.performed.borrow_mut().push(command.clone());
        match command {
            Command::Down => std::future::pending().await,
            Command::Primary { force: false } => Outcome::refused(
                resource.expect("checked by the server"),
                -2,
                "Need access to UpToDate data",
                "the disk is Inconsistent",
                "twinblk primary --force r0",
            ),
            _ => Outcome::done(),
        }
    }

    async fn status(&self, resource: Option<&str>) -> Result<Vec<ResourceStatus>, Outcome> {
        let resources = self.stage.resources.lock().expect("no panic").clone();
        match resource {
            Some(name) if name != "r0" => Err(Outcome::no_such_resource(name)),
            _ => Ok(resources),
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.stage.changes.subscribe()
    }
}

/// Runs `test` in a thread of its own against a server in a fresh run directory.
fn with_server(stage: &Stage, test: impl FnOnce(&Path) + Send + 'static) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let run_dir = directory.path().join("run");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let local = tokio::task::LocalSet::new();
    let handler = Rc::new(FakeHandler { stage: stage.clone(), performed: RefCell::default() });
    local.block_on(&runtime, async {
        let listener = listen(&run_dir).expect("bound");
        let path = run_dir.clone();
        let tested = tokio::task::spawn_blocking(move || test(&path));
        tokio::select! {
            () = serve(listener, handler) => unreachable!("serves until dropped"),
            result = tested => result.expect("the test's thread"),
        }
    });
    drop(local);
    assert!(!socket_path(&run_dir).exists(), "the socket file goes with the listener");
}

#[test]
fn verbs_statuses_and_refusals() {
    with_server(&Stage::new(ConnectionState::Connected), |run_dir| {
        let mode = std::fs::metadata(socket_path(run_dir)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for the owner only");
        let mut client = Client::connect(run_dir).expect("connected");
        let done = client
            .perform(Some("r0"), Command::Secondary { force: false }, None)
            .expect("answered");
        assert!(done.is_done());
        let refused =
            client.perform(Some("r0"), Command::Primary { force: false }, None).expect("answered");
        assert_eq!(refused.exit_code, exit::NO_UP_TO_DATE);
        assert_eq!(refused.message, "r0: State change failed: (-2) Need access to UpToDate data");
        assert_eq!(refused.hint, "twinblk primary --force r0");
        let statuses = client.status(None).expect("answered").expect("a status");
        assert_eq!(statuses[0].name, "r0");
        let missing = client.status(Some("r7")).expect("answered").expect_err("not up");
        assert_eq!(missing.message, "r7: No such resource");
        let nameless =
            client.perform(None, Command::Secondary { force: false }, None).expect("answered");
        assert_eq!(nameless.exit_code, exit::USAGE);
    });
}

#[test]
fn a_verb_that_hangs_is_answered_in_time_and_others_are_served_meanwhile() {
    with_server(&Stage::new(ConnectionState::Connected), |run_dir| {
        let limit = Some(Duration::from_millis(50));
        let mut client = Client::connect(run_dir).expect("connected");
        let outcome = client.perform(Some("r0"), Command::Down, limit).expect("answered");
        assert_eq!(outcome.exit_code, exit::TIMEOUT);
        assert_eq!(outcome.message, "r0: not finished within 50ms");
        let mut hanging = UnixStream::connect(socket_path(run_dir)).expect("connected");
        hanging.write_all(b"{\"verb\":\"down\",\"resource\":\"r0\"}\n").expect("sent");
        let mut other = Client::connect(run_dir).expect("connected");
        assert!(other.status(None).expect("answered").is_ok());
    });
}

#[test]
fn waiting_ends_with_the_state_the_time_or_the_hope() {
    let stage = Stage::new(ConnectionState::WFConnection);
    let actor = stage.clone();
    with_server(&stage, move |run_dir| {
        let wait = |command, limit_ms: Option<u64>, next: Option<ConnectionState>| {
            let mut client = Client::connect(run_dir).expect("connected");
            let limit = limit_ms.map(Duration::from_millis);
            let mut next = next;
            client
                .follow(Some("r0"), command, limit, |_| {
                    if let Some(state) = next.take() {
                        actor.set(state);
                    }
                    true
                })
                .expect("answered")
                .expect("an outcome")
        };
        let outcome = wait(Command::WaitConnect, Some(60), None);
        assert_eq!(outcome.exit_code, exit::TIMEOUT);
        assert!(outcome.message.starts_with("r0: still WFConnection after"), "{outcome:?}");
        let outcome = wait(Command::WaitConnect, None, Some(ConnectionState::SyncTarget));
        assert!(outcome.is_done(), "connected while resyncing: {outcome:?}");
        let outcome = wait(Command::WaitSync, None, Some(ConnectionState::Connected));
        assert!(outcome.is_done(), "{outcome:?}");
        actor.set(ConnectionState::WFConnection);
        let outcome = wait(Command::WaitSync, None, Some(ConnectionState::StandAlone));
        assert_eq!(outcome.exit_code, exit::TIMEOUT);
        assert_eq!(outcome.message, "r0: StandAlone: waiting would not help");
        assert_eq!(outcome.hint, "twinblk connect r0");
    });
}

#[test]
fn a_watch_sees_each_change_until_its_client_has_enough() {
    let stage = Stage::new(ConnectionState::WFConnection);
    let actor = stage.clone();
    with_server(&stage, move |run_dir| {
        let mut client = Client::connect(run_dir).expect("connected");
        let mut seen = Vec::new();
        let outcome = client
            .follow(None, Command::Watch, None, |resources| {
                seen.push(resources[0].connection);
                actor.set(ConnectionState::Connected);
                seen.last() != Some(&ConnectionState::Connected)
            })
            .expect("answered");
        assert_eq!(outcome, None, "ended by the client");
        assert_eq!(seen[0], ConnectionState::WFConnection);
        assert_eq!(seen.last(), Some(&ConnectionState::Connected));
    });
}

#[test]
fn garbage_on_the_socket_gets_an_answer_or_a_close() {
    with_server(&Stage::new(ConnectionState::Connected), |run_dir| {
        let mut stream = UnixStream::connect(socket_path(run_dir)).expect("connected");
        stream.write_all(b"\x00\xff{]\n").expect("sent");
        let mut answer = [0; 512];
        let length = stream.read(&mut answer).expect("answered");
        let text = String::from_utf8_lossy(&answer[..length]);
        assert!(text.contains("unreadable request"), "{text}");
        let mut stream = UnixStream::connect(socket_path(run_dir)).expect("connected");
        // The server may close in the middle of this.
        let _ = stream.write_all(&vec![b'x'; 100_000]);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "closed without an answer");
    });
}

#[test]
fn no_daemon_two_daemons_and_a_stale_socket() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let run_dir = directory.path();
    assert!(matches!(Client::connect(run_dir), Err(ClientError::NotRunning { .. })));
    // A killed daemon leaves its file behind, with nobody listening.
    drop(std::os::unix::net::UnixListener::bind(socket_path(run_dir)).expect("bound"));
    assert!(matches!(Client::connect(run_dir), Err(ClientError::NotRunning { .. })));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _inside = runtime.enter();
    let first = listen(run_dir).expect("a stale file is replaced");
    let second = listen(run_dir).expect_err("one daemon per run directory");
    assert!(matches!(second, ListenError::AlreadyRunning { .. }), "{second}");
    drop(first);
    listen(run_dir).expect("free again");
}

#[test]
fn a_daemon_that_dies_in_mid_request_is_noticed() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let listener =
        std::os::unix::net::UnixListener::bind(socket_path(directory.path())).expect("bound");
    let mut client = Client::connect(directory.path()).expect("connected");
    let closer = std::thread::spawn(move || drop(listener.accept().expect("accepted")));
    let error = client
        .perform(Some("r0"), Command::Secondary { force: false }, None)
        .expect_err("no answer");
    closer.join().expect("closed");
    let reset = matches!(&error, ClientError::Io(error)
        if matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe));
    assert!(matches!(error, ClientError::Closed) || reset, "{error}");
}
