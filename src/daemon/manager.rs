//! The resources that are up, and the verbs that act on them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, timeout, timeout_at};
use twinblk_proto::state::{ConnectionState, DiskState, Role};

use super::DaemonOptions;
use super::adjust::difference;
use super::attachment::{self, Attachment};
use super::listeners::Listeners;
use super::report;
use super::translate::{self, Plan};
use crate::control::outcome::exit;
use crate::control::{Command, Handler, Outcome, ResourceStatus};
use crate::driver::{self, Exports, ResourceHandle};
use crate::engine::event::{RepairFrom, Verb};

/// How long clients get to go away, and a resource to go down, when the daemon ends.
const DISMISS_LIMIT: Duration = Duration::from_secs(3);
/// How long the address stays for programs that are still being answered.
const SEND_AWAY_LIMIT: Duration = Duration::from_millis(500);
const LAST_DOWN_LIMIT: Duration = Duration::from_secs(15);
/// How long a thread may take to end: its disk operations have mostly ended before.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A resource that is up.
#[derive(Debug)]
struct Running {
    plan: RefCell<Plan>,
    handle: ResourceHandle,
    attachment: Attachment,
    /// Keeps the attachment in line with the resource.
    keeper: RefCell<Option<AbortHandle>>,
}

impl Running {
    fn stop_keeping(&self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
        }
    }
}

#[derive(Debug)]
pub(super) struct Manager {
    options: DaemonOptions,
    polling: bool,
    exports: Exports,
    changes: Arc<watch::Sender<u64>>,
    running: RefCell<BTreeMap<String, Rc<Running>>>,
    listeners: RefCell<Listeners>,
    /// `up` and `down` of one resource go one after the other.
    gates: RefCell<BTreeMap<String, Rc<Mutex<()>>>>,
    ended: Notify,
}

impl Manager {
    pub(super) fn new(options: DaemonOptions, polling: bool) -> Self {
        let exports = Exports::default();
        Self {
            options,
            polling,
            listeners: RefCell::new(Listeners::new(exports.clone())),
            exports,
            changes: Arc::new(watch::Sender::new(0)),
            running: RefCell::default(),
            gates: RefCell::default(),
            ended: Notify::new(),
        }
    }

    fn find(&self, name: &str) -> Option<Rc<Running>> {
        self.running.borrow().get(name).cloned()
    }

    fn gate(&self, name: &str) -> Rc<Mutex<()>> {
        self.gates.borrow_mut().entry(name.to_owned()).or_default().clone()
    }

    async fn up(&self, name: &str) -> Outcome {
        let gate = self.gate(name);
        let _alone = gate.lock().await;
        if let Some(running) = self.find(name) {
            return self.complete(name, &running).await;
        }
        let plan = match translate::plan(&self.options, name, self.polling) {
            Ok(plan) => plan,
            Err(outcome) => return outcome,
        };
        let running = match self.start(name, plan).await {
            Ok(running) => running,
            Err(outcome) => return outcome,
        };
        let outcome = self.complete(name, &running).await;
        if !outcome.is_done() {
            // All or nothing: a resource without its disk must not answer a peer by accident.
            let _ = running.handle.perform(Verb::Down).await;
            self.forget(name, &running).await;
        }
        outcome
    }

    async fn start(&self, name: &str, plan: Plan) -> Result<Rc<Running>, Outcome> {
        let handle = driver::spawn(plan.setup.clone(), self.exports.clone(), self.changes.clone())
            .map_err(|error| {
                Outcome::failed(exit::OTHER, format!("{name}: cannot start a thread: {error}"))
            })?;
        let attachment = Attachment::new(&self.options, &plan);
        let keeper = RefCell::default();
        let running = Rc::new(Running { plan: RefCell::new(plan), handle, attachment, keeper });
        self.running.borrow_mut().insert(name.to_owned(), running.clone());
        let offered = {
            let plan = running.plan.borrow();
            self.listeners.borrow_mut().offer(name, &plan.places, &plan.allow)
        };
        if let Err(error) = offered {
            self.forget(name, &running).await;
            return Err(Outcome::failed(exit::OTHER, format!("{name}: {error}"))
                .with_hint("choose another address in the nbd section, or end who listens there"));
        }
        let keeping = keep_attached(running.clone(), self.exports.clone(), self.changes.clone());
        *running.keeper.borrow_mut() = Some(spawn_local(keeping).abort_handle());
        self.changed();
        Ok(running)
    }

