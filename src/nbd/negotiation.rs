//! The handshake: fixed newstyle, one option after the other until GO (nbd.md 1.1).
//!
//! Plain async code over any stream. It reads exactly the bytes of the handshake, so whatever a
//! client sent ahead is still in the socket when the transmission phase starts.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::export::{Context, Contexts, Directory, ExportInfo, HANDSHAKE_FLAGS};
use super::option::{OptionError, parse_contexts, parse_info, parse_name};
use super::wire::{
    OPTION_HEADER_BYTES, OPTION_MAGIC, OPTION_REPLY_MAGIC, SERVER_MAGIC, STRING_LIMIT, handshake,
    info, option, option_reply,
};

/// What a client may cost before it is a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest data of an option. A name and a dozen queries of the longest kind fit in 64 KiB;
    /// more ends the connection without being read.
    pub option_bytes: u32,
    /// Longest wait for one option: 15 s, in the middle of the 10-30 s of nbd.md 1.5.
    pub idle: Duration,
    /// Longest handshake: 2 min, eight idle waits; nobody holds a place for longer.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            option_bytes: 64 << 10,
            idle: Duration::from_secs(15),
            total: Duration::from_secs(120),
        }
    }
}

/// What client and server agreed on.
#[derive(Clone, Debug)]
pub struct Negotiated {
    pub export: ExportInfo,
    pub structured: bool,
    pub contexts: Contexts,
}

/// Why a handshake ended without an agreement.
#[derive(Debug, thiserror::Error)]
pub enum NegotiationError {
    #[error("connection lost during the handshake: {0}")]
    Stream(#[from] std::io::Error),
    #[error("no option within the time limit")]
    Idle,
    #[error("the client sent handshake flags {0:#x}, of which some were not offered")]
    UnknownFlags(u32),
    #[error("an option starts with {0:#018x} instead of the option magic")]
    BadMagic(u64),
    #[error("an option of {0} bytes")]
    OversizedOption(u32),
    #[error("the client cannot understand replies and sent option {0}")]
    UnfixedOption(u32),
    #[error("EXPORT_NAME for {name:?}, which cannot be served: {reason}")]
    NotServed { name: String, reason: String },
}

/// Talks to one client until it enters transmission. `None`: it left in good order.
pub async fn negotiate<S>(
    stream: &mut S,
    directory: &dyn Directory,
    limits: &Limits,
) -> Result<Option<Negotiated>, NegotiationError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = Handshake {
        stream,
        directory,
        limits,
        no_zeroes: false,
        structured: false,
        selection: None,
    };
    timeout(limits.total, handshake.run()).await.unwrap_or(Err(NegotiationError::Idle))
}

/// Contexts that the last SET_META_CONTEXT selected, and for which export.
struct Selection {
    export: String,
    contexts: Contexts,
}

struct Handshake<'a, S> {
    stream: &'a mut S,
    directory: &'a dyn Directory,
    limits: &'a Limits,
    no_zeroes: bool,
    structured: bool,
    selection: Option<Selection>,
}

enum Next {
    Continue,
    Agreed(Box<Negotiated>),
    Left,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    async fn run(mut self) -> Result<Option<Negotiated>, NegotiationError> {
        let fixed = self.greet().await?;
        loop {
            let Some((number, data)) = self.receive_option().await? else { return Ok(None) };
            if !fixed && number != option::EXPORT_NAME {
                return Err(NegotiationError::UnfixedOption(number));
            }
            match self.answer(number, &data).await? {
                Next::Continue => {}
                Next::Agreed(negotiated) => return Ok(Some(*negotiated)),
                Next::Left => return Ok(None),
            }
        }
    }

    /// Exchanges magics and flags; true if the client understands replies to options.
    async fn greet(&mut self) -> Result<bool, NegotiationError> {
        let mut greeting = SERVER_MAGIC.to_be_bytes().to_vec();
        greeting.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        greeting.extend_from_slice(&HANDSHAKE_FLAGS.to_be_bytes());
        self.stream.write_all(&greeting).await?;
        self.stream.flush().await?;

        let mut flags = [0; 4];
        timeout(self.limits.idle, self.stream.read_exact(&mut flags))
            .await
            .map_err(|_| NegotiationError::Idle)??;
        let flags = u32::from_be_bytes(flags);
        if flags & !u32::from(HANDSHAKE_FLAGS) != 0 {
            return Err(NegotiationError::UnknownFlags(flags));
        }
        self.no_zeroes = flags & u32::from(handshake::NO_ZEROES) != 0;
        Ok(flags & u32::from(handshake::FIXED_NEWSTYLE) != 0)
    }

