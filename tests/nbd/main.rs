//! The NBD server against real clients.
//!
//! `suite` and `malformed` know nothing of the server: they take an [`Export`], a URI and a few
//! facts, and can be pointed at any server. Here it is `memory_server`, the production front end
//! over exports in memory. A client that is not installed is skipped with a printed reason.

mod malformed;
mod memory_server;
mod raw;
mod speed;
mod suite;
mod tools;

use memory_server::MemoryServer;
use suite::Export;

const SIZE_BYTES: u64 = 128 << 20;

fn serve() -> MemoryServer {
    MemoryServer::start(SIZE_BYTES)
}

/// Runs a part of the suite over the unix socket.
fn over_unix(part: impl FnOnce(&Export)) {
    let server = serve();
    part(&server.export_on_unix());
}

#[test]
fn nbdinfo_shows_the_export() {
    over_unix(suite::nbdinfo);
}

#[test]
fn nbdcopy_round_trip() {
    over_unix(suite::nbdcopy);
}

#[test]
fn qemu_io_commands() {
    over_unix(suite::qemu_io);
}

#[test]
fn qemu_img_commands() {
    over_unix(suite::qemu_img);
}

#[test]
fn fio_verify() {
    over_unix(suite::fio_verify);
}

#[test]
fn libnbd_script() {
    over_unix(suite::libnbd);
}

#[test]
fn malformed_input_over_unix() {
    over_unix(malformed::all);
}

#[test]
fn everything_over_tcp() {
    let server = serve();
    let export = server.export_on_tcp();
    suite::all(&export);
    malformed::all(&export);
}

#[test]
fn a_secondary_refuses_and_says_where_the_primary_is() {
    let server = serve();
    suite::refused(&server.elsewhere_on_unix(), "primary is at 192.0.2.1:10809");
}

#[test]
fn demotion_closes_the_connection_without_an_error() {
    let server = serve();
    let export = server.export_on_unix();
    let mut client = raw::Raw::enter(&export, false);
    client.request(0, raw::command::READ, 1, 0, 512);
    assert_eq!(client.simple_reply_with_data(512), (0, 1));
    server.demote();
    client.send_to_closing(&raw::request_bytes(0, raw::command::READ, 2, 0, 512));
    assert!(client.is_closed(), "no answer that a user would see");
}

#[test]
fn speed_beside_nbdkit() {
    speed::compare();
}
