//! A small process that outlives this one by a moment: it takes the virtual addresses away when the
//! speaker dies without having done so (vrrp.md 6.2 row 5: keepalived leaves them, and two nodes
//! answer for ever).
//!
//! It is told on its standard input what is held, a line each, and acts when that ends:
//!
//! ```text
//!   + 7 172.16.22.219 32      added, or about to be, on interface 7
//!   - 7 172.16.22.219 32      removed
//! ```

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::netlink::{Netlink, NetlinkError};
use crate::election::settings::VirtualAddress;

/// A daemon that died has closed its sockets after this time; no other node has taken its place by then.
const CLOSING_TIME: Duration = Duration::from_millis(20);
/// Lines longer than any that is sent.
const LINE_BYTES_MAX: usize = 128;
/// What one speaker can hold: 255 virtual routers with 510 addresses each.
const HELD_MAX: usize = 255 * 510;

/// How the guard is started: a program that calls [`guard`] with its standard input.
#[derive(Clone, Debug)]
pub struct GuardProgram {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
}

/// The speaker's end.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    /// Absent after the guard has died.
    input: Option<ChildStdin>,
}

impl Guard {
    pub(super) fn start(with: &GuardProgram) -> io::Result<Self> {
        let mut command = Command::new(&with.program);
        command.args(&with.arguments).envs(with.environment.iter().cloned());
        // What ends the speaker's group must not end it.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// To be told before the address is added.
    pub(super) fn hold(&mut self, interface: u32, address: &VirtualAddress) {
        self.tell('+', interface, address);
    }

    /// To be told after it is removed.
    pub(super) fn release(&mut self, interface: u32, address: &VirtualAddress) {
        self.tell('-', interface, address);
    }

    fn tell(&mut self, sign: char, interface: u32, address: &VirtualAddress) {
        let Some(input) = &mut self.input else { return };
        let line = format!("{sign} {interface} {} {}\n", address.address, address.prefix_length);
        if let Err(error) = input.write_all(line.as_bytes()) {
            tracing::error!("the guard of virtual addresses has died ({error}): they would stay");
            self.input = None;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The guard's process: returns when `input` has ended and nothing is held any more.
pub fn guard(mut input: impl BufRead) -> Result<(), NetlinkError> {
    let mut held = BTreeSet::new();
    let mut line = String::new();
    loop {
        line.clear();
        let count = io::Read::take(&mut input, LINE_BYTES_MAX as u64).read_line(&mut line);
        match count {
            Ok(0) | Err(_) => break,
            Ok(_) => follow(&mut held, line.trim_end()),
        }
    }
    if held.is_empty() {
        return Ok(());
    }
    // Its sockets are being closed just now: what they say is said from these addresses.
    std::thread::sleep(CLOSING_TIME);
    let mut netlink = Netlink::open()?;
    let mut outcome = Ok(());
    for (interface, address, prefix_length) in held {
        let address = VirtualAddress { prefix_length, ..VirtualAddress::host(address) };
        if let Err(error) = netlink.remove_address(interface, &address) {
            outcome = Err(error);
        }
    }
    outcome
}

fn follow(held: &mut BTreeSet<(u32, IpAddr, u8)>, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let [sign, interface, address, length] = words[..] else { return };
    let (Ok(interface), Ok(address), Ok(length)) =
        (interface.parse(), address.parse(), length.parse())
    else {
        return;
    };
    let entry = (interface, address, length);
    match sign {
        "+" if held.len() < HELD_MAX => {
            held.insert(entry);
        }
        "-" => {
            held.remove(&entry);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_and_not_removed_is_held() {
        let mut held = BTreeSet::new();
        for line in ["+ 7 10.0.0.1 32", "+ 7 fe80::1 128", "- 7 10.0.0.1 32", "+ 7", "? 1 2 3", ""]
        {
            follow(&mut held, line);
        }
        assert_eq!(held.into_iter().collect::<Vec<_>>(), [(7, "fe80::1".parse().unwrap(), 128)]);
    }

    #[test]
    fn a_clean_end_needs_no_rights() {
        guard(&b"+ 7 10.0.0.1 32\n- 7 10.0.0.1 32\n"[..]).expect("nothing to do");
    }
}
