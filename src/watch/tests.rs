//! Trackers at work, on this machine. Each test waits for reports.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::*;
use crate::program::Program;

const LONG: Duration = Duration::from_secs(30);

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

fn script(text: &str) -> ScriptTracker {
    ScriptTracker {
        name: "chk".to_owned(),
        program: Program::shell(text),
        interval: Duration::from_millis(50),
        rise: 1,
        fall: 1,
        begins_bad: false,
        is_ignored_when_missing: false,
    }
}

fn start(tracker: Tracker) -> Watch {
    Watch::start(Plan { trackers: vec![tracker], servers: Vec::new() })
}

async fn next(watch: &mut Watch) -> (Reading, String) {
    match timeout(LONG, watch.reports.recv()).await.expect("a report in time") {
        Some(Report::Tracker { tracker: 0, reading, reason }) => (reading, reason),
        other => panic!("{other:?}"),
    }
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_script_is_reported_when_its_verdict_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (bad, runs) = (folder.path().join("bad"), folder.path().join("runs"));
    let text = format!(
        "echo >> '{runs}'; if [ -e '{bad}' ]; then echo no service; exit 3; fi",
        runs = runs.display(),
        bad = bad.display()
    );
    on_runtime(async {
        let mut watch = start(Tracker::Script(ScriptTracker { fall: 3, ..script(&text) }));
        let good = next(&mut watch).await;
        assert_eq!(good, (Reading::Good, "VRRP_Script(chk) succeeded".to_owned()));
        let before = lines(&runs);
        fs::write(&bad, "").expect("written");
        let (reading, reason) = next(&mut watch).await;
        assert_eq!(reading, Reading::Bad);
        assert_eq!(reason, "VRRP_Script(chk) failed (exited with status 3): no service");
        assert!(lines(&runs) >= before + 3, "it fell without falling three times");
        fs::remove_file(&bad).expect("removed");
        assert_eq!(next(&mut watch).await.0, Reading::Good);
        watch.stop().await;
    });
}

#[test]
fn a_script_that_hangs_has_failed_and_never_runs_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let lock = folder.path().join("lock");
    let runs = folder.path().join("runs");
    // mkdir fails for the second of two at once.
    let text = format!(
        "mkdir '{lock}' || echo twice >> '{runs}'; trap 'rmdir \"{lock}\"; exit' TERM; \
         echo once >> '{runs}'; while :; do sleep 0.01; done",
        lock = lock.display(),
        runs = runs.display()
    );
    on_runtime(async {
        let mut watch = start(Tracker::Script(script(&text)));
        let (reading, reason) = next(&mut watch).await;
        assert_eq!(reading, Reading::Bad);
        assert!(reason.starts_with("VRRP_Script(chk) timed out"), "{reason}");
        until("it is run again", || lines(&runs) >= 3).await;
        watch.stop().await;
    });
    let text = fs::read_to_string(&runs).expect("it ran");
    assert!(!text.contains("twice"), "{text}");
    assert!(!lock.exists(), "it was asked to end before it was killed");
}

#[test]
fn a_missing_script_fails_or_is_ignored_as_configured() {
    on_runtime(async {
        for (ignored, expected) in [(false, Reading::Bad), (true, Reading::Number(0))] {
            let mut tracker = script("/no/such/script.sh argument");
            tracker.is_ignored_when_missing = ignored;
            let mut watch = start(Tracker::Script(tracker));
            assert_eq!(next(&mut watch).await.0, expected);
            watch.stop().await;
        }
        let tracker = ScriptTracker { begins_bad: true, rise: 2, ..script("true") };
        let mut watch = start(Tracker::Script(tracker));
        assert_eq!(next(&mut watch).await.0, Reading::Bad);
        assert_eq!(next(&mut watch).await.0, Reading::Good);
        watch.stop().await;
    });
}

/// `systemctl stop keepalived` from the check itself waits for the daemon to end, which must not wait
/// for the check.
#[test]
fn a_check_that_stops_the_daemon_does_not_hold_it_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let (asked, gone) = (folder.path().join("asked"), folder.path().join("gone"));
    let text = format!(
        "echo >> '{asked}'; until [ -e '{gone}' ]; do sleep 0.01; done",
        asked = asked.display(),
        gone = gone.display()
    );
    on_runtime(async {
        let mut tracker = script(&text);
        tracker.interval = Duration::from_secs(1000);
        let watch = start(Tracker::Script(tracker));
        until("it asks", || lines(&asked) == 1).await;
        timeout(LONG, watch.stop()).await.expect("nobody waits for anybody");
        fs::write(&gone, "").expect("written");
    });
}

#[test]
fn processes_come_and_go() {
    let mark = format!("twinblk-test-{}", std::process::id());
    let command = |count: usize| ProcessTracker {
        name: "sleepers".to_owned(),
        pattern: ProcessPattern::Command {
            words: vec!["sh".to_owned(), "-c".to_owned(), "sleep 1000; :".to_owned(), mark.clone()],
            parameters: ParameterMatch::Exact,
        },
        quorum: count,
        quorum_max: None,
        fork_delay: Duration::ZERO,
        terminate_delay: Duration::ZERO,
    };
    on_runtime(async {
        let mut watch = start(Tracker::Process(command(2)));
        assert_eq!(next(&mut watch).await.0, Reading::Bad);
        let program = Program::arguments(["sh", "-c", "sleep 1000; :", &mark]);
        let (one, two) = (program.clone(), program);
        let first = tokio::spawn(async move { crate::program::run(&one).await });
        let second = tokio::spawn(async move { crate::program::run(&two).await });
        let (reading, reason) = next(&mut watch).await;
        assert_eq!(reading, Reading::Good);
        assert_eq!(reason, "Quorum gained for tracked process sleepers: 2 running");
        second.abort();
        assert_eq!(next(&mut watch).await.0, Reading::Bad);
        first.abort();
        watch.stop().await;
    });
}

#[test]
fn a_file_is_followed_through_replacement_and_removal() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weight");
    on_runtime(async {
        let initial = Some(InitialContent { value: 4, overwrites: false });
        let file = FileTracker { name: "load".to_owned(), path: path.clone(), initial };
        let mut watch = start(Tracker::File(file));
        assert_eq!(next(&mut watch).await.0, Reading::Number(4));
        fs::write(&path, "-10\n").expect("written");
        assert_eq!(next(&mut watch).await.0, Reading::Number(-10));
        let other = folder.path().join("other");
        fs::write(&other, "12").expect("written");
        fs::rename(&other, &path).expect("replaced");
        assert_eq!(next(&mut watch).await.0, Reading::Number(12));
        fs::remove_file(&path).expect("removed");
        assert_eq!(next(&mut watch).await.0, Reading::Number(0));
        watch.stop().await;
    });
}
