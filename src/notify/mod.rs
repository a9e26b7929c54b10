//! Tells others what happened to an instance, a group or a server: programs, pipes, mail (vrrp.md 2.4,
//! 7).
//!
//! ```text
//!   event     what happened, in keepalived's words; which programs it runs (pure)
//!   queue     runs them: one after the other for each subject, awaited, in order
//!   fifo      lines into a named pipe, never waiting for a reader
//!   mail      letters to an SMTP server
//!     letter    their text (pure)
//! ```
//!
//! keepalived starts its programs and forgets them: two transitions in a row run side by side, in any
//! order. Here the second waits for the first. What cannot be delivered (a dead mail server, a pipe
//! that nobody reads, a program that hangs) is dropped, counted and logged; it delays nothing else.

use std::time::Duration;

use tokio::time::timeout;

mod event;
mod fifo;
mod letter;
mod mail;
mod queue;
#[cfg(test)]
mod tests;

pub use event::{Event, EventState, Hooks, ServerEvent, Subject};
pub use fifo::{Fifo, FifoError, FifoSettings};
pub use letter::Letter;
pub use mail::{MailSettings, MailStatus, Mailer};
pub use queue::{Done, LaneStatus, Queue, Ticket};

use crate::program::Program;

/// For programs whose configuration says nothing. keepalived never ends one; this is as long as
/// DRBD's handlers have, and longer than a database needs to recover.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(600);

/// All ways of telling.
#[derive(Debug, Default)]
pub struct Notifier {
    pub queue: Queue,
    /// For everything, for VRRP, for servers (`notify_fifo`, `vrrp_notify_fifo`, `lvs_notify_fifo`).
    pub fifos: Vec<(FifoScope, Fifo)>,
    pub mailer: Option<Mailer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FifoScope {
    All,
    Vrrp,
    Servers,
}

impl Notifier {
    /// What becomes of the programs, one ticket each.
    pub fn tell(&mut self, event: &Event, hooks: &Hooks) -> Vec<Ticket> {
        if hooks.reaches_fifo(event) {
            self.write(FifoScope::Vrrp, &event.fifo_line());
        }
        if hooks.sends_mail
            && let (Some(mailer), Some(letter)) = (&self.mailer, event.letter())
        {
            mailer.send(letter);
        }
        let programs = hooks.programs(event);
        programs.into_iter().map(|program| self.queue.push(&event.lane(), program)).collect()
    }

    /// The same for a real or virtual server, whose program was found elsewhere.
    pub fn tell_server(
        &mut self,
        event: &ServerEvent,
        run: Option<Program>,
        sends_mail: bool,
    ) -> Option<Ticket> {
        self.write(FifoScope::Servers, &event.fifo_line());
        if sends_mail && let Some(mailer) = &self.mailer {
            mailer.send(event.letter());
        }
        run.map(|program| self.queue.push(&event.lane(), program))
    }

    fn write(&self, scope: FifoScope, line: &str) {
        for (wants, fifo) in &self.fifos {
            if *wants == FifoScope::All || *wants == scope {
                fifo.write(line);
            }
        }
    }

    /// Lets what was told be carried out, for up to `limit`; what is left then is killed or dropped.
    pub async fn stop(self, limit: Duration) {
        let Self { queue, fifos, mailer } = self;
        let mail = async {
            if let Some(mailer) = mailer {
                mailer.finish().await;
            }
        };
        let _ = timeout(limit, async { tokio::join!(queue.finish(), mail) }).await;
        // After the programs, which may write there themselves.
        for (_, fifo) in fifos {
            fifo.stop().await;
        }
    }
}
