//! Wrong files, and what is said about them.

use super::*;

fn first_line(diagnostics: &Diagnostics) -> (String, String) {
    let rendered = diagnostics.render(false);
    let first = diagnostics.list.first().expect("at least one");
    for part in [&first.message, &first.label] {
        assert!(rendered.contains(part.as_str()), "{part:?} is in\n{rendered}");
    }
    (diagnostics.to_string().lines().next().expect("a line").to_owned(), first.label.clone())
}

/// The file does not load.
fn assert_error(text: &str, message: &str, label: &str) {
    let mistakes = parse(Path::new("f"), text, "alice").expect_err(text);
    assert_eq!(first_line(&mistakes), (message.to_owned(), label.to_owned()), "{text}");
}

/// The file loads.
fn assert_warning(text: &str, message: &str, label: &str) -> Keepalived {
    let config = parsed(text);
    assert!(!config.warnings.is_empty(), "{text}");
    assert_eq!(first_line(&config.warnings), (message.to_owned(), label.to_owned()), "{text}");
    config
}

fn in_instance(inside: &str, message: &str, label: &str) {
    assert_error(&instance_with(inside), message, label);
}

#[test]
fn what_keepalived_tolerates_is_a_warning() {
    assert_warning(
        &instance_with("prioriti 90"),
        "f:7: unknown keyword 'prioriti' in vrrp_instance",
        "did you mean 'priority'?",
    );
    assert_warning(
        &instance_with("router_id x"),
        "f:7: unknown keyword 'router_id' in vrrp_instance",
        "belongs into global_defs",
    );
    assert_warning(
        "frobnicate {\n a b\n}",
        "f:1: unknown keyword 'frobnicate' outside of a block",
        "ignored",
    );
    assert_warning("global_defs {\n}\n}\n", "f:3: '}' without a '{' before it", "ignored");
    let config = assert_warning(
        "global_defs {\n router_id x",
        "f:2: the file ends inside of a block: '}' is missing",
        "the file ends here",
    );
    assert_eq!(config.global.router_id.as_deref(), Some("x"));
    assert_warning(
        &instance_with("advert_int 1.5"),
        "f:1: vrrp_instance 'VI_1': advert_int rounded to 2 s",
        "version 2 counts in steps of 1 s",
    );
    assert_warning(
        &instance_with("priority 90 95"),
        "f:7: '95' behind 'priority'",
        "one word too many: ignored",
    );
    assert_warning(
        &instance_with("use_vmac"),
        "f:7: 'use_vmac' is not provided: the interface keeps its own hardware address, as \
         keepalived does without this word",
        "without effect",
    );
}

#[test]
fn nopreempt_with_master_is_taken_as_backup() {
    let config = assert_warning(
        &instance_with("state MASTER\nnopreempt"),
        "f:8: nopreempt has no effect with state MASTER",
        "taken as state BACKUP",
    );
    let instance = &config.instances[0];
    assert_eq!((instance.initial_state, instance.preempt), (InitialState::Backup, false));
    let config = assert_warning(
        &instance_with("state MASTER\npreempt_delay 5"),
        "f:8: preempt_delay has no effect with state MASTER",
        "ignored",
    );
    assert_eq!(config.instances[0].preempt_delay_us, 0);
    let config = assert_warning(
        &instance_with("state MASTER\npriority 255\nnopreempt"),
        "f:9: nopreempt has no effect with priority 255",
        "ignored: the owner of an address always serves it",
    );
    assert!(config.instances[0].preempt);
}

