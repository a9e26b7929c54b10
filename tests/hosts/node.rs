//! A VRRP speaker on a host: twinblk, as this test program run again inside the namespace, or the
//! stock keepalived.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::Sender;
use tokio::sync::oneshot;
use twinblk::election::InstanceSettings;
use twinblk::election::packet::{Authentication, Version};
use twinblk::election::settings::{TrackerSettings, VirtualAddress};
use twinblk::vrrp::{self, GuardProgram, OccurrenceKind, Placement, Plan};

use super::lab::{Host, Lab, VIRTUAL, is_there, wait_until};

/// Tells this test program that it is a node, and which.
const SETTINGS: &str = "TWINBLK_TEST_VRRP_NODE";
const GUARD: &str = "TWINBLK_TEST_VRRP_GUARD";
const END_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Twinblk,
    Keepalived,
}

impl Kind {
    /// Says why not.
    pub fn is_there(self) -> bool {
        let there = self == Self::Twinblk || is_there("keepalived");
        if !there {
            println!("skipped: keepalived is not installed");
        }
        there
    }
}

/// What both kinds are told.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub version: u8,
    pub priority: u8,
    pub interval_ms: u64,
    pub preempt: bool,
    pub password: Option<&'static str>,
    /// Without weight.
    pub tracker: bool,
    pub peer: Option<&'static str>,
    pub addresses: Vec<&'static str>,
}

impl Wanted {
    /// As the configuration of the seed: version 2, 1 s, a password.
    pub fn new(priority: u8) -> Self {
        Self {
            version: 2,
            priority,
            interval_ms: 1000,
            preempt: true,
            password: Some("aiker>co"),
            tracker: false,
            peer: None,
            addresses: vec![VIRTUAL],
        }
    }

    fn to_line(&self) -> String {
        format!(
            "{} {} {} {} {} {} {} {}",
            self.version,
            self.priority,
            self.interval_ms,
            self.preempt,
            self.password.unwrap_or("-"),
            self.tracker,
            self.peer.unwrap_or("-"),
            self.addresses.join(",")
        )
    }

    /// Instances VI_1, VI_2, ... with ids from 51 on.
    fn plan(lines: &str) -> Vec<Placement> {
        let placement = |(place, line): (usize, &str)| {
            let (name, id) = (format!("VI_{}", place + 1), 51 + place as u8);
            let settings = Self::settings(&name, id, line);
            Placement { interface: "eth0".to_owned(), settings, tracked_interfaces: Vec::new() }
        };
        lines.split(';').enumerate().map(placement).collect()
    }

    fn settings(name: &str, id: u8, line: &str) -> InstanceSettings {
        let words: Vec<&str> = line.split(' ').collect();
        let is = |at: usize| words[at] == "true";
        let addresses = words[7].split(',').map(|text| text.parse().expect("an address"));
        let addresses = addresses.map(VirtualAddress::host).collect();
        let mut settings = InstanceSettings::new(name, id, addresses);
        settings.version = if words[0] == "2" { Version::V2 } else { Version::V3 };
        settings.priority = words[1].parse().expect("a priority");
        settings.advert_interval_us = words[2].parse::<u64>().expect("milliseconds") * 1000;
        settings.preempt = is(3);
        if words[4] != "-" {
            settings.authentication = Authentication::password(words[4].as_bytes());
        }
        if is(5) {
            let name = "check".to_owned();
            settings.trackers = vec![TrackerSettings { name, weight: 0, reverse: false }];
        }
        if words[6] != "-" {
            settings.unicast_peers = vec![words[6].parse().expect("an address")];
        }
        settings
    }

