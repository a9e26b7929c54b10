//! The superblock (metadata.md 2): 4096 bytes, of which the first 96 carry fields.

use super::PAGE_BYTES;
use super::error::MetaError;
use super::flags::Flags;
use super::layout::LogShape;

/// Written by tools: the activity log is applied (if `AL_CLEAN` is set too).
const MAGIC_CLEAN: u32 = 0x8374_026B;
/// Written while the disk is in use, and left so.
const MAGIC_IN_USE: u32 = 0x8374_026C;
const MAGIC_V07: u32 = 0x8374_026A;

/// The only granularity of the bitmap that 8.4 accepts.
const BYTES_PER_BIT: u32 = 4096;

/// Current UUID of a disk that was just created (session.md 2.1).
pub(super) const JUST_CREATED: u64 = 4;

/// Who wrote the superblock last (metadata.md 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Magic {
    /// 0x8374026B, by tools.
    Clean,
    /// 0x8374026C, by a node that has or had the disk in use.
    InUse,
}

/// The part that changes while the resource runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Last agreed size in sectors; 0 = never agreed.
    pub agreed_sectors: u64,
    pub current: u64,
    pub bitmap: u64,
    /// Younger first.
    pub history: [u64; 2],
    pub flags: Flags,
    /// Last known limit of the peer (`la_peer_max_bio_size`).
    pub peer_max_bio_bytes: u32,
}

/// All fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub record: Record,
    pub device_uuid: u64,
    pub magic: Magic,
    /// `md_size_sect`.
    pub metadata_sectors: u32,
    /// `al_offset`: sectors from the superblock to the activity log, negative when internal.
    pub log_offset_sectors: i32,
    /// `al_nr_extents`: slots in use.
    pub log_slots: u32,
    /// `bm_offset`: sectors from the superblock to the bitmap.
    pub bitmap_offset_sectors: i32,
    pub log: LogShape,
}

impl Superblock {
    /// The 4096 bytes. All fields lie in the first sector, so that they change together.
    pub fn encode(&self) -> Box<[u8; PAGE_BYTES]> {
        let mut bytes = Box::new([0; PAGE_BYTES]);
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let record = &self.record;
        put(0, &record.agreed_sectors.to_be_bytes());
        put(8, &record.current.to_be_bytes());
        put(16, &record.bitmap.to_be_bytes());
        put(24, &record.history[0].to_be_bytes());
        put(32, &record.history[1].to_be_bytes());
        put(40, &self.device_uuid.to_be_bytes());
        put(56, &record.flags.0.to_be_bytes());
        let magic = match self.magic {
            Magic::Clean => MAGIC_CLEAN,
            Magic::InUse => MAGIC_IN_USE,
        };
        put(60, &magic.to_be_bytes());
        put(64, &self.metadata_sectors.to_be_bytes());
        put(68, &self.log_offset_sectors.to_be_bytes());
        put(72, &self.log_slots.to_be_bytes());
        put(76, &self.bitmap_offset_sectors.to_be_bytes());
        put(80, &BYTES_PER_BIT.to_be_bytes());
        put(84, &record.peer_max_bio_bytes.to_be_bytes());
        put(88, &self.log.stripes.to_be_bytes());
        put(92, &self.log.stripe_blocks.to_be_bytes());
        bytes
    }

    /// Reads the fields and checks those that stand for themselves; `Layout::from_superblock`
    /// checks the rest against the device. `offset` is only for the error texts.
    pub fn decode(bytes: &[u8; PAGE_BYTES], offset: u64) -> Result<Self, MetaError> {
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let magic = match u32_at(60) {
            MAGIC_CLEAN => Magic::Clean,
            MAGIC_IN_USE => Magic::InUse,
            MAGIC_V07 => return Err(MetaError::OldFormat { offset }),
            found => return Err(MetaError::NoMagic { offset, found }),
        };
        let bytes_per_bit = u32_at(80);
        if bytes_per_bit != BYTES_PER_BIT {
            return Err(MetaError::Field {
                offset,
                field: "bm-byte-per-bit",
                expected: BYTES_PER_BIT.to_string(),
                found: bytes_per_bit.into(),
            });
        }
        Ok(Self {
            record: Record {
                agreed_sectors: u64_at(0),
                current: u64_at(8),
                bitmap: u64_at(16),
                history: [u64_at(24), u64_at(32)],
                flags: Flags(u32_at(56)),
                peer_max_bio_bytes: u32_at(84),
            },
            device_uuid: u64_at(40),
            magic,
            metadata_sectors: u32_at(64),
            log_offset_sectors: u32_at(68) as i32,
            log_slots: u32_at(72),
            bitmap_offset_sectors: u32_at(76) as i32,
            log: decode_log_shape(u32_at(88), u32_at(92), offset)?,
        })
    }

    /// Nothing has to be replayed: a tool applied the log and nobody used the disk since.
    pub fn log_is_applied(&self) -> bool {
        self.magic == Magic::Clean && self.record.flags.contains(Flags::AL_CLEAN)
    }
}

fn decode_log_shape(stripes: u32, stripe_blocks: u32, offset: u64) -> Result<LogShape, MetaError> {
    // Metadata from before there were stripes.
    if stripes == 0 && stripe_blocks == 0 {
        return Ok(LogShape::default());
    }
    LogShape { stripes, stripe_blocks }.checked(offset)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn any_superblock()(
            numbers in any::<[u64; 6]>(), words in any::<[u32; 4]>(), offsets in any::<[i32; 2]>(),
            clean in any::<bool>(), stripes in 1u32..64, stripe_blocks in 8u32..64,
        ) -> Superblock {
            Superblock {
                record: Record {
                    agreed_sectors: numbers[0], current: numbers[1], bitmap: numbers[2],
                    history: [numbers[3], numbers[4]], flags: Flags(words[0]),
                    peer_max_bio_bytes: words[1],
                },
                device_uuid: numbers[5],
                magic: if clean { Magic::Clean } else { Magic::InUse },
                metadata_sectors: words[2],
                log_offset_sectors: offsets[0],
                log_slots: words[3],
                bitmap_offset_sectors: offsets[1],
                log: LogShape { stripes, stripe_blocks },
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(superblock in any_superblock()) {
            let bytes = superblock.encode();
            prop_assert!(bytes[512..].iter().all(|&byte| byte == 0), "one sector holds all");
            prop_assert_eq!(Superblock::decode(&bytes, 0).expect("own encoding"), superblock);
        }

        #[test]
        fn any_bytes_give_a_superblock_or_an_error(
            noise in prop::collection::vec(any::<u8>(), 96), magic in 0u32..4, bits in any::<bool>(),
        ) {
            let mut bytes = [0; PAGE_BYTES];
            bytes[..96].copy_from_slice(&noise);
            bytes[60..64].copy_from_slice(&(MAGIC_V07 - 1 + magic).to_be_bytes());
            if bits {
                bytes[80..84].copy_from_slice(&BYTES_PER_BIT.to_be_bytes());
            }
            let _ = Superblock::decode(&bytes, 0);
        }
    }

    #[test]
    fn stripes_of_old_metadata_default_and_absurd_ones_are_refused() {
        let shape = |stripes, blocks| decode_log_shape(stripes, blocks, 0);
        assert_eq!(shape(0, 0).expect("old"), LogShape { stripes: 1, stripe_blocks: 8 });
        for (stripes, blocks) in [(0, 8), (8, 0), (1, 7), (u32::MAX, u32::MAX)] {
            let error = shape(stripes, blocks).expect_err("absurd").to_string();
            assert!(error.contains("al-stripes x al-stripe-size-4k"), "{error}");
        }
    }
}