    /// What is missing of a resource that should be up.
    async fn complete(&self, name: &str, running: &Running) -> Outcome {
        let Ok(before) = running.handle.snapshot().await else { return went_down(name) };
        if before.engine.state.disk == DiskState::Diskless {
            let outcome = self.verb(name, running, Verb::Attach).await;
            if !outcome.is_done() {
                return outcome;
            }
        }
        if before.engine.state.connection == ConnectionState::StandAlone {
            let verb = Verb::Connect { discard_my_data: false, dry_run: false };
            return self.verb(name, running, verb).await;
        }
        Outcome::done()
    }

    async fn verb(&self, name: &str, running: &Running, verb: Verb) -> Outcome {
        match running.handle.perform(verb).await {
            Ok(Ok(())) => Outcome::done(),
            Ok(Err(refusal)) => Outcome::refused(
                name,
                refusal.code,
                refusal.text,
                &report::with_name(&refusal.detail, name),
                &report::with_name(&refusal.hint, name),
            ),
            Err(driver::Gone) => went_down(name),
        }
    }

    /// Which side a node is, by the name that the configuration gives it.
    fn repair_from(&self, name: &str, node: &str) -> Result<RepairFrom, Outcome> {
        let running = self.find(name).ok_or_else(|| Outcome::no_such_resource(name))?;
        let plan = running.plan.borrow();
        let (me, peer) = (&plan.view.me.host, &plan.view.peer.host);
        if node == me {
            Ok(RepairFrom::ThisNode)
        } else if node == peer {
            Ok(RepairFrom::Peer)
        } else {
            let message = format!("{name}: no node '{node}'");
            Err(Outcome::failed(exit::USAGE, message)
                .with_hint(format!("--from {me} or --from {peer}")))
        }
    }

    /// `size` as the configuration says it now; 0: as large as both disks allow.
    fn configured_sectors(&self, name: &str) -> Result<u64, Outcome> {
        let plan = translate::plan(&self.options, name, self.polling)?;
        Ok(plan.setup.engine.user_sectors)
    }

    /// Makes the configuration as it is now count for a resource that is up.
    async fn adjust(&self, name: &str) -> Outcome {
        let Some(running) = self.find(name) else { return self.up(name).await };
        let gate = self.gate(name);
        let _alone = gate.lock().await;
        let plan = match translate::plan(&self.options, name, self.polling) {
            Ok(plan) => plan,
            Err(outcome) => return outcome,
        };
        let difference = difference(&running.plan.borrow(), &plan);
        if !difference.restart.is_empty() {
            let what = difference.restart.join(", ");
            let message = format!("{name}: {what} cannot be changed while the resource is up");
            return Outcome::failed(exit::FAILURE, message)
                .with_detail("nothing was changed")
                .with_hint(format!("twinblk down {name}, then: twinblk up {name}"));
        }
        if difference.changed {
            if difference.reconnect {
                let outcome = self.verb(name, &running, Verb::Disconnect { force: false }).await;
                if !outcome.is_done() {
                    return outcome;
                }
                running.handle.change_link(plan.setup.link.clone());
            }
            let settings = Box::new(plan.setup.engine.clone());
            let outcome = self.verb(name, &running, Verb::Adjust(settings)).await;
            if !outcome.is_done() {
                return outcome;
            }
            running.plan.replace(plan);
            self.changed();
        }
        self.complete(name, &running).await
    }

    async fn down(&self, name: &str) -> Outcome {
        let gate = self.gate(name);
        let _alone = gate.lock().await;
        // As in DRBD, to take down what is not up is no error.
        let Some(running) = self.find(name) else { return Outcome::done() };
        // Held until the resource is gone: nothing attaches it again meanwhile.
        let _released = match running.attachment.release(&running.handle, false).await {
            Ok(released) => released,
            Err(outcome) => return outcome,
        };
        let outcome = self.verb(name, &running, Verb::Down).await;
        if outcome.is_done() {
            self.forget(name, &running).await;
        }
        outcome
    }

