//! The small processes that outlive a daemon by a moment. They read until the daemon is gone, and
//! then take away what it left.

use std::io;

use crate::control::outcome::exit;
use crate::daemon::{self, DaemonOptions};
use crate::service::{self, Note};
use crate::vrrp;

/// Virtual addresses.
pub(super) fn addresses() -> u8 {
    match vrrp::guard::guard(io::stdin().lock()) {
        Ok(()) => exit::OK,
        Err(error) => {
            eprintln!("twinblk address-guard: {error}");
            exit::OTHER
        }
    }
}

/// Mounts and programs.
pub(super) fn services(options: &DaemonOptions) -> u8 {
    daemon::start_logging();
    let note = Note::of(&options.run_dir);
    match service::guard::guard(io::stdin().lock(), &note, daemon::end_device(options)) {
        Ok(_) => exit::OK,
        Err(error) => {
            eprintln!("twinblk service-guard: {error}");
            exit::OTHER
        }
    }
}
