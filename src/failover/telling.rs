//! From `notify...`, `smtp_alert` and their like to whom is told what.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::spawn_local;

use super::plan::PlanError;
use super::watching::{identity, program};
use crate::config::keepalived::model::{Fifo, Global, Notify, VirtualServer};
use crate::config::keepalived::{Command, Keepalived};
use crate::election::{Group, NotifiedState, State};
use crate::notify::{
    Event, EventState, FifoScope, FifoSettings, Hooks, MailSettings, Mailer, Notifier, ServerEvent,
    Subject,
};
use crate::program::Program;
use crate::vrrp::{self, InstanceStatus};
use crate::watch::{self, Change};

/// Programs and mail that the end of the daemon brings about.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What is told, and to whom; nothing is opened yet.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    pub fifos: Vec<(FifoScope, FifoSettings)>,
    pub mail: Option<MailSettings>,
    /// One for each instance.
    pub instances: Vec<Hooks>,
    /// One for each group, in the order of the file.
    pub groups: Vec<Hooks>,
    /// Whether mail is sent for a virtual server, and for each of its real ones.
    pub servers: Vec<(bool, Vec<bool>)>,
}

impl Telling {
    pub(super) fn of(config: &Keepalived) -> Result<Self, PlanError> {
        let global = &config.global;
        let hooks = |notify: &Notify, what: String| hooks(global, notify, &what);
        let instances = config.instances.iter();
        let groups = config.groups.iter();
        Ok(Self {
            fifos: fifos(global)?,
            mail: mail(global),
            instances: instances
                .map(|one| hooks(&one.notify, format!("vrrp_instance {}", one.name)))
                .collect::<Result<_, _>>()?,
            groups: groups
                .map(|one| hooks(&one.notify, format!("vrrp_sync_group {}", one.name)))
                .collect::<Result<_, _>>()?,
            servers: config.virtual_servers.iter().map(|one| server_mail(global, one)).collect(),
        })
    }

    /// Opens what is told to. What cannot be opened is said, and left out: it must not keep a node
    /// from serving.
    pub(super) fn open(&self) -> Notifier {
        let mut notifier = Notifier::default();
        for (scope, settings) in &self.fifos {
            match crate::notify::Fifo::open(settings.clone()) {
                Ok(fifo) => notifier.fifos.push((*scope, fifo)),
                Err(error) => tracing::error!("{error}"),
            }
        }
        notifier.mailer = self.mail.clone().map(Mailer::start);
        notifier
    }
}

/// keepalived mails for every instance once there is somebody to mail to, unless told otherwise.
fn hooks(global: &Global, notify: &Notify, what: &str) -> Result<Hooks, PlanError> {
    let of = |command: &Option<Command>| -> Result<Option<Program>, PlanError> {
        command.as_ref().map(|command| program(global, command, what)).transpose()
    };
    let by_default = global.smtp_alert_vrrp.or(global.smtp_alert).unwrap_or(false);
    Ok(Hooks {
        master: of(&notify.master)?,
        backup: of(&notify.backup)?,
        fault: of(&notify.fault)?,
        stop: of(&notify.stop)?,
        deleted: of(&notify.deleted)?,
        master_heard_lower_priority: of(&notify.master_rx_lower_pri)?,
        any: of(&notify.any)?,
        sends_mail: notify.smtp_alert.unwrap_or(by_default),
        tells_priorities: notify.priority_changes.unwrap_or(global.notify_priority_changes),
    })
}

/// Checks mail unless they are told not to, as in keepalived.
fn server_mail(global: &Global, server: &VirtualServer) -> (bool, Vec<bool>) {
    let by_default = global.smtp_alert_checker.or(global.smtp_alert).unwrap_or(true);
    let own = server.smtp_alert.unwrap_or(by_default);
    (own, server.real_servers.iter().map(|real| real.smtp_alert.unwrap_or(own)).collect())
}

fn fifos(global: &Global) -> Result<Vec<(FifoScope, FifoSettings)>, PlanError> {
    let all = [
        (FifoScope::All, &global.notify_fifo),
        (FifoScope::Vrrp, &global.vrrp_notify_fifo),
        (FifoScope::Servers, &global.lvs_notify_fifo),
    ];
    let mut settings = Vec::new();
    for (scope, fifo) in all {
        let Fifo { path: Some(path), user, script } = fifo else { continue };
        let what = format!("notify_fifo {path}");
        let owner = user.as_ref().map(|user| identity(global, Some(user), &what)).transpose()?;
        let script = script.as_ref().map(|command| program(global, command, &what)).transpose()?;
        settings.push((scope, FifoSettings { path: path.into(), owner, script }));
    }
    Ok(settings)
}

fn mail(global: &Global) -> Option<MailSettings> {
    let (host, port) = global.smtp_server.clone()?;
    if global.notification_emails.is_empty() {
        return None;
    }
    let own_name = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let router = global.router_id.clone().unwrap_or_else(own_name);
    Some(MailSettings {
        host,
        port,
        hello: global.smtp_helo_name.clone().unwrap_or_else(own_name),
        limit: Duration::from_micros(global.smtp_connect_timeout_us),
        from: global
            .notification_email_from
            .clone()
            .unwrap_or_else(|| format!("keepalived@{}", own_name())),
        to: global.notification_emails.clone(),
        router,
    })
}

pub(super) fn event_state(state: NotifiedState) -> EventState {
    match state {
        NotifiedState::Master => EventState::Master,
        NotifiedState::Backup => EventState::Backup,
        NotifiedState::Fault => EventState::Fault,
        NotifiedState::Stop => EventState::Stop,
        NotifiedState::MasterHeardLowerPriority => EventState::MasterHeardLowerPriority,
    }
}