    /// The device comes with the role: whoever is told "done" finds it.
    async fn primary(&self, name: &str, running: &Running, force: bool) -> Outcome {
        self.offer_again(name, running);
        let outcome = self.verb(name, running, Verb::Primary { force }).await;
        if outcome.is_done() {
            let attached = running.attachment.reconcile(&running.handle, &self.exports).await;
            if let Err(error) = attached {
                tracing::info!(resource = name, %error, hint = error.hint(), "no kernel device");
            }
        }
        outcome
    }

    async fn secondary(&self, name: &str, running: &Running, force: bool) -> Outcome {
        let Ok(snapshot) = running.handle.snapshot().await else { return went_down(name) };
        if snapshot.engine.state.role != Role::Primary {
            return self.verb(name, running, Verb::Secondary { force }).await;
        }
        let outcome = match running.attachment.release(&running.handle, force).await {
            Ok(_released) => self.verb(name, running, Verb::Secondary { force }).await,
            Err(outcome) => outcome,
        };
        self.offer_again(name, running);
        outcome
    }

    /// Ends a resource's thread and waits for it, so that the next one finds the disk free.
    async fn forget(&self, name: &str, running: &Running) {
        running.stop_keeping();
        self.listeners.borrow_mut().withdraw(name);
        self.running.borrow_mut().remove(name);
        running.handle.stop();
        if timeout(STOP_LIMIT, running.handle.stopped()).await.is_err() {
            tracing::warn!(resource = name, "disk operations do not end; their thread lives on");
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Ends when a `shutdown` command has been carried out.
    pub(super) async fn shut_down_by_command(&self) {
        self.ended.notified().await;
    }

    /// The first device of this machine that somebody uses.
    async fn device_in_use(&self) -> Option<Outcome> {
        let all: Vec<Rc<Running>> = self.running.borrow().values().cloned().collect();
        for running in all {
            if let Some(mut outcome) = running.attachment.is_held().await {
                outcome.hint += "; to leave the device waiting for the next daemon: kill -TERM";
                return Some(outcome);
            }
        }
        None
    }

    /// Closes the clients and takes every resource down, within bounds; what does not obey is left
    /// as after a crash. A device of this machine that is in use is left waiting for the next
    /// daemon.
    pub(super) async fn take_all_down(&self) {
        let names: Vec<String> = self.running.borrow().keys().cloned().collect();
        let mut leaving = Vec::new();
        for name in &names {
            self.listeners.borrow_mut().withdraw(name);
            let Some(running) = self.find(name) else { continue };
            running.stop_keeping();
            if let Err(outcome) = running.attachment.release(&running.handle, false).await {
                tracing::info!(resource = name, "{}: it waits for the next daemon", outcome.detail);
            }
            running.handle.dismiss_clients();
            leaving.push((name, running));
        }
        let limit = Instant::now() + DISMISS_LIMIT;
        for (name, running) in leaving {
            if timeout_at(limit, self.clients_gone(&running)).await.is_err() {
                tracing::warn!(resource = name, "clients did not go away in time");
            }
            match timeout(LAST_DOWN_LIMIT, self.verb(name, &running, Verb::Down)).await {
                Ok(outcome) if outcome.is_done() => {}
                Ok(outcome) => tracing::warn!(resource = name, "{}", outcome.message),
                Err(_) => tracing::warn!(resource = name, "did not go down in time"),
            }
            self.forget(name, &running).await;
        }
    }

    /// Keeps the order that `resync-after` asks for: as long as a resource, or one that it waits for
    /// itself, is being resynced or held on, those after it wait. Looks after every change.
    pub(super) async fn keep_resync_order(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let ordered: Vec<(String, Rc<Running>)> = self
                .running
                .borrow()
                .iter()
                .filter(|(_, running)| running.plan.borrow().view.disk.resync_after.is_some())
                .map(|(name, running)| (name.clone(), running.clone()))
                .collect();
            for (name, running) in ordered {
                let waits = self.is_behind_another(&running).await;
                let state = running.handle.snapshot().await.map(|snapshot| snapshot.engine.state);
                if state.is_ok_and(|state| state.paused_after != waits) {
                    let outcome = self.verb(&name, &running, Verb::AwaitOthers { waits }).await;
                    if !outcome.is_done() {
                        tracing::warn!(resource = name, "{}", outcome.message);
                    }
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn is_behind_another(&self, running: &Running) -> bool {
        let mut after = running.plan.borrow().view.disk.resync_after.clone();
        // The configuration has no circles; the bound is for one that changed since.
        let most = self.running.borrow().len();
        for _ in 0..most {
            let Some(name) = after else { return false };
            // RESOURCE/VOLUME; there is one volume.
            let name = name.split('/').next().unwrap_or_default();
            let Some(other) = self.find(name) else { return false };
            let Ok(snapshot) = other.handle.snapshot().await else { return false };
            let state = snapshot.engine.state;
            let resyncing = (ConnectionState::SyncSource..=ConnectionState::PausedSyncT)
                .contains(&state.connection);
            if resyncing || state.paused_user || state.paused_peer || state.paused_after {
                return true;
            }
            after = other.plan.borrow().view.disk.resync_after.clone();
        }
        false
    }

    /// After [`Self::send_programs_away`]; otherwise it changes nothing.
    fn offer_again(&self, name: &str, running: &Running) {
        let plan = running.plan.borrow();
        let offered = self.listeners.borrow_mut().offer(name, &plan.places, &plan.allow);
        if let Err(error) = offered {
            tracing::error!(resource = name, %error, "NBD clients find it nowhere");
        }
    }

    /// They get the answers that are on their way and come back where the address is next.
    async fn send_programs_away(&self, name: &str) {
        let Some(running) = self.find(name) else { return };
        self.listeners.borrow_mut().close_to_others(name);
        running.handle.send_programs_away();
        let mut changes = self.changes.subscribe();
        let gone = async {
            while let Ok(snapshot) = running.handle.snapshot().await {
                if !snapshot.clients.iter().any(|client| client.is_remote)
                    || changes.changed().await.is_err()
                {
                    return;
                }
            }
        };
        let _ = timeout(SEND_AWAY_LIMIT, gone).await;
    }

    async fn clients_gone(&self, running: &Running) {
        let mut changes = self.changes.subscribe();
        while let Ok(snapshot) = running.handle.snapshot().await {
            if snapshot.clients.is_empty() || changes.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Looks after every change, and again soon where something is not as it should be.
async fn keep_attached(running: Rc<Running>, exports: Exports, changes: Arc<watch::Sender<u64>>) {
    let mut seen = changes.subscribe();
    seen.mark_changed();
    let mut look_again = false;
    loop {
        let changed = async {
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if look_again {
            let _ = timeout(attachment::RETRY_PAUSE, changed).await;
        } else {
            changed.await;
        }
        let attachment = &running.attachment;
        look_again = match attachment.reconcile(&running.handle, &exports).await {
            Ok(look_again) => look_again,
            Err(error) => {
                tracing::info!(%error, hint = error.hint(), "no kernel device");
                false
            }
        };
    }
}

fn went_down(name: &str) -> Outcome {
    Outcome::no_such_resource(name)
}

pub(super) fn no_keepalived() -> Outcome {
    Outcome::failed(exit::USAGE, "this daemon runs no keepalived.conf")
        .with_hint("twinblk daemon --keepalived FILE")
}

/// What the control socket calls.
#[derive(Debug)]
pub(super) struct Desk(pub(super) Rc<Manager>);

impl Handler for Desk {
    async fn send_programs_away(&self, resource: &str) {
        self.0.send_programs_away(resource).await;
    }

    async fn perform(&self, resource: Option<&str>, command: &Command) -> Outcome {
        let manager = &self.0;
        if *command == Command::Shutdown {
            if let Some(outcome) = manager.device_in_use().await {
                return outcome;
            }
            manager.take_all_down().await;
            manager.ended.notify_one();
            return Outcome::done();
        }
        if *command == Command::Reload {
            return no_keepalived();
        }
        let Some(name) = resource else {
            return Outcome::failed(exit::USAGE, "which resource?");
        };
        let verb = match command.clone() {
            Command::Up => return manager.up(name).await,
            Command::Down => return manager.down(name).await,
            Command::Adjust => return manager.adjust(name).await,
            Command::Attach => Verb::Attach,
            Command::Detach { force } => Verb::Detach { force },
            Command::Connect { discard_my_data, tentative } => {
                Verb::Connect { discard_my_data, dry_run: tentative }
            }
            Command::Disconnect { force } => Verb::Disconnect { force },
            Command::SuspendIo => Verb::SuspendIo,
            Command::ResumeIo => Verb::ResumeIo,
            Command::Primary { .. }
            | Command::Secondary { .. }
            | Command::AttachDevice
            | Command::DetachDevice { .. } => {
                let Some(running) = manager.find(name) else {
                    return Outcome::no_such_resource(name);
                };
                let (attachment, handle) = (&running.attachment, &running.handle);
                return match *command {
                    Command::Primary { force } => manager.primary(name, &running, force).await,
                    Command::Secondary { force } => manager.secondary(name, &running, force).await,
                    Command::DetachDevice { force } => attachment.detach(handle, force).await,
                    _ => attachment.attach(handle, &manager.exports).await,
                };
            }
            Command::Invalidate => Verb::Invalidate,
            Command::InvalidateRemote => Verb::InvalidateRemote,
            Command::Outdate => Verb::Outdate,
            Command::NewCurrentUuid { clear_bitmap } => Verb::NewCurrentUuid { clear_bitmap },
            Command::Verify { start, stop, repair, from } => {
                let repair = match (repair, from) {
                    (false, _) => None,
                    (true, None) => Some(RepairFrom::Primary),
                    (true, Some(node)) => match manager.repair_from(name, &node) {
                        Ok(from) => Some(from),
                        Err(outcome) => return outcome,
                    },
                };
                Verb::Verify { start, stop, repair }
            }
            Command::Resize { sectors, assume_peer_has_space, assume_clean } => {
                let sectors = match sectors {
                    Some(sectors) => sectors,
                    None => match manager.configured_sectors(name) {
                        Ok(sectors) => sectors,
                        Err(outcome) => return outcome,
                    },
                };
                let sectors = Some(sectors);
                Verb::Resize { sectors, assume_peer_has_space, assume_clean }
            }
            Command::ProbePeer => Verb::ProbePeer,
            Command::PauseSync => Verb::PauseSync,
            Command::ResumeSync => Verb::ResumeSync,
            Command::Handover | Command::Standby { .. } => {
                return no_keepalived();
            }
            Command::Status
            | Command::Instances
            | Command::Reload
            | Command::Watch
            | Command::WaitConnect
            | Command::WaitSync
            | Command::Shutdown => {
                return Outcome::failed(exit::OTHER, "answered elsewhere");
            }
        };
        match manager.find(name) {
            Some(running) => manager.verb(name, &running, verb).await,
            None => Outcome::no_such_resource(name),
        }
    }

    async fn status(&self, resource: Option<&str>) -> Result<Vec<ResourceStatus>, Outcome> {
        let wanted: Vec<(String, Rc<Running>)> = self
            .0
            .running
            .borrow()
            .iter()
            .filter(|(name, _)| resource.is_none_or(|wanted| wanted == *name))
            .map(|(name, running)| (name.clone(), running.clone()))
            .collect();
        if let (Some(name), true) = (resource, wanted.is_empty()) {
            return Err(Outcome::no_such_resource(name));
        }
        let mut statuses = Vec::new();
        for (_, running) in wanted {
            // One that goes down in this moment is left out.
            if let Ok(snapshot) = running.handle.snapshot().await {
                let mut status = report::status(&running.plan.borrow(), &snapshot);
                status.kernel_device = running.attachment.status();
                statuses.push(status);
            }
        }
        Ok(statuses)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
