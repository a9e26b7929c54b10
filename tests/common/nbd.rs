//! A small NBD client: fixed newstyle, simple replies, requests one after another or in a pipeline.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No answer of a healthy server takes this long, a resync in the background included.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const WRITE_ZEROES: u16 = 6;
pub const FUA: u16 = 1;

const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;

#[derive(Debug)]
pub enum Refused {
    /// The server's error number and its message.
    Option {
        code: u32,
        message: String,
    },
    Io(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What requests and answers travel on.
pub trait Conversation: Read + Write + Send + std::fmt::Debug {}

impl<T: Read + Write + Send + std::fmt::Debug> Conversation for T {}

#[derive(Debug)]
pub struct NbdClient {
    reader: BufReader<Box<dyn Conversation>>,
    pub size_bytes: u64,
    next_handle: u64,
    /// Requests without answer, by handle: bytes that a good answer carries.
    outstanding: BTreeMap<u64, usize>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub handle: u64,
    pub error: u32,
    pub data: Vec<u8>,
}

fn read_u16(reader: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    reader.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(reader: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(reader: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn malformed(what: impl Into<String>) -> Refused {
    Refused::Io(io::Error::new(io::ErrorKind::InvalidData, what.into()))
}

impl NbdClient {
    pub fn connect(address: SocketAddr, export: &str) -> Result<Self, Refused> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Self::enter(stream, export)
    }

    /// On a connection where nothing was said yet.
    pub fn enter(stream: impl Conversation + 'static, export: &str) -> Result<Self, Refused> {
        let stream: Box<dyn Conversation> = Box::new(stream);
        let mut reader = BufReader::with_capacity(256 << 10, stream);
        if read_u64(&mut reader)? != 0x4e42_444d_4147_4943 {
            return Err(malformed("not an NBD server"));
        }
        if read_u64(&mut reader)? != 0x4948_4156_454f_5054 {
            return Err(malformed("not newstyle"));
        }
        let _server_flags = read_u16(&mut reader)?;
        let mut hello = 3u32.to_be_bytes().to_vec();
        hello.extend(0x4948_4156_454f_5054u64.to_be_bytes());
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend((export.len() as u32 + 6).to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0u16.to_be_bytes());
        reader.get_mut().write_all(&hello)?;
        let mut size_bytes = None;
        loop {
            if read_u64(&mut reader)? != 0x0003_e889_0455_65a9 {
                return Err(malformed("option reply magic"));
            }
            let _option = read_u32(&mut reader)?;
            let code = read_u32(&mut reader)?;
            let mut body = vec![0; read_u32(&mut reader)? as usize];
            reader.read_exact(&mut body)?;
            match code {
                REPLY_ACK => break,
                REPLY_INFO => {
                    let mut body = body.as_slice();
                    if read_u16(&mut body)? == 0 {
                        size_bytes = Some(read_u64(&mut body)?);
                    }
                }
                code => {
                    let message = String::from_utf8_lossy(&body).into_owned();
                    return Err(Refused::Option { code, message });
                }
            }
        }
        let size_bytes = size_bytes.ok_or_else(|| malformed("no export info"))?;
        Ok(Self { reader, size_bytes, next_handle: 0, outstanding: BTreeMap::new() })
    }

    /// On a connection whose handshake was somebody else's.
    #[allow(dead_code, reason = "not every test program has such a connection")]
    pub fn over(stream: impl Conversation + 'static, size_bytes: u64) -> Self {
        let stream: Box<dyn Conversation> = Box::new(stream);
        let reader = BufReader::with_capacity(256 << 10, stream);
        Self { reader, size_bytes, next_handle: 0, outstanding: BTreeMap::new() }
    }

    /// Sends a request; returns its handle.
    pub fn send(
        &mut self,
        command: u16,
        flags: u16,
        (offset, length): (u64, u32),
        data: &[u8],
    ) -> io::Result<u64> {
        self.next_handle += 1;
        let handle = self.next_handle;
        let mut message = Vec::with_capacity(28 + data.len());
        message.extend(0x2560_9513u32.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend(command.to_be_bytes());
        message.extend(handle.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(data);
        let expected = if command == READ { length as usize } else { 0 };
        self.outstanding.insert(handle, expected);
        self.reader.get_mut().write_all(&message)?;
        Ok(handle)
    }

    /// Waits for the next answer, whichever request it belongs to.
    pub fn receive(&mut self) -> io::Result<Answer> {
        let magic = read_u32(&mut self.reader)?;
        if magic != 0x6744_6698 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "reply magic"));
        }
        let error = read_u32(&mut self.reader)?;
        let handle = read_u64(&mut self.reader)?;
        let expected = self
            .outstanding
            .remove(&handle)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown handle"))?;
        let mut data = vec![0; if error == 0 { expected } else { 0 }];
        self.reader.read_exact(&mut data)?;
        Ok(Answer { handle, error, data })
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    fn call(
        &mut self,
        command: u16,
        flags: u16,
        span: (u64, u32),
        data: &[u8],
    ) -> io::Result<Vec<u8>> {
        let handle = self.send(command, flags, span, data)?;
        let answer = self.receive()?;
        assert_eq!(answer.handle, handle, "one request at a time");
        match answer.error {
            0 => Ok(answer.data),
            error => Err(io::Error::from_raw_os_error(error as i32)),
        }
    }

    pub fn read(&mut self, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        self.call(READ, 0, (offset, length), &[])
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(WRITE, 0, (offset, data.len() as u32), data).map(drop)
    }

    pub fn write_durably(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call(WRITE, FUA, (offset, data.len() as u32), data).map(drop)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.call(FLUSH, 0, (0, 0), &[]).map(drop)
    }

    pub fn trim(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.call(TRIM, 0, (offset, length), &[]).map(drop)
    }

    pub fn write_zeroes(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.call(WRITE_ZEROES, 0, (offset, length), &[]).map(drop)
    }
}
