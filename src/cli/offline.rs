//! Verbs on the metadata of a disk that is not in use, with drbdmeta's messages and its rules about
//! what must be confirmed (behaviour.md 7.2).

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::rand::SecureRandom;
use rustix::fs::{FlockOperation, OFlags, flock};
use serde_json::json;

use super::arguments::Verb;
use super::output::Output;
use super::{Context, gi, live};
use crate::config::{Config, MetaDiskPlace, NodeView};
use crate::control::Outcome;
use crate::control::outcome::exit;
use crate::driver::SizeNote;
use crate::meta::{
    self, CreateOptions, ExistingData, Layout, LogShape, MetaError, Obstacle, Placement, Storage,
};

/// Runs a verb for each resource that is named.
pub(super) fn run(context: &Context, verb: &Verb, output: &mut Output) {
    let (name, resources) = match verb {
        Verb::CreateMd { on, .. } => ("create-md", &on.resources),
        Verb::DumpMd { on, .. } => ("dump-md", &on.resources),
        Verb::ApplyAl { on, .. } => ("apply-al", &on.resources),
        Verb::WipeMd { on, .. } => ("wipe-md", &on.resources),
        Verb::ShowGi(on) => ("show-gi", &on.resources),
        Verb::GetGi(on) => ("get-gi", &on.resources),
        _ => return,
    };
    let config = match super::load_config(context) {
        Ok(config) => config,
        Err(outcome) => return output.printed(name, None, outcome),
    };
    let names: Vec<String> = if resources.iter().any(|resource| resource == "all") {
        let mine = config.resources.iter().filter(|resource| resource.is_for(&context.node));
        mine.map(|resource| resource.name.clone()).collect()
    } else {
        resources.clone()
    };
    if names.is_empty() {
        let outcome = Outcome::failed(exit::USAGE, "no resources defined!");
        return output.outcome(name, None, outcome);
    }
    for resource in &names {
        let result =
            view(context, &config, resource).and_then(|view| perform(context, verb, &view, output));
        output.outcome(name, Some(resource), result.err().unwrap_or_default());
    }
}

fn perform(
    context: &Context,
    verb: &Verb,
    view: &NodeView,
    output: &mut Output,
) -> Result<(), Outcome> {
    match verb {
        Verb::CreateMd { force, .. } => create(context, view, *force, output),
        Verb::DumpMd { force, .. } => dump(context, view, *force, output),
        Verb::ApplyAl { force, .. } => apply_al(context, view, *force, output),
        Verb::WipeMd { force, .. } => wipe(context, view, *force, output),
        Verb::ShowGi(_) => show_gi(context, view, true, output),
        _ => show_gi(context, view, false, output),
    }
}

fn view(context: &Context, config: &Config, name: &str) -> Result<NodeView, Outcome> {
    let resource = config.resource(name).ok_or_else(|| super::not_defined(name, context))?;
    resource
        .for_node(&context.node)
        .map_err(|error| Outcome::failed(exit::USAGE, error.to_string()).with_hint(error.hint()))
}

/// `dstate` of a disk at rest.
pub(super) fn disk_state(
    context: &Context,
    config: &Config,
    name: &str,
) -> Result<&'static str, Outcome> {
    let view = view(context, config, name)?;
    let mut disk = Disk::open(context, &view, Access::Read)?;
    let (superblock, _) = disk.superblock(context)?;
    Ok(meta::disk_state(superblock.record.flags))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// The metadata of a resource, open for this process alone.
struct Disk<'a> {
    view: &'a NodeView,
    storage: meta::Clipped<File>,
    /// Where internal metadata is, if the device grew since it was last used.
    size_note: SizeNote,
    /// Where the metadata is.
    path: PathBuf,
    placement: Placement,
    data_bytes: u64,
    /// Held open, and with that locked, when it is another one.
    _data: Option<File>,
}

