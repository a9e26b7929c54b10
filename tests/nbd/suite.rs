//! Unmodified clients against any server that exports at least 64 MiB to be written over
//! (nbd.md section 4). Nothing is assumed about the content before.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tools::{attempt, find, path_text, run};

/// Debian's interpreter: the bindings of libnbd are packaged for it and no other.
const PYTHON: &str = "/usr/bin/python3";

/// Where an export is, and what may be done to it.
#[derive(Clone, Debug)]
pub struct Export {
    /// `nbd://HOST:PORT/NAME` or `nbd+unix:///NAME?socket=PATH`
    pub uri: String,
    pub writable_bytes: u64,
}

impl Export {
    pub fn name(&self) -> String {
        let (_, rest) = self.uri.split_once("://").expect("a URI");
        let (_, path) = rest.split_once('/').expect("a path");
        path.split('?').next().unwrap_or_default().to_owned()
    }

    pub fn unix_socket(&self) -> Option<PathBuf> {
        self.uri.split_once("?socket=").map(|(_, path)| PathBuf::from(path))
    }

    pub fn tcp_address(&self) -> String {
        let (_, rest) = self.uri.split_once("://").expect("a URI");
        rest.split('/').next().unwrap_or_default().to_owned()
    }

    pub fn size_bytes(&self) -> u64 {
        self.writable_bytes
    }
}

pub fn all(export: &Export) {
    nbdinfo(export);
    nbdcopy(export);
    qemu_io(export);
    qemu_img(export);
    fio_verify(export);
    libnbd(export);
}

pub fn nbdinfo(export: &Export) {
    if find("nbdinfo").is_none() {
        return;
    }
    let uri = &export.uri[..];
    let shown = run("nbdinfo", &[uri]);
    for line in [
        "newstyle-fixed without TLS, using structured packets",
        "base:allocation",
        "twinblk:out-of-sync",
        "is_rotational: false",
        "is_read_only: false",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(shown.contains(line), "{line:?} is missing in:\n{shown}");
    }
    assert_eq!(run("nbdinfo", &["--size", uri]).trim(), export.size_bytes().to_string());
    assert!(run("nbdinfo", &["--json", uri]).contains("\"can_fast_zero\": true"));
    for feature in
        ["write", "flush", "fua", "trim", "zero", "fast-zero", "df", "cache", "multi-conn"]
    {
        run("nbdinfo", &["--can", feature, uri]);
    }
    // Exit code 2 says no.
    assert_eq!(attempt("nbdinfo", &["--is", "rotational", uri]).status.code(), Some(2));
    let map = run("nbdinfo", &["--map", "--totals", uri]);
    assert!(map.contains("data") || map.contains("hole,zero"), "{map}");
    run("nbdinfo", &["--map=twinblk:out-of-sync", uri]);
    let list = attempt("nbdinfo", &["--list", uri]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains(&format!("export=\"{}\"", export.name())), "{list}");
}

/// A Secondary: the name is known, entering is refused, and the text reaches the user.
pub fn refused(export: &Export, reason: &str) {
    if find("qemu-img").is_none() {
        return;
    }
    let output = attempt("qemu-img", &["info", &export.uri]);
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && shown.contains(reason), "{shown}");
}

pub fn nbdcopy(export: &Export) {
    if find("nbdcopy").is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let (image, back) = (folder.path().join("image"), folder.path().join("back"));
    write_image(&image, export);
    run("nbdcopy", &["--flush", path_text(&image), &export.uri]);
    let many = ["--connections=4", "--requests=64", &export.uri, path_text(&back)];
    run("nbdcopy", &many);
    assert!(fs::read(&image).expect("image") == fs::read(&back).expect("copy"));
}

/// 48 MiB without a pattern, then zeroes to the size of the export.
fn write_image(path: &Path, export: &Export) {
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33).to_ne_bytes()
    })
    .take((48 << 20) / 8)
    .flatten()
    .collect();
    fs::write(path, noise).expect("image written");
    let file = fs::File::options().write(true).open(path).expect("image");
    file.set_len(export.size_bytes()).expect("image extended");
}

