//! `dump`: the outputs are those of the original tool for the same files.

use super::*;

/// The walkthrough of DRBD 8.3 days that is still copied today: main file, common part, resource.
#[test]
fn the_classic_pair() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/classic");
    let config = load(&root.join("drbd.conf")).expect("loads");
    let common = "global {
    usage-count no;
    cmd-timeout-medium 600;
    cmd-timeout-long 0;
}

common {
    net {
        protocol           C;
        cram-hmac-alg    sha1;
        shared-secret    allendrbd;
    }
    disk {
        on-io-error      detach;
        c-plan-ahead       0;
        c-min-rate         0;
        resync-rate      1024M;
    }
    handlers {
        pri-on-incon-degr true;
        pri-lost-after-sb true;
        local-io-error   true;
    }
}

";
    let resource = format!(
        "# resource drbd on nod1.allen.com: not ignored, not stacked
# defined at {}/drbd.d/drbd.res:1
resource drbd {{
    on nod1.allen.com {{
        device           /dev/drbd0 minor 0;
        disk             /dev/sda3;
        meta-disk        internal;
        address          ipv4 192.168.137.225:7789;
    }}
    on nod2.allen.com {{
        device           /dev/drbd0 minor 0;
        disk             /dev/sda3;
        meta-disk        internal;
        address          ipv4 192.168.137.222:7789;
    }}
}}

",
        root.display()
    );
    let main = format!("# {}/drbd.conf\n", root.display());
    assert_eq!(config.dump("nod1.allen.com"), format!("{main}{common}{resource}"));
    let drbd = config.resource("drbd").expect("there");
    assert_eq!(drbd.dump("nod1.allen.com"), resource);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn every_section_and_every_old_form() {
    let config = parsed(
        r#"global { usage-count no; disable-ip-verification; minor-count 5; dialog-refresh 2; }
common {
  protocol C;
  startup { wfc-timeout 10; degr-wfc-timeout 5; wait-after-sb; become-primary-on both; }
  options { cpu-mask 3; on-no-data-accessible suspend-io; }
  handlers { split-brain "/usr/lib/drbd/notify.sh root"; outdate-peer true; }
  disk { no-disk-flushes; on-io-error detach; fencing resource-only; al-updates no; }
  net { allow-two-primaries; after-sb-0pri discard-zero-changes; shared-secret "al \"len";
        max-buffers 8000; cram-hmac-alg sha1; data-integrity-alg "crc32c"; }
  syncer { rate 30M; al-extents 257; verify-alg md5; use-rle; delay-probe-volume 5; }
}
skip resource x { foo; }
resource r1 {
  volume 0 { device /dev/drbd1; disk /dev/sda2; meta-disk /dev/sdb1[3]; disk { size 10G; } }
  volume 1 { device minor 7; disk "/dev/sd a3"; flexible-meta-disk /dev/sdb2; }
  on vm { address ipv6 [::1]:7789; }
  on bob { address ipv6 [::2]:7789; nbd { listen 10.0.0.1:10809; listen [::2]:10809; allow 10.0.0.0/8; } }
  startup { become-primary-on vm bob; }
  ignore-on zed;
}
resource r2 {
  floating 127.0.0.1:7788 { device drbd_foo minor 3; disk /dev/sda1; meta-disk internal; }
  floating 127.0.0.2:7788 { device minor 3; disk /dev/sda1; meta-disk internal; }
}
"#,
    );
    let expected = r#"# /etc/drbd.conf
global {
    disable-ip-verification;
    minor-count 5;
    dialog-refresh 2;
    usage-count no;
    cmd-timeout-medium 600;
    cmd-timeout-long 0;
}

common {
    options {
        cpu-mask           3;
        on-no-data-accessible suspend-io;
    }
    net {
        protocol           C;
        allow-two-primaries yes;
        after-sb-0pri    discard-zero-changes;
        shared-secret    "al \"len";
        max-buffers      8000;
        cram-hmac-alg    sha1;
        data-integrity-alg crc32c;
        verify-alg       md5;
        use-rle          yes;
    }
    disk {
        disk-flushes      no;
        on-io-error      detach;
        fencing          resource-only;
        al-updates        no;
        resync-rate      30M;
        al-extents       257;
    }
    startup {
        wfc-timeout       10;
        degr-wfc-timeout   5;
        wait-after-sb    yes;
        become-primary-on both;
    }
    handlers {
        split-brain      "/usr/lib/drbd/notify.sh root";
        fence-peer       true;
    }
}

# resource r1 on vm: not ignored, not stacked
# defined at /etc/drbd.conf:13
resource r1 {
    on vm {
        volume 0 {
            device       /dev/drbd1 minor 1;
            disk         /dev/sda2;
            meta-disk        /dev/sdb1 [3];
            disk {
                size             10G;
            }
        }
        volume 1 {
            device       minor 7;
            disk         "/dev/sd a3";
            meta-disk        /dev/sdb2;
        }
        address          ipv6 [::1]:7789;
    }
    on bob {
        volume 0 {
            device       /dev/drbd1 minor 1;
            disk         /dev/sda2;
            meta-disk        /dev/sdb1 [3];
            disk {
                size             10G;
            }
        }
        volume 1 {
            device       minor 7;
            disk         "/dev/sd a3";
            meta-disk        /dev/sdb2;
        }
        address          ipv6 [::2]:7789;
        nbd {
            listen           10.0.0.1:10809;
            listen           "[::2]:10809";
            allow            10.0.0.0/8;
        }
    }
    ignore-on zed;
    startup {
        become-primary-on vm bob;
    }
}

# resource r2 on vm: not ignored, not stacked
# defined at /etc/drbd.conf:21
resource r2 {
    floating ipv4 127.0.0.1:7788 {
        device           /dev/drbd_foo minor 3;
        disk             /dev/sda1;
        meta-disk        internal;
    }
    floating ipv4 127.0.0.2:7788 {
        device           minor 3;
        disk             /dev/sda1;
        meta-disk        internal;
    }
}

"#;
    assert_eq!(config.dump("vm"), expected);
    let again = parsed(&config.dump("vm"));
    let lines = |text: &str| -> Vec<String> {
        // Line numbers differ, nothing else.
        text.lines().filter(|line| !line.starts_with("# defined")).map(str::to_owned).collect()
    };
    assert_eq!(lines(&again.dump("vm")), lines(expected), "a dump reads back as itself");
}
