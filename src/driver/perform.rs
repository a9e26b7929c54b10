//! Carries out what the engine decided.

use std::time::Duration;

use super::backing::{Backing, held};
use super::growing::{self, Grown};
use super::open;
use super::run::Driver;
use super::snapshot::{ClientSnapshot, Snapshot};
use crate::disk::Disk;
use crate::engine::effect::{Effect, Examination, NoteLevel, Refusal};
use crate::engine::event::{DiskFailure, Event, Finding, GrowFailure, PayloadId, Time};
use crate::nbd::Origin;

/// "Device is held open by someone" (behaviour.md 1.5): the one refusal of which the driver knows
/// more than the engine.
const DEVICE_IN_USE: i32 = -12;

fn examine(bytes: &[u8], what: Examination) -> Finding {
    match what {
        Examination::Digest(algorithm) => Finding::Digest(algorithm.digest(bytes)),
        // Whole words compare many bytes at once; a block of data ends at its first word.
        Examination::IsZero => {
            const ZEROES: [u8; 512] = [0; 512];
            let is_zero = bytes.chunks(ZEROES.len()).all(|part| *part == ZEROES[..part.len()]);
            Finding::IsZero(is_zero)
        }
    }
}

impl Driver {
    pub(super) fn perform(&mut self, now: Time, effect: Effect) {
        match effect {
            Effect::Disk { op, action } => match &mut self.backing {
                Some(backing) => backing.start(op, action, &self.payloads, &self.pool),
                None => {
                    let failure = DiskFailure {
                        errno: rustix::io::Errno::NODEV.raw_os_error(),
                        text: "the disk is detached".to_owned(),
                    };
                    self.followups.push_back(Event::DiskCompleted { op, result: Err(failure) });
                }
            },
            Effect::OpenDisk => self.open_wanted = Some(now),
            Effect::GrowDisk { wanted_sectors } => match &self.backing {
                Some(backing) => {
                    assert!(!backing.is_writing_metadata(), "metadata is at rest while it moves");
                    let setup = &self.setup;
                    self.growing =
                        Some(growing::begin(&setup.name, &setup.backing, backing, wanted_sectors));
                }
                None => {
                    let failure = GrowFailure::Unchanged("the disk is detached".to_owned());
                    self.followups.push_back(Event::DiskGrown(Err(failure)));
                }
            },
            Effect::CloseDisk => {
                if let Some(mut backing) = self.backing.take() {
                    backing.kick();
                    backing.retire();
                    self.retiring.push(backing);
                }
            }
            Effect::StartConnecting { after_ms } => {
                self.peer.start_connecting(Duration::from_millis(after_ms));
            }
            Effect::StopConnecting => self.peer.stop_connecting(),
            Effect::CloseSession { session, manner } => self.peer.close(session, manner),
            Effect::SendData { session, packet, payload } => {
                let payload = payload.map(|id| held(&self.payloads, id).clone());
                self.peer.send_data(session, &packet, payload);
            }
            Effect::SendMeta { session, packet } => self.peer.send_meta(session, &packet),
            // Both directions follow from the packets that name the algorithm; naming mine once
            // more is harmless.
            Effect::UseIntegrity { session, mine, peers: _ } => {
                if let (Some(session), Some(mine)) = (self.peer.session(session), mine) {
                    session.use_integrity(&mine);
                }
            }
            Effect::ReplyClient { request, result } => {
                let result = result.map(|payload| payload.map(|id| self.take_payload(id)));
                self.clients.answered(request, result);
            }
            Effect::Examine { examination, payload, what } => {
                let finding = examine(held(&self.payloads, payload), what);
                self.followups.push_back(Event::Examined { examination, finding });
            }
            Effect::ReleasePayload(id) => drop(self.take_payload(id)),
            Effect::ReplyCommand { command, result } => {
                let result = result.map_err(|refusal| self.name_clients(refusal));
                if let Err(refusal) = &result {
                    tracing::warn!(
                        resource = self.setup.name,
                        code = refusal.code,
                        text = refusal.text,
                        detail = refusal.detail,
                        "refused"
                    );
                }
                self.changed = true;
                if let Some(answer) = self.commands.remove(&command) {
                    // Nobody waits any more when the time limit has run out.
                    let _ = answer.send(result);
                }
            }
            Effect::SetTimer { timer, at } => self.timers.set(timer, at.max(now)),
            Effect::ClearTimer(timer) => self.timers.clear(timer),
            Effect::RunHandler { run, handler } => {
                self.handlers.start(run, handler, self.engine.state());
            }
            Effect::StateChanged { old, new, reason } => {
                self.state_changed(old, new, &reason);
            }
            Effect::SizeChanged { sectors } => {
                tracing::info!(resource = self.setup.name, sectors, "size");
                self.clients.resized(sectors * twinblk_proto::units::SECTOR_BYTES);
                self.changed = true;
            }
            Effect::Note { level, text } => {
                let resource = &self.setup.name;
                match level {
                    NoteLevel::Error => tracing::error!(resource, "{text}"),
                    NoteLevel::Warning => tracing::warn!(resource, "{text}"),
                    NoteLevel::Info => tracing::info!(resource, "{text}"),
                }
            }
        }
    }

