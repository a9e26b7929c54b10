//! What a node gets out of a configuration.

use twinblk_proto::packet::{ReplicationProtocol, SplitBrainPolicy};

use super::super::view::{
    Backend, Fencing, MetaDiskPlace, NbdListen, OnIoError, OnNoData, RoleConflict,
};
use super::*;

fn view_of(text: &str, node: &str) -> Result<NodeView, ConfigError> {
    parsed(text).resources[0].for_node(node)
}

#[test]
fn defaults_are_drbds() {
    let view = view_of(&resource_with(""), "alice").expect("there");
    let net = &view.net;
    assert_eq!(net.protocol, ReplicationProtocol::C);
    assert_eq!((net.timeout, net.connect_int_s, net.ping_int_s), (60, 10, 10));
    assert_eq!((net.ping_timeout, net.socket_check_timeout, net.ko_count), (5, 0, 7));
    assert_eq!((net.max_buffers, net.max_epoch_size), (2048, 2048));
    assert_eq!((net.sndbuf_bytes, net.rcvbuf_bytes), (0, 0));
    assert!(!net.allow_two_primaries && !net.always_asbp && net.use_rle);
    assert_eq!((&net.cram_hmac_alg, &*net.shared_secret), (&None, ""));
    assert_eq!((&net.data_integrity_alg, &net.verify_alg, &net.csums_alg), (&None, &None, &None));
    assert_eq!(net.after_sb_0pri, SplitBrainPolicy::Disconnect);
    assert_eq!(net.rr_conflict, RoleConflict::Disconnect);
    let disk = &view.disk;
    assert_eq!((disk.on_io_error, disk.fencing), (OnIoError::Detach, Fencing::DontCare));
    assert_eq!((disk.size_sectors, disk.disk_flushes, disk.al_extents), (0, true, 1237));
    assert_eq!((disk.resync_rate_kib_per_s, disk.resync_rate_is_set), (250, false));
    assert_eq!((disk.c_plan_ahead, disk.c_delay_target), (20, 10));
    assert_eq!((disk.c_fill_target_sectors, disk.c_max_rate_kib_per_s), (100, 102_400));
    assert_eq!((disk.c_min_rate_kib_per_s, disk.disk_timeout, disk.al_updates), (250, 0, true));
    assert_eq!(view.options.backend, Backend::Auto);
    assert_eq!(view.options.on_no_data_accessible, OnNoData::IoError);
    assert_eq!(view.startup.wfc_timeout_s, 0);
    assert!(view.handlers.is_empty());
    assert_eq!(view.me.nbd, NbdListen::default());
}

#[test]
fn me_and_the_peer() {
    let text = "resource r0 {
      on alice { device /dev/drbd0; disk /dev/sda3; address 10.0.0.1:7788; meta-disk internal; }
      on bob { device minor 4; disk data/bob.img; address ipv6 [::2]:7789; meta-disk md.img; }
    }";
    let alice = view_of(text, "alice").expect("there");
    assert_eq!(alice.me.host, "alice");
    assert_eq!(alice.me.address.to_string(), "10.0.0.1:7788");
    assert_eq!((&*alice.me.device, alice.me.minor), ("/dev/drbd0", 0));
    assert_eq!(alice.me.disk, Path::new("/dev/sda3"));
    assert_eq!(alice.me.meta_disk, MetaDiskPlace::Internal);
    assert_eq!(alice.peer.host, "bob");
    let bob = view_of(text, "bob").expect("there");
    assert_eq!((&bob.me, &bob.peer), (&alice.peer, &alice.me), "mirrored");
    assert_eq!((&*bob.me.device, bob.me.minor), ("/dev/drbd4", 4));
    // Relative paths start at the file, not at wherever the daemon was started.
    assert_eq!(bob.me.disk, Path::new("/etc/data/bob.img"));
    assert_eq!(bob.me.meta_disk, MetaDiskPlace::External("/etc/md.img".into()));
}

#[test]
fn the_most_special_place_counts() {
    let text = "common {
      protocol A; net { timeout 40; } disk { resync-rate 1M; on-io-error pass_on; }
      nbd { listen 127.0.0.1:1; listen 127.0.0.1:2; unix /common; attach no; } options { backend threads; }
      handlers { split-brain one; pri-lost two; } startup { wfc-timeout 9; }
    }
    resource r0 {
      protocol B; net { ping-int 5; } disk { resync-rate 2M; }
      handlers { split-brain three; }
      volume 0 { device minor 0; disk /dev/a; disk { resync-rate 3M; } meta-disk /dev/md[2]; }
      on alice { address 10.0.0.1:7789; nbd { listen 127.0.0.1:3; allow 10.0.0.0/8; }
                 volume 0 { disk { resync-rate 4M; } } options { backend io_uring; } }
      on bob { address 10.0.0.2:7789; volume 0 { disk /dev/b; } }
    }";
    let alice = view_of(text, "alice").expect("there");
    assert_eq!((alice.net.protocol, alice.net.timeout), (ReplicationProtocol::B, 40));
    assert_eq!(alice.net.ping_int_s, 5);
    assert_eq!((alice.disk.resync_rate_kib_per_s, alice.disk.resync_rate_is_set), (4096, true));
    assert_eq!(alice.disk.on_io_error, OnIoError::PassOn);
    assert_eq!(alice.options.backend, Backend::IoUring);
    assert_eq!(
        alice.me.nbd.listen,
        ["127.0.0.1:3".parse().expect("address")],
        "replaced, not added"
    );
    assert_eq!(alice.me.nbd.unix.as_deref(), Some(Path::new("/common")));
    assert_eq!((alice.me.nbd.allow.len(), alice.me.nbd.attach), (1, false));
    assert_eq!(alice.peer.nbd.listen.len(), 2);
    assert_eq!(alice.handlers["split-brain"], "three");
    assert_eq!(alice.handlers["pri-lost"], "two");
    assert_eq!(alice.startup.wfc_timeout_s, 9);
    assert_eq!(alice.me.meta_disk, MetaDiskPlace::Indexed("/dev/md".into(), 2));
    let bob = view_of(text, "bob").expect("there");
    assert_eq!((bob.disk.resync_rate_kib_per_s, bob.options.backend), (3072, Backend::Threads));
    assert_eq!((bob.me.disk.to_str(), bob.peer.disk.to_str()), (Some("/dev/b"), Some("/dev/a")));
}