impl<'a> Disk<'a> {
    fn open(context: &Context, view: &'a NodeView, access: Access) -> Result<Self, Outcome> {
        if let Some(status) = live::attached(context, &view.resource) {
            let message = format!("{}: Device '{}' is configured!", view.resource, status.minor);
            return Err(Outcome::failed(exit::OTHER, message)
                .with_detail(format!("the daemon uses {}", view.me.disk.display()))
                .with_hint(context.command(&format!("down {}", view.resource))));
        }
        let data_path = &view.me.disk;
        let (path, placement) = match &view.me.meta_disk {
            MetaDiskPlace::Internal => (data_path, Placement::Internal),
            MetaDiskPlace::External(path) => (path, Placement::FlexibleExternal),
            MetaDiskPlace::Indexed(path, index) => (path, Placement::Indexed(*index)),
        };
        let (storage, data) = if placement == Placement::Internal {
            (open_alone(path, access)?, None)
        } else {
            let data = open_alone(data_path, Access::Read)?;
            // The device of an index is shared with other resources, which may be up.
            let storage = match placement {
                Placement::Indexed(_) => open_shared(path, access)?,
                _ => open_alone(path, access)?,
            };
            (storage, Some(data))
        };
        let size_note = SizeNote::of(&context.run_dir, &view.resource);
        let mut storage = storage;
        let size = match placement {
            Placement::Internal => meta::find_internal(&mut storage, size_note.read(data_path)),
            Placement::FlexibleExternal | Placement::Indexed(_) => storage.size(),
        };
        let data_bytes = data.as_ref().map_or(size, Storage::size);
        let storage = meta::Clipped::new(storage, size);
        let path = path.clone();
        Ok(Self { view, storage, size_note, path, placement, data_bytes, _data: data })
    }

    /// New metadata belongs to the end that the device has now. Returns the one that it had.
    fn use_whole(&mut self) -> u64 {
        let former = self.storage.size();
        if self.placement == Placement::Internal {
            self.storage.unclip();
            self.data_bytes = self.storage.size();
        }
        former
    }

    /// New metadata is in place: what an earlier end has must not be found any more.
    fn forget_end(&mut self, former: u64) -> Result<(), MetaError> {
        if former < self.storage.size() {
            meta::wipe(&mut meta::Clipped::new(&mut self.storage, former), self.placement)?;
        }
        let removed = self.size_note.remove();
        removed.map_err(|source| MetaError::Io { action: "forget the size", offset: 0, source })
    }

    fn superblock(&mut self, context: &Context) -> Result<(meta::Superblock, Layout), Outcome> {
        meta::read_superblock(self.data_bytes, &mut self.storage, self.placement)
            .map_err(|error| self.failed(context, &error))
    }

    fn failed(&self, context: &Context, error: &MetaError) -> Outcome {
        let name = &self.view.resource;
        let message = match error {
            MetaError::NoMagic { .. } => "No valid meta data found".to_owned(),
            MetaError::Inconsistent(_) => "Device is inconsistent.".to_owned(),
            MetaError::Unclean => {
                "Found meta data is \"unclean\", please apply-al first".to_owned()
            }
            _ => format!("{name}: {}: {error}", self.path.display()),
        };
        let detail = match error {
            MetaError::NoMagic { .. } | MetaError::Unclean => {
                format!("{name}: {}: {error}", self.path.display())
            }
            _ => String::new(),
        };
        let code = match error {
            // As drbdmeta ends on these.
            MetaError::NoMagic { .. } | MetaError::Unclean => exit::USAGE,
            MetaError::Inconsistent(_) => exit::TIMEOUT,
            _ => exit::OTHER,
        };
        let hint = error.hint(name).replace("`twinblk ", &format!("`twinblk {}", context.given));
        Outcome::failed(code, message).with_detail(detail).with_hint(hint)
    }

    /// "v08 style flexible-size internal", as drbdmeta names a kind of metadata.
    fn kind(&self) -> &'static str {
        match self.placement {
            Placement::Internal => "flexible-size internal",
            Placement::FlexibleExternal => "flexible-size external",
            Placement::Indexed(_) => "fixed-size external",
        }
    }
}

fn open_alone(path: &Path, access: Access) -> Result<File, Outcome> {
    let exclusive = std::fs::metadata(path).is_ok_and(|data| data.file_type().is_block_device());
    let flags = if exclusive { OFlags::EXCL } else { OFlags::empty() };
    let file = open(path, access, flags)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(errno) => Err(open_failed(path, &errno.into())),
    }
}

fn open_shared(path: &Path, access: Access) -> Result<File, Outcome> {
    open(path, access, OFlags::empty())
}

fn open(path: &Path, access: Access, flags: OFlags) -> Result<File, Outcome> {
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        // A pipe in the place of a disk must not make a verb hang.
        .custom_flags((flags | OFlags::NONBLOCK).bits() as i32)
        .open(path)
        .map_err(|error| open_failed(path, &error))?;
    let kind = file.metadata().map_err(|error| open_failed(path, &error))?.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(file);
    }
    let message = format!("'{}' is neither a block device nor a file!", path.display());
    Err(Outcome::failed(exit::OTHER, message)
        .with_hint("correct disk or meta-disk in the configuration"))
}

