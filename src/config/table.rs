//! The options of drbd.conf (behaviour.md 7.8) and the few of this program, one line each.

use super::options::Default::{Flag, Number, Unset, Word};
use super::options::Effect::{self, Acts, Irrelevant, NotYet, Refused};
use super::options::Section::{
    self, Disk, Global, Handlers, Nbd, Net, Options, Proxy, Startup, Syncer,
};
use super::options::{Alias, Kind, Spec, Unit};

/// Digests that `proto` can compute; the names are the kernel's.
const DIGESTS: &[&str] = &["crc32c", "md5", "sha1", "sha256"];
/// Between twinblk nodes crc32c is on unless this says otherwise; DRBD has no word for it.
const INTEGRITY: &[&str] = &["crc32c", "md5", "sha1", "sha256", "none"];
/// Of these, the ones with an HMAC.
const HMACS: &[&str] = &["md5", "sha1", "sha256"];
const NO_TLS: &str = "the connection would be in plain text: TLS is not supported yet";
/// Without a limit of its own, a text is limited by the lexer.
const ANY_TEXT: usize = 255;

const fn flag(section: Section, name: &'static str, default: bool, effect: Effect) -> Spec {
    Spec { section, name, kind: Kind::Flag, default: Flag(default), effect }
}

const fn number(
    section: Section,
    name: &'static str,
    default: u64,
    (min, max): (u64, u64),
    unit: Unit,
    effect: Effect,
) -> Spec {
    Spec { section, name, kind: Kind::Number { min, max, unit }, default: Number(default), effect }
}

/// The first word is the default.
const fn choice(
    section: Section,
    name: &'static str,
    words: &'static [&'static str],
    effect: Effect,
) -> Spec {
    Spec { section, name, kind: Kind::Choice(words), default: Word(words[0]), effect }
}