#[test]
fn words_become_policies() {
    let net = "net { after-sb-0pri discard-node-bob; after-sb-1pri consensus; after-sb-2pri violently-as0p;
                     rr-conflict violently; cram-hmac-alg sha256; shared-secret s; }
               disk { al-extents 7; no-disk-flushes; size 1M; }";
    let alice = view_of(&resource_with(net), "alice").expect("there");
    assert_eq!(alice.net.after_sb_0pri, SplitBrainPolicy::DiscardRemote);
    assert_eq!(alice.net.after_sb_1pri, SplitBrainPolicy::Consensus);
    assert_eq!(alice.net.after_sb_2pri, SplitBrainPolicy::Violently);
    assert_eq!(alice.net.rr_conflict, RoleConflict::Violently);
    assert_eq!(alice.net.cram_hmac_alg.as_deref(), Some("sha256"));
    assert_eq!((alice.disk.al_extents, alice.disk.disk_flushes), (67, false));
    assert_eq!(alice.disk.size_sectors, 2048);
    let bob = view_of(&resource_with(net), "bob").expect("there");
    assert_eq!(bob.net.after_sb_0pri, SplitBrainPolicy::DiscardLocal);
}

/// Reading every option of every view with everything unset and everything set: a name that is not
/// in the table, or of another kind, would stop here.
#[test]
fn every_policy_word_is_understood() {
    for (name, words) in [
        (
            "after-sb-0pri",
            "discard-younger-primary discard-older-primary discard-zero-changes discard-least-changes discard-local discard-remote",
        ),
        ("after-sb-1pri", "consensus violently-as0p discard-secondary call-pri-lost-after-sb"),
        ("after-sb-2pri", "violently-as0p call-pri-lost-after-sb"),
    ] {
        let mut seen = vec![SplitBrainPolicy::Disconnect];
        for word in words.split(' ') {
            let text = resource_with(&format!("net {{ {name} {word}; }}"));
            let net = view_of(&text, "alice").expect("there").net;
            let policy = match name {
                "after-sb-0pri" => net.after_sb_0pri,
                "after-sb-1pri" => net.after_sb_1pri,
                _ => net.after_sb_2pri,
            };
            assert!(!seen.contains(&policy), "{name} {word} means {policy:?}");
            seen.push(policy);
        }
    }
}

#[test]
fn what_this_node_cannot_run_is_said() {
    let text = resource_with("");
    let error = view_of(&text, "carol").expect_err("not hers");
    assert_eq!(error.to_string(), "'r0' not defined in your config (for this host).");
    assert_eq!(
        error.hint(),
        "this node is 'carol', the resource is for alice and bob; --node NAME names another"
    );
    let refused = |text: &str| view_of(text, "alice").expect_err(text).to_string();
    assert_eq!(
        refused(&text.replace("on bob { address 10.0.0.2:7789; }", "")),
        "r0: only 'alice' is in it; a second 'on' section is missing (/etc/drbd.conf:1)"
    );
    assert_eq!(
        refused(&resource_with("on carol { address 10.0.0.3:7789; }")),
        "r0: more than two hosts are not supported yet (/etc/drbd.conf:1)"
    );
    let volumes = "resource r0 {
        volume 0 { device minor 0; disk /dev/a; } volume 1 { device minor 1; disk /dev/b; }
        on alice { address 10.0.0.1:7789; } on bob { address 10.0.0.2:7789; } }";
    assert_eq!(
        refused(volumes),
        "r0: more than one volume is not supported yet (/etc/drbd.conf:1)"
    );
    assert_eq!(
        refused(&volumes.replace("volume 0 { device minor 0; disk /dev/a; }", "")),
        "r0: a volume with a number other than 0 is not supported yet (/etc/drbd.conf:1)"
    );
    assert_eq!(
        refused(&text.replace("/dev/sda3", "none")),
        "r0: a node without a disk is not supported yet (/etc/drbd.conf:1)"
    );
    assert_eq!(
        refused(&text.replace("10.0.0.1:7789", "sdp 10.0.0.1:7789")),
        "r0: the address family sdp is not supported yet (/etc/drbd.conf:1)"
    );
}