#[test]
fn what_a_node_must_not_act_on_is_an_error() {
    let range = "expected 1 to 255";
    in_instance("virtual_router_id 300", "f:7: virtual_router_id 300 is out of range", range);
    in_instance("virtual_router_id 0", "f:7: virtual_router_id 0 is out of range", range);
    in_instance("virtual_router_id x", "f:7: 'x' is not a number for 'virtual_router_id'", range);
    in_instance("priority 256", "f:7: priority 256 is out of range", range);
    in_instance("priority", "f:7: 'priority' needs a value", "expected a number, 1 to 255");
    in_instance(
        "interface eth0/1",
        "f:7: 'eth0/1' cannot be the name of an interface",
        "expected 1 to 15 characters",
    );
    in_instance(
        "interface an_interface_so_long",
        "f:7: 'an_interface_so_long' cannot be the name of an interface",
        "expected 1 to 15 characters",
    );
    in_instance(
        "advert_int soon",
        "f:7: 'soon' is not a number of seconds for 'advert_int'",
        "expected 0.01 to 255 seconds",
    );
    in_instance("state MASTR", "f:7: 'MASTR' is not a value of 'state'", "did you mean 'MASTER'?");
    in_instance(
        "authentication {\nauth_type AH\nauth_pass x\n}",
        "f:8: adverts cannot be signed with AH",
        "auth_type AH is not provided: its peers would hear nothing",
    );
    in_instance(
        "authentication {\nauth_type PASS\n}",
        "f:8: auth_type PASS without auth_pass",
        "expected a password",
    );
    in_instance(
        "version 3\nauthentication {\nauth_type PASS\nauth_pass x\n}",
        "f:10: VRRP version 3 has no authentication",
        "never sent",
    );
    in_instance("notify_master \"/a/b", "f:7: a string without its closing quote", "opened here");
    in_instance(
        "track_script {\nchk\n}",
        "f:8: there is no vrrp_script 'chk'",
        "expected the name of a vrrp_script",
    );
    in_instance(
        "track_process {\nnginx\n}",
        "f:8: there is no vrrp_track_process 'nginx'",
        "expected the name of a vrrp_track_process",
    );
    in_instance(
        "unicast_peer {\nfe80::1\n}",
        "f:1: fe80::1 is of another family than the virtual addresses",
        "in this vrrp_instance",
    );
    assert_error(
        "vrrp_instance VI_1 {\ninterface eth0\nvirtual_ipaddress {\n10.0.0.9\n}\n}",
        "f:1: vrrp_instance 'VI_1' has no virtual_router_id",
        "expected virtual_router_id, 1 to 255",
    );
    assert_error(
        "vrrp_instance VI_1\n",
        "f:1: 'vrrp_instance' without its '{'",
        "expected '{' behind it or on the next line",
    );
    assert_error(
        "vrrp_script x {\n}",
        "f:1: vrrp_script 'x' has no script",
        "expected: script \"PROGRAM\"",
    );
}

#[test]
fn a_brace_that_is_missing_in_between_hides_nothing() {
    let text = instance_with("").replace("10.0.0.9\n}", "10.0.0.9\n")
        + "virtual_server 10.0.0.9 80 {\n}\n";
    assert_error(
        &text,
        "f:9: 'virtual_server' inside of vrrp_instance: is a '}' missing before it?",
        "keepalived would leave all of it out",
    );
}

#[test]
fn addresses_that_would_be_missing() {
    let with = |line: &str| instance_with("").replace("10.0.0.9", line);
    assert_error(
        &with("10.0.0.300"),
        "f:5: '10.0.0.300' is not an address",
        "expected ADDRESS or ADDRESS/LENGTH",
    );
    assert_error(
        &with("10.0.0.9/33"),
        "f:5: '10.0.0.9/33' has an impossible prefix length",
        "expected /0 to /32",
    );
    assert_error(
        &with("10.0.0.9 10.0.0.8"),
        "f:5: '10.0.0.8' behind an address",
        "expected on a line of its own",
    );
    assert_error(
        &with("10.0.0.9 foo"),
        "f:5: 'foo' behind an address",
        "expected brd, dev, scope or label",
    );
    assert_error(&with("10.0.0.9 dev"), "f:5: 'dev' needs a value", "expected one behind it");
    assert_error(
        &with("10.0.0.9\nfe80::1"),
        "f:6: fe80::1 is of another family than the first",
        "expected in virtual_ipaddress_excluded",
    );
    assert_error(
        &with("2001:db8::1"),
        "f:5: the first of the addresses, 2001:db8::1, is not link-local",
        "here",
    );
    assert_warning(&with("10.0.0.9\n10.0.0.9"), "f:6: 10.0.0.9 is there twice", "ignored");
}

#[test]
fn numbers_and_names_that_are_used_twice() {
    let one = instance_with("");
    let other = one.replace("VI_1", "VI_2").replace("10.0.0.9", "10.0.0.8");
    assert_error(
        &(one.clone() + &other),
        "f:9: virtual_router_id 51 is used twice on eth0",
        "used again here",
    );
    assert_error(
        &(one.clone() + &one),
        "f:9: vrrp_instance 'VI_1' is defined twice",
        "defined again here",
    );
    // Not where they cannot meet: another interface, another family, other peers.
    parsed(&(one.clone() + &other.replace("eth0", "eth1")));
    parsed(&(one.clone() + &other.replace("10.0.0.8", "fe80::8")));
    let unicast = |text: &str, peer: &str| {
        text.replace("interface", &format!("unicast_peer {{\n{peer}\n}}\ninterface"))
    };
    parsed(&(unicast(&one, "10.0.0.1") + &unicast(&other, "10.0.0.2")));
    let clash = unicast(&one, "10.0.0.1") + &unicast(&other, "10.0.0.1");
    assert_error(&clash, "f:12: virtual_router_id 51 is used twice on eth0", "used again here");
}

