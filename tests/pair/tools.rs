//! Other people's NBD clients.

use std::process::{Command, Stdio};

use crate::common::pair::{Node, Pair, PairOptions, RESOURCE, tool};

fn succeed(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the tool");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn qemu_io(node: &Node, commands: &[&str]) -> Option<String> {
    let mut command = Command::new(tool("qemu-io")?);
    command.args(["-f", "raw"]);
    for line in commands {
        command.args(["-c", line]);
    }
    command.arg(node.uri());
    Some(succeed(command))
}

#[test]
fn qemu_io_writes_and_verifies_patterns_on_both_nodes() {
    let pair = Pair::in_sync(PairOptions::default());
    let writes = [
        "write -P 0xa5 0 64k",
        "write -P 0x5a -f 1M 2M",
        "write -z 1536k 128k",
        "discard 3M 64k",
        "flush",
        "read -P 0xa5 0 64k",
    ];
    let Some(text) = qemu_io(&pair.alice, &writes) else { return };
    assert!(!text.contains("verification failed"), "{text}");
    pair.alice.wait_without_clients();
    pair.alice.succeed(&["secondary", RESOURCE]);
    pair.bob.succeed(&["primary", RESOURCE]);
    let reads = [
        "read -P 0xa5 0 64k",
        "read -P 0x5a 1M 512k",
        "read -P 0 1536k 128k",
        "read -P 0x5a 1664k 1408k",
        "read -P 0 3M 64k",
    ];
    let Some(text) = qemu_io(&pair.bob, &reads) else { return };
    assert!(!text.contains("verification failed"), "{text}");
}

#[test]
fn nbdcopy_carries_an_image_in_and_out() {
    let pair = Pair::in_sync(PairOptions::default());
    let Some(nbdcopy) = tool("nbdcopy") else { return };
    let folder = tempfile::tempdir().expect("folder");
    let (source, copy) = (folder.path().join("source"), folder.path().join("copy"));
    let size = pair.alice.status().size_bytes as usize;
    let mut image = vec![0; size];
    for (index, byte) in image.iter_mut().enumerate().skip(1 << 20).take(20 << 20) {
        *byte = (index / 513) as u8;
    }
    std::fs::write(&source, &image).expect("an image");
    let mut inward = Command::new(&nbdcopy);
    succeed({
        inward.arg("--flush").arg(&source).arg(pair.alice.uri());
        inward
    });
    pair.alice.wait_without_clients();
    pair.alice.succeed(&["secondary", RESOURCE]);
    pair.bob.succeed(&["primary", RESOURCE]);
    let mut outward = Command::new(&nbdcopy);
    succeed({
        outward.arg(pair.bob.uri()).arg(&copy);
        outward
    });
    assert!(std::fs::read(&copy).expect("the copy") == image, "the image came through");
}
