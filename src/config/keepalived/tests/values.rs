//! What right files mean, with the defaults of keepalived.

use super::*;

#[test]
fn an_instance_with_nothing_but_the_least() {
    let instance = instance_of("");
    assert_eq!(instance.initial_state, InitialState::Backup);
    assert_eq!((instance.priority, instance.advert_interval_us), (100, 1_000_000));
    assert!(instance.preempt && instance.accept);
    assert_eq!(instance.version_in(&Global::default()), 2);
    assert_eq!(instance.notify, Notify::default());
    assert_eq!(instance.announcements, Announcements::default());
}

#[test]
fn an_instance_with_much() {
    let config = parsed(
        "global_defs {\nvrrp_version 3\nvrrp_garp_master_delay 10\nvrrp_garp_interval 0.001\n\
         vrrp_mcast_group4 224.0.0.20\nscript_user nobody nogroup\n}\n\
         vrrp_script chk {\nscript \"killall -0 nginx\"\ninterval 2\ntimeout 1\nweight -20 reverse\n\
         rise 2\nfall 3\nuser root\ninit_fail\n}\n\
         vrrp_track_process p {\nprocess nginx -g x\nquorum 2\ndelay 0.5\nparam_match initial\n}\n\
         vrrp_track_file f {\nfile /run/x\nweight 2\ninit_file 5 overwrite\n}\n\
         vrrp_instance VI_1\n{\nstate MASTER\ninterface bond0.7\nvirtual_router_id 255\npriority 254\n\
         advert_int 0.25\npreempt_delay 0\nunicast_src_ip 10.0.0.1\n\
         unicast_peer { 10.0.0.2\n10.0.0.3 }\ntrack_interface { eth1\neth2 weight -5 }\n\
         track_script { chk weight 4 noreverse }\ntrack_process { p }\ntrack_file { f }\n\
         virtual_ipaddress {\n10.0.0.9/24 brd + dev eth1 scope link label eth1:1\n10.0.0.8\n}\n\
         virtual_ipaddress_excluded { 2001:db8::1/64 }\n\
         notify \"/a/b c\" nobody\nnotify_master /m\nsmtp_alert\n\
         garp_master_repeat 3\ngarp_master_refresh 60\nlower_prio_no_advert\n\
         down_timer_adverts 4\ncheck_unicast_src\n}\n",
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let global = &config.global;
    assert_eq!(global.announcements.master_delay_us, Some(10_000_000));
    assert_eq!(global.announcements.arp_interval_us, Some(1000));
    let user = User { name: "nobody".to_owned(), group: Some("nogroup".to_owned()) };
    assert_eq!(global.script_user, Some(user));
    let script = &config.scripts[0];
    assert_eq!((script.interval_us, script.timeout_us), (2_000_000, 1_000_000));
    assert_eq!(script.weight, Weight { value: -20, reverse: true });
    assert_eq!((script.rise, script.fall, script.init_fail), (2, 3, true));
    assert_eq!(script.command.user.as_ref().expect("one").name, "root");
    let words = ["killall", "-0", "nginx"].map(str::to_owned).to_vec();
    assert_eq!(script.command.invocation(), Invocation::Arguments(words));
    let process = &config.processes[0];
    assert_eq!(process.words, ["nginx", "-g", "x"]);
    assert_eq!((process.quorum, process.fork_delay_us), (2, 500_000));
    assert_eq!((process.parameters, process.weight.value), (ParameterMatch::Initial, 0));
    let file = &config.files[0];
    assert_eq!(file.init, Some(InitFile { value: 5, overwrite: true }));
    let instance = &config.instances[0];
    assert_eq!(instance.version_in(global), 3);
    assert_eq!(instance.advert_interval_us, 250_000);
    assert_eq!(instance.source, Some("10.0.0.1".parse().expect("one")));
    assert_eq!(instance.unicast_peers.len(), 2);
    let weights = |list: &[Tracked]| list.iter().map(|one| one.weight).collect::<Vec<_>>();
    let minus_five = Some(Weight { value: -5, reverse: false });
    assert_eq!(weights(&instance.trackers.interfaces), [None, minus_five]);
    let four = Some(Weight { value: 4, reverse: false });
    assert_eq!(weights(&instance.trackers.scripts), [four]);
    let first = &instance.addresses[0];
    assert_eq!((first.prefix_length, first.scope), (24, 253));
    assert_eq!(first.broadcast, Some("10.0.0.255".parse().expect("one")));
    assert_eq!(first.interface.as_deref(), Some("eth1"));
    assert_eq!(first.label.as_deref(), Some("eth1:1"));
    assert_eq!(instance.addresses[1].prefix_length, 32);
    assert_eq!(instance.addresses_excluded[0].prefix_length, 64);
    let notify = instance.notify.any.as_ref().expect("one");
    assert_eq!((notify.text.as_str(), notify.user.is_some()), ("/a/b c", true));
    assert_eq!(instance.notify.smtp_alert, Some(true));
    assert_eq!(instance.announcements.master_repeat, Some(3));
    assert!(instance.check_unicast_source);
    assert_eq!((instance.lower_prio_no_advert, instance.down_timer_adverts), (Some(true), Some(4)));
}

#[test]
fn what_is_served_from_a_resource() {
    let text = "drbd_resource r0 {\nmount /dev/drbd0 /var/lib/mysql ext4 noatime\n\
                start \"systemctl start mariadb\"   timeout 60\nstart \"systemctl start app\"\n\
                stop  \"systemctl stop app\"\nstop  \"systemctl stop mariadb\"    timeout 30\n}";
    let resource = instance_of(text).drbd_resource.expect("one");
    assert_eq!(resource.name, "r0");
    let mount = resource.mount.expect("one");
    assert_eq!((mount.device.as_str(), mount.directory.as_str()), ("/dev/drbd0", "/var/lib/mysql"));
    assert_eq!((mount.file_system.as_str(), mount.options.as_str()), ("ext4", "noatime"));
    let lines = |list: &[ServiceCommand]| -> Vec<String> {
        list.iter().map(|one| format!("{} {}", one.timeout_us / 1_000_000, one.text)).collect()
    };
    assert_eq!(lines(&resource.start), ["60 systemctl start mariadb", "60 systemctl start app"]);
    assert_eq!(lines(&resource.stop), ["30 systemctl stop app", "30 systemctl stop mariadb"]);
    let alone = instance_of("drbd_resource r0").drbd_resource.expect("one");
    assert_eq!((alone.mount, alone.start.len()), (None, 0));
}

#[test]
fn checks_take_what_they_do_not_say_from_around_them() {
    let config = parsed(
        "virtual_server_group G {\n10.0.0.9 80\nfwmark 5\n}\n\
         virtual_server group G {\ndelay_loop 6\nretry 4\nalpha\nvirtualhost v\nomega\nquorum 2\n\
         quorum_down \"/q d\" nobody\n\
         real_server 10.0.0.1 80 {\ninhibit_on_failure\nretry 5\nnotify_up /u\n\
         HTTP_GET {\nurl {\npath /a\nstatus_code 200 300-302\n}\nurl {\nvirtualhost w\n}\nconnect_port 81\n}\n\
         MISC_CHECK {\nmisc_path \"/c d\"\nmisc_dynamic\nuser nobody\n}\n}\n\
         real_server 10.0.0.2 80 {\nTCP_CHECK {\nconnect_ip 10.0.0.3\nconnect_timeout 2\n}\n}\n}\n\
         virtual_server fwmark 7 {\nreal_server fe80::1 443 {\nSSL_GET {\nenable_sni\nurl {\n}\n}\n\
         TCP_CHECK\nMISC_CHECK {\nmisc_path /m\n}\n}\n}\n",
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.server_groups[0].entries, ["10.0.0.9 80", "fwmark 5"]);
    let server = &config.virtual_servers[0];
    assert_eq!(server.target, ServerTarget::Group("G".to_owned()));
    assert_eq!((server.quorum, server.omega), (2, true));
    let [first, second] = &server.real_servers[..] else { panic!("two real servers") };
    assert!(first.inhibit_on_failure && !second.inhibit_on_failure);
    let [http, misc] = &first.checks[..] else { panic!("two checks") };
    assert_eq!((http.retry, http.delay_loop_us, http.alpha), (5, 6_000_000, true));
    assert_eq!((http.delay_before_retry_us, http.warmup_us), (3_000_000, 6_000_000));
    assert_eq!((http.connect_port, http.connect_timeout_us), (81, 5_000_000));
    let CheckKind::Http(check) = &http.kind else { panic!("HTTP_GET") };
    assert_eq!(check.urls[0].status_codes, [(200, 200), (300, 302)]);
    assert_eq!(check.urls[0].virtual_host.as_deref(), Some("v"));
    assert_eq!(
        (check.urls[1].path.as_str(), &check.urls[1].status_codes[..]),
        ("/", &[(200, 299)][..])
    );
    assert_eq!(check.urls[1].virtual_host.as_deref(), Some("w"));
    let CheckKind::Misc(check) = &misc.kind else { panic!("MISC_CHECK") };
    assert_eq!((check.timeout_us, check.dynamic), (6_000_000, true));
    assert_eq!(check.command.user.as_ref().expect("one").name, "nobody");
    let tcp = &second.checks[0];
    assert_eq!((tcp.retry, tcp.delay_before_retry_us), (4, 1_000_000));
    assert_eq!(tcp.connect_ip.to_string(), "10.0.0.3");
    let real = &config.virtual_servers[1].real_servers[0];
    let CheckKind::Http(check) = &real.checks[0].kind else { panic!("SSL_GET") };
    assert!(check.is_tls && check.sends_name);
    assert_eq!((real.checks[1].retry, real.checks[2].retry), (1, 0));
    assert_eq!(real.checks[1].delay_loop_us, 60_000_000);
}
