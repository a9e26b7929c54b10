//! The files that people copy (vrrp.md 2.2): they load, with exactly the warnings that they earn.

use super::*;

fn classic(name: &str) -> Keepalived {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/keepalived").join(name);
    load(&path, "alice").unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)))
}

/// Without the folder.
fn warnings(config: &Keepalived) -> Vec<String> {
    let lines = config.warnings.to_string();
    lines.lines().map(|line| line.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_web_server_and_its_stand_in() {
    for (name, state, priority) in
        [("nginx-a.conf", InitialState::Master, 100), ("nginx-b.conf", InitialState::Backup, 90)]
    {
        let config = classic(name);
        let place = format!("{name}:23: ");
        let expected = [place + "Truncating auth_pass to 8 characters"];
        assert_eq!(warnings(&config), expected, "{name}");
        let instance = &config.instances[0];
        assert_eq!(instance.initial_state, state);
        assert_eq!((instance.virtual_router_id, instance.priority), (51, priority));
        assert_eq!(instance.password.as_ref().expect("one").text, "aiker>com");
        assert_eq!(instance.trackers.scripts[0].name, "chk_nginx");
        assert_eq!(instance.addresses[0].address.to_string(), "172.16.22.219");
        assert_eq!(instance.addresses[0].prefix_length, 32);
        let script = &config.scripts[0];
        assert_eq!(script.command.text, "/usr/local/sbin/check_ng.sh");
        assert_eq!((script.interval_us, script.timeout_us), (3_000_000, 3_000_000));
        assert_eq!((script.rise, script.fall, script.weight), (1, 1, Weight::default()));
        assert_eq!(config.global.router_id.as_deref(), Some("LVS_DEVEL"));
        assert_eq!(config.global.notification_emails, ["root@localhost"]);
        assert_eq!(config.global.smtp_server, Some(("127.0.0.1".to_owned(), 25)));
    }
}

#[test]
fn a_database_without_its_last_brace() {
    for (name, priority, preempt, lines) in [
        ("mysql-a.conf", 100, false, [20, 30, 37, 42]),
        ("mysql-b.conf", 90, true, [19, 29, 36, 41]),
    ] {
        let config = classic(name);
        let said = |line: usize, text: &str| format!("{name}:{line}: {text}");
        let mut expected = vec![
            said(lines[3], "the file ends inside of a block: '}' is missing"),
            said(lines[0], "Truncating auth_pass to 8 characters"),
            said(lines[1], "'persistence_timeout' has no effect: no packets are forwarded"),
            said(lines[2], "'nb_get_retry' is no word of TCP_CHECK"),
        ];
        let mut found = warnings(&config);
        expected.sort();
        found.sort();
        assert_eq!(found, expected, "{name}");
        let instance = &config.instances[0];
        assert_eq!(instance.initial_state, InitialState::Backup);
        assert_eq!((instance.priority, instance.preempt), (priority, preempt));
        assert_eq!(config.global.router_id.as_deref(), Some("MYSQL_HA"));
        let server = &config.virtual_servers[0];
        assert_eq!(server.protocol, Protocol::Tcp);
        let real = &server.real_servers[0];
        assert_eq!((real.port, real.weight), (3306, 3));
        let down = real.notify_down.as_ref().expect("a command");
        assert_eq!(down.text, "/usr/local/sbin/mysql.sh");
        let check = &real.checks[0];
        assert_eq!(check.kind, CheckKind::Tcp);
        assert_eq!((check.connect_ip, check.connect_port), (real.address, 3306));
        assert_eq!((check.retry, check.delay_before_retry_us), (3, 3_000_000));
        assert_eq!((check.connect_timeout_us, check.delay_loop_us), (3_000_000, 2_000_000));
    }
}

#[test]
fn the_examples_load_without_a_word() {
    for name in ["mysql/db1", "mysql/db2", "nginx/web1", "nginx/web2"] {
        let config = classic(&format!("../../../examples/{name}/keepalived.conf"));
        assert!(config.warnings.is_empty(), "{name}: {:?}", config.warnings);
        let resource = config.instances[0].drbd_resource.as_ref().expect("one");
        assert!(resource.mount.is_some() && !resource.start.is_empty(), "{name}");
    }
}
