//! What happened, in the words that keepalived's scripts and pipes are given (keepalived.conf(5),
//! vrrp.md 2.4). No I/O.

use std::ffi::OsString;
use std::fmt;

use super::letter::Letter;
use crate::program::{Invocation, Program};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub subject: Subject,
    pub name: String,
    pub state: EventState,
    pub priority: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Instance,
    Group,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    Master,
    Backup,
    Fault,
    Stop,
    /// The configuration has it no more.
    Deleted,
    /// Still Master, after somebody else said it was.
    MasterHeardLowerPriority,
    /// The priority changed, not the state.
    MasterPriority,
    BackupPriority,
}

impl EventState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "MASTER",
            Self::Backup => "BACKUP",
            Self::Fault => "FAULT",
            Self::Stop => "STOP",
            Self::Deleted => "DELETED",
            Self::MasterHeardLowerPriority => "MASTER_RX_LOWER_PRI",
            Self::MasterPriority => "MASTER_PRIORITY",
            Self::BackupPriority => "BACKUP_PRIORITY",
        }
    }

    fn is_priority(self) -> bool {
        matches!(self, Self::MasterPriority | Self::BackupPriority)
    }

    fn is_transition(self) -> bool {
        !self.is_priority() && self != Self::MasterHeardLowerPriority
    }
}

/// What is configured for an instance or a group.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    pub master: Option<Program>,
    pub backup: Option<Program>,
    pub fault: Option<Program>,
    pub stop: Option<Program>,
    pub deleted: Option<Program>,
    /// `notify_master_rx_lower_pri`
    pub master_heard_lower_priority: Option<Program>,
    /// `notify`: any transition, after the one above.
    pub any: Option<Program>,
    /// `smtp_alert`
    pub sends_mail: bool,
    /// `notify_priority_changes`
    pub tells_priorities: bool,
}

impl Hooks {
    pub(super) fn reaches_fifo(&self, event: &Event) -> bool {
        self.tells_priorities || !event.state.is_priority()
    }

    pub(super) fn programs(&self, event: &Event) -> Vec<Program> {
        let own = match event.state {
            EventState::Master => &self.master,
            EventState::Backup => &self.backup,
            EventState::Fault => &self.fault,
            EventState::Stop => &self.stop,
            EventState::Deleted => &self.deleted,
            EventState::MasterHeardLowerPriority => &self.master_heard_lower_priority,
            EventState::MasterPriority | EventState::BackupPriority => &None,
        };
        let any = self.any.as_ref().filter(|_| event.state.is_transition());
        let any = any.map(|program| with_arguments(program, &event.arguments()));
        own.iter().cloned().chain(any).collect()
    }
}

impl Event {
    fn arguments(&self) -> [String; 4] {
        let subject = self.subject.to_string();
        [subject, self.name.clone(), self.state.word().to_owned(), self.priority.to_string()]
    }

    pub(super) fn lane(&self) -> String {
        format!("{} {}", self.subject, self.name)
    }

    pub(super) fn fifo_line(&self) -> String {
        let (subject, state) = (self.subject, self.state.word());
        format!("{subject} \"{}\" {state} {}", self.name, self.priority)
    }

    pub(super) fn letter(&self) -> Option<Letter> {
        let body = match self.state {
            EventState::Master => "=> VRRP Instance is now owning VRRP VIPs <=",
            EventState::Backup => "=> VRRP Instance is no longer owning VRRP VIPs <=",
            EventState::Fault => "=> VRRP Instance is in FAULT and owns no VRRP VIPs <=",
            EventState::Stop => "=> VRRP Instance was stopped <=",
            _ => return None,
        };
        let subject = match self.subject {
            Subject::Instance => "Instance",
            Subject::Group => "Group",
        };
        let state = self.state.word();
        let subject = format!("VRRP {subject} {} - Entering {state} state", self.name);
        Some(Letter { subject, body: body.to_owned() })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Instance => "INSTANCE",
            Self::Group => "GROUP",
        })
    }
}

/// A real or a virtual server, each as keepalived writes it: `[192.0.2.1]:tcp:80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerEvent {
    pub virtual_server: String,
    /// Absent: the quorum of the virtual server.
    pub real_server: Option<String>,
    pub is_up: bool,
    /// What was found.
    pub reason: String,
}

