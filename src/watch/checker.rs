//! One health check of a real server, again and again.

use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::Outlet;
use super::get::GetCheck;
use super::pool::CheckerState;
use super::tally::Retries;
use super::tcp::Target;
use crate::program::{self, Ending, Program};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checker {
    pub check: Check,
    pub delay_loop: Duration,
    pub retry: u32,
    pub delay_before_retry: Duration,
    /// The first look comes after a random part of this, so that not all come at once.
    pub warmup: Duration,
    /// Down until found up (`alpha`).
    pub begins_down: bool,
    /// Otherwise only those that change something are told.
    pub logs_all_failures: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Tcp(Target),
    Get(GetCheck),
    Misc(MiscCheck),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MiscCheck {
    /// Its limit is `misc_timeout`; absent: `delay_loop`.
    pub program: Program,
    /// What was written, for the log.
    pub path: String,
    /// An exit code of 2 to 255 is good and sets the weight to that less 2.
    pub is_dynamic: bool,
}

/// What a checker has to say: each finding that differs from the one before, or from what it began as.
#[derive(Debug)]
pub(super) struct Finding {
    pub server: usize,
    pub checker: usize,
    pub state: CheckerState,
    pub reason: String,
}

/// `service` is the real server as keepalived writes it.
pub(super) async fn watch(
    checker: Checker,
    service: String,
    place: (usize, usize),
    findings: mpsc::Sender<Finding>,
    outlet: Outlet,
) {
    if outlet.unless_stopping(sleep(part_of(checker.warmup))).await.is_none() {
        return;
    }
    let Checker { delay_loop, retry, delay_before_retry, .. } = checker;
    let is_up = !checker.begins_down;
    let mut retries = Retries::new(retry, delay_loop, delay_before_retry, is_up);
    let mut told = CheckerState { is_up, weight: None };
    loop {
        let Some(look) = checker.look(&service, &outlet).await else { return };
        let pace = retries.count(look.is_good);
        let kind = checker.check.kind();
        if pace.change == Some(false) {
            tracing::info!("{}", look.text);
            tracing::info!("{kind} on service {service} failed after {retry} retries.");
        } else if pace.change == Some(true) || !look.is_good && checker.logs_all_failures {
            tracing::info!("{}", look.text);
        } else {
            tracing::debug!("{}", look.text);
        }
        // What a failure says about the weight is nothing.
        let weight = if look.is_good { look.weight } else { told.weight };
        let state = CheckerState { is_up: retries.is_up(), weight };
        if state != told {
            told = state;
            let (server, checker) = place;
            let finding = Finding { server, checker, state, reason: look.text };
            if findings.send(finding).await.is_err() {
                return;
            }
        }
        if outlet.unless_stopping(sleep(pace.wait)).await.is_none() {
            return;
        }
    }
}

struct Look {
    is_good: bool,
    weight: Option<i64>,
    text: String,
}

impl Check {
    fn kind(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "TCP_CHECK",
            Self::Get(get) if get.is_tls => "SSL_GET",
            Self::Get(_) => "HTTP_GET",
            Self::Misc(_) => "MISC_CHECK",
        }
    }
}

impl Checker {
    /// `None`: it shall end.
    async fn look(&self, service: &str, outlet: &Outlet) -> Option<Look> {
        match &self.check {
            Check::Tcp(target) => {
                let connected = outlet.unless_stopping(target.connect()).await?;
                let text = match &connected {
                    Ok(_) => format!("TCP connection to {target} success."),
                    Err(error) => format!("TCP connection to {target} failed: {error}."),
                };
                Some(Look { is_good: connected.is_ok(), weight: None, text })
            }
            Check::Get(get) => {
                let got = outlet.unless_stopping(get.look()).await?;
                let text = match &got {
                    Ok(()) => format!("Remote Web server {} succeed on service.", get.target),
                    Err(error) => error.to_string(),
                };
                Some(Look { is_good: got.is_ok(), weight: None, text })
            }
            Check::Misc(misc) => misc.look(service, self.delay_loop, outlet).await,
        }
    }
}

impl MiscCheck {
    async fn look(&self, service: &str, delay_loop: Duration, outlet: &Outlet) -> Option<Look> {
        let mut program = self.program.clone();
        program.limit.get_or_insert(delay_loop);
        let outcome = program::run_until(&program, outlet.stopping(), |_| {}).await;
        if outlet.is_stopping() {
            return None;
        }
        let (is_good, weight) = match outcome.ending {
            Ending::Exited(0) => (true, None),
            Ending::Exited(code @ 2..=255) if self.is_dynamic => (true, Some(i64::from(code) - 2)),
            _ => (false, None),
        };
        let found = match &outcome.ending {
            _ if is_good => "success".to_owned(),
            Ending::TimedOut { .. } => "timed out".to_owned(),
            other => format!("failed ({other})"),
        };
        let said = match outcome.output.last().filter(|_| !is_good) {
            Some(line) => format!(": {line}"),
            None => ".".to_owned(),
        };
        let text = format!("Misc check to {service} for [{}] {found}{said}", self.path);
        Some(Look { is_good, weight, text })
    }
}

fn part_of(whole: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness all come at once, which is no harm.
    let _ = SystemRandom::new().fill(&mut bytes);
    whole.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}
