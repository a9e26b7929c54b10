//! How a command ended: DRBD's text and exit code, then what it means here and what to try next.

use serde::{Deserialize, Serialize};

/// Exit codes of the tools that people script against (behaviour.md 7.2).
pub mod exit {
    pub const OK: u8 = 0;
    /// Usage, an unknown resource, a cancelled operation.
    pub const USAGE: u8 = 1;
    /// Disk state is lower than outdated; a wait that ran out.
    pub const TIMEOUT: u8 = 5;
    /// `Failure: (1NN) text`; a configuration that does not load.
    pub const FAILURE: u8 = 10;
    /// `State change failed: (-N) text`.
    pub const STATE_CHANGE: u8 = 11;
    /// -4: no local disk.
    pub const NO_LOCAL_DISK: u8 = 16;
    /// -2: no UpToDate data.
    pub const NO_UP_TO_DATE: u8 = 17;
    /// Everything else: no daemon, metadata that cannot be read.
    pub const OTHER: u8 = 20;
    /// `create-md` would cut off data that is in use.
    pub const WOULD_TRUNCATE: u8 = 40;
}

/// The end of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Outcome {
    /// Without this it is no outcome: a success is said, never assumed.
    pub exit_code: u8,
    /// DRBD's number: negative for a refused state change, 1NN for a failure, 0 when there is none.
    #[serde(default)]
    pub code: i32,
    /// One line, as the original tools word it; empty on success.
    #[serde(default)]
    pub message: String,
    /// What happened here, a sentence.
    #[serde(default)]
    pub detail: String,
    /// The next command to try.
    #[serde(default)]
    pub hint: String,
}

impl Outcome {
    pub fn done() -> Self {
        Self::default()
    }

    pub fn is_done(&self) -> bool {
        self.exit_code == exit::OK
    }

    /// A refusal with DRBD's number: `code` < 0 is a state change (behaviour.md 1.5), `code` > 100
    /// a failure (7.2).
    pub fn refused(object: &str, code: i32, text: &str, detail: &str, hint: &str) -> Self {
        let (exit_code, form) = match code {
            -2 => (exit::NO_UP_TO_DATE, "State change failed"),
            -4 => (exit::NO_LOCAL_DISK, "State change failed"),
            -16 => (exit::TIMEOUT, "State change failed"),
            i32::MIN..0 => (exit::STATE_CHANGE, "State change failed"),
            _ => (exit::FAILURE, "Failure"),
        };
        Self {
            exit_code,
            code,
            message: format!("{object}: {form}: ({code}) {text}"),
            detail: detail.to_owned(),
            hint: hint.to_owned(),
        }
    }

    /// A failure without a number of DRBD's.
    pub fn failed(exit_code: u8, message: impl Into<String>) -> Self {
        debug_assert_ne!(exit_code, exit::OK);
        Self { exit_code, message: message.into(), ..Self::default() }
    }

    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// The resource is in the configuration but not up.
    pub fn no_such_resource(name: &str) -> Self {
        Self {
            exit_code: exit::FAILURE,
            code: 158,
            message: format!("{name}: No such resource"),
            detail: format!("{name} is not up on this node"),
            hint: format!("twinblk up {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_number() {
        let code = |number| Outcome::refused("r0", number, "x", "", "").exit_code;
        assert_eq!(code(-1), 11);
        assert_eq!(code(-2), 17);
        assert_eq!(code(-4), 16);
        assert_eq!(code(-12), 11);
        assert_eq!(code(-16), 5);
        assert_eq!(code(127), 10);
    }

    #[test]
    fn messages_have_the_form_that_scripts_look_for() {
        let outcome = Outcome::refused("r0", -2, "Need access to UpToDate data", "", "");
        assert_eq!(outcome.message, "r0: State change failed: (-2) Need access to UpToDate data");
        let outcome = Outcome::refused("r0", 102, "Local address(port) already in use.", "", "");
        assert_eq!(outcome.message, "r0: Failure: (102) Local address(port) already in use.");
    }
}