    fn keepalived(&self, source: &str, check: &str) -> String {
        let mut text = String::new();
        if self.tracker {
            let script = format!("script \"/usr/bin/test ! -e {check}\"");
            let _ = writeln!(text, "global_defs {{\n script_user root\n}}");
            let _ = writeln!(text, "vrrp_script check {{\n {script}\n interval 1\n}}");
        }
        let _ = writeln!(text, "vrrp_instance VI_1 {{\n state BACKUP\n interface eth0");
        let _ = writeln!(text, " version {}\n virtual_router_id 51", self.version);
        let _ = writeln!(text, " priority {}", self.priority);
        let _ = writeln!(text, " advert_int {}", self.interval_ms as f64 / 1000.0);
        if !self.preempt {
            let _ = writeln!(text, " nopreempt");
        }
        if let Some(password) = self.password {
            let _ =
                writeln!(text, " authentication {{\n auth_type PASS\n auth_pass {password}\n }}");
        }
        if self.tracker {
            let _ = writeln!(text, " track_script {{\n check\n }}");
        }
        if let Some(peer) = self.peer {
            let _ = writeln!(text, " unicast_src_ip {source}\n unicast_peer {{\n {peer}\n }}");
        }
        let addresses = self.addresses.join("\n ");
        let _ = writeln!(text, " virtual_ipaddress {{\n {addresses}\n }}\n}}");
        text
    }
}

/// Ended by its ids when it is dropped.
pub struct Node<'a> {
    pub kind: Kind,
    pub host: Host,
    lab: &'a Lab,
    child: Child,
    /// Lines that a twinblk node writes.
    lines: Option<Receiver<String>>,
    has_ended: bool,
}

impl<'a> Node<'a> {
    pub fn start(lab: &'a Lab, host: Host, kind: Kind, wanted: &Wanted) -> Self {
        let namespace = lab.namespace(host);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace]).process_group(0);
        match kind {
            Kind::Twinblk => {
                let program = std::env::current_exe().expect("this program");
                command.arg(program).args(["--exact", "node::node_process", "--nocapture"]);
                command.env(SETTINGS, wanted.to_line()).stdin(Stdio::piped());
                command.stdout(Stdio::piped());
            }
            Kind::Keepalived => {
                let file = |name: &str| lab.file(&format!("{host:?}.{name}"));
                let check = file("bad").display().to_string();
                let _ = fs::remove_file(file("bad"));
                fs::write(file("conf"), wanted.keepalived(host.address(), &check))
                    .expect("written");
                command.args(["keepalived", "-n", "-l", "-D", "-P", "-f"]).arg(file("conf"));
                command.arg("-p").arg(file("pid")).arg("-r").arg(file("vrrp.pid"));
                let log = fs::File::create(file("log")).expect("a log");
                command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
            }
        }
        let mut child = command.spawn().expect("ip runs");
        let lines = child.stdout.take().map(|stdout| {
            let (sender, lines) = channel();
            thread::spawn(move || {
                let told = BufReader::new(stdout).lines().map_while(Result::ok);
                let _ = told.map(|line| sender.send(line)).find(Result::is_err);
            });
            lines
        });
        let mut node = Self { kind, host, lab, child, lines, has_ended: false };
        if wanted.tracker {
            node.set_tracker(true);
        }
        node
    }

    /// The check of the instance.
    pub fn set_tracker(&mut self, good: bool) {
        match self.kind {
            Kind::Twinblk => {
                let stdin = self.child.stdin.as_mut().expect("a twinblk node listens");
                writeln!(stdin, "{}", if good { "good" } else { "bad" }).expect("it lives");
            }
            Kind::Keepalived => {
                let file = self.lab.file(&format!("{:?}.bad", self.host));
                if good {
                    let _ = fs::remove_file(file);
                } else {
                    fs::write(file, "").expect("written");
                }
            }
        }
    }

    /// Its configuration is read again; only twinblk nodes are told another one.
    pub fn reload(&mut self, wanted: &[Wanted]) {
        match self.kind {
            Kind::Twinblk => {
                let lines: Vec<String> = wanted.iter().map(Wanted::to_line).collect();
                let stdin = self.child.stdin.as_mut().expect("a twinblk node listens");
                writeln!(stdin, "reload {}", lines.join(";")).expect("it lives");
                self.wait_for_line("reloaded", END_LIMIT);
            }
            Kind::Keepalived => self.signal_first(Signal::HUP),
        }
    }

    /// Waits for what a twinblk node says of itself.
    pub fn wait_for_line(&self, wanted: &str, limit: Duration) {
        let lines = self.lines.as_ref().expect("a twinblk node");
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line.contains(wanted) => return,
                Ok(_) => {}
                Err(_) => panic!("{:?} did not say '{wanted}' within {limit:?}", self.host),
            }
        }
    }

    /// SIGTERM; returns when it was sent. The end is awaited on drop, or by [`Self::ended`].
    pub fn stop(&self) -> Instant {
        let at = Instant::now();
        self.signal_first(Signal::TERM);
        at
    }

    pub fn kill(mut self) -> Instant {
        let at = Instant::now();
        self.signal_all(Signal::KILL);
        self.end();
        at
    }

    pub fn pause(&self) -> Instant {
        self.signal_all(Signal::STOP);
        Instant::now()
    }

    pub fn resume(&self) -> Instant {
        let at = Instant::now();
        self.signal_all(Signal::CONT);
        at
    }

    pub fn ended(mut self) {
        wait_until("the node ends", END_LIMIT, || self.child.try_wait().is_ok_and(|x| x.is_some()));
        self.has_ended = true;
    }

    fn signal_first(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("it lives");
    }

    /// keepalived has a second process that speaks.
    fn signal_all(&self, signal: Signal) {
        for id in self.second_process().into_iter().chain([Pid::from_child(&self.child)]) {
            let _ = kill_process(id, signal);
        }
    }

    fn second_process(&self) -> Option<Pid> {
        let file: PathBuf = self.lab.file(&format!("{:?}.vrrp.pid", self.host));
        let text = fs::read_to_string(file).ok().filter(|_| self.kind == Kind::Keepalived)?;
        Pid::from_raw(text.trim().parse().ok()?)
    }

    fn end(&mut self) {
        let _ = self.child.wait();
        self.has_ended = true;
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.signal_all(Signal::CONT);
            self.signal_all(Signal::KILL);
            self.end();
        }
    }
}

