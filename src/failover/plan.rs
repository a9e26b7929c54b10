//! From keepalived.conf to what the parts are told.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::telling::Telling;
use super::{Action, Plan, ServicePlan};
use crate::config::keepalived::Keepalived;
use crate::config::keepalived::model::{
    Address, Announcements, DrbdResource, Global, InitialState, Instance, ServiceCommand, Tracked,
    Trackers, Weight,
};
use crate::election::Group;
use crate::election::failover::{ServiceSettings, Step, StepKind};
use crate::election::packet::{Authentication, ChecksumForm, Version};
use crate::election::settings::{
    AnnouncementSettings, Family, InitialState as State, InstanceSettings, OWNER, TrackerSettings,
    VirtualAddress, WrongSettings,
};
use crate::service::{FileSystem, Note, Program};
use crate::vrrp::{self, GuardProgram, Placement};

/// Name of the tracker that says whether a node may serve.
const DATA_TRACKER: &str = "the data";

/// What drbd.conf says of a resource that a service runs on.
#[derive(Clone, Copy, Debug)]
pub struct ResourceFacts {
    /// Not with `nbd { attach no; }`: what is mounted gets at the data in another way, by a mount
    /// helper for example.
    pub is_attached: bool,
    /// The takeover policy lets one of two nodes go on that do not see each other.
    pub is_exclusive: bool,
    /// `wfc-timeout`; absent: for ever.
    pub wait_for_peer: Option<Duration>,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("vrrp_instance {name}: {error}")]
    Settings { name: String, error: WrongSettings },
    #[error("vrrp_instance {instance}: drbd_resource {resource}: {why}")]
    Resource { instance: String, resource: String, why: String },
    #[error("{what}: {error}")]
    User { what: String, error: String },
}

/// Which tracker of which instance something outside feeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Feed {
    pub(super) instance: usize,
    pub(super) tracker: usize,
    pub(super) source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// By their places in [`Keepalived`].
    Script(usize),
    Process(usize),
    File(usize),
    Interface(String),
}

/// Where this node keeps things, and who guards them.
#[derive(Clone, Debug)]
pub struct Places {
    pub run_dir: PathBuf,
    pub address_guard: Option<GuardProgram>,
}

pub fn plan(
    config: &Keepalived,
    places: &Places,
    facts: impl Fn(&str) -> Result<ResourceFacts, String>,
) -> Result<Plan, PlanError> {
    let mut feeds = Vec::new();
    let mut instances = Vec::new();
    let groups: Vec<Group> = config
        .groups
        .iter()
        .map(|group| {
            let members = group.members.iter();
            let place = |(name, _): &(String, _)| {
                config.instances.iter().position(|instance| instance.name == *name)
            };
            Group { name: group.name.clone(), members: members.filter_map(place).collect() }
        })
        .collect();
    for (index, instance) in config.instances.iter().enumerate() {
        let group = groups.iter().position(|group| group.members.contains(&index));
        let mut settings = settings(&config.global, instance);
        settings.grouped = group.is_some();
        let mut tracked =
            Tracking { config, instance: index, feeds: &mut feeds, settings: &mut settings };
        tracked.add(&instance.trackers);
        if let Some(group) = group {
            tracked.add(&config.groups[group].trackers);
        }
        instances.push(settings);
    }
    let mut services = Vec::new();
    for (index, instance) in config.instances.iter().enumerate() {
        let Some(data) = &instance.drbd_resource else { continue };
        let wrong = |why: String| PlanError::Resource {
            instance: instance.name.clone(),
            resource: data.name.clone(),
            why,
        };
        let facts = facts(&data.name).map_err(wrong)?;
        let group = groups.iter().find(|group| group.members.contains(&index));
        let members = group.map_or_else(|| vec![index], |group| group.members.clone());
        let members = members.into_iter().map(|member| (member, bind(&mut instances[member])));
        services.push(service(instance, data, members.collect(), facts, &places.run_dir));
    }
    for settings in &instances {
        settings
            .check()
            .map_err(|error| PlanError::Settings { name: settings.name.clone(), error })?;
    }
    let placements = instances.into_iter().enumerate().map(|(index, settings)| Placement {
        interface: config.instances[index].interface.clone(),
        settings,
        tracked_interfaces: interfaces_of(index, &feeds),
    });
    let vrrp =
        vrrp::Plan { instances: placements.collect(), groups, guard: places.address_guard.clone() };
    let (mut watch, fed) = super::watching::watchers(config, &feeds)?;
    watch.servers = super::servers::servers(config)?;
    Ok(Plan {
        vrrp,
        watch,
        fed,
        telling: Telling::of(config)?,
        services,
        note: Note::of(&places.run_dir),
        startup_delay: Duration::from_micros(config.global.startup_delay_us),
    })
}

