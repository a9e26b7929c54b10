//! `vrrp_instance` and what belongs to it.

use super::super::model::{CheckKind, InitialState, Weight};
use super::{instance, loaded, mistakes};

#[test]
fn defaults_are_keepaliveds() {
    let (config, warnings) = loaded(&instance(""));
    assert!(warnings.is_empty(), "{warnings:?}");
    let instance = &config.instances[0];
    assert_eq!((instance.state, instance.priority), (InitialState::Backup, 100));
    assert_eq!((instance.advert_interval_us, instance.preempt), (1_000_000, true));
    assert_eq!((instance.down_timer_adverts, instance.accept), (3, true));
    assert!(instance.data.is_none() && instance.password.is_none());
}

#[test]
fn every_word_of_an_instance() {
    let text = instance(
        "state MASTER
         advert_int 0.1
         version 3
         preempt_delay 30
         dont_track_primary
         unicast_src_ip 10.0.0.1
         unicast_peer {
           10.0.0.2
           10.0.0.3
         }
         garp_master_delay 1
         garp_master_repeat 2
         garp_master_refresh 60
         lower_prio_no_advert true
         v3_checksum_as_v2
         notify_master \"/bin/m a\" root wheel
         notify /bin/all x y
         notify_priority_changes
         smtp_alert
         track_interface {
           eth1 weight -20
         }
         virtual_ipaddress_excluded {
           10.1.0.9/24 brd + dev eth2 label eth2:1 scope link
         }",
    );
    let (config, warnings) = loaded(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let instance = &config.instances[0];
    assert_eq!((instance.advert_interval_us, instance.version), (100_000, Some(3)));
    assert_eq!((instance.preempt_delay_us, instance.track_primary), (30_000_000, false));
    assert_eq!(instance.source.map(|ip| ip.to_string()).as_deref(), Some("10.0.0.1"));
    assert_eq!(instance.unicast_peers.len(), 2);
    let announcements = instance.announcements;
    assert_eq!((announcements.delay_us, announcements.repeat), (Some(1_000_000), Some(2)));
    assert_eq!(instance.lower_priority_no_advert, Some(true));
    assert!(instance.checksum_as_v2 && instance.notify.priority_changes);
    let master = instance.notify.master.as_ref().expect("a program");
    let user = master.user.as_ref().expect("a user");
    assert_eq!((master.command.as_str(), user.name.as_str()), ("/bin/m a", "root"));
    assert_eq!(user.group.as_deref(), Some("wheel"));
    assert_eq!(instance.notify.any.as_ref().expect("a program").command, "/bin/all x y");
    let tracked = &instance.trackers.interfaces[0];
    assert_eq!((tracked.name.as_str(), tracked.weight.map(|w| w.value)), ("eth1", Some(-20)));
    let excluded = &instance.addresses_excluded[0];
    assert_eq!(excluded.broadcast.map(|ip| ip.to_string()).as_deref(), Some("10.1.0.255"));
    assert_eq!((excluded.prefix_length, excluded.scope), (24, 253));
    assert_eq!(excluded.interface.as_deref(), Some("eth2"));
    assert_eq!(excluded.label.as_deref(), Some("eth2:1"));
}

#[test]
fn a_resource_with_what_runs_on_it() {
    let text = instance(
        "drbd_resource r0 {
             mount /dev/drbd0 /var/lib/mysql ext4 noatime,nodev
             start \"systemctl start mariadb\" timeout 60
             stop  \"systemctl stop mariadb\" timeout 30
             start /usr/local/bin/more
         }",
    );
    let (config, warnings) = loaded(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let data = config.instances[0].data.as_ref().expect("a resource");
    assert_eq!(data.resource, "r0");
    let mount = &data.mounts[0];
    assert_eq!(mount.directory.display().to_string(), "/var/lib/mysql");
    assert_eq!(mount.file_system.as_deref(), Some("ext4"));
    assert_eq!(mount.options, ["noatime", "nodev"]);
    assert_eq!(data.starts[0].command, "systemctl start mariadb");
    assert_eq!(data.starts[0].limit_us, Some(60_000_000));
    assert_eq!((data.starts[1].limit_us, data.stops.len()), (None, 1));
    let (config, _) = loaded(&instance("drbd_resource r0"));
    assert!(config.instances[0].data.is_some(), "no block is needed");
    let wrong = instance("drbd_resource r0 {\n mount /dev/drbd0\n }");
    assert!(mistakes(&wrong)[0].contains("'mount' takes a device and a directory"));
}

#[test]
fn what_would_make_it_another_node_does_not_load() {
    for (text, why) in [
        (instance("priority 300"), "'priority 300': a number from 1 to 255"),
        (instance("virtual_router_id 0"), "a number from 1 to 255"),
        (instance("advert_int x"), "a number of seconds"),
        (instance("virtual_ipaddress {\n 10.0.0.300\n }"), "'10.0.0.300' is no IP address"),
        (instance("authentication {\n auth_type AH\n auth_pass x\n }"), "IPsec is not provided"),
        (instance("") + &instance(""), "vrrp_instance VI_1 is there twice"),
        (
            instance("") + &instance("").replace("VI_1", "VI_2"),
            "virtual_router_id 51 is there twice on eth0",
        ),
        ("vrrp_instance X {\n interface e\n}".to_owned(), "has no virtual_router_id"),
        ("vrrp_script x {\n}".to_owned(), "vrrp_script x has no script"),
        (
            instance("drbd_resource r0")
                + &instance("drbd_resource r0").replace("VI_1", "VI_2").replace("51", "52"),
            "two instances move drbd_resource r0",
        ),
    ] {
        let found = mistakes(&text);
        assert!(found.iter().any(|line| line.contains(why)), "{why}: {found:?}");
    }
}

#[test]
fn what_keepalived_tolerates_is_a_warning() {
    for (text, why) in [
        (instance("prioritty 50"), "unknown word 'prioritty' in vrrp_instance: ignored"),
        (instance("state FOO"), "state 'FOO': MASTER or BACKUP"),
        (instance("use_vmac"), "'use_vmac' has no effect"),
        (instance("track_script {\n chk\n }"), "no vrrp_script 'chk': not tracked"),
        (instance("state MASTER\n nopreempt"), "nopreempt does not go with state MASTER"),
        (
            instance("") + "vrrp_sync_group G {\n group {\n VI_1\n VI_2\n }\n}\n",
            "no vrrp_instance 'VI_2'",
        ),
        ("frobnicate {\n x\n}\n".to_owned() + &instance(""), "unknown word 'frobnicate'"),
    ] {
        let (_, found) = loaded(&text);
        assert!(found.iter().any(|line| line.contains(why)), "{why}: {found:?}");
    }
    let (config, _) = loaded(&instance("state MASTER\n nopreempt"));
    assert_eq!(config.instances[0].state, InitialState::Backup);
    let mistyped = super::super::parse(std::path::Path::new("x"), &instance("prioritty 50"));
    let shown = mistyped.expect("loads").warnings.render(false);
    assert!(shown.contains("did you mean 'priority'?"), "{shown}");
}

#[test]
fn scripts_processes_and_files() {
    let text = "vrrp_script s {\n script \"/bin/c x\"\n interval 0.5\n timeout 2\n weight -20 reverse\n rise 2\n fall 3\n user nobody nogroup\n init_fail\n}\n\
        vrrp_track_process p {\n process nginx\n weight 5\n quorum 2\n delay 1\n}\n\
        vrrp_track_file f {\n file /var/run/f\n weight 2\n init_file 5 overwrite\n}\n"
        .to_owned()
        + &instance("track_script {\n s weight 10\n }\n track_process {\n p\n }\n track_file {\n f\n }");
    let (config, warnings) = loaded(&text);
    assert!(warnings.is_empty(), "{warnings:?}");
    let script = &config.scripts[0];
    assert_eq!(script.weight, Weight { value: -20, reverse: true });
    assert_eq!((script.interval_us, script.timeout_us), (500_000, 2_000_000));
    assert_eq!((script.rise, script.fall, script.init_fail), (2, 3, true));
    let process = &config.processes[0];
    assert_eq!((process.words.len(), process.quorum), (1, 2));
    assert_eq!((process.fork_delay_us, process.terminate_delay_us), (1_000_000, 1_000_000));
    assert_eq!(config.files[0].init, Some((5, true)));
    let trackers = &config.instances[0].trackers;
    assert_eq!(trackers.scripts[0].weight.map(|weight| weight.value), Some(10));
    assert!(trackers.processes[0].weight.is_none() && trackers.files.len() == 1);
}

#[test]
fn servers_and_their_checks() {
    let text = "virtual_server 10.0.0.9 80 {\n delay_loop 6\n lb_algo rr\n quorum 2\n real_server 10.0.0.1 8080 {\n \
        HTTP_GET {\n url {\n path /alive\n status_code 200 300-399\n }\n nb_get_retry 4\n connect_port 81\n }\n \
        MISC_CHECK {\n misc_path \"/bin/check x\"\n misc_timeout 3\n misc_dynamic\n }\n }\n connect_timeout 2\n}\n";
    let (config, _) = loaded(text);
    let server = &config.servers[0];
    assert_eq!((server.quorum, server.delay_loop_us), (2, 6_000_000));
    let [http, misc] = &server.servers[0].checks[..] else { panic!("two checks") };
    let CheckKind::Http { tls: false, urls, .. } = &http.kind else { panic!("{http:?}") };
    assert_eq!(urls[0].status_codes, [(200, 200), (300, 399)]);
    assert_eq!((http.retry, http.delay_before_retry_us), (4, 3_000_000));
    assert_eq!(http.connect_timeout_us, 2_000_000, "from behind the real_server");
    assert_eq!(http.connect_to.to_string(), "10.0.0.1:81");
    let CheckKind::Program { command, timeout_us, dynamic: true, .. } = &misc.kind else {
        panic!("{misc:?}")
    };
    assert_eq!((command.as_str(), *timeout_us), ("/bin/check x", 3_000_000));
}
