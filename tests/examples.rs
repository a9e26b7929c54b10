//! The files of `examples/` say what they mean: they load without a word, on each node.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folder, nodes.
const EXAMPLES: [(&str, [&str; 2]); 2] = [("nginx", ["web1", "web2"]), ("mysql", ["db1", "db2"])];

fn file(example: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join(name)
}

#[test]
fn resources_load_without_a_warning() {
    for (example, nodes) in EXAMPLES {
        for node in nodes {
            let mut command = Command::new(env!("CARGO_BIN_EXE_twinblk"));
            command.arg("-c").arg(file(example, "drbd.conf")).args(["--node", node, "dump"]);
            let output = command.stdin(Stdio::null()).output().expect("the program");
            let (said, errors) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && errors.is_empty(), "{example} {node}: {errors}");
            for wanted in [format!("on {node} {{"), "takeover         witness".to_owned()] {
                assert!(said.contains(&wanted), "{example}: no '{wanted}' in\n{said}");
            }
        }
    }
}

#[test]
fn services_load_without_a_warning() {
    for (example, nodes) in EXAMPLES {
        for node in nodes {
            let mut command = Command::new(env!("CARGO_BIN_EXE_twinblk"));
            command.arg("-c").arg(file(example, "drbd.conf")).args(["--node", node, "check"]);
            command.arg("--keepalived").arg(file(example, &format!("{node}/keepalived.conf")));
            let output = command.stdin(Stdio::null()).output().expect("the program");
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{example} {node}: {said}");
            assert!(said.ends_with(": 0 errors, 0 warnings\n"), "{example} {node}: {said}");
        }
    }
}

#[test]
fn both_nodes_differ_in_the_priority_only() {
    for (example, nodes) in EXAMPLES {
        let [first, second] = nodes.map(|node| {
            let path = file(example, &format!("{node}/keepalived.conf"));
            let text = std::fs::read_to_string(path).expect("an example");
            text.lines().map(|line| line.replace(node, "NODE")).collect::<Vec<_>>()
        });
        let differing: Vec<_> =
            first.iter().zip(&second).filter(|(one, other)| one != other).collect();
        assert!(first.len() == second.len() && differing.len() == 1, "{example}: {differing:?}");
        assert!(differing[0].0.contains("priority 100"), "{example}: {differing:?}");
    }
}

#[test]
fn scripts_are_executable() {
    use std::os::unix::fs::PermissionsExt;
    for (example, script) in [("nginx", "check_ng.sh"), ("mysql", "check_mysql.sh")] {
        let metadata = std::fs::metadata(file(example, script)).expect("a script");
        assert_eq!(metadata.permissions().mode() & 0o111, 0o111, "{script}");
    }
}
