//! Files as people have them, mistakes as people make them, and bytes as nobody would write them.

mod files;
mod instances;
mod random;
mod table;

use std::path::Path;

use super::{Keepalived, parse};

/// A text that loads, with its warnings.
fn loaded(text: &str) -> (Keepalived, Vec<String>) {
    match parse(Path::new("/etc/keepalived/keepalived.conf"), text) {
        Ok(config) => {
            let warnings = lines(&config.warnings);
            (config, warnings)
        }
        Err(mistakes) => panic!("{}", mistakes.render(false)),
    }
}

/// Without the folder.
fn lines(diagnostics: &crate::config::Diagnostics) -> Vec<String> {
    let text = diagnostics.to_string();
    let name = |line: &str| line.rsplit_once('/').map_or(line, |(_, rest)| rest).to_owned();
    let short = |line: &str| match line.split_once(": ") {
        Some((place, text)) => format!("{}: {text}", name(place)),
        None => line.to_owned(),
    };
    text.lines().map(short).collect()
}

fn mistakes(text: &str) -> Vec<String> {
    match parse(Path::new("/etc/keepalived/keepalived.conf"), text) {
        Ok(_) => panic!("it loads"),
        Err(mistakes) => lines(&mistakes),
    }
}

/// An instance with what it needs, and `more`.
fn instance(more: &str) -> String {
    format!(
        "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 51\n \
         virtual_ipaddress {{\n 10.0.0.9\n }}\n{more}\n}}\n"
    )
}
