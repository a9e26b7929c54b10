//! Why metadata cannot be used: each error names the field, what was expected and what was found;
//! [`MetaError::hint`] names the next command.

use std::io;

use super::existing::Obstacle;

/// A failure of reading, checking, creating or changing metadata.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error("cannot {action} at byte {offset}: {source}")]
    Io { action: &'static str, offset: u64, source: io::Error },
    #[error("cannot flush the metadata device: {0}")]
    Sync(io::Error),
    /// Neither of the two magics at the place where the superblock belongs.
    #[error(
        "no valid metadata found: magic at byte {offset}: expected 0x8374026B or 0x8374026C, \
         found {found:#010X}"
    )]
    NoMagic { offset: u64, found: u32 },
    #[error("metadata at byte {offset} is in the old v07 format, expected v08")]
    OldFormat { offset: u64 },
    /// The magic is right, and a field contradicts the device or the configuration.
    #[error(
        "no valid metadata found: {field} of the superblock at byte {offset}: expected \
         {expected}, found {found}"
    )]
    Field { offset: u64, field: &'static str, expected: String, found: i64 },
    #[error("{what}: found {found_bytes} bytes, expected at least {needed_bytes}")]
    TooSmall { what: &'static str, found_bytes: u64, needed_bytes: u64 },
    #[error("{what}: found {found_bytes} bytes, expected at most {most_bytes}")]
    TooLarge { what: &'static str, found_bytes: u64, most_bytes: u64 },
    /// The disk was consistent at a size that no longer fits: its end is missing.
    #[error(
        "la-size-sect: the agreed size is {agreed_sectors} sectors, but only {usable_sectors} fit \
         beside the metadata now; the device or its metadata became smaller"
    )]
    Shrunk { agreed_sectors: u64, usable_sectors: u64 },
    /// Nothing of the log can be read, and the node crashed as Primary.
    #[error(
        "activity log at byte {offset}: expected at least one valid block of {blocks}, found \
         none, and the node was Primary (PRIMARY_IND is set): which blocks were being written is \
         unknown"
    )]
    LogUnusable { offset: u64, blocks: u64 },
    #[error("metadata is in use or was not closed (magic 0x8374026C): expected 0x8374026B")]
    Unclean,
    /// `outdate` on a disk that is less than outdated.
    #[error("disk is Inconsistent: expected the CONSISTENT flag, found {0:#010X}")]
    Inconsistent(u32),
    #[error("{0}")]
    Obstructed(Box<Obstacle>),
}

impl MetaError {
    /// What to try next, as a command line or a sentence.
    pub fn hint(&self, resource: &str) -> String {
        match self {
            Self::Io { .. } | Self::Sync(_) => {
                "check the device and the kernel log, then `twinblk attach RESOURCE`"
                    .replace("RESOURCE", resource)
            }
            // Metadata at the old end of a device that grew must not be given up lightly.
            Self::NoMagic { .. } => format!(
                "`twinblk create-md {resource}`; but if the device was in use before and was \
                 resized, restore its size"
            ),
            Self::OldFormat { .. } => {
                format!("convert it with the tool that made it, or `twinblk create-md {resource}`")
            }
            Self::Field { field: "md_size_sect", .. } => format!(
                "if the device was resized, restore its size; else `twinblk create-md {resource}`"
            ),
            Self::Field { .. } => {
                format!("check meta-disk in the configuration, then `twinblk create-md {resource}`")
            }
            Self::TooSmall { .. } => {
                format!("use a larger device, then `twinblk create-md {resource}`")
            }
            Self::TooLarge { .. } => {
                format!("use external metadata or a smaller device, `twinblk create-md {resource}`")
            }
            Self::Shrunk { .. } => format!(
                "restore the size of the device; to give its data up: `twinblk create-md \
                 {resource}`"
            ),
            Self::LogUnusable { .. } => {
                format!("`twinblk apply-al --force {resource}` counts every block as out of sync")
            }
            Self::Unclean => format!("`twinblk apply-al {resource}`"),
            Self::Inconsistent(_) => format!("`twinblk up {resource}` to get the peer's data"),
            Self::Obstructed(obstacle) => obstacle.hint(resource),
        }
    }
}
