//! Every word of keepalived 2.2.7 that may stand in a block, and what it does here. A word that is
//! not in this table is a mistake of the author; docs/keepalived-compatibility.md is checked against
//! it.

use std::fmt;

use Effect::{Acts, Forwarding, Irrelevant, NotProvided};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    File,
    GlobalDefs,
    Script,
    Process,
    TrackFile,
    SyncGroup,
    Instance,
    Authentication,
    DrbdResource,
    VirtualServer,
    RealServer,
    TcpCheck,
    HttpGet,
    Url,
    MiscCheck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Acts,
    /// There is nothing here that it could act upon, and why.
    Irrelevant(&'static str),
    /// keepalived would act upon it; what is different here.
    NotProvided(&'static str),
    /// About packets that are forwarded, which nobody does here: said once for all of them.
    Forwarding,
}

pub type Known = (&'static str, Effect);

impl Block {
    pub const ALL: [Self; 15] = [
        Self::File,
        Self::GlobalDefs,
        Self::Script,
        Self::Process,
        Self::TrackFile,
        Self::SyncGroup,
        Self::Instance,
        Self::Authentication,
        Self::DrbdResource,
        Self::VirtualServer,
        Self::RealServer,
        Self::TcpCheck,
        Self::HttpGet,
        Self::Url,
        Self::MiscCheck,
    ];

    pub fn words(self) -> &'static [&'static [Known]] {
        match self {
            Self::File => &[FILE],
            Self::GlobalDefs => &[GLOBAL, GLOBAL_WITHOUT_EFFECT],
            Self::Script => &[SCRIPT],
            Self::Process => &[PROCESS],
            Self::TrackFile => &[TRACK_FILE],
            Self::SyncGroup => &[TRACKERS, NOTIFY, SYNC_GROUP],
            Self::Instance => &[TRACKERS, NOTIFY, INSTANCE],
            Self::Authentication => &[AUTHENTICATION],
            Self::DrbdResource => &[DRBD_RESOURCE],
            Self::VirtualServer => &[CHECK_TIMES, FORWARDING, VIRTUAL_SERVER],
            Self::RealServer => &[CHECK_TIMES, FORWARDING, REAL_SERVER],
            Self::TcpCheck => &[CHECK_TIMES, CHECK_PLACE],
            Self::HttpGet => &[CHECK_TIMES, CHECK_PLACE, HTTP_GET],
            Self::Url => &[URL],
            Self::MiscCheck => &[CHECK_TIMES, MISC_CHECK],
        }
    }

    pub fn find(self, word: &str) -> Option<Effect> {
        let mut all = self.words().iter().flat_map(|words| words.iter());
        all.find(|(known, _)| *known == word).map(|(_, effect)| *effect)
    }
}

/// As in "unknown word 'x' in a vrrp_instance".
impl fmt::Display for Block {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::File => "file",
            Self::GlobalDefs => "global_defs",
            Self::Script => "vrrp_script",
            Self::Process => "vrrp_track_process",
            Self::TrackFile => "vrrp_track_file",
            Self::SyncGroup => "vrrp_sync_group",
            Self::Instance => "vrrp_instance",
            Self::Authentication => "authentication",
            Self::DrbdResource => "drbd_resource",
            Self::VirtualServer => "virtual_server",
            Self::RealServer => "real_server",
            Self::TcpCheck => "TCP_CHECK",
            Self::HttpGet => "HTTP_GET",
            Self::Url => "url",
            Self::MiscCheck => "MISC_CHECK",
        })
    }
}

const NO_ROUTES: &str = "addresses only: routes and rules are not changed";
const NO_STATIC: &str =
    "addresses, routes and rules of the machine itself are left to its network configuration";
const NO_BFD: &str = "no BFD: a link that is cut is noticed by its carrier or by silence";
const NO_VMAC: &str =
    "the interface keeps its own hardware address, as keepalived does without this word";
