//! Payload memory: page-aligned buffers that come back to a pool when the last holder lets go.
//!
//! One allocation per size class and peak, none per request. A buffer is filled by one owner
//! ([`Buffer`]), then frozen ([`Payload`]) and shared by the disk write, the packet to the peer
//! and the reply to the client without a copy.
//!
//! A pool may have an arena: a fixed number of buffers per class that live as long as the pool, so
//! that a disk can register them with the kernel once and spare it the page lookup of every
//! request (nbd.md 5.3, 5). They are handed out first; what the arena cannot serve comes from the
//! allocator, as in a pool without one.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Alignment of every buffer: enough for O_DIRECT on any disk.
pub const ALIGNMENT: usize = 4096;

/// Buffers kept per size class; what is over goes back to the allocator.
/// 128 x (4 KiB .. 1 MiB in powers of two, 2 MiB in sum) = 256 MiB at the very most.
const KEPT_PER_CLASS: usize = 128;
/// Size classes are powers of two from 4 KiB (class 0) to 1 MiB (class 8); larger is not pooled.
const CLASSES: usize = 9;
/// Arena buffers per class: 256 x 4 KiB + 32 x (8 + 16 + 32) KiB + 16 x (64 + 128) KiB = 5.75 MiB,
/// below the 8 MiB that an ordinary user may lock. Beyond 128 KiB the lookup is lost in the copy.
const ARENA_SLOTS: [usize; CLASSES] = [256, 32, 32, 32, 16, 16, 0, 0, 0];

/// One allocation, an `ALIGNMENT` longer than its class so that an aligned part fits.
#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    /// Number within the arena.
    slot: Option<u16>,
}

impl Memory {
    fn allocate(capacity: usize, slot: Option<u16>) -> Self {
        Self { bytes: vec![0; capacity + ALIGNMENT], slot }
    }

    fn start(&self) -> usize {
        self.bytes.as_ptr().align_offset(ALIGNMENT)
    }
}

#[derive(Debug, Default)]
struct Shelves {
    arena: [Vec<Memory>; CLASSES],
    free: [Vec<Memory>; CLASSES],
}

#[derive(Debug, Default)]
struct Stock {
    shelves: Mutex<Shelves>,
    slots: Vec<ArenaSlot>,
}

