//! `HTTP_GET` and `SSL_GET`: one look at the URLs of a real server, in their order, until one is not
//! as it should be.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::http::{self, Answer, BodyDigest, HttpError, HttpProtocol};
use super::tcp::{ConnectError, Target};
use super::tls;

/// A server may be silent for `connect_timeout`, and not drip for longer than so many of these.
const EXCHANGE_TIMEOUTS: u32 = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetCheck {
    pub target: Target,
    pub is_tls: bool,
    /// `enable_sni`
    pub sends_name: bool,
    pub protocol: HttpProtocol,
    pub urls: Vec<Url>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub path: String,
    /// Of the url, the checker or the real server; absent: the address.
    pub virtual_host: Option<String>,
    /// Empty: 200 to 299.
    pub status_codes: Vec<RangeInclusive<u16>>,
    pub digest: Option<BodyDigest>,
}

/// The words are keepalived's where it has some.
#[derive(Debug, thiserror::Error)]
pub(super) enum GetError {
    #[error("Error connecting server {0}: {1}.")]
    Connect(String, ConnectError),
    #[error("SSL handshake with {0} failed: {1}.")]
    Handshake(String, io::Error),
    #[error("Timeout HTTP read server {0}.")]
    Silent(String),
    #[error("Timeout HTTP read server {0}: the answer takes more than {1} s.")]
    Slow(String, u64),
    #[error("Read error with server {0}: {1}.")]
    Io(String, io::Error),
    #[error("Read error with server {0}: {1}.")]
    Http(String, HttpError),
    #[error("HTTP status code error to {0} url({1}), status_code ({2}).")]
    Status(String, String, u16),
    #[error("MD5 digest error to {0} url[{1}], MD5SUM [{2}].")]
    Digest(String, String, BodyDigest),
}

impl GetCheck {
    pub(super) async fn look(&self) -> Result<(), GetError> {
        for url in &self.urls {
            self.look_at(url).await?;
        }
        Ok(())
    }

    async fn look_at(&self, url: &Url) -> Result<(), GetError> {
        let target = &self.target;
        let server = || target.to_string();
        let stream = target.connect().await.map_err(|error| GetError::Connect(server(), error))?;
        let limit = target.connect_timeout;
        let whole = limit * EXCHANGE_TIMEOUTS;
        let exchange = async {
            if !self.is_tls {
                return self.exchange(stream, url).await;
            }
            let name = url.virtual_host.as_deref().filter(|_| self.sends_name);
            // A name with a port is one of the Host line only.
            let name = name.map(|name| name.split_once(':').map_or(name, |(name, _)| name));
            let covered = timeout(limit, tls::cover(stream, target.address.ip(), name)).await;
            let covered = covered.map_err(|_| GetError::Silent(server()))?;
            let stream = covered.map_err(|error| GetError::Handshake(server(), error))?;
            self.exchange(stream, url).await
        };
        let slow = || GetError::Slow(server(), whole.as_secs());
        let answer = timeout(whole, exchange).await.map_err(|_| slow())??;
        self.judge(url, answer)
    }

    async fn exchange(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        url: &Url,
    ) -> Result<Answer, GetError> {
        let server = || self.target.to_string();
        let host = url.virtual_host.clone().unwrap_or_else(|| host(self.target.address));
        let request = http::request(self.protocol, &url.path, &host);
        let limit = self.target.connect_timeout;
        in_time(limit, stream.write_all(&request)).await.map_err(|error| error.of(server()))?;
        in_time(limit, stream.flush()).await.map_err(|error| error.of(server()))?;
        let mut receiver = http::Receiver::new(url.digest.is_some());
        let mut bytes = vec![0; 16 << 10];
        loop {
            let length = match in_time(limit, stream.read(&mut bytes)).await {
                Ok(length) => length,
                // Many servers close without TLS's farewell.
                Err(Interruption::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(error) => return Err(error.of(server())),
            };
            let complete = match length {
                0 => receiver.end().map(Some),
                _ => receiver.take(&bytes[..length]),
            };
            if let Some(answer) = complete.map_err(|error| GetError::Http(server(), error))? {
                return Ok(answer);
            }
        }
    }

    fn judge(&self, url: &Url, answer: Answer) -> Result<(), GetError> {
        let (server, path) = (self.target.to_string(), url.path.clone());
        let is_expected = if url.status_codes.is_empty() {
            (200..=299).contains(&answer.status)
        } else {
            url.status_codes.iter().any(|codes| codes.contains(&answer.status))
        };
        if !is_expected {
            return Err(GetError::Status(server, path, answer.status));
        }
        match (url.digest, answer.digest) {
            (Some(expected), Some(found)) if found != expected => {
                Err(GetError::Digest(server, path, found))
            }
            _ => Ok(()),
        }
    }
}

enum Interruption {
    Silent,
    Io(io::Error),
}

impl Interruption {
    fn of(self, server: String) -> GetError {
        match self {
            Self::Silent => GetError::Silent(server),
            Self::Io(error) => GetError::Io(server, error),
        }
    }
}

async fn in_time<T>(
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, Interruption> {
    match timeout(limit, work).await {
        Ok(done) => done.map_err(Interruption::Io),
        Err(_) => Err(Interruption::Silent),
    }
}

fn host(address: SocketAddr) -> String {
    address.to_string()
}