const fn digest(name: &'static str, words: &'static [&'static str]) -> Spec {
    Spec { section: Net, name, kind: Kind::Choice(words), default: Unset, effect: Acts }
}

const fn text(section: Section, name: &'static str, chars_max: usize, effect: Effect) -> Spec {
    Spec { section, name, kind: Kind::Text { chars_max }, default: Unset, effect }
}

const fn other(section: Section, name: &'static str, kind: Kind, effect: Effect) -> Spec {
    Spec { section, name, kind, default: Unset, effect }
}

const fn handler(name: &'static str, effect: Effect) -> Spec {
    text(Handlers, name, ANY_TEXT, effect)
}

const GIB: u64 = 1 << 30;

/// Every option. Within a section: what acts first, in the order of behaviour.md 7.8.
pub const TABLE: &[Spec] = &[
    // --- net
    choice(Net, "protocol", &["C", "A", "B"], Acts),
    number(Net, "timeout", 60, (1, 600), Unit::One, Acts), // 0.1 s
    number(Net, "connect-int", 10, (1, 120), Unit::One, Acts), // s
    number(Net, "ping-int", 10, (1, 120), Unit::One, Acts), // s
    number(Net, "ping-timeout", 5, (1, 300), Unit::One, Acts), // 0.1 s
    number(Net, "socket-check-timeout", 0, (0, 300), Unit::One, Acts), // 0.1 s
    number(Net, "ko-count", 7, (0, 200), Unit::One, Acts),
    number(Net, "max-buffers", 2048, (32, 131_072), Unit::One, Acts),
    number(Net, "max-epoch-size", 2048, (1, 20_000), Unit::One, Acts),
    number(Net, "sndbuf-size", 0, (0, 10 << 20), Unit::One, Acts),
    number(Net, "rcvbuf-size", 0, (0, 10 << 20), Unit::One, Acts),
    digest("cram-hmac-alg", HMACS),
    text(Net, "shared-secret", 64, Acts),
    choice(
        Net,
        "after-sb-0pri",
        &[
            "disconnect",
            "discard-younger-primary",
            "discard-older-primary",
            "discard-zero-changes",
            "discard-least-changes",
            "discard-local",
            "discard-remote",
        ],
        Acts,
    ),
    choice(
        Net,
        "after-sb-1pri",
        &[
            "disconnect",
            "consensus",
            "violently-as0p",
            "discard-secondary",
            "call-pri-lost-after-sb",
        ],
        Acts,
    ),
    choice(Net, "after-sb-2pri", &["disconnect", "violently-as0p", "call-pri-lost-after-sb"], Acts),
    flag(Net, "always-asbp", false, Acts),
    choice(Net, "rr-conflict", &["disconnect", "call-pri-lost", "violently"], Acts),
    digest("data-integrity-alg", INTEGRITY),
    digest("verify-alg", DIGESTS),
    digest("csums-alg", DIGESTS),
    flag(Net, "use-rle", true, Acts),
    flag(Net, "allow-two-primaries", false, NotYet),
    flag(Net, "csums-after-crash-only", false, Acts),
    choice(Net, "on-congestion", &["block", "pull-ahead", "disconnect"], NotYet),
    number(Net, "congestion-fill", 0, (0, 10 * GIB / 512), Unit::Sectors, NotYet),
    number(Net, "congestion-extents", 1237, (67, 65_534), Unit::One, NotYet),
    // TCP_NODELAY and one vectored write per wake-up do what corking is for.
    flag(Net, "tcp-cork", true, Irrelevant),
    number(Net, "unplug-watermark", 128, (1, 131_072), Unit::One, Irrelevant),
    flag(Net, "tls", false, Refused(NO_TLS)),
    text(Net, "tls-keyring", ANY_TEXT, Refused(NO_TLS)),
    text(Net, "tls-privkey", ANY_TEXT, Refused(NO_TLS)),
    text(Net, "tls-certificate", ANY_TEXT, Refused(NO_TLS)),
    choice(Net, "transport", &["tcp", "rdma", "lb-tcp"], NotYet),
    flag(Net, "load-balance-paths", false, NotYet),
    // --- disk
    choice(Disk, "on-io-error", &["detach", "pass_on", "call-local-io-error"], Acts),
    number(Disk, "size", 0, (0, 1 << 41), Unit::Sectors, Acts),
    flag(Disk, "disk-flushes", true, Acts),
    number(Disk, "resync-rate", 250, (1, 8_388_608), Unit::Kib, Acts),
    // DRBD 8.3 files ask for as few as 7; the driver uses 67 at least, as DRBD 8.4 does.
    number(Disk, "al-extents", 1237, (7, 65_534), Unit::One, Acts),
    number(Disk, "c-plan-ahead", 20, (0, 300), Unit::One, Acts), // 0.1 s
    number(Disk, "c-delay-target", 10, (1, 100), Unit::One, Acts), // 0.1 s
    number(Disk, "c-fill-target", 100, (0, 1_048_576), Unit::Sectors, Acts),
    number(Disk, "c-max-rate", 102_400, (250, 4_194_304), Unit::Kib, Acts),
    number(Disk, "c-min-rate", 250, (0, 4_194_304), Unit::Kib, Acts),
    choice(Disk, "fencing", &["dont-care", "resource-only", "resource-and-stonith"], Acts),
    text(Disk, "resync-after", ANY_TEXT, Acts),
    flag(Disk, "al-updates", true, NotYet),
    number(Disk, "disk-timeout", 0, (0, 6000), Unit::One, Acts), // 0.1 s
    choice(
        Disk,
        "read-balancing",
        &[
            "prefer-local",
            "prefer-remote",
            "round-robin",
            "least-pending",
            "when-congested-remote",
            "32K-striping",
            "64K-striping",
            "128K-striping",
            "256K-striping",
            "512K-striping",
            "1M-striping",
        ],
        NotYet,
    ),
    number(Disk, "rs-discard-granularity", 0, (0, 1 << 20), Unit::One, NotYet),
    flag(Disk, "discard-zeroes-if-aligned", true, NotYet),
    // Barriers and drain are what DRBD falls back to; metadata writes are always durable here.
    flag(Disk, "disk-barrier", false, Irrelevant),
    flag(Disk, "disk-drain", true, Irrelevant),
    flag(Disk, "md-flushes", true, Irrelevant),
    flag(Disk, "disable-write-same", false, Irrelevant),
    number(Disk, "max-bio-bvecs", 0, (0, 128), Unit::One, Irrelevant),
    // --- options
    choice(Options, "backend", &["auto", "io_uring", "threads"], Acts),
    choice(Options, "on-no-data-accessible", &["io-error", "suspend-io"], Acts),
    other(Options, "takeover", Kind::Takeover, Acts),
    text(Options, "cpu-mask", ANY_TEXT, NotYet),
    flag(Options, "auto-promote", true, NotYet),
    text(Options, "quorum", ANY_TEXT, NotYet),
    choice(Options, "on-no-quorum", &["suspend-io", "io-error"], NotYet),
    text(Options, "quorum-minimum-redundancy", ANY_TEXT, NotYet),
    choice(Options, "on-suspended-primary-outdated", &["disconnect", "force-secondary"], NotYet),
    number(Options, "peer-ack-window", 4096, (2048, 204_800), Unit::Sectors, Irrelevant),
    number(Options, "peer-ack-delay", 100, (1, 10_000), Unit::One, Irrelevant),
    number(Options, "twopc-timeout", 300, (50, 600), Unit::One, Irrelevant),
    number(Options, "twopc-retry-timeout", 1, (1, 50), Unit::One, Irrelevant),
    number(Options, "auto-promote-timeout", 20, (0, 600), Unit::One, Irrelevant),
    number(Options, "max-io-depth", 8000, (4, 4_294_967_295), Unit::One, Irrelevant),
    // --- startup
    number(Startup, "wfc-timeout", 0, (0, 300_000), Unit::One, Acts), // s
    number(Startup, "degr-wfc-timeout", 0, (0, 300_000), Unit::One, NotYet), // s
    number(Startup, "outdated-wfc-timeout", 0, (0, 300_000), Unit::One, NotYet), // s
    flag(Startup, "wait-after-sb", false, NotYet),
    flag(Startup, "stacked-timeouts", false, NotYet),
    other(Startup, "become-primary-on", Kind::Words, NotYet),
    // --- handlers
    handler("pri-on-incon-degr", Acts),
    handler("pri-lost-after-sb", Acts),
    handler("pri-lost", Acts),
    handler("fence-peer", Acts),
    handler("unfence-peer", Acts),
    handler("local-io-error", Acts),
    handler("initial-split-brain", Acts),
    handler("split-brain", Acts),
    handler("before-resync-target", Acts),
    handler("after-resync-target", Acts),
    handler("before-resync-source", Acts),
    handler("out-of-sync", Acts),
    handler("quorum-lost", NotYet),
    handler("disconnected", NotYet),
    // --- nbd: this program's own
    other(Nbd, "listen", Kind::Listen, Acts),
    text(Nbd, "unix", 107, Acts), // longest name of a unix socket
    other(Nbd, "allow", Kind::Network, Acts),
    flag(Nbd, "attach", true, Acts),
    text(Nbd, "tls", ANY_TEXT, Refused(NO_TLS)),
    // --- global: about the kernel module and the original tools, in the order of their dump
    flag(Global, "disable-ip-verification", false, Irrelevant),
    number(Global, "minor-count", 32, (1, 255), Unit::One, Irrelevant),
    number(Global, "dialog-refresh", 1, (0, 600), Unit::One, Irrelevant),
    choice(Global, "usage-count", &["ask", "yes", "no"], Irrelevant),
    flag(Global, "udev-always-use-vnr", false, Irrelevant),
    number(Global, "cmd-timeout-short", 5, (0, 900), Unit::One, Irrelevant),
    number(Global, "cmd-timeout-medium", 600, (0, 900), Unit::One, Irrelevant),
    number(Global, "cmd-timeout-long", 0, (0, 900), Unit::One, Irrelevant),
    // --- proxy
    text(Proxy, "memlimit", ANY_TEXT, NotYet),
    text(Proxy, "read-loops", ANY_TEXT, NotYet),
    text(Proxy, "compression", ANY_TEXT, NotYet),
    text(Proxy, "bwlimit", ANY_TEXT, NotYet),
];

const fn moved(section: Section, name: &'static str, to: Section, new: &'static str) -> Alias {
    Alias { section, name, target: Some((to, new)) }
}

const fn ignored(section: Section, name: &'static str) -> Alias {
    Alias { section, name, target: None }
}

/// Names of DRBD 8.3, and of DRBD 9 where an option moved to another section.
pub const ALIASES: &[Alias] = &[
    moved(Syncer, "rate", Disk, "resync-rate"),
    moved(Syncer, "after", Disk, "resync-after"),
    moved(Syncer, "al-extents", Disk, "al-extents"),
    moved(Syncer, "c-plan-ahead", Disk, "c-plan-ahead"),
    moved(Syncer, "c-delay-target", Disk, "c-delay-target"),
    moved(Syncer, "c-fill-target", Disk, "c-fill-target"),
    moved(Syncer, "c-max-rate", Disk, "c-max-rate"),
    moved(Syncer, "c-min-rate", Disk, "c-min-rate"),
    moved(Syncer, "verify-alg", Net, "verify-alg"),
    moved(Syncer, "csums-alg", Net, "csums-alg"),
    moved(Syncer, "use-rle", Net, "use-rle"),
    moved(Syncer, "cpu-mask", Options, "cpu-mask"),
    moved(Syncer, "on-no-data-accessible", Options, "on-no-data-accessible"),
    ignored(Syncer, "delay-probe-volume"),
    ignored(Syncer, "delay-probe-interval"),
    ignored(Syncer, "throttle-threshold"),
    ignored(Syncer, "hold-off-threshold"),
    moved(Disk, "rate", Disk, "resync-rate"),
    moved(Disk, "after", Disk, "resync-after"),
    ignored(Disk, "use-bmbv"),
    moved(Net, "fencing", Disk, "fencing"),
    moved(Handlers, "outdate-peer", Handlers, "fence-peer"),
];