fn interfaces_of(instance: usize, feeds: &[Feed]) -> Vec<(usize, String)> {
    let of = feeds.iter().filter(|feed| feed.instance == instance);
    let interface = |feed: &Feed| match &feed.source {
        Source::Interface(name) => Some((feed.tracker, name.clone())),
        _ => None,
    };
    of.filter_map(interface).collect()
}

/// Its addresses wait for the data; returns the place of the tracker that speaks for it.
fn bind(settings: &mut InstanceSettings) -> usize {
    settings.bound = true;
    let name = DATA_TRACKER.to_owned();
    settings.trackers.push(TrackerSettings { name, weight: 0, reverse: false });
    settings.trackers.len() - 1
}

fn settings(global: &Global, instance: &Instance) -> InstanceSettings {
    let is_v6 = instance.addresses[0].address.is_ipv6();
    let version = if instance.version_in(global) == 3 { Version::V3 } else { Version::V2 };
    let password = instance.password.as_ref().filter(|_| version == Version::V2);
    let is_master = instance.initial_state == InitialState::Master
        && (instance.preempt || instance.priority == OWNER);
    let group = match is_v6 {
        true => global.multicast_group6.map(IpAddr::V6),
        false => global.multicast_group4.map(IpAddr::V4),
    };
    let default = InstanceSettings::new(&instance.name, instance.virtual_router_id, Vec::new());
    InstanceSettings {
        family: if is_v6 { Family::V6 } else { Family::V4 },
        version,
        priority: instance.priority,
        advert_interval_us: instance.advert_interval_us,
        down_timer_adverts: instance
            .down_timer_adverts
            .or(global.down_timer_adverts)
            .unwrap_or(default.down_timer_adverts),
        initial_state: if is_master { State::Master } else { State::Backup },
        preempt: instance.preempt,
        preempt_delay_us: instance.preempt_delay_us,
        authentication: password.map_or(Authentication::None, |password| {
            Authentication::password(password.text.as_bytes())
        }),
        addresses: instance.addresses.iter().map(address).collect(),
        addresses_excluded: instance.addresses_excluded.iter().map(address).collect(),
        source: instance.source,
        multicast_group: instance.multicast_group.or(group),
        unicast_peers: instance.unicast_peers.iter().map(|peer| peer.address).collect(),
        check_unicast_source: instance.check_unicast_source || global.check_unicast_source,
        accept: instance.accept,
        checksum_form: if instance.v3_checksum_as_v2 {
            ChecksumForm::MessageOnly
        } else {
            ChecksumForm::WithPseudoHeader
        },
        lower_priority_no_advert: instance
            .lower_prio_no_advert
            .or(global.lower_prio_no_advert)
            .unwrap_or(false),
        higher_priority_send_advert: instance
            .higher_prio_send_advert
            .or(global.higher_prio_send_advert)
            .unwrap_or(false),
        announcements: announcements(global, &instance.announcements, is_v6),
        ..default
    }
}

fn address(address: &Address) -> VirtualAddress {
    VirtualAddress {
        address: address.address,
        prefix_length: address.prefix_length,
        interface: address.interface.clone(),
        broadcast: address.broadcast,
        label: address.label.clone(),
        scope: address.scope,
    }
}

