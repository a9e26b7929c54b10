//! What moves on a terminal while somebody waits. It goes to standard error, so that standard output
//! stays what it is; without a terminal nothing is drawn.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::show;
use crate::control::ResourceStatus;

/// Thousandths: the bar's own numbers; bytes and speed stand in the message.
const STEPS: u64 = 1000;

/// One line that says how far a resource is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Draws nothing if `quiet`, or if there is no terminal.
    pub(super) fn new(quiet: bool) -> Self {
        let target = if quiet || !std::io::stderr().is_terminal() {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        let style = ProgressStyle::with_template("{prefix} [{bar:20}] {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=>."));
        Self { bar }
    }

    pub(super) fn show(&self, status: &ResourceStatus) {
        self.bar.set_prefix(format!("{}: {}", status.name, status.connection));
        match &status.resync {
            Some(resync) => {
                self.bar.set_position((resync.done_fraction * STEPS as f64) as u64);
                let text = show::bar(resync);
                // The bar itself is drawn here already.
                let text = text.split_once("] ").map_or(text.as_str(), |(_, rest)| rest);
                self.bar.set_message(text.to_owned());
            }
            None => {
                self.bar.set_position(0);
                self.bar.set_message(status.reason.clone());
            }
        }
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
