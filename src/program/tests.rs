//! Programs on this machine: what is told about their end, and that nothing of them stays.

use std::cell::RefCell;
use std::fs;
use std::future::pending;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

/// The program's end, and its output as it came.
fn end_of(program: &Program) -> (Outcome, Vec<String>) {
    let lines = RefCell::new(Vec::new());
    let on_line = |line: &str| lines.borrow_mut().push(line.to_owned());
    let outcome = on_runtime(run_until(program, pending(), on_line));
    (outcome, lines.into_inner())
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn script(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("script.sh");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

/// The number that a script has written there, once it has.
fn pid_in(path: &Path) -> Option<Pid> {
    let text = fs::read_to_string(path).ok()?;
    Pid::from_raw(text.strip_suffix('\n')?.parse().ok()?)
}

/// A signal takes a moment, and an orphan is a zombie until its new parent reaps it.
fn wait_for_end(pid: Pid) {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let limit = Instant::now() + LONG;
    while fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < limit, "process {pid:?} lives on");
        std::thread::yield_now();
    }
}

#[test]
fn the_end_and_the_output_are_told() {
    for (text, ending, output) in [
        ("echo one; echo two >&2; echo three; exit 4", "exited with status 4", "one two three"),
        ("true", "exited with status 0", ""),
        ("printf 'no line end'", "exited with status 0", "no line end"),
        ("kill -KILL $$", "was killed by signal 9", ""),
        ("read line; echo \"<$line>\"", "exited with status 0", "<>"),
        ("pwd", "exited with status 0", "/"),
    ] {
        let (outcome, lines) = end_of(&Program::shell(text));
        assert_eq!(outcome.ending.to_string(), ending, "{text}");
        assert_eq!(lines.join(" "), output, "{text}");
        assert_eq!(outcome.output, lines);
    }
    let (outcome, _) = end_of(&Program::shell("/no/such/program"));
    assert!(matches!(outcome.ending, Ending::Exited(127)), "{outcome:?}");
    let (outcome, _) = end_of(&Program::arguments(["/no/such/program"]));
    let told = outcome.ending.to_string();
    assert!(told.starts_with("could not be started: No such file"), "{told}");
    let (outcome, _) = end_of(&Program::arguments::<&str>([]));
    assert_eq!(outcome.ending.to_string(), "could not be started: no program is named");
}

#[test]
fn arguments_and_environment_arrive_as_they_are() {
    let mut program = Program::arguments([
        "sh",
        "-c",
        "printf '%s|' \"$@\" \"$A_NAME\"",
        "sh",
        "a b",
        "$HOME",
        "",
    ]);
    program.environment.push(("A_NAME".into(), "r 0".into()));
    let (outcome, _) = end_of(&program);
    assert_eq!(outcome.output, ["a b|$HOME||r 0|"]);
}

#[test]
fn a_script_without_its_first_line_is_run_by_the_shell() {
    let folder = folder();
    let path = script(&folder, "echo \"$0 $#: $1\"; exit 3\n");
    let program = Program::arguments([path.as_os_str(), "with blank".as_ref()]);
    let (outcome, _) = end_of(&program);
    assert!(matches!(outcome.ending, Ending::Exited(3)), "{outcome:?}");
    assert_eq!(outcome.output, [format!("{} 1: with blank", path.display())]);
    let (outcome, _) = end_of(&Program::shell(&format!("{} x", path.display())));
    assert!(matches!(outcome.ending, Ending::Exited(3)), "{outcome:?}");
}

#[test]
fn another_user_has_only_its_own_rights() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can run programs as another user");
        return;
    }
    let mut program = Program::shell("id -u; id -G");
    program.identity = Some(Identity { user_id: 65534, group_id: 65533 });
    let (outcome, _) = end_of(&program);
    assert_eq!(outcome.output, ["65534", "65533"]);
}

#[test]
fn who_takes_too_long_is_ended_with_all_children() {
    let folder = folder();
    let pid_file = folder.path().join("pid");
    let text = format!("trap '' TERM; sleep 1000 & echo $! > '{}'; wait; wait", pid_file.display());
    let begin = Instant::now();
    let (outcome, _) = end_of(&Program::shell(&text).with_limit(Duration::from_millis(300)));
    assert_eq!(outcome.ending.to_string(), "did not end within 300 ms and was killed");
    assert!(begin.elapsed() >= GRACE, "it had its time to end by itself");
    wait_for_end(pid_in(&pid_file).expect("the child was started"));
}