const NO_SNMP: &str = "no SNMP and no D-Bus: ask `twinblk status --json`";
const NO_FILTER: &str = "no packet filter is changed";
const NO_CHECK: &str = "such a check is not provided: the server counts as good";
const ONE_PROCESS: &str = "there is one process, which does not fork";
const NO_IPVS: &str = "the kernel's packet forwarding is not used";
const NOT_TUNED: &str = "the kernel's defaults suffice for adverts";
const NOT_SCHEDULED: &str = "VRRP has a thread of its own that waits for nothing else";

const FILE: &[Known] = &[
    ("global_defs", Acts),
    ("vrrp_script", Acts),
    ("vrrp_track_process", Acts),
    ("vrrp_track_file", Acts),
    ("track_file", Acts),
    ("vrrp_sync_group", Acts),
    ("vrrp_instance", Acts),
    ("virtual_server", Acts),
    ("virtual_server_group", Acts),
    // Read before blocks are; here for whoever mistypes it.
    ("include", Acts),
    (
        "garp_group",
        NotProvided("announcements of an interface are spaced by vrrp_garp_interval only"),
    ),
    ("bfd_instance", NotProvided(NO_BFD)),
    ("static_ipaddress", NotProvided(NO_STATIC)),
    ("static_routes", NotProvided(NO_STATIC)),
    ("static_rules", NotProvided(NO_STATIC)),
    ("track_group", NotProvided(NO_STATIC)),
    ("linkbeat_use_polling", Irrelevant("the kernel tells of a lost carrier")),
    ("linkbeat_interfaces", Irrelevant("the kernel tells of a lost carrier")),
    (
        "interface_up_down_delays",
        NotProvided("a link that goes down is a fault at once, however short"),
    ),
    ("net_namespace", NotProvided("start the daemon inside of the namespace: ip netns exec NAME")),
    ("net_namespace_ipvs", Irrelevant(NO_IPVS)),
    ("namespace_with_ipsets", Irrelevant(NO_FILTER)),
    ("instance", Irrelevant("--run-dir keeps several daemons of a machine apart")),
    ("use_pid_dir", Irrelevant("--run-dir says where files are")),
    ("child_wait_time", Irrelevant(ONE_PROCESS)),
    ("SSL", NotProvided("SSL_GET checks show no certificate of their own")),
];

const GLOBAL: &[Known] = &[
    ("notification_email", Acts),
    ("notification_email_from", Acts),
    ("smtp_server", Acts),
    ("smtp_helo_name", Acts),
    ("smtp_connect_timeout", Acts),
    ("smtp_alert", Acts),
    ("smtp_alert_vrrp", Acts),
    ("smtp_alert_checker", Acts),
    ("no_email_faults", Acts),
    ("router_id", Acts),
    ("script_user", Acts),
    ("enable_script_security", Acts),
    ("vrrp_version", Acts),
    ("vrrp_mcast_group4", Acts),
    ("vrrp_mcast_group6", Acts),
    ("vrrp_garp_master_delay", Acts),
    ("vrrp_garp_master_repeat", Acts),
    ("vrrp_garp_lower_prio_delay", Acts),
    ("vrrp_garp_lower_prio_repeat", Acts),
    ("vrrp_garp_master_refresh", Acts),
    ("vrrp_garp_master_refresh_repeat", Acts),
    ("vrrp_garp_interval", Acts),
    ("vrrp_gna_interval", Acts),
    ("vrrp_min_garp", Acts),
    ("vrrp_lower_prio_no_advert", Acts),
    ("vrrp_higher_prio_send_advert", Acts),
    ("vrrp_down_timer_adverts", Acts),
    ("vrrp_check_unicast_src", Acts),
    ("vrrp_startup_delay", Acts),
    ("vrrp_notify_priority_changes", Acts),
    ("startup_script", Acts),
    ("startup_script_timeout", Acts),
    ("shutdown_script", Acts),
    ("shutdown_script_timeout", Acts),
    ("notify_fifo", Acts),
    ("notify_fifo_script", Acts),
    ("vrrp_notify_fifo", Acts),
    ("vrrp_notify_fifo_script", Acts),
    ("lvs_notify_fifo", Acts),
    ("lvs_notify_fifo_script", Acts),
    ("checker_log_all_failures", Acts),
];

