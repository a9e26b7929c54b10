//! A client that sends any bytes it likes, well formed or not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

pub use twinblk::nbd::wire::{command, command_flag, option, option_reply};

use crate::suite::Export;

/// An answer that does not come within this time never comes.
const PATIENCE: Duration = Duration::from_secs(20);

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const FIXED_NO_ZEROES: u32 = 3;

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

pub struct Raw {
    stream: Box<dyn Stream>,
}

impl Raw {
    /// Connects and reads the greeting.
    pub fn connect(export: &Export) -> Self {
        let stream: Box<dyn Stream> = match export.unix_socket() {
            Some(path) => {
                let stream = UnixStream::connect(path).expect("connected");
                stream.set_read_timeout(Some(PATIENCE)).expect("socket option");
                stream.set_write_timeout(Some(PATIENCE)).expect("socket option");
                Box::new(stream)
            }
            None => {
                let stream = TcpStream::connect(export.tcp_address()).expect("connected");
                stream.set_read_timeout(Some(PATIENCE)).expect("socket option");
                stream.set_write_timeout(Some(PATIENCE)).expect("socket option");
                stream.set_nodelay(true).expect("socket option");
                Box::new(stream)
            }
        };
        let mut raw = Self { stream };
        assert_eq!(raw.receive(16), b"NBDMAGICIHAVEOPT");
        assert_eq!(raw.receive(2)[1] & 1, 1, "fixed newstyle");
        raw
    }

    /// Connects and answers the greeting.
    pub fn negotiating(export: &Export) -> Self {
        let mut raw = Self::connect(export);
        raw.send(&FIXED_NO_ZEROES.to_be_bytes());
        raw
    }

    /// Connects and enters transmission.
    pub fn enter(export: &Export, structured: bool) -> Self {
        let mut raw = Self::negotiating(export);
        if structured {
            raw.option(option::STRUCTURED_REPLY, &[]);
            assert_eq!(raw.option_reply(option::STRUCTURED_REPLY).0, option_reply::ACK);
        }
        raw.option(option::GO, &name_data(&export.name(), &[]));
        loop {
            match raw.option_reply(option::GO).0 {
                option_reply::INFO => {}
                option_reply::ACK => return raw,
                other => panic!("GO was answered with {other:#x}"),
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// Sends as much as the server takes before it closes.
    pub fn send_to_closing(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    /// True if the server closed, without another byte.
    pub fn is_closed(&mut self) -> bool {
        let outcome = self.stream.read(&mut [0]);
        match outcome {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub fn option(&mut self, number: u32, data: &[u8]) {
        self.option_header(number, data.len() as u32);
        self.send_to_closing(data);
    }

    pub fn option_header(&mut self, number: u32, length: u32) {
        let header = [&OPTION_MAGIC[..], &number.to_be_bytes(), &length.to_be_bytes()].concat();
        self.send(&header);
    }

    /// Type and data of the next reply to `number`.
    pub fn option_reply(&mut self, number: u32) -> (u32, Vec<u8>) {
        let header = self.receive(20);
        assert_eq!(header[..8], [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9]);
        assert_eq!(word(&header, 8), number);
        (word(&header, 12), self.receive(word(&header, 16) as usize))
    }

    pub fn request(&mut self, flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
        self.send(&request_bytes(flags, command, cookie, offset, length));
    }

    /// Error and cookie.
    pub fn simple_reply(&mut self) -> (u32, u64) {
        let reply = self.receive(16);
        assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98]);
        (word(&reply, 4), u64::from_be_bytes(reply[8..].try_into().expect("8 bytes")))
    }

    pub fn simple_reply_with_data(&mut self, length: usize) -> (u32, u64) {
        let reply = self.simple_reply();
        self.receive(length);
        reply
    }

    /// Error of a structured answer that is a single error chunk.
    pub fn structured_error(&mut self, cookie: u64) -> u32 {
        let header = self.receive(20);
        assert_eq!(header[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1]);
        assert_eq!(header[8..16], cookie.to_be_bytes());
        let data = self.receive(word(&header, 16) as usize);
        word(&data, 0)
    }

    /// The connection still works: one read, answered.
    pub fn assert_serving(&mut self) {
        self.request(0, command::READ, 0x600d, 0, 512);
        assert_eq!(self.simple_reply_with_data(512), (0, 0x600d));
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub fn request_bytes(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = vec![0x25, 0x60, 0x95, 0x13];
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

/// Data of INFO and GO.
pub fn name_data(name: &str, items: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&(items.len() as u16).to_be_bytes());
    items.iter().for_each(|item| data.extend_from_slice(&item.to_be_bytes()));
    data
}
