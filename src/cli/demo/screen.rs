//! What is shown while the demo runs: one line per finding on standard output, and, on a terminal,
//! one line that moves below them.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use twinblk_proto::state::DiskState;

use super::pair::{Node, RESOURCE};
use crate::cli::progress::Progress;
use crate::control::Command;

/// The states are asked for this often.
const REFRESH: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Screen {
    quiet: bool,
    moving: ProgressBar,
    shown_at: Option<Instant>,
    lines: u32,
}

impl Screen {
    pub(super) fn new(quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let moving = ProgressBar::with_draw_target(None, target);
        moving.set_style(
            ProgressStyle::with_template("   {spinner} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        Self { quiet, moving, shown_at: None, lines: 0 }
    }

    /// A finding, numbered.
    pub(super) fn line(&mut self, text: &str) {
        if self.quiet {
            return;
        }
        if text.starts_with(' ') {
            return self.moving.suspend(|| println!("{text}"));
        }
        self.lines += 1;
        let number = self.lines;
        self.moving.suspend(|| println!("{number:2}. {text}"));
    }

    pub(super) fn clear(&self) {
        self.moving.finish_and_clear();
    }

    /// The live states of the nodes while data is written.
    pub(super) fn states(&mut self, nodes: &[&Node], acknowledged: u64) {
        let due = self.shown_at.is_none_or(|at| at.elapsed() >= REFRESH);
        if !due || self.moving.is_hidden() {
            return;
        }
        self.shown_at = Some(Instant::now());
        let states: Vec<String> = nodes
            .iter()
            .map(|node| match node.status() {
                Ok(s) => format!("{}: {} {} {}", node.name, s.role, s.connection, s.disk),
                Err(_) => format!("{}: gone", node.name),
            })
            .collect();
        self.moving.set_message(format!("{} | {acknowledged} writes", states.join(" | ")));
        self.moving.tick();
    }

    /// The resync of a target, with a bar, until its disk is UpToDate.
    pub(super) fn follow_resync(&mut self, target: &Node, limit: Duration) -> Result<()> {
        self.clear();
        let bar = Progress::new(self.quiet);
        let deadline = Instant::now() + limit;
        let mut reason = String::new();
        let mut done = false;
        let mut client = target.control()?;
        client.follow(Some(RESOURCE), Command::Watch, None, |mut resources| {
            if let Some(status) = resources.pop() {
                bar.show(&status);
                done = status.disk == DiskState::UpToDate
                    && !status.is_resyncing()
                    && status.peer_disk == DiskState::UpToDate;
                reason = status.reason;
            }
            !done && Instant::now() < deadline
        })?;
        bar.finish();
        if !done {
            bail!("the resync of {} did not end within {limit:?}: {reason}", target.name);
        }
        Ok(())
    }
}

/// A size as people read it.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64),
    }
}
