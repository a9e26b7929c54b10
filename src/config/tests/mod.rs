//! Whole configurations: what the original tools print for them, what is said about wrong ones, and
//! what a node gets out of right ones.

use std::path::Path;

use super::*;

mod compatibility;
mod dump;
mod includes;
mod mistakes;
mod random;
mod view;

/// A resource that has all it needs, with room for more.
fn resource_with(extra: &str) -> String {
    format!(
        "resource r0 {{\n  device /dev/drbd0;\n  disk /dev/sda3;\n  meta-disk internal;\n  \
         on alice {{ address 10.0.0.1:7789; }}\n  on bob {{ address 10.0.0.2:7789; }}\n{extra}\n}}\n"
    )
}

fn parsed(text: &str) -> Config {
    parse(Path::new("/etc/drbd.conf"), text)
        .unwrap_or_else(|mistakes| panic!("{}\n{text}", mistakes.render(false)))
}
