//! Payload memory: page-aligned buffers that come back to a pool when the last holder lets go.
//!
//! One allocation per size class and peak, none per request. A buffer is filled by one owner
//! ([`Buffer`]), then frozen ([`Payload`]) and shared by the disk write, the packet to the peer
//! and the reply to the client without a copy.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// Alignment of every buffer: enough for O_DIRECT on any disk.
pub const ALIGNMENT: usize = 4096;

/// Buffers kept per size class; what is over goes back to the allocator.
/// 128 x (4 KiB .. 1 MiB in powers of two, 2 MiB in sum) = 256 MiB at the very most.
const KEPT_PER_CLASS: usize = 128;
/// Size classes are powers of two from 4 KiB (class 0) to 1 MiB (class 8); larger is not pooled.
const CLASSES: usize = 9;

#[derive(Debug, Default)]
struct Shelves {
    free: [Vec<Vec<u8>>; CLASSES],
}

/// Where buffers come from; clones share one stock.
#[derive(Clone, Debug, Default)]
pub struct BufferPool {
    shelves: Arc<Mutex<Shelves>>,
}

fn class_of(length: usize) -> Option<usize> {
    let pages = length.div_ceil(ALIGNMENT).max(1).next_power_of_two();
    let class = pages.trailing_zeros() as usize;
    (class < CLASSES).then_some(class)
}

impl BufferPool {
    /// A buffer of `length` bytes whose content is whatever its last user left: the taker fills
    /// all of it before anybody reads.
    pub fn take(&self, length: usize) -> Buffer {
        let class = class_of(length);
        let recycled = class.and_then(|class| {
            self.shelves.lock().unwrap_or_else(|poison| poison.into_inner()).free[class].pop()
        });
        let memory = recycled.unwrap_or_else(|| {
            let capacity = class.map_or(length, |class| ALIGNMENT << class);
            vec![0; capacity + ALIGNMENT]
        });
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Buffer { memory, start, length, pool: self.clone(), account: None }
    }

    /// A buffer of `length` zeroes.
    pub fn take_zeroed(&self, length: usize) -> Buffer {
        let mut buffer = self.take(length);
        buffer.fill(0);
        buffer
    }

    fn give_back(&self, memory: Vec<u8>) {
        let Some(class) = class_of(memory.len() - ALIGNMENT) else { return };
        let shelf =
            &mut self.shelves.lock().unwrap_or_else(|poison| poison.into_inner()).free[class];
        if shelf.len() < KEPT_PER_CLASS {
            shelf.push(memory);
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
    memory: Vec<u8>,
    start: usize,
    length: usize,
    pool: BufferPool,
    account: Option<Account>,
}

impl Buffer {
    /// Counts the buffer's memory in `account` until its last holder lets go. All of it, not only
    /// the bytes in use: many small payloads must not cost more than their sum tells.
    pub fn charge(&mut self, account: &Account) {
        account.0.alive_bytes.fetch_add(self.memory.len(), Ordering::AcqRel);
        if let Some(former) = self.account.replace(account.clone()) {
            former.release(self.memory.len());
        }
    }

    /// Ends the filling: from now on the bytes are shared and do not change.
    pub fn freeze(self) -> Payload {
        Payload(Arc::new(self))
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let memory_bytes = memory.len();
        self.pool.give_back(memory);
        if let Some(account) = self.account.take() {
            account.release(memory_bytes);
        }
    }
}

/// Frozen payload: cheap to clone, gone back to the pool with its last holder.
#[derive(Clone, Debug)]
pub struct Payload(Arc<Buffer>);

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
        assert!(pool.shelves.lock().expect("no panic before").free.iter().all(Vec::is_empty));
    }
}