fn open_failed(path: &Path, error: &io::Error) -> Outcome {
    let busy = [io::ErrorKind::WouldBlock, io::ErrorKind::ResourceBusy].contains(&error.kind());
    let reason = if busy { "Device or resource busy".to_owned() } else { error.to_string() };
    let reason = reason.split(" (os error").next().unwrap_or(&reason);
    let outcome =
        Outcome::failed(exit::OTHER, format!("open({}) failed: {reason}", path.display()));
    match error.kind() {
        io::ErrorKind::NotFound => outcome.with_hint(format!(
            "correct the configuration, or make a file of the size wanted: truncate -s 1G {}",
            path.display()
        )),
        io::ErrorKind::PermissionDenied => outcome.with_hint("become a user who may open it"),
        _ if busy => outcome
            .with_detail("it is mounted, or in use by another program")
            .with_hint(format!("find out by whom: fuser -v {}", path.display())),
        _ => outcome,
    }
}

/// `outdate` and, if it is `worthless`, `invalidate` of a disk at rest.
pub(super) fn devalue(
    context: &Context,
    config: &Config,
    name: &str,
    worthless: bool,
) -> Result<(), Outcome> {
    let view = view(context, config, name)?;
    let mut disk = Disk::open(context, &view, Access::Write)?;
    let (size, placement) = (disk.data_bytes, disk.placement);
    let changed = match worthless {
        true => meta::invalidate(size, &mut disk.storage, placement),
        false => meta::outdate(size, &mut disk.storage, placement),
    };
    changed.map_err(|error| disk.failed(context, &error))
}

/// New metadata.
fn create(
    context: &Context,
    view: &NodeView,
    force: bool,
    output: &mut Output,
) -> Result<(), Outcome> {
    let mut disk = Disk::open(context, view, Access::Write)?;
    let former = disk.use_whole();
    let layout =
        Layout::for_new(disk.placement, disk.data_bytes, disk.storage.size(), LogShape::default())
            .map_err(|error| disk.failed(context, &error))?;
    let mut options =
        CreateOptions { device_uuid: random_identifier(), ..CreateOptions::default() };
    let mut created = meta::create(disk.data_bytes, &mut disk.storage, disk.placement, &options);
    if let Err(MetaError::Obstructed(obstacle)) = &created {
        let question = obstacle_text(&disk, &layout, obstacle);
        if !obstacle.overridable {
            output.text(&question);
            let outcome = Outcome::failed(exit::WOULD_TRUNCATE, "Operation refused.")
                .with_detail(format!("{}: {obstacle}", disk.path.display()))
                .with_hint(
                    disk.failed(context, created.as_ref().err().unwrap_or(&MetaError::Unclean))
                        .hint,
                );
            return Err(outcome);
        }
        let again = context.command(&format!("create-md --force {}", view.resource));
        confirm(&question, force, context, &again)?;
        options.force = true;
        created = meta::create(disk.data_bytes, &mut disk.storage, disk.placement, &options);
    }
    created.and_then(|_| disk.forget_end(former)).map_err(|error| disk.failed(context, &error))?;
    let bitmap_kib = layout.usable_sectors.div_ceil(8).div_ceil(8 * 4096) * 4;
    output.text(&format!(
        "initializing activity log\n\
         initializing bitmap ({bitmap_kib} KB) to all zero\n\
         Writing meta data...\n\
         New drbd meta data block successfully created.\n"
    ));
    Ok(())
}

/// What is in the way, in drbdmeta's words.
fn obstacle_text(disk: &Disk<'_>, layout: &Layout, obstacle: &Obstacle) -> String {
    let places = format!(
        "md_offset {}\nal_offset {}\nbm_offset {}\n\n",
        layout.superblock_offset_bytes, layout.log_offset_bytes, layout.bitmap_offset_bytes
    );
    let kb = |bytes: u64| bytes / 1024;
    match &obstacle.found {
        ExistingData::Metadata { offset_bytes } => {
            let kind = disk.kind();
            format!(
                "You want me to create a v08 style {kind} meta data block.\n\
                 There appears to be a v08 {kind} meta data block\n\
                 already in place on {} at byte offset {offset_bytes}\n\n\
                 Do you really want to overwrite the existing meta-data?\n",
                disk.path.display()
            )
        }
        ExistingData::Known { name, used_bytes } if !obstacle.overridable => {
            let mut text = format!("{places}Found {name}\n");
            if let (Some(used), Some(usable)) = (used_bytes, obstacle.usable_bytes) {
                text += &format!(
                    "{:>12} kB data area apparently used\n{:>12} kB left usable by current configuration\n\n\
                     Device size would be truncated, which\n\
                     would corrupt data and result in\n\
                     'access beyond end of device' errors.\n",
                    kb(*used),
                    kb(usable)
                );
            } else {
                text += "\nThe meta data could overwrite it.\n";
            }
            text + "You need to either\n   \
                * use external meta data (recommended)\n   \
                * shrink that filesystem first\n   \
                * zero out the device (destroy the filesystem)\n"
        }
        ExistingData::Known { name, .. } => format!(
            "{places}Found {name}\n\n ==> This might destroy existing data! <==\n\nDo you want to proceed?\n"
        ),
        ExistingData::Unknown => format!(
            "{places}Found some data\n\n ==> This might destroy existing data! <==\n\nDo you want to proceed?\n"
        ),
    }
}

