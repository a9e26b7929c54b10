//! Files in files, variables, and lines for one node.

use super::*;

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
    std::fs::write(&path, text).expect("written");
    path
}

#[test]
fn a_file_stands_where_it_is_included() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let main = write(
        folder.path(),
        "keepalived.conf",
        "include vrrp.d/*.conf\ninclude missing.conf\ninclude none*.conf\n",
    );
    let text = instance_with("").replace("10.0.0.9", "include addresses.txt");
    write(folder.path(), "vrrp.d/b.conf", &text);
    write(folder.path(), "vrrp.d/a.conf", "global_defs { router_id ${_PWD}\n}\n");
    write(folder.path(), "vrrp.d/addresses.txt", "10.0.0.1\n10.0.0.2\n");
    let config = load(&main, "alice").expect("right");
    assert_eq!(config.instances[0].addresses.len(), 2);
    let expected = folder.path().join("vrrp.d").display().to_string();
    assert_eq!(config.global.router_id, Some(expected));
    let warnings = config.warnings.to_string();
    assert!(warnings.contains("missing.conf': No such file or directory\n"), "{warnings}");
    assert!(warnings.contains("no file is named like 'none*.conf'"), "{warnings}");
}

#[test]
fn files_that_include_themselves_end() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let main = write(folder.path(), "k.conf", "include k.conf\ninclude *.conf\n");
    let mistakes = load(&main, "alice").expect_err("endless").to_string();
    assert!(mistakes.contains("nested deeper than 10"), "{mistakes}");
    let missing = load(&folder.path().join("no"), "alice").expect_err("missing").to_string();
    assert!(missing.ends_with("/no': No such file or directory"), "{missing}");
}

#[test]
fn variables_are_replaced_when_they_are_used() {
    let config = parsed(
        "$IF=eth7\n$BASE=10.0.${MIDDLE}\n$MIDDLE=3\n$ID=51\n$WORDS=state MASTER\n\
         vrrp_instance VI_${ID} {\ninterface $IF\nvirtual_router_id ${ID}\n$WORDS\n\
         @alice priority 90\n@bob priority 80\n@^alice advert_int 2\n\
         notify_master \"/a ${ID} $NOBODY ${_INSTANCE}\"\n\
         virtual_ipaddress {\n${BASE}.1\n}\n}\n",
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let instance = &config.instances[0];
    assert_eq!((instance.name.as_str(), instance.interface.as_str()), ("VI_51", "eth7"));
    assert_eq!(instance.addresses[0].address.to_string(), "10.0.3.1");
    assert_eq!(instance.initial_state, InitialState::Master);
    assert_eq!((instance.priority, instance.advert_interval_us), (90, 1_000_000));
    let command = instance.notify.master.as_ref().expect("one");
    assert_eq!(command.text, "/a 51 $NOBODY alice");
}

#[test]
fn what_is_not_provided_of_variables_is_said() {
    let error = |text: &str| parse(Path::new("f"), text, "a").expect_err(text).to_string();
    assert_eq!(
        error("$A=x${A}\nglobal_defs {\nrouter_id $A\n}"),
        "f:3: variables make this too long\nf:3: 'router_id' needs a value"
    );
    let repeated = error("~SEQ(A, 1, 3) x");
    assert_eq!(repeated, "f:1: lines that are repeated by ~SEQ or ~LST are not provided");
    let block = error("$A= \\\nvrrp_instance x { \\\n}\n");
    assert_eq!(block, "f:1: a variable that stands for a block is not provided");
}