/// What the instance says, else all instances, else keepalived. The lower-priority burst is as the
/// other one where nothing is said of it.
fn announcements(global: &Global, own: &Announcements, is_v6: bool) -> AnnouncementSettings {
    let all = &global.announcements;
    let default = match global.min_garp {
        true => AnnouncementSettings { repeat: 1, delay_us: 0, ..Default::default() },
        false => AnnouncementSettings::default(),
    };
    let delay_us = own.master_delay_us.or(all.master_delay_us).unwrap_or(default.delay_us);
    let repeat = own.master_repeat.or(all.master_repeat).unwrap_or(default.repeat);
    let lower_delay = own.lower_prio_delay_us.or(all.lower_prio_delay_us);
    let lower_repeat = own.lower_prio_repeat.or(all.lower_prio_repeat);
    let spacing_us = match is_v6 {
        true => own.neighbour_interval_us.or(all.neighbour_interval_us),
        false => own.arp_interval_us.or(all.arp_interval_us),
    };
    AnnouncementSettings {
        repeat,
        delay_us,
        lower_priority_repeat: lower_repeat.unwrap_or(repeat),
        lower_priority_delay_us: lower_delay.unwrap_or(delay_us),
        refresh_us: own.refresh_us.or(all.refresh_us).unwrap_or(default.refresh_us),
        refresh_repeat: own.refresh_repeat.or(all.refresh_repeat).unwrap_or(default.refresh_repeat),
        spacing_us: spacing_us.unwrap_or(default.spacing_us),
    }
}

struct Tracking<'a> {
    config: &'a Keepalived,
    instance: usize,
    feeds: &'a mut Vec<Feed>,
    settings: &'a mut InstanceSettings,
}

impl Tracking<'_> {
    /// In the order scripts, processes, files, interfaces; first those of the instance, then those of
    /// its group.
    fn add(&mut self, trackers: &Trackers) {
        let config = self.config;
        for tracked in &trackers.scripts {
            let place = config.scripts.iter().position(|script| script.name == tracked.name);
            let Some(place) = place else { continue };
            let weight = config.scripts[place].weight;
            self.one(tracked, weight, Source::Script(place));
        }
        for tracked in &trackers.processes {
            let place = config.processes.iter().position(|one| one.name == tracked.name);
            let Some(place) = place else { continue };
            let weight = config.processes[place].weight;
            self.one(tracked, weight, Source::Process(place));
        }
        for tracked in &trackers.files {
            let place = config.files.iter().position(|one| one.name == tracked.name);
            let Some(place) = place else { continue };
            let weight = config.files[place].weight;
            self.one(tracked, weight, Source::File(place));
        }
        for tracked in &trackers.interfaces {
            let source = Source::Interface(tracked.name.clone());
            self.one(tracked, Weight::default(), source);
        }
    }

    fn one(&mut self, tracked: &Tracked, weight: Weight, source: Source) {
        let weight = tracked.weight.unwrap_or(weight);
        let tracker = self.settings.trackers.len();
        self.settings.trackers.push(TrackerSettings {
            name: tracked.name.clone(),
            weight: weight.value,
            reverse: weight.reverse,
        });
        self.feeds.push(Feed { instance: self.instance, tracker, source });
    }
}