/// Asks on a terminal; elsewhere only `--force` is a yes.
pub(super) fn confirm(
    question: &str,
    force: bool,
    context: &Context,
    again: &str,
) -> Result<(), Outcome> {
    let cancelled = |detail: &str| {
        Outcome::failed(exit::USAGE, "Operation cancelled.")
            .with_detail(detail)
            .with_hint(format!("if it is what you want: {again}"))
    };
    if !context.json {
        eprint!("{question}");
    }
    if force {
        if !context.json {
            eprintln!("*** confirmation forced via --force option ***");
        }
        return Ok(());
    }
    if context.json || !io::stdin().is_terminal() {
        return Err(cancelled("stdin not a TTY, not waiting for confirmation"));
    }
    eprint!("[need to type 'yes' to confirm] ");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" { Ok(()) } else { Err(cancelled("not confirmed")) }
}

/// Only to recognise metadata again, so that 0 would do, too.
fn random_identifier() -> u64 {
    let mut bytes = [0; 8];
    match ring::rand::SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => 0,
    }
}

fn dump(
    context: &Context,
    view: &NodeView,
    force: bool,
    output: &mut Output,
) -> Result<(), Outcome> {
    let mut disk = Disk::open(context, view, Access::Read)?;
    let (superblock, layout) = disk.superblock(context)?;
    let text = meta::dump(&superblock, &layout, &mut disk.storage, force)
        .map_err(|error| disk.failed(context, &error))?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    let command = context.command(&format!("dump-md {}", view.resource));
    let text = meta::dump_header(seconds, &context.node, &command) + &text;
    output.text(&text);
    output.json_entry(json!({ "resource": view.resource, "dump": text }));
    Ok(())
}

fn apply_al(
    context: &Context,
    view: &NodeView,
    force: bool,
    output: &mut Output,
) -> Result<(), Outcome> {
    let mut disk = Disk::open(context, view, Access::Write)?;
    let applied =
        meta::apply_activity_log(disk.data_bytes, &mut disk.storage, disk.placement, force)
            .map_err(|error| disk.failed(context, &error))?;
    let kib = applied.marked_bits * 4;
    if kib > 0 {
        output.text(&format!("Marked additional {kib} KB as out-of-sync based on AL.\n"));
    }
    output.json_entry(json!({
        "resource": view.resource,
        "applied-extents": applied.applied_extents,
        "marked-kib": kib,
    }));
    Ok(())
}

fn wipe(
    context: &Context,
    view: &NodeView,
    force: bool,
    output: &mut Output,
) -> Result<(), Outcome> {
    let mut disk = Disk::open(context, view, Access::Write)?;
    let again = context.command(&format!("wipe-md --force {}", view.resource));
    confirm("\nDo you really want to wipe out the DRBD meta data?\n", force, context, &again)?;
    let was_there = meta::wipe(&mut disk.storage, disk.placement)
        .map_err(|error| disk.failed(context, &error))?;
    output.text(match was_there {
        true => "Wiping meta data...\nDRBD meta data block successfully wiped out.\n",
        false => "There appears to be no drbd meta data to wipe out?\n",
    });
    Ok(())
}

/// `show-gi` and `get-gi`: of the daemon while the resource is up, else of the disk.
fn show_gi(
    context: &Context,
    view: &NodeView,
    explained: bool,
    output: &mut Output,
) -> Result<(), Outcome> {
    let (generations, place) = match live::attached(context, &view.resource) {
        Some(status) => (status.generations, "in use by the daemon"),
        None => {
            let mut disk = Disk::open(context, view, Access::Read)?;
            let (superblock, _) = disk.superblock(context)?;
            let place = if superblock.log_is_applied() { "clean" } else { "need apply-al" };
            (gi::of_superblock(&superblock), place)
        }
    };
    output.text(&match explained {
        true => gi::drawing(&generations, place),
        false => gi::line(&generations) + "\n",
    });
    output.json_entry(json!({
        "resource": view.resource,
        "generations": generations,
        "meta-data": place,
    }));
    Ok(())
}