pub fn qemu_io(export: &Export) {
    if find("qemu-io").is_none() {
        return;
    }
    let commands = [
        "write -P 0xaa 0 64k",
        "read -P 0xaa 0 64k",
        "write -f -P 0x55 4k 4k",
        "read -P 0xaa 0 4k",
        "read -P 0x55 4k 4k",
        "write -z 0 32k",
        "read -P 0 0 32k",
        "write -z -u 32k 32k",
        "read -P 0 32k 32k",
        "write -P 0x11 1M 2M",
        "discard 1M 64k",
        "read -P 0x11 1088k 1984k",
        "flush",
        "aio_write -P 1 4M 4k",
        "aio_write -P 2 5M 1M",
        "aio_flush",
        "aio_read -P 1 4M 4k",
        "aio_read -P 2 5M 1M",
        "aio_flush",
        // Bytes are qemu's to emulate over the smallest block.
        "write -P 0x77 8388609 100",
        "read -P 0x77 8388609 100",
    ];
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&export.uri);
    let shown = run("qemu-io", &arguments);
    assert!(!shown.contains("failed") && !shown.contains("rror"), "{shown}");
}

pub fn qemu_img(export: &Export) {
    if find("qemu-img").is_none() {
        return;
    }
    let uri = &export.uri[..];
    assert!(run("qemu-img", &["info", uri]).contains("virtual size"));
    assert!(run("qemu-img", &["map", "-f", "raw", "--output=json", uri]).contains("\"length\""));
    assert!(
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", uri, uri]).contains("identical")
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let (image, back) = (folder.path().join("image"), folder.path().join("back"));
    write_image(&image, export);
    let (image, back) = (path_text(&image), path_text(&back));
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", image, uri]);
    assert!(
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, uri]).contains("identical")
    );
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", uri, back]);
    assert!(
        run("qemu-img", &["compare", "-f", "raw", "-F", "raw", image, back]).contains("identical")
    );
    let bench = [
        "bench",
        "-f",
        "raw",
        "-w",
        "-c",
        "5000",
        "-d",
        "32",
        "-s",
        "4096",
        "--flush-interval=256",
    ];
    run("qemu-img", &[&bench[..], &[uri]].concat());
}

pub fn fio_verify(export: &Export) {
    if find("fio").is_none() {
        return;
    }
    if !run("fio", &["--enghelp"]).contains("nbd") {
        println!("skipped: fio is built without its nbd engine");
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    // Left-over state of an earlier verification would be taken from the working folder.
    let state = format!("--aux-path={}", path_text(folder.path()));
    let uri = format!("--uri={}", export.uri);
    let common = ["--name=verify", "--ioengine=nbd", &uri, &state, "--iodepth=16"];
    let verify = [
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--blockalign=512",
        "--size=32m",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_fatal=1",
        "--fsync=64",
    ];
    run("fio", &[&common[..], &verify].concat());
    let large = ["--rw=randwrite", "--bs=1m", "--size=64m", "--verify=crc32c", "--verify_fatal=1"];
    run("fio", &[&common[..], &large].concat());
    run("fio", &[&common[..], &["--rw=randtrim", "--bs=64k", "--size=32m"]].concat());
}

pub fn libnbd(export: &Export) {
    if find("python3").is_none() || !Path::new(PYTHON).is_file() {
        println!("skipped: {PYTHON} is not installed");
        return;
    }
    if !attempt(PYTHON, &["-c", "import nbd"]).status.success() {
        println!("skipped: python3-libnbd is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("temporary folder");
    let script = folder.path().join("libnbd.py");
    fs::write(&script, include_str!("libnbd.py")).expect("script written");
    let shown = run(PYTHON, &[path_text(&script), &export.uri]);
    assert!(shown.contains("all passed"), "{shown}");
}
