//! Clients on a third host, through the virtual address: they live through failovers without an I/O
//! error, and every answered write is there (docs/nbd-clients.md).
//!
//! ```text
//!   a, b: daemon with keepalived.conf, nothing but addresses on top of the resource
//!   third: a lane of `nbd-connect` and qemu with `reconnect-delay`, each under a verified writer
//! ```

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;
use twinblk::nbd::remote::{self, Lanes, Limits};

use super::common::ledger::{BLOCK_BYTES, Ledger, Random};
use super::common::nbd::NbdClient;
use super::host::{Host, wait_until};
use super::lab::{STEP, VIRTUAL, is_there};
use super::network::{Net, Network};

const NAMES: [&str; 2] = ["a", "b"];
const NUMBERS: [u8; 2] = [221, 222];
const THIRD: u8 = 100;
const SIZE_BYTES: u64 = 32 << 20;
/// Blocks of each client; what is left over at the end is metadata.
const BLOCKS: u64 = 2000;
const DEPTH: usize = 8;
/// With adverts every 0.1 s.
const PAUSE_LIMIT: Duration = Duration::from_millis(1500);
/// Failovers of an ordinary run, half of them kills; `scripts/soak clients` asks for more.
const FAILOVERS: usize = 6;
const FAILOVERS_GIVEN: &str = "TWINBLK_CLIENT_FAILOVERS";

struct Node {
    name: &'static str,
    host: Host,
    folder: PathBuf,
    daemon: Option<Child>,
}

struct Pair {
    nodes: [Node; 2],
    third: Host,
    processes: Vec<Child>,
    _network: Network,
    folder: TempDir,
}

impl Pair {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root, so no hosts");
            return None;
        }
        let needed = ["setpriv", "unshare", "nsenter", "ip"];
        if let Some(program) = needed.into_iter().find(|program| !is_there(program)) {
            println!("skipped: no {program}");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("twinblk-e2e-").tempdir().expect("a folder");
        let network = Network::new()?;
        let mut nodes = Vec::new();
        for (name, number) in NAMES.into_iter().zip(NUMBERS) {
            let host = Host::boot(name)?;
            network.connect(&host, number, &Net::BOTH);
            let folder = folder.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            let disk = fs::File::create(folder.join("disk")).expect("a disk");
            disk.set_len(SIZE_BYTES).expect("a disk");
            nodes.push(Node { name, host, folder, daemon: None });
        }
        let nodes: [Node; 2] = nodes.try_into().unwrap_or_else(|_| unreachable!("two"));
        let third = Host::boot("third")?;
        network.connect(&third, THIRD, &[Net::Service]);
        let mut pair = Self { nodes, third, processes: Vec::new(), _network: network, folder };
        pair.configure();
        pair.start_witness();
        for node in &mut pair.nodes {
            node.twinblk(&["create-md", "--force", "r0"]);
            node.start(&[]);
            node.twinblk(&["up", "r0"]);
        }
        for node in &pair.nodes {
            node.twinblk(&["wait-connect", "r0"]);
        }
        pair.nodes[0].twinblk(&["new-current-uuid", "--clear-bitmap", "r0"]);
        for node in &mut pair.nodes {
            node.stop();
            node.start_failover();
        }
        Some(pair)
    }

    fn configure(&self) {
        let on = |node: &Node, number: u8| {
            format!(
                "on {} {{ device /dev/drbd0; disk {}/disk; meta-disk internal; address {}:7788; }}\n",
                node.name,
                node.folder.display(),
                Net::Replication.address(number)
            )
        };
        let drbd = format!(
            "resource r0 {{
    net {{ protocol C; ping-int 1; connect-int 1; }}
    options {{ takeover witness {}:7790; }}
    nbd {{ listen {VIRTUAL}:10809; attach no; }}
    {}{}}}