const GLOBAL_WITHOUT_EFFECT: &[Known] = &[
    ("vrrp_strict", NotProvided("an instance is not held to the letter of the RFC")),
    ("vrrp_skip_check_adv_addr", Irrelevant("the addresses of every advert are compared")),
    ("dynamic_interfaces", Irrelevant("interfaces may come and go without it")),
    ("process_names", Irrelevant("a link named keepalived gives the process its name")),
    ("process_name", Irrelevant("a link named keepalived gives the process its name")),
    ("vrrp_process_name", Irrelevant(ONE_PROCESS)),
    ("checker_process_name", Irrelevant(ONE_PROCESS)),
    ("bfd_process_name", Irrelevant(ONE_PROCESS)),
    ("max_auto_priority", Irrelevant(NOT_SCHEDULED)),
    ("min_auto_priority_delay", Irrelevant(NOT_SCHEDULED)),
    ("vrrp_priority", Irrelevant(NOT_SCHEDULED)),
    ("checker_priority", Irrelevant(NOT_SCHEDULED)),
    ("bfd_priority", Irrelevant(NOT_SCHEDULED)),
    ("vrrp_rt_priority", Irrelevant(NOT_SCHEDULED)),
    ("checker_rt_priority", Irrelevant(NOT_SCHEDULED)),
    ("bfd_rt_priority", Irrelevant(NOT_SCHEDULED)),
    ("vrrp_cpu_affinity", Irrelevant(NOT_SCHEDULED)),
    ("checker_cpu_affinity", Irrelevant(NOT_SCHEDULED)),
    ("bfd_cpu_affinity", Irrelevant(NOT_SCHEDULED)),
    ("vrrp_rlimit_rttime", Irrelevant(NOT_SCHEDULED)),
    ("checker_rlimit_rttime", Irrelevant(NOT_SCHEDULED)),
    ("bfd_rlimit_rttime", Irrelevant(NOT_SCHEDULED)),
    ("vrrp_no_swap", Irrelevant("a node that was not run listens again before it acts")),
    ("checker_no_swap", Irrelevant(ONE_PROCESS)),
    ("bfd_no_swap", Irrelevant(ONE_PROCESS)),
    ("vrrp_netlink_cmd_rcv_bufs", Irrelevant(NOT_TUNED)),
    ("vrrp_netlink_cmd_rcv_bufs_force", Irrelevant(NOT_TUNED)),
    ("vrrp_netlink_monitor_rcv_bufs", Irrelevant(NOT_TUNED)),
    ("vrrp_netlink_monitor_rcv_bufs_force", Irrelevant(NOT_TUNED)),
    ("lvs_netlink_cmd_rcv_bufs", Irrelevant(NOT_TUNED)),
    ("lvs_netlink_cmd_rcv_bufs_force", Irrelevant(NOT_TUNED)),
    ("lvs_netlink_monitor_rcv_bufs", Irrelevant(NOT_TUNED)),
    ("lvs_netlink_monitor_rcv_bufs_force", Irrelevant(NOT_TUNED)),
    ("process_monitor_rcv_bufs", Irrelevant(NOT_TUNED)),
    ("process_monitor_rcv_bufs_force", Irrelevant(NOT_TUNED)),
    ("vrrp_rx_bufs_policy", Irrelevant(NOT_TUNED)),
    ("vrrp_rx_bufs_multiplier", Irrelevant(NOT_TUNED)),
    ("umask", Irrelevant("no files are written but in the run directory")),
    ("tmp_config_directory", Irrelevant(ONE_PROCESS)),
    ("config_save_dir", Irrelevant("a reload prints what it changes")),
    ("reload_check_config", Irrelevant("a configuration with errors is never taken over")),
    ("include_check", Irrelevant("a file that cannot be read is always named")),
    (
        "reload_time_file",
        NotProvided("no reload at a set time: let a timer of the system ask for it"),
    ),
    ("reload_repeat", NotProvided("no reload at a set time: let a timer of the system ask for it")),
    ("reload_file", NotProvided("no file tells of a reload: the command that asks for it waits")),
    (
        "fifo_write_vrrp_states_on_reload",
        NotProvided("instances that a reload leaves alone are not told again"),
    ),
    ("rs_init_notifies", NotProvided("the first result of a check is always told")),
    ("no_checker_emails", NotProvided("checks that change tell by mail, where smtp_alert is set")),
    ("log_unknown_vrids", NotProvided("adverts of other routers are only counted")),
    ("vrrp_garp_extra_if", NotProvided("announcements on other interfaces are not repeated")),
    ("vrrp_iptables", NotProvided(NO_FILTER)),
    ("vrrp_ipsets", NotProvided(NO_FILTER)),
    ("nftables", NotProvided(NO_FILTER)),
    ("nftables_priority", NotProvided(NO_FILTER)),
    ("nftables_counters", NotProvided(NO_FILTER)),
    ("nftables_ifindex", NotProvided(NO_FILTER)),
    ("disable_local_igmp", NotProvided(NO_FILTER)),
    ("nftables_ipvs", Forwarding),
    ("nftables_ipvs_priority", Forwarding),
    ("nftables_ipvs_start_fwmark", Forwarding),
    ("lvs_sync_daemon", Forwarding),
    ("lvs_timeouts", Forwarding),
    ("lvs_flush", Forwarding),
    ("lvs_flush_on_stop", Forwarding),
    ("default_interface", NotProvided(NO_STATIC)),
    ("vmac_prefix", NotProvided(NO_VMAC)),
    ("vmac_addr_prefix", NotProvided(NO_VMAC)),
    ("random_seed", Irrelevant("${_RANDOM} is not provided")),
    ("data_use_instance", Irrelevant("--run-dir keeps several daemons of a machine apart")),
    ("snmp_socket", NotProvided(NO_SNMP)),
    ("enable_snmp_vrrp", NotProvided(NO_SNMP)),
    ("enable_snmp_checker", NotProvided(NO_SNMP)),
    ("enable_snmp_rfc", NotProvided(NO_SNMP)),
    ("enable_snmp_rfcv2", NotProvided(NO_SNMP)),
    ("enable_snmp_rfcv3", NotProvided(NO_SNMP)),
    ("enable_traps", NotProvided(NO_SNMP)),
    ("enable_dbus", NotProvided(NO_SNMP)),
    ("dbus_service_name", NotProvided(NO_SNMP)),
];