#[test]
fn who_ends_when_asked_is_not_waited_for_longer() {
    let program =
        Program::shell("trap 'echo asked; exit 0' TERM; echo begun; while :; do sleep 0.01; done");
    let (outcome, _) = end_of(&program.clone().with_limit(Duration::from_millis(300)));
    assert!(matches!(outcome.ending, Ending::TimedOut { .. }), "{outcome:?}");
    assert_eq!(outcome.output.last().map(String::as_str), Some("asked"));
    // It is not wanted any more as soon as it has said something.
    let begun = tokio::sync::Notify::new();
    let outcome = on_runtime(run_until(&program, begun.notified(), |_| begun.notify_one()));
    assert!(matches!(outcome.ending, Ending::Cancelled), "{outcome:?}");
    assert_eq!(outcome.output.last().map(String::as_str), Some("asked"));
}

#[test]
fn whoever_stops_waiting_leaves_neither_process_nor_zombie() {
    let folder = folder();
    let pid_file = folder.path().join("pid");
    let text = format!("sleep 1000 & echo $! > '{}'; echo $$; wait", pid_file.display());
    let leader = RefCell::new(None);
    on_runtime(async {
        let program = Program::shell(&text);
        let begun = tokio::sync::Notify::new();
        let on_line = |line: &str| {
            *leader.borrow_mut() = Pid::from_raw(line.parse().expect("a number"));
            begun.notify_one();
        };
        tokio::select! {
            outcome = run_until(&program, pending(), on_line) => panic!("{outcome:?}"),
            () = begun.notified() => {}
        }
        // The runtime reaps it beside its other work.
        let leader = leader.borrow().expect("begun");
        let path = format!("/proc/{}", leader.as_raw_nonzero());
        let limit = Instant::now() + LONG;
        while Path::new(&path).exists() {
            assert!(Instant::now() < limit, "a zombie stays");
            let _ = run(&Program::arguments(["true"])).await;
        }
    });
    wait_for_end(pid_in(&pid_file).expect("the child was started"));
}

#[test]
fn a_flood_of_output_is_cut() {
    let (outcome, lines) =
        end_of(&Program::shell("yes 0123456789 | head -c 1000000; echo; echo last"));
    assert!(outcome.ending.is_success());
    let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
    assert!((8 << 10..=16 << 10).contains(&bytes), "{bytes}");
    assert_eq!(outcome.output.len(), 8);
    assert_eq!(outcome.output.last().map(String::as_str), Some("last"));
    let (outcome, _) = end_of(&Program::shell("head -c 100000 /dev/zero"));
    let bytes: usize = outcome.output.iter().map(String::len).sum();
    assert!(bytes <= 8 << 10, "{bytes}");
}

#[test]
fn a_service_in_the_background_holds_nobody_up_and_may_go_on_writing() {
    let folder = folder();
    let (go, done) = (folder.path().join("go"), folder.path().join("done"));
    let text = format!(
        "( until [ -e '{go}' ]; do sleep 0.01; done; echo alive && echo alive > '{done}' ) & exit 0",
        go = go.display(),
        done = done.display()
    );
    on_runtime(async {
        let outcome = run(&Program::shell(&text)).await;
        assert!(outcome.ending.is_success(), "{outcome:?}");
        fs::write(&go, "").expect("written");
        let limit = Instant::now() + LONG;
        while !fs::read_to_string(&done).is_ok_and(|text| text == "alive\n") {
            assert!(Instant::now() < limit, "it died of a closed output");
            let _ = run(&Program::arguments(["true"])).await;
        }
    });
}

#[test]
fn a_program_that_somebody_else_can_write_is_not_run_as_root() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can run programs as another user");
        return;
    }
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("opened");
    let path = script(&folder, "#!/bin/sh\nexit 0\n");
    let mut program = Program::arguments([&path]);
    let (outcome, _) = end_of(&program);
    assert!(outcome.ending.is_success(), "nobody asked");
    program.is_root_only = true;
    let (outcome, _) = end_of(&program);
    let told = outcome.ending.to_string();
    assert!(told.contains("writable by others than root"), "{told}");
    let mut text = Program::shell(&format!("{} argument", path.display()));
    text.is_root_only = true;
    let (outcome, _) = end_of(&text);
    assert!(matches!(outcome.ending, Ending::NotStarted(_)), "{outcome:?}");
    program.identity = Some(Identity { user_id: 65534, group_id: 65534 });
    let (outcome, _) = end_of(&program);
    assert!(outcome.ending.is_success(), "no rights to gain: {outcome:?}");
    let (outcome, _) = end_of(&Program { is_root_only: true, ..Program::arguments(["true"]) });
    assert!(outcome.ending.is_success(), "{outcome:?}");
}