",
            Net::Service.address(THIRD),
            on(&self.nodes[0], NUMBERS[0]),
            on(&self.nodes[1], NUMBERS[1])
        );
        for (node, priority) in self.nodes.iter().zip([100, 90]) {
            fs::write(node.folder.join("drbd.conf"), &drbd).expect("written");
            let keepalived = format!(
                "global_defs {{
    vrrp_version 3
}}
vrrp_instance VI_1 {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 0.1
    virtual_ipaddress {{
        {VIRTUAL}
    }}
    drbd_resource r0
}}
"
            );
            fs::write(node.folder.join("keepalived.conf"), keepalived).expect("written");
        }
    }

    fn start_witness(&mut self) {
        let state = self.folder.path().join("witness").display().to_string();
        let mut command = self.third.command(env!("CARGO_BIN_EXE_twinblk"));
        command.args(["witness", "--create", "--state", &state]);
        let log = self.folder.path().join("witness.log");
        self.processes.push(self.third.start(command, &log));
        wait_until("the witness listens", STEP, || {
            let listens = "ss -Hltn sport = :7790 | grep -q .";
            self.third.run(&["sh", "-c", listens]).status.success()
        });
    }

    /// The one that serves, when both could.
    fn wait_ready(&self) -> usize {
        let mut serving = None;
        wait_until("one serves, both are in sync", STEP, || {
            let roles = self.nodes.each_ref().map(|node| {
                let words = |verb| node.try_twinblk(&[verb, "r0"]).unwrap_or_default();
                (words("role"), words("dstate"))
            });
            let in_sync = roles.iter().all(|(_, disks)| disks.trim() == "UpToDate/UpToDate");
            serving = roles.iter().position(|(role, _)| role.starts_with("Primary/Secondary"));
            in_sync && serving.is_some()
        });
        serving.expect("just seen")
    }

    /// qemu as a client of the virtual address, and as a server on a unix socket for the writer.
    fn start_qemu(&mut self) -> PathBuf {
        let socket = self.folder.path().join("qemu.sock");
        // As docs/nbd-clients.md says.
        self.third.shell(
            "cd /proc/sys/net/ipv4; echo 1 >tcp_keepalive_time; echo 1 >tcp_keepalive_intvl; \
             echo 3 >tcp_keepalive_probes",
        );
        let mut command = self.third.command("qemu-storage-daemon");
        command.arg("--blockdev").arg(format!(
            "driver=nbd,node-name=n,server.type=inet,server.host={VIRTUAL},server.port=10809,\
             server.keep-alive=on,export=r0,reconnect-delay=60"
        ));
        let server = format!("addr.type=unix,addr.path={}", socket.display());
        command.args(["--nbd-server", &server]);
        command.args(["--export", "type=nbd,id=e,node-name=n,name=r0,writable=on"]);
        let log = self.folder.path().join("qemu.log");
        self.processes.push(self.third.start(command, &log));
        wait_until("qemu listens", STEP, || socket.exists());
        socket
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = [&self.nodes[0].folder, &self.nodes[1].folder];
            let logs = logs.map(|folder| folder.join("daemon.log"));
            for log in logs.iter().chain([&self.folder.path().join("qemu.log")]) {
                let text = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(60)..].join("\n");
                eprintln!("--- {} ---\n{tail}", log.display());
            }
        }
        for node in &mut self.nodes {
            node.host.kill();
        }
        self.third.kill();
        let daemons = self.nodes.iter_mut().filter_map(|node| node.daemon.take());
        for mut child in daemons.chain(self.processes.drain(..)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Node {
    fn words(&self) -> [String; 7] {
        let configuration = self.folder.join("drbd.conf").display().to_string();
        let program = env!("CARGO_BIN_EXE_twinblk");
        [program, "-c", &configuration, "--run-dir", "/run/twinblk", "--node", self.name]
            .map(str::to_owned)
    }

    fn try_twinblk(&self, words: &[&str]) -> Result<String, String> {
        let own = self.words();
        let all: Vec<&str> = own.iter().map(String::as_str).chain(words.iter().copied()).collect();
        let output = self.host.run(&all);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(said) } else { Err(format!("{said}{errors}")) }
    }

    fn twinblk(&self, words: &[&str]) -> String {
        self.try_twinblk(words).unwrap_or_else(|why| panic!("{}: {words:?}: {why}", self.name))
    }

    fn start(&mut self, options: &[&str]) {
        let [program, rest @ ..] = self.words();
        let mut command = self.host.command(program);
        command.args(rest).arg("daemon").args(options);
        self.daemon = Some(self.host.start(command, &self.folder.join("daemon.log")));
        wait_until("the daemon answers", STEP, || self.try_twinblk(&["role", "all"]).is_ok());
    }

    fn start_failover(&mut self) {
        let file = self.folder.join("keepalived.conf").display().to_string();
        self.start(&["--keepalived", &file]);
    }

    fn stop(&mut self) {
        self.host.shell("kill $(pidof -s twinblk)");
        self.ended();
    }

    fn kill(&mut self) {
        self.host.shell("kill -9 $(pidof -s twinblk)");
        self.ended();
    }

    fn ended(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        wait_until("the daemon has ended", STEP, || daemon.try_wait().expect("a child").is_some());
    }
}

