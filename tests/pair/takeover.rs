//! Takeover policies between real processes (DESIGN.md 6): who goes on when the two nodes lose each
//! other, with a witness and with favour-primary.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::ledger::Ledger;
use crate::common::nbd::NbdClient;
use crate::common::pair::{Node, Pair, PairOptions, RESOURCE};

const LIMIT: Duration = Duration::from_secs(60);

/// `twinblk witness` on the loopback interface.
struct Witness {
    address: SocketAddr,
    state: PathBuf,
    process: Option<Child>,
}

impl Witness {
    fn new(folder: &Path) -> Self {
        // Nobody else takes the port between here and the start: it is below the ephemeral ones.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        static WITNESSES: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
        let number = WITNESSES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let address = SocketAddr::from(([127, high, low, 127], 7790 + number));
        Self { address, state: folder.join("witness"), process: None }
    }

    fn start(&mut self) {
        let program = env!("CARGO_BIN_EXE_twinblk");
        let mut command = Command::new(program);
        command.args(["witness", "--listen", &self.address.to_string(), "--state"]);
        command.arg(&self.state);
        if !self.state.exists() {
            command.arg("--create");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(command.spawn().expect("the witness"));
        let limit = Instant::now() + LIMIT;
        while std::net::TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < limit, "the witness does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        let mut process = self.process.take().expect("running");
        process.kill().expect("our child");
        process.wait().expect("our child");
    }

    /// Who holds the grant. Stops it for a moment.
    fn holder(&mut self) -> String {
        self.kill();
        let program = env!("CARGO_BIN_EXE_twinblk");
        let mut command = Command::new(program);
        command.args(["witness", "--show", "--state"]).arg(&self.state);
        let output = command.output().expect("an answer");
        assert!(output.status.success(), "{output:?}");
        self.start();
        String::from_utf8(output.stdout).expect("text")
    }

    fn wait_for_holder(&mut self, wanted: &str) {
        let limit = Instant::now() + LIMIT;
        loop {
            let said = self.holder();
            if said.contains(wanted) {
                return;
            }
            assert!(Instant::now() < limit, "never {wanted}: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

/// Short times, so that a silent peer is noticed soon.
fn options(takeover: &str) -> PairOptions {
    let net = "timeout 20; ping-int 3; ping-timeout 5;".to_owned();
    let sections = format!("options {{ takeover {takeover}; }}");
    PairOptions { net, sections, ..PairOptions::default() }
}

fn witnessed() -> (Pair, Witness, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut witness = Witness::new(folder.path());
    witness.start();
    let pair = Pair::in_sync(options(&format!("witness {}", witness.address)));
    (pair, witness, folder)
}

/// Writes one block beside the test; tells when it is answered.
fn write_beside(mut client: NbdClient) -> Receiver<std::io::Result<NbdClient>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let outcome = client.write(40 << 20, &[0x77; 4096]);
        let _ = sender.send(outcome.map(|()| client));
    });
    receiver
}

fn is_alone(node: &Node) {
    node.wait("alone", |status| status.connection.as_str() != "Connected");
}

fn write_some(node: &Node, ledger: &mut Ledger) {
    let mut client = node.nbd();
    for block in 0..50 {
        ledger.write(&mut client, block).expect("a write");
    }
}

/// The Primary dies: the other is granted to go on, with everything that was answered. The dead one
/// alone is not, and gets what it missed before the grant is given back.
#[test]
fn with_a_witness_the_survivor_goes_on() {
    let (mut pair, mut witness, _folder) = witnessed();
    let mut ledger = Ledger::default();
    write_some(&pair.alice, &mut ledger);
    pair.alice.kill();
    is_alone(&pair.bob);
    pair.bob.succeed(&["primary", RESOURCE]);
    ledger.check(&mut pair.bob.nbd()).expect("everything answered is there");
    write_some(&pair.bob, &mut ledger);
    assert!(witness.holder().contains("bob alone"));

    pair.bob.wait_without_clients();
    pair.bob.kill();
    pair.alice.start();
    pair.alice.succeed(&["up", RESOURCE]);
    // Not at once: bob might be there and not have noticed.
    let (_, text) = pair.alice.refused(&["primary", RESOURCE]);
    assert!(text.contains("this node has just started"), "{text}");
    let limit = Instant::now() + LIMIT;
    let (code, text) = loop {
        let refused = pair.alice.refused(&["primary", RESOURCE]);
        if !refused.1.contains("this node has just started") {
            break refused;
        }
        assert!(Instant::now() < limit, "{refused:?}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(code, 17, "{text}");
    assert!(text.contains("the peer is Primary"), "{text}");

    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    pair.wait_in_sync();
    witness.wait_for_holder("nobody");
    pair.alice.succeed(&["primary", RESOURCE]);
    ledger.check(&mut pair.alice.nbd()).expect("everything answered is there");
    pair.alice.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
}

/// The Secondary dies while the witness is away: nothing is answered until the witness says so.
#[test]
fn without_its_witness_a_lone_primary_waits() {
    let (mut pair, mut witness, _folder) = witnessed();
    let client = pair.alice.nbd();
    witness.kill();
    pair.bob.kill();
    pair.alice.wait("the freeze", |status| status.suspended_fencing);
    let answer = write_beside(client);
    pair.alice.wait("a request that waits", |status| status.held.requests > 0);
    let text = pair.alice.succeed(&["status", RESOURCE]);
    assert!(text.contains("witness"), "{text}");
    assert!(answer.try_recv().is_err(), "frozen");
    witness.start();
    let client = answer.recv_timeout(LIMIT).expect("an answer").expect("written");
    drop(client);
    assert!(witness.holder().contains("alice alone"));
    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    pair.wait_in_sync();
    witness.wait_for_holder("nobody");
    pair.alice.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
}

/// A Primary that was paused and replaced answers no write when it wakes.
#[test]
fn a_replaced_primary_that_wakes_answers_nothing() {
    let (mut pair, _witness, _folder) = witnessed();
    let mut ledger = Ledger::default();
    write_some(&pair.alice, &mut ledger);
    let client = pair.alice.nbd();
    let alice = Pid::from_raw(pair.alice.process_id() as i32).expect("a process");
    kill_process(alice, Signal::STOP).expect("paused");
    is_alone(&pair.bob);
    pair.bob.succeed(&["primary", RESOURCE]);
    write_some(&pair.bob, &mut ledger);
    let answer = write_beside(client);
    kill_process(alice, Signal::CONT).expect("awake");
    pair.alice.wait("the freeze", |status| status.suspended_fencing);
    pair.alice.wait("a request that waits", |status| status.held.requests > 0);
    let text = pair.alice.succeed(&["status", RESOURCE]);
    assert!(text.contains("the peer is Primary as well"), "{text}");
    write_some(&pair.bob, &mut ledger);
    assert!(answer.try_recv().is_err(), "frozen for good");

    pair.alice.kill();
    pair.alice.start();
    pair.alice.succeed(&["up", RESOURCE]);
    if pair.bob.status().connection.as_str() == "StandAlone" {
        pair.bob.succeed(&["connect", RESOURCE]);
    }
    pair.wait_in_sync();
    ledger.check(&mut pair.bob.nbd()).expect("everything answered is there");
    pair.bob.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
}

/// And when it is demoted it copies what it missed: it has answered nothing, so nothing is split.
#[test]
fn a_replaced_primary_that_is_demoted_follows() {
    let (pair, _witness, _folder) = witnessed();
    let mut ledger = Ledger::default();
    write_some(&pair.alice, &mut ledger);
    let client = pair.alice.nbd();
    let alice = Pid::from_raw(pair.alice.process_id() as i32).expect("a process");
    kill_process(alice, Signal::STOP).expect("paused");
    is_alone(&pair.bob);
    pair.bob.succeed(&["primary", RESOURCE]);
    write_some(&pair.bob, &mut ledger);
    let answer = write_beside(client);
    kill_process(alice, Signal::CONT).expect("awake");
    pair.alice.wait("the freeze", |status| status.suspended_fencing);
    // They meet while both are Primary: neither gives up for good.
    pair.alice.wait("a conflict", |status| status.reason.contains("one of them frozen"));
    pair.alice.succeed(&["secondary", "--force", RESOURCE]);
    assert!(answer.recv_timeout(LIMIT).expect("an end").is_err(), "nothing is acknowledged");
    pair.wait_in_sync();
    ledger.check(&mut pair.bob.nbd()).expect("everything answered is there");
    pair.bob.wait_without_clients();
    assert_eq!(pair.differing_blocks(), 0);
}

#[test]
fn favour_primary_goes_on_as_primary_and_waits_as_secondary() {
    let mut pair = Pair::in_sync(options("favour-primary"));
    let mut ledger = Ledger::default();
    pair.bob.kill();
    is_alone(&pair.alice);
    write_some(&pair.alice, &mut ledger);
    pair.bob.start();
    pair.bob.succeed(&["up", RESOURCE]);
    pair.wait_in_sync();
    pair.alice.wait_without_clients();
    pair.alice.kill();
    is_alone(&pair.bob);
    let (code, text) = pair.bob.refused(&["primary", RESOURCE]);
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("favour-primary") && text.contains("primary --force"), "{text}");
    // The operator knows more.
    pair.bob.succeed(&["primary", "--force", RESOURCE]);
    ledger.check(&mut pair.bob.nbd()).expect("everything answered is there");
}

#[test]
fn what_does_not_go_together_is_refused_with_the_line() {
    let pair = Pair::prepare(PairOptions::default());
    for (change, said) in [
        ("net { protocol A; } options { takeover favour-primary; }", "needs protocol B or C"),
        ("options { takeover witness nowhere; }", "'nowhere' is no HOST:PORT"),
        ("options { takeover partner-lease; }", "not supported yet"),
        (
            "options { takeover witness w:1; } disk { fencing resource-only; }",
            "'takeover' and 'fencing' are both set",
        ),
    ] {
        pair.rewrite_config(|text| {
            text.replace("protocol C;", "") + &format!("common {{ {change} }}\n")
        });
        let output = pair.alice.run(&["dump"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(said), "{text}");
        pair.rewrite_config(|text| text.split("common {").next().expect("the rest").to_owned());
    }
}