/// Not a test: the guard of such a node.
#[test]
fn guard_process() {
    if std::env::var_os(GUARD).is_some() {
        vrrp::guard::guard(std::io::stdin().lock()).expect("addresses removed");
    }
}

fn reload(commands: &Sender<vrrp::Command>, lines: &str) {
    let plan = Plan { instances: Wanted::plan(lines), groups: Vec::new(), guard: None };
    let (answer, answered) = oneshot::channel();
    let _ = commands.blocking_send(vrrp::Command::Reload { plan, answer });
    if let Ok(difference) = answered.blocking_recv() {
        println!("reloaded {:?}", difference.expect("a right plan"));
    }
}

/// Not a test: the node that [`Node::start`] runs in a namespace. Ends with its standard input.
#[test]
fn node_process() {
    let Ok(line) = std::env::var(SETTINGS) else { return };
    let guard = GuardProgram {
        program: std::env::current_exe().expect("this program"),
        arguments: ["--exact", "node::guard_process", "--nocapture"].map(OsString::from).into(),
        environment: vec![(GUARD.into(), "1".into())],
    };
    let plan = Plan { instances: Wanted::plan(&line), groups: Vec::new(), guard: Some(guard) };
    let handle = vrrp::spawn(plan).expect("a thread");
    let commands = handle.commands.clone();
    thread::spawn(move || {
        let words = std::io::stdin().lines().map_while(Result::ok);
        for word in words {
            if let Some(lines) = word.strip_prefix("reload ") {
                reload(&commands, lines);
                continue;
            }
            let good = word == "good";
            let command = vrrp::Command::Tracker { instance: 0, tracker: 0, good };
            let _ = commands.blocking_send(command);
        }
        let _ = commands.blocking_send(vrrp::Command::Stop);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("one");
    let mut occurrences = handle.occurrences;
    let commands = handle.commands;
    runtime.block_on(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut terminate = tokio::signal::unix::signal(kind).expect("a handler");
        loop {
            tokio::select! {
                occurrence = occurrences.recv() => match occurrence.map(|it| it.kind) {
                    Some(OccurrenceKind::Notify { state, priority }) => {
                        println!("notify {state:?} {priority}");
                    }
                    Some(OccurrenceKind::Said(notice)) => println!("said {notice}"),
                    Some(OccurrenceKind::Reloaded) => {}
                    Some(OccurrenceKind::CannotSend(error)) => println!("error {error}"),
                    None => break,
                },
                _ = terminate.recv() => {
                    let _ = commands.send(vrrp::Command::Stop).await;
                }
            }
        }
    });
    handle.thread.join().expect("no panic").expect("it could run");
}
