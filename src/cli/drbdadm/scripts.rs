//! What is read rather than done: `status`, `sh-*` and `drbd-overview`, with the words of the
//! original tools.

use super::super::{Context, output};
use super::line::Line;
use super::verbs::{Script, VERBS};
use crate::config::{self, Config, MetaDiskPlace, NodeView};
use crate::control::ResourceStatus;
use crate::control::outcome::exit;
use twinblk_proto::state::ConnectionState;

pub(super) fn run(context: &Context, script: Script, line: &Line) -> u8 {
    if script == Script::HiddenCommands {
        for spec in VERBS {
            println!(" {}", spec.name);
        }
        return exit::OK;
    }
    let config = match config::load(&context.config) {
        Ok(config) => config,
        Err(mistakes) => {
            output::print_mistakes(&mistakes);
            return exit::FAILURE;
        }
    };
    match script {
        Script::Nothing | Script::ModuleParameters => return exit::OK,
        Script::Resources => {
            let names: Vec<String> = views(context, &config).map(|view| view.resource).collect();
            println!("{}", names.join(" "));
            return exit::OK;
        }
        Script::StatusVariables => {
            if !line.resources.is_empty() {
                eprintln!("This command will ignore resource names!");
            }
            status_variables(context, &config);
            return exit::OK;
        }
        _ => {}
    }
    let all = line.resources.is_empty() || line.resources.iter().any(|name| name == "all");
    let wanted: Vec<String> = match all {
        true => views(context, &config).map(|view| view.resource).collect(),
        false => line.resources.clone(),
    };
    for name in &wanted {
        let Some(view) = views(context, &config).find(|view| view.resource == *name) else {
            eprintln!("'{name}' not defined in your config (for this host).");
            return exit::USAGE;
        };
        if script == Script::Status {
            match super::status(context, name) {
                Some(status) => print!("{}", status_text(&status)),
                None => {
                    eprintln!("{name}: No such resource");
                    let code = exit::FAILURE;
                    eprintln!(
                        "Command 'drbdsetup-84 status {name}' terminated with exit code {code}"
                    );
                    return code;
                }
            }
        } else {
            println!("{}", word(&view, script));
        }
    }
    exit::OK
}

fn views<'a>(context: &'a Context, config: &'a Config) -> impl Iterator<Item = NodeView> + 'a {
    config.resources.iter().filter_map(|resource| resource.for_node(&context.node).ok())
}

fn word(view: &NodeView, script: Script) -> String {
    let me = &view.me;
    match script {
        Script::Resource => view.resource.clone(),
        Script::Device => me.device.clone(),
        Script::LowerDevice => me.disk.display().to_string(),
        Script::MetaDevice => match &me.meta_disk {
            MetaDiskPlace::Internal => me.disk.display().to_string(),
            MetaDiskPlace::External(path) | MetaDiskPlace::Indexed(path, _) => {
                path.display().to_string()
            }
        },
        Script::MetaIndex => match &me.meta_disk {
            MetaDiskPlace::Internal => "internal".to_owned(),
            MetaDiskPlace::External(_) => "flex-external".to_owned(),
            MetaDiskPlace::Indexed(_, index) => index.to_string(),
        },
        Script::Minor => me.minor.to_string(),
        Script::Address => me.address.ip().to_string(),
        Script::BecomePrimary => view.startup.become_primary_on.join(" "),
        _ => String::new(),
    }
}

/// DRBD 9's word for "looking for the peer", which the new tools use for 8.4 too.
fn connection_word(connection: ConnectionState) -> &'static str {
    match connection {
        ConnectionState::WFConnection => "Connecting",
        other => other.as_str(),
    }
}

/// `drbdadm status`
fn status_text(status: &ResourceStatus) -> String {
    let connected = status.connection >= ConnectionState::Connected;
    let mut out = format!("{} role:{}\n  disk:{}\n", status.name, status.role, status.disk);
    if status.connection == ConnectionState::StandAlone {
        out += "  peer connection:StandAlone\n";
    } else if !connected {
        out += &format!("  peer connection:{}\n", connection_word(status.connection));
    } else {
        let replication = match status.connection {
            ConnectionState::Connected => "Established",
            other => other.as_str(),
        };
        let done = status.resync.as_ref().map_or_else(String::new, |resync| {
            format!(" done:{:.2}", resync.done_fraction * 100.0)
        });
        out += &format!(
            "  peer role:{}\n    replication:{replication} peer-disk:{}{done}\n",
            status.peer_role, status.peer_disk
        );
    }
    out + "\n"
}