    /// `None` when the client closed between two options.
    async fn receive_option(&mut self) -> Result<Option<(u32, Vec<u8>)>, NegotiationError> {
        let receive = async {
            let mut header = [0; OPTION_HEADER_BYTES];
            if self.stream.read(&mut header[..1]).await? == 0 {
                return Ok(None);
            }
            self.stream.read_exact(&mut header[1..]).await?;
            let (magic, rest) = header.split_first_chunk::<8>().expect("16 bytes");
            let (number, length) = rest.split_first_chunk::<4>().expect("8 bytes");
            let magic = u64::from_be_bytes(*magic);
            if magic != OPTION_MAGIC {
                return Err(NegotiationError::BadMagic(magic));
            }
            let number = u32::from_be_bytes(*number);
            let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
            if length > self.limits.option_bytes {
                return Err(NegotiationError::OversizedOption(length));
            }
            let mut data = vec![0; length as usize];
            self.stream.read_exact(&mut data).await?;
            Ok(Some((number, data)))
        };
        timeout(self.limits.idle, receive).await.unwrap_or(Err(NegotiationError::Idle))
    }

    async fn answer(&mut self, number: u32, data: &[u8]) -> Result<Next, NegotiationError> {
        let mut replies = Replies::new(number);
        let mut next = Next::Continue;
        match number {
            option::EXPORT_NAME => return self.export_name(data).await,
            option::ABORT => {
                replies.acknowledge();
                next = Next::Left;
            }
            option::LIST => self.list(data, &mut replies),
            option::STARTTLS if data.is_empty() => {
                replies.error(option_reply::ERROR_POLICY, "this server does not offer TLS");
            }
            option::STARTTLS => replies.invalid("STARTTLS carries no data"),
            option::INFO => {
                self.describe(data, &mut replies);
            }
            option::GO => {
                if let Some(export) = self.describe(data, &mut replies) {
                    next = Next::Agreed(Box::new(self.agree(export)));
                }
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                replies.acknowledge();
            }
            option::STRUCTURED_REPLY => replies.invalid("STRUCTURED_REPLY carries no data"),
            option::LIST_META_CONTEXT => self.list_contexts(data, &mut replies),
            option::SET_META_CONTEXT => self.set_contexts(data, &mut replies),
            _ => replies.error(option_reply::ERROR_UNSUPPORTED, "unknown option"),
        }
        let sent = self.send(&replies.bytes).await;
        if matches!(next, Next::Left) {
            // A client may close after ABORT without reading the reply.
            return Ok(next);
        }
        sent?;
        Ok(next)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), NegotiationError> {
        timeout(self.limits.idle, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        })
        .await
        .map_err(|_| NegotiationError::Idle)??;
        Ok(())
    }

    /// The old way into transmission; it has no error reply, so a refusal closes.
    async fn export_name(&mut self, data: &[u8]) -> Result<Next, NegotiationError> {
        let refuse = |reason: String| NegotiationError::NotServed {
            name: String::from_utf8_lossy(data).into_owned(),
            reason,
        };
        let name = parse_name(data).map_err(|error| refuse(error.to_string()))?;
        let export =
            self.directory.find(name).ok_or_else(|| refuse("no such export".to_owned()))?;
        if let Err(reason) = &export.serving {
            return Err(refuse(reason.clone()));
        }
        let mut reply = export.size_bytes.to_be_bytes().to_vec();
        reply.extend_from_slice(&export.transmission_flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            reply.extend_from_slice(&[0; 124]);
        }
        self.send(&reply).await?;
        Ok(Next::Agreed(Box::new(self.agree(export))))
    }

    fn agree(&mut self, export: ExportInfo) -> Negotiated {
        let contexts = match self.selection.take() {
            Some(selection) if selection.export == export.name => selection.contexts,
            _ => Contexts::default(),
        };
        Negotiated { export, structured: self.structured, contexts }
    }

    fn list(&self, data: &[u8], replies: &mut Replies) {
        if !data.is_empty() {
            return replies.invalid("LIST carries no data");
        }
        for export in self.directory.list() {
            let mut server = (export.name.len() as u32).to_be_bytes().to_vec();
            server.extend_from_slice(export.name.as_bytes());
            server.extend_from_slice(clip(&export.description).as_bytes());
            replies.push(option_reply::SERVER, &server);
        }
        replies.acknowledge();
    }

    /// INFO and GO: the same answer; GO then enters transmission.
    fn describe(&self, data: &[u8], replies: &mut Replies) -> Option<ExportInfo> {
        let request = match parse_info(data) {
            Ok(request) => request,
            Err(error) => {
                replies.malformed(error);
                return None;
            }
        };
        let export = self.find(request.name, replies)?;
        if let Err(reason) = &export.serving {
            let text = format!("export {:?} is not served here: {reason}", export.name);
            replies.error(option_reply::ERROR_POLICY, &text);
            return None;
        }
        let mut item = export.size_bytes.to_be_bytes().to_vec();
        item.extend_from_slice(&export.transmission_flags(self.structured).to_be_bytes());
        replies.info(info::EXPORT, &item);
        if request.items.contains(&info::NAME) {
            replies.info(info::NAME, export.name.as_bytes());
        }
        if request.items.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            replies.info(info::DESCRIPTION, clip(&export.description).as_bytes());
        }
        // Told unasked too: a client that looks learns why its 100-byte read is invalid.
        let mut item = export.minimum_block_bytes.to_be_bytes().to_vec();
        item.extend_from_slice(&export.preferred_block_bytes.to_be_bytes());
        item.extend_from_slice(&export.maximum_payload_bytes.to_be_bytes());
        replies.info(info::BLOCK_SIZE, &item);
        replies.acknowledge();
        Some(export)
    }

    fn find(&self, name: &str, replies: &mut Replies) -> Option<ExportInfo> {
        let export = self.directory.find(name);
        if export.is_none() {
            let text = if name.is_empty() {
                "there is no default export here; LIST shows the names".to_owned()
            } else {
                format!("there is no export {name:?} here; LIST shows the names")
            };
            replies.error(option_reply::ERROR_UNKNOWN, &text);
        }
        export
    }

    /// No query lists everything; `base:` and `twinblk:` list their namespace. Context numbers
    /// mean nothing here and are 0.
    fn list_contexts(&self, data: &[u8], replies: &mut Replies) {
        let Some(queries) = self.context_queries(data, replies).map(|(_, queries)| queries) else {
            return;
        };
        for context in Context::ALL {
            let namespace = context.name().split_inclusive(':').next();
            let asked = queries.is_empty()
                || queries
                    .iter()
                    .any(|query| *query == context.name() || Some(*query) == namespace);
            if asked {
                replies.context(0, context);
            }
        }
        replies.acknowledge();
    }

    /// Replaces the selection, also by failing. Only full names select.
    fn set_contexts(&mut self, data: &[u8], replies: &mut Replies) {
        self.selection = None;
        let Some((export, queries)) = self.context_queries(data, replies) else { return };
        let mut contexts = Contexts::default();
        for context in Context::ALL {
            if queries.contains(&context.name()) {
                contexts.insert(context);
                replies.context(context.id(), context);
            }
        }
        self.selection = Some(Selection { export: export.name, contexts });
        replies.acknowledge();
    }

    fn context_queries<'d>(
        &self,
        data: &'d [u8],
        replies: &mut Replies,
    ) -> Option<(ExportInfo, Vec<&'d str>)> {
        if !self.structured {
            replies.invalid("structured replies must be negotiated first");
            return None;
        }
        match parse_contexts(data) {
            Ok(request) => Some((self.find(request.name, replies)?, request.queries)),
            Err(error) => {
                replies.malformed(error);
                None
            }
        }
    }
}

