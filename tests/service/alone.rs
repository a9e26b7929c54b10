//! A test alone with its processes and mounts; whatever it leaves ends with it.

use std::future::Future;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Set inside.
const INSIDE: &str = "TWINBLK_TEST_ALONE";
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Runs `test`, which is the test called `name`, in namespaces of its own.
pub fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root, so nothing can be mounted");
        return;
    }
    let flags = ["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"];
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.args(flags).args(["--kill-child", "--"]).arg(program);
    command.args(["--exact", name, "--nocapture", "--test-threads", "1"]).env(INSIDE, "1");
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: no unshare (util-linux): {error}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("unshare: unshare failed") {
        println!("skipped: no namespaces: {}", errors.trim());
        return;
    }
    for line in said.lines().filter(|line| line.starts_with("skipped: ")) {
        println!("{line}");
    }
    assert!(output.status.success(), "inside: {}\n{said}\n{errors}", output.status);
    assert!(said.contains("1 passed"), "there is no test {name}: {said}");
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(work)
}

pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK_PAUSE);
    }
}

pub fn is_there(program: &str) -> bool {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&folders).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    folders.iter().any(|folder| folder.join(program).exists())
}

/// Its standard output.
pub fn must(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
