//! Planted bugs: the driver of the simulated node does something other than what the engine asked.
//! Each stands for a mistake that an engine could make; the oracle has to find every one.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Activity log transactions are called durable, but not written.
    DropActivityLog,
    /// The superblock keeps its old generations.
    DropGenerations,
    /// Bitmap pages are called durable, but not written.
    DropBitmap,
    /// A write is answered before anything was done about it.
    AnswerWriteAtOnce,
    /// A flush is answered before anything was done about it.
    AnswerFlushAtOnce,
    /// The peer acknowledges writes before they are on its disk.
    AcknowledgeEarly,
    /// A flush of the disk does nothing.
    DropFlush,
    /// FUA writes are ordinary writes.
    DropFua,
    /// Zeroing does nothing on the Secondary.
    DropPeerZeroes,
    /// A SyncTarget's disk is called Consistent on disk.
    KeepConsistent,
    /// Bitmap pages lose one bit of eight.
    ForgetBits,
    /// Resync data is acknowledged, but not written.
    DropResyncWrites,
    /// Every tenth write of the Primary is not sent.
    DropPeerWrites,
    /// The Primary's flag never reaches the superblock, so a crash leaves the log unused.
    DropPrimaryFlag,
}

impl Sabotage {
    pub const ALL: [Self; 14] = [
        Self::DropActivityLog,
        Self::DropGenerations,
        Self::DropBitmap,
        Self::AnswerWriteAtOnce,
        Self::AnswerFlushAtOnce,
        Self::AcknowledgeEarly,
        Self::DropFlush,
        Self::DropFua,
        Self::DropPeerZeroes,
        Self::KeepConsistent,
        Self::ForgetBits,
        Self::DropResyncWrites,
        Self::DropPeerWrites,
        Self::DropPrimaryFlag,
    ];
}