const SCRIPT: &[Known] = &[
    ("script", Acts),
    ("interval", Acts),
    ("timeout", Acts),
    ("weight", Acts),
    ("rise", Acts),
    ("fall", Acts),
    ("user", Acts),
    ("init_fail", Acts),
];

const PROCESS: &[Known] = &[
    ("process", Acts),
    ("param_match", Acts),
    ("weight", Acts),
    ("quorum", Acts),
    ("quorum_max", Acts),
    ("fork_delay", Acts),
    ("terminate_delay", Acts),
    ("delay", Acts),
    ("full_command", Acts),
];

const TRACK_FILE: &[Known] = &[("file", Acts), ("weight", Acts), ("init_file", Acts)];

const TRACKERS: &[Known] = &[
    ("track_interface", Acts),
    ("track_script", Acts),
    ("track_file", Acts),
    ("track_process", Acts),
    ("track_bfd", NotProvided(NO_BFD)),
];

const NOTIFY: &[Known] = &[
    ("notify_master", Acts),
    ("notify_backup", Acts),
    ("notify_fault", Acts),
    ("notify_stop", Acts),
    ("notify", Acts),
    ("notify_deleted", Acts),
    ("notify_priority_changes", Acts),
    ("smtp_alert", Acts),
];

const SYNC_GROUP: &[Known] = &[
    ("group", Acts),
    ("sync_group_tracking_weight", Acts),
    ("global_tracking", NotProvided("the members share faults anyway; name trackers in the group")),
];

