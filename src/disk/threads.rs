//! The backend for kernels that refuse io_uring: a few threads that make blocking calls.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::queue::{Backend, wake};
use super::step::{Finished, Step};

/// Calls under way at once. Past 8 a disk gains little and two cores only switch.
const THREADS: usize = 8;
/// Steps handed over and not yet taken back: enough to keep the threads busy while the resource's
/// thread does something else.
const DEPTH: usize = 128;

#[derive(Debug)]
pub(super) struct Threads {
    shared: Arc<Shared>,
    /// Pushed, to be handed over with the next kick.
    pushed: Vec<Step>,
    outstanding: usize,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file: Arc<File>,
    event: Arc<OwnedFd>,
    work: Mutex<Work>,
    work_came: Condvar,
    finished: Mutex<Vec<Finished>>,
}

#[derive(Debug, Default)]
struct Work {
    steps: VecDeque<Step>,
    closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Threads {
    /// Completions are announced by writing to `event`.
    pub(super) fn start(file: Arc<File>, event: Arc<OwnedFd>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            file,
            event,
            work: Mutex::default(),
            work_came: Condvar::new(),
            finished: Mutex::default(),
        });
        let mut threads =
            Self { shared, pushed: Vec::with_capacity(DEPTH), outstanding: 0, workers: Vec::new() };
        for number in 0..THREADS {
            let shared = threads.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || shared.serve())?;
            threads.workers.push(worker);
        }
        Ok(threads)
    }
}

impl Backend for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn room(&self) -> usize {
        DEPTH - self.outstanding
    }

    fn push(&mut self, step: Step) {
        self.outstanding += 1;
        self.pushed.push(step);
    }

    fn kick(&mut self) {
        let count = self.pushed.len();
        lock(&self.shared.work).steps.extend(self.pushed.drain(..));
        for _ in 0..count.min(THREADS) {
            self.shared.work_came.notify_one();
        }
    }

    fn reap(&mut self, finished: &mut Vec<Finished>) {
        let before = finished.len();
        finished.append(&mut lock(&self.shared.finished));
        self.outstanding -= finished.len() - before;
    }

    fn has_finished(&self) -> bool {
        !lock(&self.shared.finished).is_empty()
    }
}

impl Drop for Threads {
    /// What was handed over is finished first: a write must not reach the disk after its successor
    /// has opened it.
    fn drop(&mut self) {
        lock(&self.shared.work).closed = true;
        self.shared.work_came.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn serve(&self) {
        while let Some(mut step) = self.next() {
            let result = step.perform(&self.file);
            let mut finished = lock(&self.finished);
            let first = finished.is_empty();
            finished.push(Finished { step, result });
            drop(finished);
            if first {
                wake(&self.event);
            }
        }
    }

    /// Work in the order it came; none when closed and nothing is left.
    fn next(&self) -> Option<Step> {
        let work = lock(&self.work);
        let mut work = self
            .work_came
            .wait_while(work, |work| work.steps.is_empty() && !work.closed)
            .unwrap_or_else(PoisonError::into_inner);
        work.steps.pop_front()
    }
}