/// A lane of `nbd-connect` in the third host, with the test in the place of the kernel.
struct Lane {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lane {
    fn start(host: &Host) -> (Self, NbdClient) {
        let namespace = format!("/proc/{}/ns/net", host.first_process());
        let namespace = fs::File::open(namespace).expect("a namespace");
        let (near, ours) = UnixStream::pair().expect("a pair");
        let is_over = Arc::new(AtomicBool::new(false));
        let (sender, size) = std::sync::mpsc::channel();
        let thread = std::thread::spawn({
            let is_over = is_over.clone();
            move || {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind)
                    .expect("in the namespace");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let served = async {
                    let target: remote::Target =
                        format!("nbd://{VIRTUAL}/r0").parse().expect("a URI");
                    let offer = remote::first_offer(&target, STEP).await.expect("served");
                    sender.send(offer.size_bytes).expect("the test lives");
                    let silence = Duration::from_millis(700);
                    let limits = Limits { silence, dead: Duration::from_secs(60) };
                    let lanes = Rc::new(Lanes::new(target, limits, offer));
                    let over = async {
                        while !is_over.load(Ordering::Relaxed) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    };
                    tokio::select! {
                        ended = remote::serve(&lanes, near) => drop(ended),
                        () = over => {}
                    }
                };
                let runtime = runtime.expect("a runtime");
                tokio::task::LocalSet::new().block_on(&runtime, served);
            }
        });
        let size = size.recv().expect("a server");
        (Self { is_over, thread: Some(thread) }, NbdClient::over(ours, size))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a client of another make; the socket that it offers the export on.
type Start = fn(&mut Pair) -> PathBuf;

/// Writes without pause; notes the longest time without an answer.
struct Writer {
    what: &'static str,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    longest_us: Arc<AtomicU64>,
    writing: Option<JoinHandle<(NbdClient, Ledger)>>,
    watching: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(what: &'static str, mut client: NbdClient, mut ledger: Ledger, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let longest_us = Arc::new(AtomicU64::new(0));
        let writing = std::thread::spawn({
            let (stop, answers) = (stop.clone(), answers.clone());
            move || {
                let mut random = Random(seed);
                ledger
                    .storm(&mut client, BLOCKS, DEPTH, &mut random, &stop, &answers)
                    .unwrap_or_else(|error| {
                        panic!("{what}: an I/O error reached the user: {error}")
                    });
                (client, ledger)
            }
        });
        let watching = std::thread::spawn({
            let (stop, answers, longest) = (stop.clone(), answers.clone(), longest_us.clone());
            move || {
                let (mut seen, mut at) = (answers.load(Ordering::Relaxed), Instant::now());
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(2));
                    let now = answers.load(Ordering::Relaxed);
                    if now != seen {
                        longest.fetch_max(at.elapsed().as_micros() as u64, Ordering::Relaxed);
                        (seen, at) = (now, Instant::now());
                    }
                }
            }
        });
        let (writing, watching) = (Some(writing), Some(watching));
        Self { what, stop, answers, longest_us, writing, watching }
    }