const INSTANCE: &[Known] = &[
    ("state", Acts),
    ("interface", Acts),
    ("virtual_router_id", Acts),
    ("priority", Acts),
    ("advert_int", Acts),
    ("version", Acts),
    ("preempt", Acts),
    ("nopreempt", Acts),
    ("preempt_delay", Acts),
    ("authentication", Acts),
    ("virtual_ipaddress", Acts),
    ("virtual_ipaddress_excluded", Acts),
    ("drbd_resource", Acts),
    ("mcast_src_ip", Acts),
    ("unicast_src_ip", Acts),
    ("mcast_dst_ip", Acts),
    ("unicast_peer", Acts),
    ("check_unicast_src", Acts),
    ("garp_master_delay", Acts),
    ("garp_master_repeat", Acts),
    ("garp_lower_prio_delay", Acts),
    ("garp_lower_prio_repeat", Acts),
    ("garp_master_refresh", Acts),
    ("garp_master_refresh_repeat", Acts),
    ("down_timer_adverts", Acts),
    ("lower_prio_no_advert", Acts),
    ("higher_prio_send_advert", Acts),
    ("accept", Acts),
    ("v3_checksum_as_v2", Acts),
    ("notify_master_rx_lower_pri", Acts),
    ("dont_track_primary", NotProvided("an instance whose interface is down is in FAULT")),
    ("no_accept", NotProvided("the addresses answer on a node that does not own them, too")),
    ("virtual_routes", NotProvided(NO_ROUTES)),
    ("virtual_rules", NotProvided(NO_ROUTES)),
    (
        "promote_secondaries",
        NotProvided("set net.ipv4.conf.INTERFACE.promote_secondaries yourself"),
    ),
    ("use_vmac", NotProvided(NO_VMAC)),
    ("use_vmac_addr", NotProvided(NO_VMAC)),
    ("vmac_xmit_base", NotProvided(NO_VMAC)),
    ("use_ipvlan", NotProvided(NO_VMAC)),
    ("vrf", NotProvided("an instance is on its interface; name that one")),
    ("native_ipv6", Irrelevant("the addresses say which family it is")),
    ("strict_mode", NotProvided("an instance is not held to the letter of the RFC")),
    ("skip_check_adv_addr", Irrelevant("the addresses of every advert are compared")),
    (
        "track_src_ip",
        NotProvided("a source address that is not there makes sending fail, which is logged"),
    ),
    ("unicast_fault_no_peer", Irrelevant("without peers it is multicast, as keepalived says too")),
    ("unicast_ttl", NotProvided("unicast is sent with a TTL of 255")),
    ("old_unicast_checksum", NotProvided("the checksums of 1.3.6 and older are not understood")),
    ("garp_extra_if", NotProvided("announcements on other interfaces are not repeated")),
    ("lvs_sync_daemon_interface", Forwarding),
    ("debug", Irrelevant("it means nothing to keepalived either")),
    ("kernel_rx_buf_size", Irrelevant(NOT_TUNED)),
    ("linkbeat_use_polling", Irrelevant("the kernel tells of a lost carrier")),
    ("auth_hmac", NotProvided("adverts are not signed")),
];

const AUTHENTICATION: &[Known] = &[("auth_type", Acts), ("auth_pass", Acts)];

const DRBD_RESOURCE: &[Known] = &[("mount", Acts), ("start", Acts), ("stop", Acts)];