impl Stock {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an arena buffer lies; its number is its place in [`BufferPool::arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaSlot {
    pub address: usize,
    pub length: usize,
}

/// Where buffers come from; clones share one stock.
#[derive(Clone, Debug, Default)]
pub struct BufferPool {
    stock: Arc<Stock>,
}

fn class_of(length: usize) -> Option<usize> {
    let pages = length.div_ceil(ALIGNMENT).max(1).next_power_of_two();
    let class = pages.trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl BufferPool {
    /// A pool with an arena: for a resource whose disk can register buffers.
    pub fn with_arena() -> Self {
        let mut shelves = Shelves::default();
        let mut slots = Vec::new();
        for (class, count) in ARENA_SLOTS.into_iter().enumerate() {
            for _ in 0..count {
                let length = ALIGNMENT << class;
                let number = u16::try_from(slots.len()).expect("the arena has 384 slots");
                let memory = Memory::allocate(length, Some(number));
                let address = memory.bytes.as_ptr() as usize + memory.start();
                slots.push(ArenaSlot { address, length });
                shelves.arena[class].push(memory);
            }
        }
        Self { stock: Arc::new(Stock { shelves: Mutex::new(shelves), slots }) }
    }

    /// All arena buffers, taken or not. They stay where they are while a clone of the pool lives.
    pub fn arena(&self) -> &[ArenaSlot] {
        &self.stock.slots
    }

    /// A buffer of `length` bytes whose content is whatever its last user left: the taker fills
    /// all of it before anybody reads.
    pub fn take(&self, length: usize) -> Buffer {
        let class = class_of(length);
        let recycled = class.and_then(|class| {
            let mut shelves = self.stock.shelves();
            shelves.arena[class].pop().or_else(|| shelves.free[class].pop())
        });
        let memory = recycled.unwrap_or_else(|| {
            Memory::allocate(class.map_or(length, |class| ALIGNMENT << class), None)
        });
        let start = memory.start();
        Buffer { memory: Some(memory), start, length, pool: self.clone(), account: None }
    }

    /// A buffer of `length` zeroes.
    pub fn take_zeroed(&self, length: usize) -> Buffer {
        let mut buffer = self.take(length);
        buffer.fill(0);
        buffer
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn take_copy(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.take(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    fn give_back(&self, memory: Memory) {
        let Some(class) = class_of(memory.bytes.len() - ALIGNMENT) else { return };
        let mut shelves = self.stock.shelves();
        if memory.slot.is_some() {
            shelves.arena[class].push(memory);
        } else if shelves.free[class].len() < KEPT_PER_CLASS {
            shelves.free[class].push(memory);
        }
    }
}

/// How many bytes of buffers charged to it are alive: lets a reader stop before it fills the
/// memory, and tells it when to go on. Buffers may die on any thread.
#[derive(Clone, Debug, Default)]
pub struct Account(Arc<AccountState>);

#[derive(Debug, Default)]
struct AccountState {
    alive_bytes: AtomicUsize,
    waiting: Mutex<Option<Waker>>,
}

impl Account {
    /// Bytes of memory charged and not yet given back.
    pub fn alive_bytes(&self) -> usize {
        self.0.alive_bytes.load(Ordering::Acquire)
    }

    /// Wakes `waker` with the next buffer that dies. Look at [`Account::alive_bytes`] after this
    /// call, not before: what died in between wakes nobody. One waiter at a time.
    pub fn wake_on_release(&self, waker: &Waker) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(|poison| poison.into_inner());
        match &mut *waiting {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn release(&self, bytes: usize) {
        self.0.alive_bytes.fetch_sub(bytes, Ordering::AcqRel);
        let waker = self.0.waiting.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Aligned memory with one owner, who may write to it.
#[derive(Debug)]
pub struct Buffer {
    /// Only taken out by `drop`.
    memory: Option<Memory>,
    start: usize,
    length: usize,
    pool: BufferPool,
    account: Option<Account>,
}

impl Buffer {
    /// Counts the buffer's memory in `account` until its last holder lets go. All of it, not only
    /// the bytes in use: many small payloads must not cost more than their sum tells.
    pub fn charge(&mut self, account: &Account) {
        let memory_bytes = self.memory_bytes();
        account.0.alive_bytes.fetch_add(memory_bytes, Ordering::AcqRel);
        if let Some(former) = self.account.replace(account.clone()) {
            former.release(memory_bytes);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, |memory| memory.bytes.len())
    }

    /// Ends the filling: from now on the bytes are shared and do not change.
    pub fn freeze(self) -> Payload {
        Payload(Arc::new(self))
    }

    /// The number of this buffer in the arena of `pool`; none if it is not from there.
    pub fn arena_slot(&self, pool: &BufferPool) -> Option<u16> {
        if !Arc::ptr_eq(&self.pool.stock, &pool.stock) {
            return None;
        }
        self.memory.as_ref().and_then(|memory| memory.slot)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let memory = self.memory.as_ref().expect("present until dropped");
        &memory.bytes[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let memory = self.memory.as_mut().expect("present until dropped");
        &mut memory.bytes[self.start..self.start + self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory_bytes = self.memory_bytes();
        if let Some(memory) = self.memory.take() {
            self.pool.give_back(memory);
        }
        if let Some(account) = self.account.take() {
            account.release(memory_bytes);
        }
    }
}

/// Frozen payload: cheap to clone, gone back to the pool with its last holder.
#[derive(Clone, Debug)]
pub struct Payload(Arc<Buffer>);

impl Payload {
    /// As [`Buffer::arena_slot`].
    pub fn arena_slot(&self, pool: &BufferPool) -> Option<u16> {
        self.0.arena_slot(pool)
    }
}

impl Deref for Payload {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_come_back() {
        let pool = BufferPool::default();
        let first = pool.take(5000);
        assert_eq!(first.len(), 5000);
        assert_eq!(first.as_ptr().align_offset(ALIGNMENT), 0);
        let address = first.as_ptr();
        let payload = first.freeze();
        let other = payload.clone();
        drop(payload);
        assert_ne!(pool.take(5000).as_ptr(), address, "still held by the clone");
        drop(other);
        let again = pool.take(8192);
        assert_eq!(again.as_ptr(), address, "same class, same memory");
    }

    #[test]
    fn an_account_counts_until_the_last_holder_lets_go() {
        struct Bell(AtomicUsize);
        impl std::task::Wake for Bell {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let bell = Arc::new(Bell(AtomicUsize::new(0)));
        let pool = BufferPool::default();
        let account = Account::default();
        let mut buffer = pool.take(5000);
        buffer.charge(&account);
        let payload = buffer.freeze();
        let other = payload.clone();
        account.wake_on_release(&Waker::from(bell.clone()));
        drop(payload);
        assert_eq!((account.alive_bytes(), bell.0.load(Ordering::SeqCst)), (8192 + ALIGNMENT, 0));
        drop(other);
        assert_eq!((account.alive_bytes(), bell.0.load(Ordering::SeqCst)), (0, 1));
    }

    #[test]
    fn sizes_over_the_largest_class_are_served_and_not_kept() {
        let pool = BufferPool::default();
        let big = pool.take((1 << 20) + 1);
        assert_eq!(big.len(), (1 << 20) + 1);
        drop(big);
        assert!(pool.stock.shelves().free.iter().all(Vec::is_empty));
    }

    #[test]
    fn the_arena_is_used_first_and_never_moves() {
        let pool = BufferPool::with_arena();
        let locked: usize = pool.arena().iter().map(|slot| slot.length).sum();
        assert!(locked < 8 << 20, "{locked} bytes do not fit an ordinary user's limit");
        for _ in 0..2 {
            // One more than the class has: the last one comes from the allocator.
            let buffers: Vec<Buffer> = (0..=ARENA_SLOTS[0]).map(|_| pool.take(4096)).collect();
            let mut numbers: Vec<u16> =
                buffers.iter().filter_map(|buffer| buffer.arena_slot(&pool)).collect();
            for buffer in &buffers {
                if let Some(number) = buffer.arena_slot(&pool) {
                    let slot = pool.arena()[usize::from(number)];
                    assert_eq!(slot, ArenaSlot { address: buffer.as_ptr() as usize, length: 4096 });
                }
            }
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), ARENA_SLOTS[0], "each slot has one holder");
        }
    }

    #[test]
    fn a_slot_number_is_only_told_to_its_own_pool() {
        let pool = BufferPool::with_arena();
        let payload = pool.take_copy(b"mine").freeze();
        assert_eq!(&payload[..], b"mine");
        let same = pool.clone();
        drop(pool);
        assert!(payload.arena_slot(&same).is_some());
        assert!(payload.arena_slot(&BufferPool::with_arena()).is_none());
    }
}
