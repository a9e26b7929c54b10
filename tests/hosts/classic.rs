//! The classic pairs as people have them, run by the program under the name `keepalived`
//! (vrrp.md 2.2): their files with nothing changed but the places of their scripts.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Host, Lab, wait_until};
use crate::watch::in_namespace;

const NGINX: [&str; 2] = [
    include_str!("../data/keepalived/nginx-a.conf"),
    include_str!("../data/keepalived/nginx-b.conf"),
];
const MYSQL: [&str; 2] = [
    include_str!("../data/keepalived/mysql-a.conf"),
    include_str!("../data/keepalived/mysql-b.conf"),
];
/// A start (3.7 s), or a check (3 s) and an election, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A process named keepalived, with a run directory of its own.
struct Keepalived {
    child: Child,
}

impl Keepalived {
    fn start(lab: &Lab, host: Host, config: &str) -> Self {
        let name = lab.file("keepalived");
        if !name.exists() {
            symlink(env!("CARGO_BIN_EXE_twinblk"), &name).expect("a link");
        }
        let file = lab.file(&format!("{host:?}.conf"));
        fs::write(&file, config).expect("written");
        let log = fs::File::create(lab.file(&format!("{host:?}.log"))).expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", &lab.namespace(host), "sh", "-c"])
            .arg("mount -t tmpfs none /run && exec \"$0\" -n -l -D -f \"$1\"")
            .arg(&name)
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("ip");
        Self { child }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    fn name(&self) -> String {
        fs::read_to_string(format!("/proc/{}/comm", self.id())).unwrap_or_default()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.id() as i32).expect("our child");
        kill_process(id, signal).expect("our child");
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script(lab: &Lab, name: &str, text: &str) -> PathBuf {
    let path = lab.file(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

/// As root: the lab's folder is nobody else's.
fn with_scripts(config: &str, changes: &[(&str, String)]) -> String {
    let mut text = config.replacen("global_defs {", "global_defs {\n   script_user root", 1);
    for (old, new) in changes {
        assert!(text.contains(old), "the file has no '{old}'");
        text = text.replace(old, new);
    }
    text
}

#[test]
fn the_nginx_pair_follows_its_check() {
    let Some(lab) = Lab::new() else { return };
    let (fail, told) = (lab.file("fail"), lab.file("told"));
    // Without the line that names its interpreter, as it is shown in the classic text.
    let check = script(&lab, "check_ng.sh", &format!("[ ! -e {} ]\n", fail.display()));
    let notify = format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display());
    let notify = script(&lab, "notify.sh", &notify);
    let config = |text: &str| {
        let name = notify.display();
        let changes = [
            ("/usr/local/sbin/check_ng.sh", check.display().to_string()),
            ("    track_script {", format!("    notify {name}\n    track_script {{")),
        ];
        with_scripts(text, &changes)
    };
    let first = Keepalived::start(&lab, Host::A, &config(NGINX[0]));
    let _second = Keepalived::start(
        &lab,
        Host::B,
        &NGINX[1].replace("/usr/local/sbin/check_ng.sh", "/bin/true"),
    );
    wait_until("the first one serves", LIMIT, || lab.holds_address(Host::A));
    assert_eq!(first.name(), "keepalived\n", "what pkill looks for");
    assert!(!lab.holds_address(Host::B));

    fs::write(&fail, "").expect("written");
    wait_until("the second one serves", LIMIT, || lab.holds_address(Host::B));
    assert!(!lab.holds_address(Host::A));
    fs::remove_file(&fail).expect("there");
    wait_until("the first one is back", LIMIT, || lab.holds_address(Host::A));
    wait_until("the second one yields", LIMIT, || !lab.holds_address(Host::B));
    let lines = || fs::read_to_string(&told).unwrap_or_default();
    wait_until("the last program has run", LIMIT, || lines().lines().count() == 5);
    let states: Vec<String> = lines().lines().map(str::to_owned).collect();
    let expected = ["BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER"];
    assert_eq!(states, expected.map(|state| format!("INSTANCE VI_1 {state} 100")));

    // `systemctl stop keepalived`
    first.terminate();
    let took = wait_until("the second one serves", LIMIT, || lab.holds_address(Host::B));
    assert!(took < Duration::from_secs(3), "priority 0 was sent: {took:?}");
    assert!(!lab.holds_address(Host::A));
}

/// What monitoring and `systemctl reload` send.
#[test]
fn signals_show_and_reload_and_end_nothing() {
    let Some(lab) = Lab::new() else { return };
    let told = lab.file("told");
    let notify = format!("#!/bin/sh\necho \"$@\" >> {}\n", told.display());
    let notify = script(&lab, "notify.sh", &notify);
    let config = |changes: &[(&str, &str)]| {
        let mut text = with_scripts(
            NGINX[0],
            &[
                ("/usr/local/sbin/check_ng.sh", "/bin/true".to_owned()),
                (
                    "    track_script {",
                    format!("    notify {}\n    track_script {{", notify.display()),
                ),
            ],
        );
        for (old, new) in changes {
            assert!(text.contains(old), "the file has no '{old}'");
            text = text.replace(old, new);
        }
        text
    };
    let file = lab.file("A.conf");
    let log = || fs::read_to_string(lab.file("A.log")).unwrap_or_default();
    let mut node = Keepalived::start(&lab, Host::A, &config(&[]));
    wait_until("it serves", LIMIT, || lab.holds_address(Host::A));
    let told = || fs::read_to_string(&told).unwrap_or_default();
    wait_until("the last program has run", LIMIT, || told().lines().count() == 2);

    for signal in [Signal::USR1, Signal::USR2] {
        let shown = || log().matches("(VI_1) MASTER priority 100").count();
        let before = shown();
        node.signal(signal);
        wait_until("it says what runs", LIMIT, || shown() > before);
    }

    // A mistake changes nothing.
    fs::write(&file, config(&[("priority 100", "priority many")])).expect("written");
    node.signal(Signal::HUP);
    wait_until("it says what is wrong", LIMIT, || log().contains("not reloaded"));
    assert!(lab.holds_address(Host::A));

    fs::write(&file, config(&[("priority 100", "priority 120")])).expect("written");
    node.signal(Signal::HUP);
    let goes_on = "configuration reloaded: VI_1 goes on under other settings";
    wait_until("it is reloaded", LIMIT, || log().contains(goes_on));
    let shown = || log().contains("(VI_1) MASTER priority 120");
    wait_until("the new priority counts", LIMIT, || {
        node.signal(Signal::USR1);
        shown()
    });
    assert!(lab.holds_address(Host::A));
    assert_eq!(told().lines().count(), 2, "nothing has happened: {}", told());

    fs::write(&file, config(&[("vrrp_instance VI_1", "vrrp_instance VI_2")])).expect("written");
    node.signal(Signal::HUP);
    wait_until("it is another one", LIMIT, || {
        log().contains("configuration reloaded: VI_2 is new, VI_1 ends")
    });
    wait_until("the deleted one is told", LIMIT, || told().contains("INSTANCE VI_1 FAULT 120"));
    wait_until("the new one serves", LIMIT, || told().contains("INSTANCE VI_2 MASTER 100"));
    wait_until("under the same address", LIMIT, || lab.holds_address(Host::A));
    assert!(!node.has_ended());
}

#[test]
fn the_mysql_pair_ends_itself_when_its_server_is_down() {
    let Some(lab) = Lab::new() else { return };
    let listen = |host: Host| {
        let address = format!("{}:3306", host.address());
        in_namespace(&lab, host, || TcpListener::bind(address).expect("nobody listens there"))
    };
    let (server, _other) = (listen(Host::A), listen(Host::B));
    // What `pkill keepalived` does, without reaching those of other tests.
    let id = lab.file("A.pid");
    let kill = script(&lab, "mysql.sh", &format!("#!/bin/sh\nkill $(cat {})\n", id.display()));
    let config = |text: &str| {
        let changes = [("/usr/local/sbin/mysql.sh", kill.display().to_string())];
        with_scripts(text, &changes)
    };
    let mut first = Keepalived::start(&lab, Host::A, &config(MYSQL[0]));
    fs::write(&id, first.id().to_string()).expect("written");
    wait_until("the first one serves", LIMIT, || lab.holds_address(Host::A));
    let _second = Keepalived::start(&lab, Host::B, &config(MYSQL[1]));

    drop(server);
    // delay_loop, and three retries 3 s apart: up to 14 s, then an election.
    wait_until("the second one serves", 2 * LIMIT, || lab.holds_address(Host::B));
    wait_until("the first one has ended", LIMIT, || first.has_ended());
    assert!(!lab.holds_address(Host::A));

    // nopreempt: it stays where it is.
    let _server = listen(Host::A);
    let _first = Keepalived::start(&lab, Host::A, &config(MYSQL[0]));
    let log = lab.file("A.log");
    wait_until("the first one is a backup", LIMIT, || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("Entering BACKUP STATE"))
    });
    assert!(lab.holds_address(Host::B) && !lab.holds_address(Host::A));
}