/// The replies to one option, sent in one write.
struct Replies {
    option: u32,
    bytes: Vec<u8>,
}

impl Replies {
    const fn new(option: u32) -> Self {
        Self { option, bytes: Vec::new() }
    }

    fn push(&mut self, kind: u32, data: &[u8]) {
        self.bytes.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.bytes.extend_from_slice(&self.option.to_be_bytes());
        self.bytes.extend_from_slice(&kind.to_be_bytes());
        self.bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(data);
    }

    fn acknowledge(&mut self) {
        self.push(option_reply::ACK, &[]);
    }

    fn error(&mut self, kind: u32, text: &str) {
        self.push(kind, clip(text).as_bytes());
    }

    fn invalid(&mut self, text: &str) {
        self.error(option_reply::ERROR_INVALID, text);
    }

    fn malformed(&mut self, error: OptionError) {
        let kind = match error {
            OptionError::StringTooLong | OptionError::TooManyQueries => option_reply::ERROR_TOO_BIG,
            OptionError::Inconsistent | OptionError::NotText => option_reply::ERROR_INVALID,
        };
        self.error(kind, &error.to_string());
    }

    fn info(&mut self, item: u16, data: &[u8]) {
        let mut bytes = item.to_be_bytes().to_vec();
        bytes.extend_from_slice(data);
        self.push(option_reply::INFO, &bytes);
    }

    fn context(&mut self, id: u32, context: Context) {
        let mut bytes = id.to_be_bytes().to_vec();
        bytes.extend_from_slice(context.name().as_bytes());
        self.push(option_reply::META_CONTEXT, &bytes);
    }
}

/// At most [`STRING_LIMIT`] bytes of `text`.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(STRING_LIMIT)]
}

#[cfg(test)]
#[path = "negotiation_tests.rs"]
mod tests;
