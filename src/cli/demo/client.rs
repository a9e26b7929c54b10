//! A small NBD client: fixed newstyle, simple replies, many requests in flight (nbd.md 1).

use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// A healthy server answers well within this, a resync in the background included.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct NbdClient {
    reader: BufReader<TcpStream>,
}

impl NbdClient {
    pub(super) fn connect(address: SocketAddr, export: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("NBD at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let mut client = Self { reader: BufReader::with_capacity(64 << 10, stream) };
        let mut greeting = [0; 18];
        client.reader.read_exact(&mut greeting)?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            bail!("{address} is no NBD server");
        }
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(OPTION_MAGIC.to_be_bytes());
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend((export.len() as u32 + 6).to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend([0, 0]);
        client.reader.get_mut().write_all(&hello)?;
        loop {
            let mut head = [0; 20];
            client.reader.read_exact(&mut head)?;
            let code = be32(&head[12..]);
            let mut body = vec![0; be32(&head[16..]) as usize];
            client.reader.read_exact(&mut body)?;
            match code {
                REPLY_ACK => return Ok(client),
                REPLY_INFO => {}
                _ => bail!("the export is refused: {}", String::from_utf8_lossy(&body)),
            }
        }
    }

    fn request(&mut self, command: u16, cookie: u64, offset: u64, length: u32) -> [u8; 28] {
        let mut head = [0; 28];
        head[..4].copy_from_slice(&0x2560_9513u32.to_be_bytes());
        head[6..8].copy_from_slice(&command.to_be_bytes());
        head[8..16].copy_from_slice(&cookie.to_be_bytes());
        head[16..24].copy_from_slice(&offset.to_be_bytes());
        head[24..].copy_from_slice(&length.to_be_bytes());
        head
    }

    pub(super) fn send_write(&mut self, cookie: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut message = self.request(WRITE, cookie, offset, data.len() as u32).to_vec();
        message.extend_from_slice(data);
        self.reader.get_mut().write_all(&message)
    }

    /// The next answer to a write: its cookie and the error number.
    pub(super) fn answer(&mut self) -> io::Result<(u64, u32)> {
        let mut head = [0; 16];
        self.reader.read_exact(&mut head)?;
        if be32(&head) != 0x6744_6698 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a simple reply"));
        }
        let cookie = u64::from_be_bytes(head[8..16].try_into().expect("eight bytes"));
        Ok((cookie, be32(&head[4..])))
    }

    /// Nothing else may be in flight.
    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<()> {
        let head = self.request(READ, 0, offset, data.len() as u32);
        self.reader.get_mut().write_all(&head)?;
        let (_, error) = self.answer()?;
        if error != 0 {
            bail!("read at {offset} failed with error {error}");
        }
        self.reader.read_exact(data)?;
        Ok(())
    }

    /// Nothing else may be in flight.
    pub(super) fn flush(&mut self) -> Result<()> {
        let head = self.request(FLUSH, 0, 0, 0);
        self.reader.get_mut().write_all(&head)?;
        match self.answer()? {
            (_, 0) => Ok(()),
            (_, error) => bail!("flush failed with error {error}"),
        }
    }

    pub(super) fn disconnect(mut self) -> Result<()> {
        let head = self.request(DISCONNECT, 0, 0, 0);
        self.reader.get_mut().write_all(&head)?;
        // The server closes when everything is done.
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest)?;
        Ok(())
    }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}