impl ServerEvent {
    fn word(&self) -> &'static str {
        if self.is_up { "UP" } else { "DOWN" }
    }

    /// All programs of a virtual server run in one order, those of its quorum too.
    pub(super) fn lane(&self) -> String {
        format!("VS {}", self.virtual_server)
    }

    pub(super) fn fifo_line(&self) -> String {
        let (server, word) = (&self.virtual_server, self.word());
        match &self.real_server {
            Some(real) => format!("RS {real} {server} {word}"),
            None => format!("VS {server} {word}"),
        }
    }

    pub(super) fn letter(&self) -> Letter {
        let (server, word) = (&self.virtual_server, self.word());
        let subject = match &self.real_server {
            Some(real) => format!("Realserver {real} of virtual server {server} - {word}"),
            None => format!("Virtualserver {server} - {word}"),
        };
        Letter { subject, body: format!("=> {} <=", self.reason) }
    }
}

fn with_arguments(program: &Program, arguments: &[String]) -> Program {
    let invocation = match &program.invocation {
        Invocation::Shell(text) => {
            let quoted = arguments.iter().map(|argument| quoted(argument));
            let words: Vec<_> = std::iter::once(text.clone()).chain(quoted).collect();
            Invocation::Shell(words.join(" "))
        }
        Invocation::Arguments(words) => {
            let more = arguments.iter().map(OsString::from);
            Invocation::Arguments(words.iter().cloned().chain(more).collect())
        }
    };
    Program { invocation, ..program.clone() }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(state: EventState) -> Event {
        Event { subject: Subject::Instance, name: "VI_1".to_owned(), state, priority: 100 }
    }

    fn texts(programs: &[Program]) -> Vec<String> {
        let text = |program: &Program| match &program.invocation {
            Invocation::Shell(text) => text.clone(),
            Invocation::Arguments(words) => format!("{words:?}"),
        };
        programs.iter().map(text).collect()
    }

    #[test]
    fn words_of_keepalived() {
        assert_eq!(event(EventState::Master).fifo_line(), "INSTANCE \"VI_1\" MASTER 100");
        let lower = event(EventState::MasterHeardLowerPriority).fifo_line();
        assert_eq!(lower, "INSTANCE \"VI_1\" MASTER_RX_LOWER_PRI 100");
        let group = Event { subject: Subject::Group, priority: 0, ..event(EventState::Backup) };
        assert_eq!(group.fifo_line(), "GROUP \"VI_1\" BACKUP 0");
        let real = ServerEvent {
            virtual_server: "[192.168.201.15]:tcp:80".to_owned(),
            real_server: Some("[1.2.3.4]:tcp:80".to_owned()),
            is_up: false,
            reason: "refused".to_owned(),
        };
        assert_eq!(real.fifo_line(), "RS [1.2.3.4]:tcp:80 [192.168.201.15]:tcp:80 DOWN");
        let quorum = ServerEvent { real_server: None, is_up: true, ..real.clone() };
        assert_eq!(quorum.fifo_line(), "VS [192.168.201.15]:tcp:80 UP");
        assert_eq!(real.lane(), quorum.lane());
        let letter = event(EventState::Master).letter().expect("a transition");
        assert_eq!(letter.subject, "VRRP Instance VI_1 - Entering MASTER state");
        assert_eq!(event(EventState::MasterPriority).letter(), None);
    }

    #[test]
    fn which_programs_run_for_what() {
        let program = |text: &str| Some(Program::shell(text));
        let hooks = Hooks {
            master: program("m"),
            fault: program("f"),
            master_heard_lower_priority: program("low"),
            any: program("any.sh x"),
            ..Hooks::default()
        };
        for (state, expected) in [
            (EventState::Master, &["m", "any.sh x 'INSTANCE' 'VI_1' 'MASTER' '100'"][..]),
            (EventState::Backup, &["any.sh x 'INSTANCE' 'VI_1' 'BACKUP' '100'"]),
            (EventState::Fault, &["f", "any.sh x 'INSTANCE' 'VI_1' 'FAULT' '100'"]),
            (EventState::Stop, &["any.sh x 'INSTANCE' 'VI_1' 'STOP' '100'"]),
            (EventState::MasterHeardLowerPriority, &["low"]),
            (EventState::MasterPriority, &[]),
        ] {
            assert_eq!(texts(&hooks.programs(&event(state))), expected, "{state:?}");
        }
        assert!(!hooks.reaches_fifo(&event(EventState::BackupPriority)));
        let odd = Event { name: "it's; rm -rf $HOME".to_owned(), ..event(EventState::Backup) };
        let expected = "any.sh x 'INSTANCE' 'it'\\''s; rm -rf $HOME' 'BACKUP' '100'";
        assert_eq!(texts(&hooks.programs(&odd)), [expected]);
        let argv = Hooks { any: Some(Program::arguments(["a", "b c"])), ..Hooks::default() };
        let expected = r#"["a", "b c", "INSTANCE", "VI_1", "BACKUP", "100"]"#;
        assert_eq!(texts(&argv.programs(&event(EventState::Backup))), [expected]);
    }
}
