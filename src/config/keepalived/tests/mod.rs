//! Whole files, right and wrong.

use std::path::Path;

use super::model::*;
use super::*;

mod classic;
mod compatibility;
mod includes;
mod mistakes;
mod random;
mod values;

pub(super) fn parsed(text: &str) -> Keepalived {
    let result = parse(Path::new("f"), text, "alice.example");
    result.unwrap_or_else(|mistakes| panic!("{}", mistakes.render(false)))
}

/// A file with one instance, and `inside` in it.
pub(super) fn instance_with(inside: &str) -> String {
    format!(
        "vrrp_instance VI_1 {{\ninterface eth0\nvirtual_router_id 51\n\
         virtual_ipaddress {{\n10.0.0.9\n}}\n{inside}\n}}\n"
    )
}

/// That instance.
pub(super) fn instance_of(inside: &str) -> Instance {
    let mut config = parsed(&instance_with(inside));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    config.instances.remove(0)
}