    fn take_payload(&mut self, id: PayloadId) -> crate::buffer::Payload {
        self.payloads.remove(id.0).unwrap_or_else(|| panic!("{id:?} is released once"))
    }

    pub(super) fn open_disk(&mut self) {
        self.open_wanted = None;
        assert!(self.backing.is_none(), "one disk at a time");
        match open::open(
            &self.setup.name,
            &self.setup.backing,
            self.setup.engine.al_extents,
            &self.pool,
        ) {
            Ok((backing, attached)) => {
                tracing::info!(
                    resource = self.setup.name,
                    disk = %self.setup.backing.data.display(),
                    backend = backing.data.backend_name(),
                    direct = backing.data.is_direct(),
                    sectors = attached.usable_sectors,
                    "disk opened"
                );
                self.backing = Some(backing);
                self.followups.push_back(Event::DiskOpened(Box::new(attached)));
            }
            Err(failure) => {
                tracing::error!(resource = self.setup.name, "attach failed: {}", failure.text);
                self.followups.push_back(Event::DiskOpenFailed(failure));
            }
        }
    }

    /// The thread that looked at the disk is done with it.
    pub(super) fn disk_looked_at(&mut self, now: Time, result: Result<Grown, GrowFailure>) {
        self.growing = None;
        // The disk may have been given up meanwhile: who opens it next finds the metadata.
        let Some(backing) = &mut self.backing else { return };
        let result = result.map(|grown| backing.take_grown(grown));
        if let Ok(sectors) = result {
            tracing::info!(resource = self.setup.name, sectors, "looked at the disk again");
        }
        self.handle(now, Event::DiskGrown(result));
    }

    /// What a disk that was given up still works on would come between.
    pub(super) fn refuse_to_open(&mut self) {
        self.open_wanted = None;
        let operations: usize = self.retiring.iter().map(Backing::in_flight).sum();
        let text = format!(
            "{} was given up and still has {operations} requests to answer; look at the disk, then \
             `twinblk attach {}`",
            self.setup.backing.data.display(),
            self.setup.name
        );
        tracing::error!(resource = self.setup.name, "attach failed: {text}");
        let errno = rustix::io::Errno::BUSY.raw_os_error();
        self.followups.push_back(Event::DiskOpenFailed(DiskFailure { errno, text }));
    }

    /// "Held open by someone" says by whom.
    fn name_clients(&self, mut refusal: Refusal) -> Refusal {
        if refusal.code == DEVICE_IN_USE {
            let names: Vec<_> = self.clients.seats().map(|seat| seat.peer()).collect();
            refusal.detail = format!("{}: NBD client {}", refusal.detail, names.join(", "));
        }
        refusal
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let client = |seat: &super::clients::Seat| ClientSnapshot {
            peer: seat.peer().to_owned(),
            since: seat.since.elapsed(),
            requests: seat.requests,
            in_flight: seat.in_flight,
            asked: seat.asked,
            is_kernel: seat.is_kernel(),
            is_remote: seat.is_remote(),
        };
        let disk = self.backing.as_ref().map(|backing| &backing.data);
        Snapshot {
            engine: self.engine.status(),
            size_bytes: self.engine.device_sectors() * twinblk_proto::units::SECTOR_BYTES,
            backend: disk.map_or("", Disk::backend_name),
            direct_io: disk.is_some_and(Disk::is_direct),
            clients: self.clients.seats().map(client).collect(),
            kernel_sockets: self
                .parked
                .iter()
                .filter(|accepted| accepted.origin == Origin::KernelDevice)
                .count()
                + self.clients.seats().filter(|seat| seat.is_kernel() && seat.is_serving()).count(),
            takeovers: self.takeovers,
            payloads_held: self.payloads.len(),
            requests_open: self.clients.open_requests(),
            disk_actions: self.backing.as_ref().map_or(0, |backing| backing.actions.len()),
            roles: self.roles.times,
        }
    }
}
