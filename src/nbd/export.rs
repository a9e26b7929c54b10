//! What is exported: one volume per name, its size and features, and the contexts of its block
//! status.

use super::wire::{feature, handshake};

/// Smallest unit of a request; DRBD's wire addresses sectors.
pub const MINIMUM_BLOCK_BYTES: u32 = 512;
/// Block of the bitmap: smaller writes work, and mark as much.
pub const PREFERRED_BLOCK_BYTES: u32 = 4096;
/// Largest READ or WRITE: the size that no server may call an attack (nbd.md 1.4).
pub const MAXIMUM_PAYLOAD_BYTES: u32 = 32 << 20;

/// What a server offers during the handshake.
pub const HANDSHAKE_FLAGS: u16 = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;

/// An export as a client may know it.
#[derive(Clone, Debug)]
pub struct ExportInfo {
    pub name: String,
    pub size_bytes: u64,
    pub read_only: bool,
    pub rotational: bool,
    /// For people; empty = none.
    pub description: String,
    /// `Err` says why it is not served here now, and where it is.
    pub serving: Result<(), String>,
    pub minimum_block_bytes: u32,
    pub preferred_block_bytes: u32,
    pub maximum_payload_bytes: u32,
    /// WRITE_ZEROES is quicker than writing zeroes.
    pub fast_zero: bool,
}

impl ExportInfo {
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            name: name.into(),
            size_bytes,
            read_only: false,
            rotational: false,
            description: String::new(),
            serving: Ok(()),
            minimum_block_bytes: MINIMUM_BLOCK_BYTES,
            preferred_block_bytes: PREFERRED_BLOCK_BYTES,
            maximum_payload_bytes: MAXIMUM_PAYLOAD_BYTES,
            fast_zero: false,
        }
    }

    /// Transmission flags. FLUSH is always offered: without it the kernel client takes the device
    /// for one without a volatile cache and fsync becomes a no-op (nbd.md 0.2).
    pub fn transmission_flags(&self, structured: bool) -> u16 {
        let mut flags = feature::HAS_FLAGS
            | feature::SEND_FLUSH
            | feature::SEND_FUA
            | feature::CAN_MULTI_CONN
            | feature::SEND_CACHE;
        if self.read_only {
            flags |= feature::READ_ONLY;
        } else {
            flags |= feature::SEND_TRIM | feature::SEND_WRITE_ZEROES | feature::SEND_FAST_ZERO;
        }
        if self.rotational {
            flags |= feature::ROTATIONAL;
        }
        if structured {
            flags |= feature::SEND_DF;
        }
        flags
    }
}

/// Who knows the exports. Asked on the accepting runtime, so it must not block.
pub trait Directory: Send + Sync {
    fn list(&self) -> Vec<ExportInfo>;
    /// The empty name stands for the only export, if there is just one.
    fn find(&self, name: &str) -> Option<ExportInfo>;
}

/// What a block status query tells about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// `base:allocation`: holes and zeroes.
    Allocation,
    /// `twinblk:out-of-sync`: blocks that the peer does not have.
    OutOfSync,
}

impl Context {
    pub const ALL: [Self; 2] = [Self::Allocation, Self::OutOfSync];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::OutOfSync => "twinblk:out-of-sync",
        }
    }

    /// Number of the context on the wire; the same on every connection.
    pub const fn id(self) -> u32 {
        match self {
            Self::Allocation => 1,
            Self::OutOfSync => 2,
        }
    }
}

/// The contexts a connection has selected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contexts(u8);

impl Contexts {
    const fn bit(context: Context) -> u8 {
        1 << context.id()
    }

    pub const fn insert(&mut self, context: Context) {
        self.0 |= Self::bit(context);
    }

    pub const fn contains(self, context: Context) -> bool {
        self.0 & Self::bit(context) != 0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Context> {
        Context::ALL.into_iter().filter(move |context| self.contains(*context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flush_is_always_offered_and_writes_only_where_allowed() {
        let mut export = ExportInfo::new("r0", 1 << 20);
        let flags = export.transmission_flags(true);
        assert_eq!(flags, 0b1101_1110_1101);
        export.read_only = true;
        export.rotational = true;
        assert_eq!(export.transmission_flags(false), 0b0101_0001_1111);
    }

    #[test]
    fn contexts_are_a_set() {
        let mut contexts = Contexts::default();
        assert!(contexts.is_empty());
        contexts.insert(Context::OutOfSync);
        contexts.insert(Context::OutOfSync);
        assert!(!contexts.contains(Context::Allocation));
        assert_eq!(contexts.iter().collect::<Vec<_>>(), [Context::OutOfSync]);
    }
}