    fn wait_for_more(&self, count: u64) {
        let before = self.answers.load(Ordering::Relaxed);
        wait_until(&format!("{}: more answers", self.what), STEP, || {
            let writing = self.writing.as_ref().expect("not ended");
            assert!(!writing.is_finished(), "{}: the writer ended", self.what);
            self.answers.load(Ordering::Relaxed) >= before + count
        });
    }

    /// Everything that was answered is there. The longest pause.
    fn end(mut self) -> (NbdClient, Ledger, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let writing = self.writing.take().expect("ended once");
        let (mut client, ledger) = writing.join().expect("no I/O error");
        if let Some(watching) = self.watching.take() {
            let _ = watching.join();
        }
        if let Err(complaint) = ledger.check(&mut client) {
            panic!("{}: {complaint}", self.what);
        }
        (client, ledger, Duration::from_micros(self.longest_us.load(Ordering::Relaxed)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
fn clients_live_through_failovers() {
    let Some(mut pair) = Pair::new() else { return };
    let given = std::env::var(FAILOVERS_GIVEN).ok().and_then(|count| count.parse().ok());
    let failovers = given.unwrap_or(FAILOVERS);
    pair.wait_ready();
    let (_lane, client) = Lane::start(&pair.third);
    let mut clients = vec![("nbd-connect", client, Ledger::default())];
    let others: [(_, _, Start); 1] = [("qemu-storage-daemon", "qemu", Pair::start_qemu)];
    for (program, what, start) in others {
        if !is_there(program) {
            println!("without {what}: no {program}");
            continue;
        }
        let socket = start(&mut pair);
        let stream = UnixStream::connect(&socket).expect(what);
        let client = NbdClient::enter(stream, "r0").expect(what);
        let mut ledger = Ledger::default();
        ledger.begin_at(BLOCKS * clients.len() as u64);
        clients.push((what, client, ledger));
    }
    let enough = BLOCKS * clients.len() as u64 * BLOCK_BYTES as u64;
    assert!(clients.iter().all(|(_, client, _)| client.size_bytes >= enough));
    let mut longest = vec![Duration::ZERO; clients.len()];
    for round in 0..failovers {
        let is_kill = round % 2 == 0;
        let serving = pair.wait_ready();
        let writers: Vec<Writer> = clients
            .drain(..)
            .enumerate()
            .map(|(index, (what, client, ledger))| {
                let seed = 0x5eed + (round * 3 + index) as u64;
                Writer::start(what, client, ledger, seed)
            })
            .collect();
        writers.iter().for_each(|writer| writer.wait_for_more(50));
        if is_kill {
            pair.nodes[serving].kill();
        } else {
            pair.nodes[serving].twinblk(&["handover", "r0"]);
        }
        writers.iter().for_each(|writer| writer.wait_for_more(200));
        let role = pair.nodes[1 - serving].twinblk(&["role", "r0"]);
        assert!(role.starts_with("Primary"), "{role}");
        for (writer, longest) in writers.into_iter().zip(&mut longest) {
            let (what, kind) = (writer.what, if is_kill { "kill" } else { "handover" });
            let (client, ledger, pause) = writer.end();
            println!("measured: {kind}: {what}: pause {:.2} s", pause.as_secs_f64());
            *longest = pause.max(*longest);
            clients.push((what, client, ledger));
        }
        if is_kill {
            pair.nodes[serving].start_failover();
        }
    }
    let found: Vec<String> = clients
        .iter()
        .zip(&longest)
        .map(|((what, ..), pause)| format!("{what} {:.2} s", pause.as_secs_f64()))
        .collect();
    println!("measured: {failovers} failovers, longest pauses: {}", found.join(", "));
    assert!(longest[0] < PAUSE_LIMIT, "nbd-connect paused for {:?}", longest[0]);
}
