//! The two classic pairs (vrrp.md 2.2), and what a file may include.

use std::path::Path;

use super::super::model::{CheckKind, InitialState};
use super::{lines, loaded};
use crate::config::keepalived::load;

const NGINX_A: &str = include_str!("../../../../tests/data/keepalived/nginx-a.conf");
const NGINX_B: &str = include_str!("../../../../tests/data/keepalived/nginx-b.conf");
const MYSQL: &str = include_str!("../../../../tests/data/keepalived/mysql.conf");

#[test]
fn the_nginx_pair() {
    let (config, warnings) = loaded(NGINX_A);
    assert_eq!(warnings, ["keepalived.conf:28: Truncating auth_pass to 8 characters"]);
    let global = &config.global;
    assert_eq!(global.router_id, "NGINX_HA");
    assert_eq!(global.smtp_server, Some(("192.0.2.25".to_owned(), 25)));
    assert_eq!(global.smtp_connect_timeout_us, 30_000_000);
    assert_eq!(
        global.mail_to,
        ["acassen@example.net", "failover@example.net", "Ops Team <ops@example.net>"]
    );
    let [instance] = &config.instances[..] else { panic!("one instance") };
    assert_eq!((instance.state, instance.priority), (InitialState::Master, 100));
    assert_eq!((instance.interface.as_str(), instance.virtual_router_id), ("eth0", 51));
    assert_eq!(instance.password.as_deref(), Some("aiker>com"));
    assert_eq!(instance.addresses[0].address.to_string(), "172.16.22.219");
    assert_eq!(instance.addresses[0].prefix_length, 32);
    assert_eq!(instance.trackers.scripts[0].name, "chk_nginx");
    let script = &config.scripts[0];
    assert_eq!((script.interval_us, script.timeout_us), (3_000_000, 3_000_000));
    assert_eq!((script.weight.value, script.rise, script.fall), (0, 1, 1));
    let (config, _) = loaded(NGINX_B);
    assert_eq!(config.instances[0].state, InitialState::Backup);
    assert_eq!(config.instances[0].priority, 90);
}

#[test]
fn the_mysql_file_with_its_missing_brace() {
    let (config, warnings) = loaded(MYSQL);
    assert_eq!(
        warnings,
        [
            "keepalived.conf:38: the file ends inside of a block: 1 '}' missing; it is closed here",
            "keepalived.conf:26: 'persistence_timeout' has no effect: nothing is forwarded: \
             checks and their programs act",
            "keepalived.conf:27: 'protocol' has no effect: nothing is forwarded: checks and their \
             programs act",
            "keepalived.conf:33: 'nb_get_retry' belongs to HTTP_GET: taken as 'retry'",
        ]
    );
    assert!(!config.instances[0].preempt);
    let server = &config.servers[0];
    assert_eq!((server.name.as_str(), server.delay_loop_us), ("172.16.22.219 3306", 2_000_000));
    let real = &server.servers[0];
    assert_eq!((real.address.to_string().as_str(), real.weight), ("172.16.22.221:3306", 3));
    let program = real.notify_down.as_ref().expect("a program");
    assert_eq!(program.command, "/usr/local/sbin/mysql.sh");
    let check = &real.checks[0];
    assert_eq!(check.kind, CheckKind::Tcp);
    assert_eq!(check.connect_to.to_string(), "172.16.22.221:3306");
    assert_eq!((check.connect_timeout_us, check.retry), (3_000_000, 3));
    assert_eq!((check.delay_before_retry_us, check.delay_loop_us), (3_000_000, 2_000_000));
}

#[test]
fn included_files_stand_where_they_are_included() {
    let folder = tempfile::tempdir().expect("folder");
    let main = folder.path().join("keepalived.conf");
    std::fs::create_dir(folder.path().join("conf.d")).expect("folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    write("keepalived.conf", "$IF=eth7\ninclude conf.d/*.conf\ninclude missing.conf\n");
    write("conf.d/b.conf", &super::instance("priority 7").replace("eth0", "$IF"));
    write("conf.d/a.conf", "global_defs {\n router_id ${_PWD}\n}\n");
    let config = load(&main).expect("loads");
    assert_eq!(config.instances[0].priority, 7);
    assert_eq!(config.instances[0].interface, "eth7");
    assert_eq!(config.global.router_id, folder.path().join("conf.d").display().to_string());
    let warnings = lines(&config.warnings);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("Can not open"), "{warnings:?}");
    write("keepalived.conf", "include keepalived.conf\n");
    let mistakes = load(&main).expect_err("a circle");
    assert!(mistakes.to_string().contains("nested deeper"), "{mistakes}");
    assert!(load(Path::new("/nonexistent")).is_err());
}
