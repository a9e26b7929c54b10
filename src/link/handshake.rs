//! Features and authentication, in sequence over the data socket (wire.md 3.1, 3.2).
//!
//! Every step either goes on, is worth another attempt in a second, or is final: then the peer is
//! misconfigured, and trying again would not help (StandAlone).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use twinblk_proto::codec::command::{P_AUTH_CHALLENGE, P_AUTH_RESPONSE, P_CONNECTION_FEATURES};
use twinblk_proto::codec::{
    self, BodyLength, CHALLENGE_BYTES_MAX, CHALLENGE_BYTES_MIN, Framing, Header,
};
use twinblk_proto::digest;
use twinblk_proto::packet::{ConnectionFeatures, Packet};

use super::HandshakeFailure;
use super::connect::{self, Pair};
use super::random::Random;
use super::settings::{Authentication, LinkSettings};

/// Two live sockets to a peer that speaks our protocol and, where asked for, knows the secret.
#[derive(Debug)]
pub struct Established {
    pub data: TcpStream,
    pub meta: TcpStream,
    /// Agreed protocol version.
    pub version: u32,
    /// Features that both sides have.
    pub features: u32,
    /// Set on the node that accepted the meta socket: the tie breaker (wire.md 1.1).
    pub resolve: bool,
}

/// Dials and listens until there is a session, or a reason to give up for good. Dropping the
/// future stops everything; the listening socket is closed before this returns.
pub async fn establish(
    settings: &LinkSettings,
    random: &mut impl Random,
) -> Result<Established, HandshakeFailure> {
    loop {
        match attempt(settings, random).await {
            Ok(established) => return Ok(established),
            Err(Outcome::Final(failure)) => return Err(failure),
            Err(Outcome::Again(reason)) => {
                tracing::warn!(peer = %settings.peer, reason, "handshake failed, trying again");
                sleep(settings.retry_delay).await;
            }
        }
    }
}

/// Why an attempt ended without a session.
#[derive(Debug)]
enum Outcome {
    Again(String),
    Final(HandshakeFailure),
}

impl Outcome {
    fn authentication(text: impl Into<String>) -> Self {
        Self::Final(HandshakeFailure::AuthenticationFailed(text.into()))
    }

    fn versions(text: impl Into<String>) -> Self {
        Self::Final(HandshakeFailure::IncompatibleVersions(text.into()))
    }
}

async fn attempt(
    settings: &LinkSettings,
    random: &mut impl Random,
) -> Result<Established, Outcome> {
    let Pair { data, meta, resolve } = connect::connect(settings, random)
        .await
        .map_err(|error| Outcome::Again(format!("cannot listen on {}: {error}", settings.local)))?;
    let mut conversation = Conversation { stream: data, settings, agreed: None };
    let (version, features) = conversation.agree_on_features().await?;
    if let Some(authentication) = &settings.authentication {
        conversation.authenticate(authentication, random).await?;
    }
    Ok(Established { data: conversation.stream, meta, version, features, resolve })
}

/// The data socket while only handshake packets are on it.
#[derive(Debug)]
struct Conversation<'a> {
    stream: TcpStream,
    settings: &'a LinkSettings,
    /// Version and features, once agreed.
    agreed: Option<(u32, u32)>,
}