/// `r-----`: I/O running or suspended, then who holds a resync or I/O (behaviour.md 7.3).
fn flags(status: &ResourceStatus) -> String {
    let flag = |set: bool, letter: char| if set { letter } else { '-' };
    [
        if status.suspended_user { 's' } else { 'r' },
        flag(status.paused_dependency, 'a'),
        flag(status.paused_peer, 'p'),
        flag(status.paused_user, 'u'),
        '-',
        '-',
    ]
    .into_iter()
    .collect()
}

/// A line per resource of the configuration.
pub(super) fn overview(context: &Context) -> u8 {
    let config = match config::load(&context.config) {
        Ok(config) => config,
        Err(mistakes) => {
            output::print_mistakes(&mistakes);
            return exit::FAILURE;
        }
    };
    for view in views(context, &config) {
        let state = match super::status(context, &view.resource) {
            None => "Unconfigured . . . . ".to_owned(),
            Some(status) => {
                let protocol = match status.connection {
                    ConnectionState::StandAlone => String::new(),
                    _ => format!("{} ", status.protocol),
                };
                format!(
                    "{} {}/{} {}/{} {protocol}{} ",
                    status.connection,
                    status.role,
                    status.peer_role,
                    status.disk,
                    status.peer_disk,
                    flags(&status),
                )
            }
        };
        println!("{:>3}:{}/0  {state}", view.me.minor, view.resource);
    }
    exit::OK
}

/// `sh-status`: shell variables, once per volume.
fn status_variables(context: &Context, config: &Config) {
    println!(
        "_drbd_version={}\n_drbd_api=1\n_config_file={}\n\n",
        env!("CARGO_PKG_VERSION"),
        context.config.display()
    );
    for view in views(context, config) {
        let name = &view.resource;
        println!("_conf_res_name={name}\n_conf_file_line={}\n", view.defined_at);
        println!("_stacked_on=\n_stacked_on_device=\n_stacked_on_minor=\n_conf_volume=0");
        println!("_minor={}\n_res_name={name}\n_volume=0", view.me.minor);
        let status = super::status(context, name);
        println!("_known={}\n", if status.is_some() { "Configured" } else { "Unconfigured" });
        let status = status.unwrap_or_default();
        println!(
            "_cstate={}\n_role={}\n_peer={}\n_disk={}\n_pdsk={}\n",
            status.connection, status.role, status.peer_role, status.disk, status.peer_disk
        );
        let flag = |set: bool| if set { "1" } else { "" };
        println!(
            "_flags_susp={}\n_flags_aftr_isp={}\n_flags_peer_isp={}\n_flags_user_isp={}\n",
            flag(status.is_suspended()),
            flag(status.paused_dependency),
            flag(status.paused_peer),
            flag(status.paused_user)
        );
        let done = status.resync.map(|resync| format!("{:.2}", resync.done_fraction * 100.0));
        println!("_resynced_percent={}\n\n_sh_status_process\n\n", done.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinblk_proto::state::{DiskState, Role};

    #[test]
    fn a_connected_resource_and_one_alone() {
        let mut status = ResourceStatus {
            name: "drbd".to_owned(),
            role: Role::Secondary,
            peer_role: Role::Secondary,
            connection: ConnectionState::Connected,
            disk: DiskState::Inconsistent,
            peer_disk: DiskState::Inconsistent,
            ..ResourceStatus::default()
        };
        assert_eq!(
            status_text(&status),
            "drbd role:Secondary\n  disk:Inconsistent\n  peer role:Secondary\n    \
             replication:Established peer-disk:Inconsistent\n\n"
        );
        assert_eq!(flags(&status), "r-----");
        status.connection = ConnectionState::WFConnection;
        status.paused_user = true;
        assert!(status_text(&status).contains("\n  peer connection:Connecting\n"));
        assert_eq!(flags(&status), "r--u--");
    }
}
