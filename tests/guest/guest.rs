//! A test that runs itself in a guest: outside it boots one, inside it is an ordinary test.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Tells the test program that it is inside.
const INSIDE: &str = "TWINBLK_IN_GUEST";
/// Another program than the one just built, say a release build: a path of the host.
const PROGRAM: &str = "TWINBLK_GUEST_PROGRAM";
/// `scripts/guest` could not have one.
const SKIPPED: i32 = 77;
/// No test works longer on two busy cores; the slowest takes a quarter of that.
const LIMIT_S: &str = "240";
/// The kernel node's name in the configuration: DRBD's tools want it to be `uname -n`.
pub const KERNEL_NAME: &str = "kern";

/// Boots a guest with empty disks of these sizes and runs the body in there, by running the calling
/// test again. Call it once in a test, around everything.
pub fn in_guest<Body: FnOnce()>(disks: &[&str], body: Body) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    // "guest::first_sync::kernel_fills_twin::{{closure}}" without the program and the closure.
    let path = std::any::type_name::<Body>().trim_end_matches("::{{closure}}");
    let (_, test) = path.split_once("::").expect("a function of this program");

    let program = env!("CARGO_BIN_EXE_twinblk");
    let given = std::env::var(PROGRAM).unwrap_or_else(|_| program.to_owned());
    let myself = std::env::current_exe().expect("this program");
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/guest");
    let mut command = Command::new(runner);
    command.args(["--host", KERNEL_NAME, "--time-limit", LIMIT_S]);
    for disk in disks {
        command.args(["--disk", disk]);
    }
    command.args(["--add", &format!("{given}:{program}")]);
    command.args(["--add", &format!("{}:/usr/local/bin/guest-test", myself.display())]);
    command.args(["--", "env", &format!("{INSIDE}=1"), "guest-test"]);
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]);
    let started = Instant::now();
    let output = match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => return println!("skipped: scripts/guest cannot be run: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(SKIPPED) {
        return print!("{said}");
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in the guest: {}\n{said}{errors}", output.status);
    assert!(said.contains("test result: ok. 1 passed"), "not the one test: {test}\n{said}");
    println!("{said}{:.0} s with boot", started.elapsed().as_secs_f64());
}
