//! The bytes of `HTTP_GET`: a request, and as much of the answer as decides. Hostile answers end in an
//! error after a bounded number of bytes. No I/O.

use std::fmt;

use md5::{Digest, Md5};

/// Web servers themselves allow 8 or 16 KiB.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// A page whose digest somebody wrote down. It is not kept, only digested.
const BODY_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpProtocol {
    #[default]
    V1_0,
    /// `1.0C`: asks the server to close the connection.
    V1_0Close,
    V1_1,
}

pub fn request(protocol: HttpProtocol, path: &str, host: &str) -> Vec<u8> {
    let (version, close) = match protocol {
        HttpProtocol::V1_0 => ("1.0", ""),
        HttpProtocol::V1_0Close => ("1.0", "Connection: close\r\n"),
        HttpProtocol::V1_1 => ("1.1", "Connection: close\r\n"),
    };
    let agent = "User-Agent: KeepAliveClient";
    format!("GET {path} HTTP/{version}\r\n{agent}\r\n{close}Host: {host}\r\n\r\n").into_bytes()
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BodyDigest(pub [u8; 16]);

impl BodyDigest {
    /// 32 hexadecimal digits.
    pub fn from_text(text: &str) -> Option<Self> {
        let digit = |at: usize| (text.as_bytes()[at] as char).to_digit(16).map(|digit| digit as u8);
        if text.len() != 32 {
            return None;
        }
        let mut digest = [0; 16];
        for (place, byte) in digest.iter_mut().enumerate() {
            *byte = digit(2 * place)? << 4 | digit(2 * place + 1)?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for BodyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for BodyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Absent when nobody wants it.
    pub digest: Option<BodyDigest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    #[error("the answer is not HTTP")]
    NotHttp,
    #[error("the answer has a header of more than {HEADER_BYTES_MAX} bytes")]
    HeaderTooLong,
    #[error("the answer has more than {BODY_BYTES_MAX} bytes")]
    BodyTooLong,
    #[error("the connection was closed before the answer was complete")]
    Incomplete,
}

/// An answer that is still coming.
#[derive(Debug)]
pub struct Receiver {
    header: Vec<u8>,
    status: Option<u16>,
    /// Present when it is wanted.
    digest: Option<Md5>,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    bytes: u64,
    /// Where it ends, if it says so; otherwise with the connection.
    length: Option<u64>,
}

impl Receiver {
    pub fn new(wants_digest: bool) -> Self {
        let digest = wants_digest.then(Md5::new);
        Self { header: Vec::new(), status: None, digest, body: None }
    }

    /// The answer, once it is complete as far as it is wanted.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Answer>, HttpError> {
        if self.body.is_some() {
            return self.take_body(bytes);
        }
        let seen = self.header.len();
        let room = HEADER_BYTES_MAX - seen;
        let (taken, rest) = bytes.split_at(bytes.len().min(room));
        self.header.extend_from_slice(taken);
        if self.status.is_none() {
            self.status = status(&self.header)?;
        }
        if let (Some(status), None) = (self.status, &self.digest) {
            return Ok(Some(Answer { status, digest: None }));
        }
        let Some(end) = header_end(&self.header, seen) else {
            let is_full = self.header.len() == HEADER_BYTES_MAX;
            return if is_full { Err(HttpError::HeaderTooLong) } else { Ok(None) };
        };
        if self.status.is_none() {
            return Err(HttpError::NotHttp);
        }
        let begin = self.header.split_off(end);
        self.body = Some(Body { bytes: 0, length: content_length(&self.header) });
        match self.take_body(&begin)? {
            Some(answer) => Ok(Some(answer)),
            None => self.take_body(rest),
        }
    }

    /// The connection was closed.
    pub fn end(&mut self) -> Result<Answer, HttpError> {
        match (&self.body, self.status) {
            (Some(_), Some(status)) => Ok(self.answer(status)),
            _ => Err(HttpError::Incomplete),
        }
    }

    fn take_body(&mut self, bytes: &[u8]) -> Result<Option<Answer>, HttpError> {
        let (Some(body), Some(status)) = (&mut self.body, self.status) else { return Ok(None) };
        let left = body.length.map_or(u64::MAX, |length| length - body.bytes);
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        body.bytes += count as u64;
        if body.bytes > BODY_BYTES_MAX || body.length.is_some_and(|length| length > BODY_BYTES_MAX)
        {
            return Err(HttpError::BodyTooLong);
        }
        if let Some(digest) = &mut self.digest {
            digest.update(&bytes[..count]);
        }
        let is_complete = body.length == Some(body.bytes);
        Ok(is_complete.then(|| self.answer(status)))
    }

    fn answer(&mut self, status: u16) -> Answer {
        let digest = self.digest.take().map(|digest| BodyDigest(digest.finalize().into()));
        Answer { status, digest }
    }
}

/// `HTTP/1.1 200 OK`; `None` while the line is not complete.
fn status(header: &[u8]) -> Result<Option<u16>, HttpError> {
    const BEGIN: &[u8] = b"HTTP/";
    let known = header.len().min(BEGIN.len());
    if header[..known] != BEGIN[..known] {
        return Err(HttpError::NotHttp);
    }
    let Some(end) = header.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = str::from_utf8(&header[..end]).map_err(|_| HttpError::NotHttp)?;
    let is_code = |code: &&str| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let code = line.split_ascii_whitespace().nth(1).filter(is_code);
    let code = code.and_then(|code| code.parse().ok());
    code.ok_or(HttpError::NotHttp).map(Some)
}

/// After the empty line. What was `seen` before has none, but may hold a piece of it.
fn header_end(header: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let rest = &header[from..];
    let at = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(from + at + 4)
}

fn content_length(header: &[u8]) -> Option<u64> {
    let header = String::from_utf8_lossy(header);
    header.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer in pieces of `step` bytes, then the end of the connection.
    fn receive(wants_digest: bool, bytes: &[u8], step: usize) -> Result<Answer, HttpError> {
        let mut receiver = Receiver::new(wants_digest);
        for piece in bytes.chunks(step) {
            if let Some(answer) = receiver.take(piece)? {
                return Ok(answer);
            }
        }
        receiver.end()
    }

    fn digest(text: &str) -> Option<BodyDigest> {
        Some(BodyDigest::from_text(text).expect("a digest"))
    }

    #[test]
    fn answers_in_pieces_of_any_size() {
        // RFC 1321, A.5.
        const ABC: &str = "900150983cd24fb0d6963f7d28e17f72";
        const NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";
        for (bytes, status, body) in [
            ("HTTP/1.0 200 OK\r\n\r\nabc", 200, ABC),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabcdefg", 404, ABC),
            ("HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH:  0\r\n\r\nabc", 200, NOTHING),
            ("HTTP/1.1 500\r\n\r\n", 500, NOTHING),
        ] {
            for step in 1..=bytes.len() {
                let answer = receive(true, bytes.as_bytes(), step);
                assert_eq!(answer, Ok(Answer { status, digest: digest(body) }), "{bytes} {step}");
                let answer = receive(false, bytes.as_bytes(), step);
                assert_eq!(answer, Ok(Answer { status, digest: None }), "{bytes} {step}");
            }
        }
    }

    #[test]
    fn what_is_no_answer() {
        use HttpError::{Incomplete, NotHttp};
        for (bytes, expected) in [
            ("", Incomplete),
            ("HTTP/1.0 20", Incomplete),
            ("HTTP/1.0 200 OK\r\nA: b\r\n", Incomplete),
            ("SSH-2.0-OpenSSH\r\n", NotHttp),
            ("HTTP/1.0\r\n\r\n", NotHttp),
            ("HTTP/1.0 2000 OK\r\n\r\n", NotHttp),
            ("HTTP/1.0 +20 OK\r\n\r\n", NotHttp),
            ("\r\n\r\n", NotHttp),
        ] {
            for step in 1..=bytes.len().max(1) {
                let answer = receive(true, bytes.as_bytes(), step);
                assert_eq!(answer, Err(expected), "{bytes:?} {step}");
            }
        }
    }

    #[test]
    fn endless_answers_end() {
        let mut receiver = Receiver::new(true);
        let header = b"HTTP/1.0 200 OK\r\n";
        assert_eq!(receiver.take(header), Ok(None));
        let mut taken = header.len();
        let error = loop {
            match receiver.take(b"X: 0123456789\r\n") {
                Ok(None) => taken += 15,
                Ok(Some(answer)) => panic!("{answer:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, HttpError::HeaderTooLong);
        assert!(taken <= HEADER_BYTES_MAX);

        let mut receiver = Receiver::new(true);
        assert_eq!(receiver.take(b"HTTP/1.0 200 OK\r\n\r\n"), Ok(None));
        let mut taken = 0;
        let error = loop {
            match receiver.take(&[0; 64 << 10]) {
                Ok(None) => taken += 64 << 10,
                Ok(Some(answer)) => panic!("{answer:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!((error, taken), (HttpError::BodyTooLong, BODY_BYTES_MAX));

        let long = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX);
        assert_eq!(receive(true, long.as_bytes(), 1000), Err(HttpError::BodyTooLong));
        // Nobody wants the body of this one.
        assert!(receive(false, long.as_bytes(), 1000).is_ok());
    }

    proptest! {
        /// Where the pieces of an answer end changes nothing, and nothing panics.
        #[test]
        fn pieces_do_not_matter(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "HTTP/1.0 200 OK", "HTTP/", "\r\n", "\r\n\r\n", "\n", "Content-Length: 3",
                    "content-length:", " 18446744073709551615", "-1", "abc", "\u{e9}", "\0",
                ]),
                0..12,
            ),
            steps in prop::collection::vec(1..40_usize, 1..4),
            wants_digest: bool,
        ) {
            let bytes = words.concat().into_bytes();
            let whole = receive(wants_digest, &bytes, bytes.len().max(1));
            for step in steps {
                prop_assert_eq!(receive(wants_digest, &bytes, step), whole);
            }
        }
    }

    #[test]
    fn requests_have_the_bytes_of_keepalived() {
        for (protocol, expected) in [
            (
                HttpProtocol::V1_0,
                "GET /x HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nHost: h\r\n\r\n",
            ),
            (
                HttpProtocol::V1_0Close,
                "GET /x HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: h\r\n\r\n",
            ),
            (
                HttpProtocol::V1_1,
                "GET /x HTTP/1.1\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: h\r\n\r\n",
            ),
        ] {
            let request = request(protocol, "/x", "h");
            assert_eq!(String::from_utf8_lossy(&request), expected);
        }
        assert_eq!(BodyDigest::from_text("é23456789012345678901234567890123"), None);
        assert_eq!(BodyDigest::from_text("9001"), None);
    }
}