fn service(
    instance: &Instance,
    data: &DrbdResource,
    members: Vec<(usize, usize)>,
    facts: ResourceFacts,
    run_dir: &Path,
) -> ServicePlan {
    let resource = &data.name;
    let mut steps = Vec::new();
    let mut actions = Vec::new();
    let mut add = |kind, name: String, action| {
        steps.push(Step { kind, name });
        actions.push(action);
    };
    add(StepKind::Promote, format!("promote {resource}"), Action::Promote);
    if let Some(mount) = &data.mount {
        if facts.is_attached {
            add(StepKind::Attach, format!("attach {resource}"), Action::Attach);
        }
        let mut file_system = FileSystem::new(&mount.device, &mount.directory);
        file_system.kind = Some(mount.file_system.clone()).filter(|kind| !kind.is_empty());
        let options = mount.options.split(',').filter(|option| !option.is_empty());
        file_system.options = options.map(str::to_owned).collect();
        add(StepKind::Mount, format!("mount {}", mount.directory), Action::Mount(file_system));
    }
    let name = format!("addresses of {}", instance.name);
    add(StepKind::Addresses, name, Action::Addresses);
    // The first stop belongs to the first start, and so on.
    for index in 0..data.start.len().max(data.stop.len()) {
        let (start, stop) = (data.start.get(index), data.stop.get(index));
        let default = Program::default();
        let limit = |command: &ServiceCommand| Duration::from_micros(command.timeout_us);
        let program = Program {
            start: start.map(|start| start.text.clone()),
            stop: stop.map(|stop| stop.text.clone()),
            start_limit: start.map_or(default.start_limit, limit),
            stop_limit: stop.map_or(default.stop_limit, limit),
        };
        let shown = start.or(stop).map(|command| command.text.clone()).unwrap_or_default();
        add(StepKind::Command, shown, Action::Command(program));
    }
    ServicePlan {
        name: instance.name.clone(),
        resource: resource.clone(),
        members,
        settings: ServiceSettings {
            steps,
            is_exclusive: facts.is_exclusive,
            wait_for_peer_us: facts.wait_for_peer.map(|wait| wait.as_micros() as u64),
        },
        actions,
        standby_note: run_dir.join(format!("{resource}.standby")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keepalived::parse;

    fn planned(text: &str) -> Plan {
        planned_with(text, true)
    }

    fn planned_with(text: &str, is_attached: bool) -> Plan {
        let config = parse(Path::new("keepalived.conf"), text, "a").expect("loads");
        let places = Places { run_dir: PathBuf::from("/run/twinblk"), address_guard: None };
        let facts = |name: &str| match name {
            "r0" => Ok(ResourceFacts { is_attached, is_exclusive: true, wait_for_peer: None }),
            _ => Err("it is not in drbd.conf".to_owned()),
        };
        plan(&config, &places, facts).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_classic_pair_becomes_what_keepalived_makes_of_it() {
        let text = include_str!("../../tests/data/keepalived/nginx-a.conf");
        let plan = planned(text);
        let [placement] = &plan.vrrp.instances[..] else { panic!("one") };
        let settings = &placement.settings;
        assert_eq!(placement.interface, "eth0");
        assert_eq!((settings.version, settings.initial_state), (Version::V2, State::Master));
        assert_eq!(settings.authentication, Authentication::Pass(*b"aiker>co"));
        assert_eq!(settings.announcements, AnnouncementSettings::default());
        assert_eq!(settings.trackers[0].name, "chk_nginx");
        assert!(!settings.bound && plan.services.is_empty());
        assert_eq!(plan.fed, [[(0, 0)]]);
        assert_eq!(plan.watch.trackers.len(), 1);
    }

    #[test]
    fn a_service_has_its_steps_in_order_and_binds_its_whole_group() {
        let text = "vrrp_sync_group G {\n group {\n A\n B\n }\n track_script {\n s\n }\n}\n\
            vrrp_script s {\n script /bin/true\n weight 5\n}\n\
            vrrp_instance A {\n interface eth0\n virtual_router_id 1\n virtual_ipaddress {\n 10.0.0.1\n }\n\
            drbd_resource r0 {\n mount /dev/drbd0 /srv ext4 noatime\n start \"start x\" timeout 5\n \
            stop \"stop x\"\n }\n}\n\
            vrrp_instance B {\n interface eth1\n virtual_router_id 1\n virtual_ipaddress {\n 10.1.0.1\n }\n}\n";
        let plan = planned(text);
        let service = &plan.services[0];
        let names: Vec<&str> = service.settings.steps.iter().map(|step| &*step.name).collect();
        let expected = ["promote r0", "attach r0", "mount /srv", "addresses of A", "start x"];
        assert_eq!(names, expected);
        let detached = planned_with(text, false);
        assert!(!detached.services[0].actions.contains(&Action::Attach));
        let Action::Command(program) = &service.actions[4] else { panic!("a program") };
        assert_eq!(program.start_limit, Duration::from_secs(5));
        assert_eq!(program.stop.as_deref(), Some("stop x"));
        assert_eq!(service.members, [(0, 1), (1, 1)]);
        for placement in &plan.vrrp.instances {
            let settings = &placement.settings;
            assert!(settings.bound && settings.grouped);
            assert_eq!(settings.trackers[0].weight, 5, "of the group, on all members");
            assert_eq!(settings.trackers[1].name, DATA_TRACKER);
        }
        assert_eq!(plan.fed, [[(0, 0), (1, 0)]]);
        assert_eq!(plan.vrrp.groups[0].members, [0, 1]);
    }

    #[test]
    fn a_resource_that_is_not_there_is_named() {
        let text = "vrrp_instance A {\n interface eth0\n virtual_router_id 1\n \
            virtual_ipaddress {\n 10.0.0.1\n }\n drbd_resource r7\n}\n";
        let config = parse(Path::new("keepalived.conf"), text, "a").expect("loads");
        let places = Places { run_dir: PathBuf::new(), address_guard: None };
        let error = plan(&config, &places, |_| Err("it is not in drbd.conf".to_owned()));
        let text = error.expect_err("no such resource").to_string();
        assert_eq!(text, "vrrp_instance A: drbd_resource r7: it is not in drbd.conf");
    }
}
