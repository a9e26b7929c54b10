//! The service that counts: a row is acknowledged when it is in a file on the replicated device, and
//! on the disk. It names the node that answers.
//!
//! ```text
//!   row 17   ->  ok 17 a
//!   who      ->  a
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Tells this test program that it is a server, on which file.
pub const FILE: &str = "TWINBLK_TEST_E2E_SERVER";
pub const NAME: &str = "TWINBLK_TEST_E2E_NAME";
pub const PORT: u16 = 7000;
/// Longer than any request.
const LINE_BYTES_MAX: u64 = 64;

/// Not a test: the server, inside a host.
#[test]
fn server_process() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let name = std::env::var(NAME).expect("a name");
    let rows = OpenOptions::new().create(true).append(true).open(Path::new(&path)).expect("rows");
    let rows = Arc::new(Mutex::new(rows));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).expect("a port");
    for stream in listener.incoming().map_while(Result::ok) {
        let (rows, name) = (rows.clone(), name.clone());
        std::thread::spawn(move || answer(&stream, &rows, &name));
    }
}

fn answer(stream: &TcpStream, rows: &Mutex<File>, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if io::Read::take(&mut reader, LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let reply = match line.trim().split_once(' ') {
            Some(("row", number)) => {
                let mut rows = rows.lock().expect("nobody panics with it");
                // Long enough that a full file system is noticed soon.
                let written = writeln!(rows, "{number:<63}").and_then(|()| rows.sync_data());
                match written {
                    Ok(()) => format!("ok {number} {name}\n"),
                    Err(error) => format!("error {error}\n"),
                }
            }
            _ => format!("{name}\n"),
        };
        (&mut &*stream).write_all(reply.as_bytes())?;
    }
}