impl Conversation<'_> {
    async fn agree_on_features(&mut self) -> Result<(u32, u32), Outcome> {
        let mine = ConnectionFeatures {
            version_min: *self.settings.versions.start(),
            features: self.settings.features,
            version_max: *self.settings.versions.end(),
        };
        let packet = Packet::ConnectionFeatures(mine);
        self.send(&packet).await?;
        let header = self.receive_header().await?;
        // Any other packet, or another length, says that the peer is no DRBD 8.4 (wire.md 3.1).
        let another = || {
            let Header { command, length, .. } = header;
            Outcome::versions(format!(
                "expected P_CONNECTION_FEATURES, got packet {command:#06x} of {length} bytes"
            ))
        };
        if header.command != P_CONNECTION_FEATURES
            || codec::body_length(&header, &Framing::default()).is_err()
        {
            return Err(another());
        }
        let Packet::ConnectionFeatures(peers) = self.receive_body(&header).await? else {
            return Err(another());
        };
        let agreed = agree(mine, peers).ok_or_else(|| {
            Outcome::versions(format!(
                "incompatible DRBD dialects: this node speaks {}-{}, the peer {}-{}",
                mine.version_min,
                mine.version_max,
                peers.version_min,
                highest(peers)
            ))
        })?;
        self.agreed = Some(agreed);
        Ok(agreed)
    }

    /// Both directions at once: each side challenges the other.
    async fn authenticate(
        &mut self,
        authentication: &Authentication,
        random: &mut impl Random,
    ) -> Result<(), Outcome> {
        if !authentication.algorithm.can_authenticate() {
            let name = authentication.algorithm.name();
            return Err(Outcome::authentication(format!(
                "cram-hmac-alg {name} cannot authenticate"
            )));
        }
        let secret = authentication.secret.as_bytes();
        let response_to =
            |challenge: &[u8]| digest::hmac(authentication.algorithm, secret, challenge);
        let mut mine = vec![0; CHALLENGE_BYTES_MIN];
        random.fill(&mut mine);
        self.send(&Packet::AuthChallenge(mine.clone())).await?;

        let header = self.receive_header().await?;
        let length = header.length as usize;
        if header.command != P_AUTH_CHALLENGE {
            return Err(Outcome::authentication(format!(
                "expected P_AUTH_CHALLENGE, got packet {:#06x}: the peer has no cram-hmac-alg",
                header.command
            )));
        }
        if !(CHALLENGE_BYTES_MIN..=CHALLENGE_BYTES_MAX).contains(&length) {
            return Err(Outcome::authentication(format!(
                "the peer's challenge has {length} bytes"
            )));
        }
        let Packet::AuthChallenge(peers) = self.receive_body(&header).await? else {
            return Err(Outcome::authentication("the peer's challenge is unreadable"));
        };
        // Answering our own challenge would hand the peer the response it needs.
        if peers == mine {
            return Err(Outcome::authentication("the peer sent our own challenge back"));
        }
        self.send(&Packet::AuthResponse(response_to(&peers))).await?;

        let header = self.receive_header().await?;
        let expected = response_to(&mine);
        if header.command != P_AUTH_RESPONSE || header.length as usize != expected.len() {
            return Err(Outcome::Again(format!(
                "expected P_AUTH_RESPONSE of {} bytes, got packet {:#06x} of {}",
                expected.len(),
                header.command,
                header.length
            )));
        }
        let Packet::AuthResponse(response) = self.receive_body(&header).await? else {
            return Err(Outcome::Again("the peer's response is unreadable".to_owned()));
        };
        if !equal_in_constant_time(&response, &expected) {
            return Err(Outcome::authentication("the peer's response is wrong: secrets differ"));
        }
        Ok(())
    }
}

impl Conversation<'_> {
    fn framing(&self) -> Framing {
        let (version, features) = self.agreed.unwrap_or_default();
        Framing { version, features, ..Framing::default() }
    }

    async fn send(&mut self, packet: &Packet) -> Result<(), Outcome> {
        let mut bytes = Vec::new();
        codec::encode(packet, 0, &self.framing(), 0, &[], &mut bytes);
        self.limited("sending", async |stream| stream.write_all(&bytes).await).await
    }

    async fn receive_header(&mut self) -> Result<Header, Outcome> {
        let version = self.agreed.map(|(version, _)| version);
        let mut bytes = vec![0; self.framing().header_bytes()];
        // Exactly the header: a peer without authentication sends the session's packets at once.
        self.limited("receiving", async |stream| stream.read_exact(&mut bytes).await.map(drop))
            .await?;
        match codec::decode_header(&bytes, version) {
            Ok(Some((header, _))) => Ok(header),
            Ok(None) => Err(Outcome::Again("a packet header is cut short".to_owned())),
            Err(error) => Err(Outcome::Again(error.to_string())),
        }
    }

    /// The rest of a packet of the handshake.
    async fn receive_body(&mut self, header: &Header) -> Result<Packet, Outcome> {
        let BodyLength { fixed, .. } = codec::body_length(header, &self.framing())
            .map_err(|error| Outcome::Again(error.to_string()))?;
        let mut bytes = vec![0; fixed];
        self.limited("receiving", async |stream| stream.read_exact(&mut bytes).await.map(drop))
            .await?;
        codec::decode_body(header, &bytes, &self.framing())
            .map(|decoded| decoded.packet)
            .map_err(|error| Outcome::Again(error.to_string()))
    }

    async fn limited(
        &mut self,
        doing: &str,
        operation: impl AsyncFnOnce(&mut TcpStream) -> io::Result<()>,
    ) -> Result<(), Outcome> {
        match timeout(self.settings.handshake_limit(), operation(&mut self.stream)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Outcome::Again(format!("{doing} in the handshake: {error}"))),
            Err(_) => Err(Outcome::Again(format!("{doing} in the handshake took too long"))),
        }
    }
}

/// The lower of the highest versions, unless one side no longer speaks it; features of both.
fn agree(mine: ConnectionFeatures, peers: ConnectionFeatures) -> Option<(u32, u32)> {
    let version = mine.version_max.min(highest(peers));
    (version >= mine.version_min.max(peers.version_min))
        .then_some((version, mine.features & peers.features))
}

const fn highest(features: ConnectionFeatures) -> u32 {
    if features.version_max == 0 { features.version_min } else { features.version_max }
}

/// Takes equally long wherever the difference is, so that its place cannot be timed.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