#[test]
fn groups_of_instances_that_are_not_there() {
    let text = instance_with("") + "vrrp_sync_group G {\ngroup {\nVI_2\n}\n}\n";
    assert_error(&text, "f:11: there is no vrrp_instance 'VI_2'", "did you mean 'VI_1'?");
    let group = |name: &str| format!("vrrp_sync_group {name} {{\ngroup {{\nVI_1\n}}\n}}\n");
    assert_error(
        &(instance_with("") + &group("G") + &group("H")),
        "f:16: vrrp_instance 'VI_1' is in two groups",
        "named again here",
    );
}

#[test]
fn weights_that_would_set_members_of_a_group_apart() {
    let text = |more: &str| {
        let trackers = "track_script {\ns\nz\n}\ntrack_file {\nf\n}\ntrack_interface {\neth1 weight 3\n}\n\
                        track_process {\np weight 2\n}";
        "vrrp_script s {\nscript /s\nweight 5\n}\nvrrp_script z {\nscript /z\n}\n\
         vrrp_track_file f {\nfile /f\n}\nvrrp_track_process p {\nprocess p\n}\n"
            .to_owned()
            + &instance_with(trackers)
            + &format!(
                "vrrp_sync_group G {{\ngroup {{\nVI_1\n}}\ntrack_script {{\ns\n}}\n{more}}}\n"
            )
    };
    let config = parsed(&text(""));
    let expected = "f:21: a weight of 's' in a member of a group\n\
                    f:28: a weight of 'eth1' in a member of a group\n\
                    f:25: a weight of 'f' in a member of a group";
    assert_eq!(config.warnings.to_string(), expected);
    let trackers = &config.instances[0].trackers;
    assert_eq!(trackers.scripts.len(), 1);
    let zero = Some(Weight::default());
    assert_eq!((trackers.interfaces[0].weight, trackers.files[0].weight), (zero, zero));
    assert_eq!(trackers.processes[0].weight.map(|weight| weight.value), Some(2));
    assert_eq!(config.groups[0].trackers.scripts[0].weight, None, "its own, which counts for all");
    let config = parsed(&text("sync_group_tracking_weight\n"));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn services_that_could_not_be_carried_out() {
    let with = |inside: &str| instance_with(&format!("drbd_resource r0 {{\n{inside}\n}}"));
    assert_error(
        &with("mount /dev/drbd0 /data"),
        "f:8: 'mount' needs a device, a directory and a type",
        "expected DEVICE DIRECTORY FSTYPE [OPTIONS]",
    );
    assert_error(
        &with("mount drbd0 /data ext4"),
        "f:8: 'drbd0' is no absolute path",
        "expected a path from /",
    );
    assert_error(
        &with("mount /dev/drbd0 / ext4"),
        "f:8: nothing is mounted on /",
        "expected another directory",
    );
    assert_error(
        &with("start systemctl start x"),
        "f:8: 'start' behind the command of 'start'",
        "expected timeout SECONDS, or quotes around all of the command",
    );
    assert_error(
        &with("stop \"x\" timeout 0"),
        "f:8: timeout 0 is out of range",
        "expected 1 to 3600 seconds",
    );
    assert_warning(
        &with("start \"x\""),
        "f:7: 'r0' is started here and never stopped",
        "expected stop \"COMMAND\"",
    );
    let second = instance_with("drbd_resource r0 {\n}\ndrbd_resource r1 {\n}");
    assert_error(
        &second,
        "f:9: a second drbd_resource in one vrrp_instance",
        "an instance follows one resource",
    );
}

#[test]
fn forwarding_is_spoken_of_once() {
    let text = "virtual_server 10.0.0.9 80 {\nlb_algo rr\nlb_kind DR\npersistence_timeout 5\n}\n";
    let config = assert_warning(
        text,
        "f:2: 'lb_algo' has no effect: no packets are forwarded",
        "forwarding is not provided",
    );
    assert_eq!(config.warnings.list.len(), 1, "{:?}", config.warnings);
}

#[test]
fn passwords_do_not_reach_the_log() {
    let instance = instance_of("authentication {\nauth_type PASS\nauth_pass hidden12\n}");
    assert!(!format!("{instance:?}").contains("hidden"), "{instance:?}");
}