/// Where one block does not say it, the one around it does.
const CHECK_TIMES: &[Known] = &[
    ("delay_loop", Acts),
    ("connect_timeout", Acts),
    ("retry", Acts),
    ("nb_get_retry", Acts),
    ("delay_before_retry", Acts),
    ("warmup", Acts),
    ("alpha", Acts),
    ("log_all_failures", Acts),
];

const CHECK_PLACE: &[Known] = &[
    ("connect_ip", Acts),
    ("connect_port", Acts),
    ("bindto", Acts),
    ("bind_port", Acts),
    ("bind_if", NotProvided("the routes choose the interface of a check")),
    ("fwmark", NotProvided("the packets of a check carry no mark")),
];

/// `lvs_method` and `lvs_sched` are their newer names.
const FORWARDING: &[Known] = &[
    ("lb_kind", Forwarding),
    ("lvs_method", Forwarding),
    ("inhibit_on_failure", Acts),
    ("virtualhost", Acts),
    ("smtp_alert", Acts),
    ("snmp_name", Irrelevant(NO_SNMP)),
];

const VIRTUAL_SERVER: &[Known] = &[
    ("real_server", Acts),
    ("protocol", Acts),
    ("persistence_timeout", Forwarding),
    ("persistence_engine", Forwarding),
    ("persistence_granularity", Forwarding),
    ("lb_algo", Forwarding),
    ("lvs_sched", Forwarding),
    ("nat_mask", Forwarding),
    ("ops", Forwarding),
    ("flag-1", Forwarding),
    ("flag-2", Forwarding),
    ("flag-3", Forwarding),
    ("sh-port", Forwarding),
    ("sh-fallback", Forwarding),
    ("mh-port", Forwarding),
    ("mh-fallback", Forwarding),
    ("ip_family", Forwarding),
    ("sorry_server", Forwarding),
    ("sorry_server_inhibit", Forwarding),
    ("sorry_server_lvs_method", Forwarding),
    ("quorum", Acts),
    ("hysteresis", Acts),
    ("quorum_up", Acts),
    ("quorum_down", Acts),
    ("omega", Acts),
    ("ha_suspend", Acts),
];

const REAL_SERVER: &[Known] = &[
    ("weight", Acts),
    ("notify_up", Acts),
    ("notify_down", Acts),
    ("TCP_CHECK", Acts),
    ("HTTP_GET", Acts),
    ("SSL_GET", Acts),
    ("MISC_CHECK", Acts),
    ("SMTP_CHECK", NotProvided(NO_CHECK)),
    ("DNS_CHECK", NotProvided(NO_CHECK)),
    ("BFD_CHECK", NotProvided(NO_CHECK)),
    ("UDP_CHECK", NotProvided(NO_CHECK)),
    ("PING_CHECK", NotProvided(NO_CHECK)),
    ("FILE_CHECK", NotProvided(NO_CHECK)),
    ("uthreshold", Forwarding),
    ("lthreshold", Forwarding),
];

const HTTP_GET: &[Known] = &[
    ("url", Acts),
    ("virtualhost", Acts),
    ("http_protocol", Acts),
    ("enable_sni", Acts),
    ("fast_recovery", NotProvided("all URLs are asked one after the other without a pause")),
];

const URL: &[Known] = &[
    ("path", Acts),
    ("digest", Acts),
    ("status_code", Acts),
    ("virtualhost", Acts),
    ("regex", NotProvided("the text of an answer is not searched: use digest or MISC_CHECK")),
    ("regex_no_match", NotProvided("the text of an answer is not searched")),
    ("regex_options", NotProvided("the text of an answer is not searched")),
    ("regex_stack", NotProvided("the text of an answer is not searched")),
    ("regex_min_offset", NotProvided("the text of an answer is not searched")),
    ("regex_max_offset", NotProvided("the text of an answer is not searched")),
    ("tls_compliant", Irrelevant("connections are closed as TLS demands")),
];

const MISC_CHECK: &[Known] =
    &[("misc_path", Acts), ("misc_timeout", Acts), ("misc_dynamic", Acts), ("user", Acts)];
