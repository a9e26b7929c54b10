//! Shared secrets and digests of data, right and wrong.

use crate::common::pair::RESOURCE;
use crate::guest::in_guest;
use crate::lab::{Lab, Options, Side};
use crate::load::Written;

fn right_secrets(lab: &mut Lab) {
    let mut written = Written::default();
    for (secret, data) in [("sha1", "crc32c"), ("sha256", "sha1"), ("md5", "md5")] {
        lab.restart_with(|options| {
            options.net = format!(
                "cram-hmac-alg {secret}; shared-secret \"not told\"; data-integrity-alg {data};"
            );
        });
        lab.wait_in_sync();
        for side in Side::BOTH {
            lab.primary(side);
            let load = lab.load(side, written);
            load.wait_for(100);
            written = load.end();
            lab.secondary(side);
        }
        lab.assert_equal();
    }
}

fn wrong_secret(lab: &mut Lab) {
    lab.restart_with(|options| {
        options.net.clear();
        options.kernel_net = "cram-hmac-alg sha1; shared-secret right;".to_owned();
        options.twin_net = "cram-hmac-alg sha1; shared-secret wrong;".to_owned();
    });
    // Whoever finds out first stands alone; the other may see a closed connection and go on.
    let told = lab.twin.wait("a reason", |status| {
        status.connection.as_str() == "StandAlone"
            || status.reason.to_lowercase().contains("authentic")
    });
    assert!(!told.reason.is_empty(), "a reason: {told:?}");
    assert_ne!(lab.kernel.status().connection, "Connected");
    lab.restart_with(|options| options.twin_net.clone_from(&options.kernel_net));
    lab.assert_equal();
}

/// A peer without a secret is none.
fn no_secret(lab: &mut Lab) {
    lab.call(Side::Twin, &["down", RESOURCE]);
    lab.options().twin_net.clear();
    lab.write_configuration();
    lab.call(Side::Twin, &["up", RESOURCE]);
    let told = lab.twin.wait("a reason", |status| !status.hint.is_empty());
    assert!(told.connection.as_str() != "Connected", "{told:?}");
}

#[test]
fn secrets_and_digests_right_and_wrong() {
    in_guest(&["32M", "32M"], || {
        let mut lab = Lab::in_sync(Options::default(), Side::Kernel);
        right_secrets(&mut lab);
        wrong_secret(&mut lab);
        no_secret(&mut lab);
    });
}