/// Tells, and remembers what groups were told.
pub(super) struct Teller {
    telling: Telling,
    notifier: Notifier,
    groups: Vec<(Group, Option<EventState>)>,
    servers: Vec<watch::VirtualServer>,
    /// Counts once VRRP says that it runs the new plan; what comes before is of the old one.
    next: VecDeque<Next>,
}

/// What a new plan tells.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) telling: Telling,
    pub(super) groups: Vec<Group>,
    pub(super) servers: Vec<watch::VirtualServer>,
    /// Of its instances.
    pub(super) names: Vec<String>,
}

impl Teller {
    pub(super) fn start(
        telling: Telling,
        groups: Vec<Group>,
        servers: Vec<watch::VirtualServer>,
    ) -> Self {
        let notifier = telling.open();
        let groups = groups.into_iter().map(|group| (group, None)).collect();
        Self { telling, notifier, groups, servers, next: VecDeque::new() }
    }

    /// VRRP was given another plan, and says itself from when on it counts. Servers do so at once.
    pub(super) fn prepare(&mut self, next: Next) {
        self.servers.clone_from(&next.servers);
        self.telling.servers.clone_from(&next.telling.servers);
        self.next.push_back(next);
    }

    fn turn_over(&mut self) {
        let Some(Next { telling, groups, .. }) = self.next.pop_front() else { return };
        if (&telling.fifos, &telling.mail) != (&self.telling.fifos, &self.telling.mail) {
            let old = std::mem::replace(&mut self.notifier, telling.open());
            spawn_local(old.stop(STOP_LIMIT));
        }
        let told = |name: &str| {
            self.groups.iter().find(|(group, _)| group.name == name).and_then(|(_, told)| *told)
        };
        let groups = groups.into_iter().map(|group| (told(&group.name), group));
        self.groups = groups.map(|(told, group)| (group, told)).collect();
        self.telling = telling;
    }

    /// It ends because the plan that follows does not have it.
    fn is_deleted(&self, name: &String) -> bool {
        self.next.front().is_some_and(|next| !next.names.contains(name))
    }

    /// An instance changed its state; its group follows when all of it did.
    pub(super) fn instance(&mut self, occurrence: &vrrp::Occurrence, instances: &[InstanceStatus]) {
        let (state, priority) = match occurrence.kind {
            vrrp::OccurrenceKind::Notify { state, priority } => (event_state(state), priority),
            vrrp::OccurrenceKind::Reloaded => return self.turn_over(),
            _ => return,
        };
        if let Some(hooks) = self.telling.instances.get(occurrence.instance) {
            let name = occurrence.name.clone();
            let state = match &hooks.deleted {
                _ if state != EventState::Stop || !self.is_deleted(&name) => state,
                Some(_) => EventState::Deleted,
                // As keepalived has it without `notify_deleted`.
                None => EventState::Fault,
            };
            let event = Event { subject: Subject::Instance, name, state, priority };
            self.notifier.tell(&event, hooks);
        }
        for (place, (group, told)) in self.groups.iter_mut().enumerate() {
            if !group.members.contains(&occurrence.instance) {
                continue;
            }
            let members = group.members.iter().filter_map(|member| instances.get(*member));
            let states: Vec<State> = members.map(|member| member.state).collect();
            let Some(state) = group_state(&states).filter(|state| Some(*state) != *told) else {
                continue;
            };
            *told = Some(state);
            let name = group.name.clone();
            let event = Event { subject: Subject::Group, name, state, priority };
            if let Some(hooks) = self.telling.groups.get(place) {
                self.notifier.tell(&event, hooks);
            }
        }
    }

    /// What the checks of a virtual server changed.
    pub(super) fn server(&mut self, report: &watch::Report) {
        let watch::Report::Server { server, change, reason, run } = report else { return };
        let Some(found) = self.servers.get(*server) else { return };
        let mails = self.telling.servers.get(*server);
        let (real, is_up, sends_mail) = match *change {
            Change::Server { server: real, is_up } => {
                let mail = mails.and_then(|(_, reals)| reals.get(real)).copied();
                (found.real_servers.get(real), is_up, mail.unwrap_or(false))
            }
            Change::Quorum { is_gained, .. } => {
                (None, is_gained, mails.is_some_and(|(own, _)| *own))
            }
            Change::Weight { .. } => return,
        };
        let event = ServerEvent {
            virtual_server: found.service.to_string(),
            real_server: real.map(|real| real.service.to_string()),
            is_up,
            reason: reason.clone(),
        };
        self.notifier.tell_server(&event, run.clone(), sends_mail);
    }

    /// What was told last is still carried out.
    pub(super) async fn stop(self) {
        self.notifier.stop(STOP_LIMIT).await;
    }
}

/// `None`: its members are not of one mind yet.
fn group_state(states: &[State]) -> Option<EventState> {
    let all = |wanted: State| states.iter().all(|state| *state == wanted);
    if states.contains(&State::Fault) {
        Some(EventState::Fault)
    } else if all(State::Master) {
        Some(EventState::Master)
    } else if all(State::Backup) {
        Some(EventState::Backup)
    } else if all(State::Stopped) {
        Some(EventState::Stop)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_all_of_its_members_are() {
        use State::{Backup, Fault, Master, Stopped};
        assert_eq!(group_state(&[Master, Backup]), None);
        assert_eq!(group_state(&[Master, Master]), Some(EventState::Master));
        assert_eq!(group_state(&[Backup, Fault]), Some(EventState::Fault));
        assert_eq!(group_state(&[Stopped, Stopped]), Some(EventState::Stop));
    }
}
