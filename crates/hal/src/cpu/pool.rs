//! The threads that run recordings.
//!
//! Every thread walks the whole list of steps; a step divides its own work by
//! (thread, threads). That costs a barrier where data flows between threads and
//! nothing elsewhere: no task queue, no fork and join per op. Between
//! recordings workers spin briefly, because the next decode step usually comes
//! within microseconds, and then sleep.

use super::API;
use super::barrier::Barrier;
use super::record::{Step, TaskCtx};
use crate::{HalError, Result, StepTime};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, Thread};
use std::time::Instant;

/// About 100 µs of waiting for the next recording before a worker sleeps.
const IDLE_SPINS: u32 = 20_000;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One recording at a time; uploads and downloads take it too.
    busy: Mutex<()>,
    /// The core of the thread that calls [`Pool::run`].
    first: Option<usize>,
}

struct Job<'a> {
    steps: &'a [Step],
    barrier: Barrier,
    failure: Mutex<Option<(String, String)>>,
    times: Option<Mutex<Vec<StepTime>>>,
}

struct Shared {
    threads: usize,
    epoch: AtomicU64,
    job: AtomicPtr<()>,
    finished: AtomicUsize,
    quit: AtomicBool,
    sleepers: Mutex<Vec<Thread>>,
    asleep: AtomicUsize,
}

impl Pool {
    /// `places`: a core for every thread, if they are to be pinned.
    pub fn start(threads: usize, places: Option<Vec<usize>>) -> Result<Self> {
        let place = |thread| places.as_ref().map(|p| p[thread]);
        let shared = Arc::new(Shared {
            threads,
            epoch: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            finished: AtomicUsize::new(0),
            quit: AtomicBool::new(false),
            sleepers: Mutex::new(Vec::new()),
            asleep: AtomicUsize::new(0),
        });
        // Whole from the start: if a thread cannot be had, those before it end with it.
        let mut pool = Pool {
            shared: shared.clone(),
            workers: Vec::with_capacity(threads.saturating_sub(1)),
            busy: Mutex::new(()),
            first: place(0),
        };
        for thread in 1..threads {
            let (shared, place) = (shared.clone(), place(thread));
            let worker = std::thread::Builder::new()
                .name(format!("kernel-{thread}"))
                .spawn(move || {
                    pin(place);
                    shared.work(thread);
                })
                .map_err(|e| HalError::Driver {
                    api: API,
                    call: "thread spawn",
                    reason: e.to_string(),
                })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Held while the host touches buffers.
    pub fn exclusive(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn run(&self, steps: &[Step], timed: bool) -> Result<Vec<StepTime>> {
        let _busy = self.exclusive();
        if self.first != PINNED.get() && self.first.is_some() {
            pin(self.first);
        }
        let job = Job {
            steps,
            barrier: Barrier::new(self.shared.threads),
            failure: Mutex::new(None),
            times: timed.then(Mutex::default),
        };
        self.shared.finished.store(0, Ordering::Relaxed);
        self.shared
            .job
            .store((&raw const job).cast_mut().cast(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::SeqCst) > 0 {
            let mut sleepers = self
                .shared
                .sleepers
                .lock()
                .unwrap_or_else(|e| e.into_inner());
            for t in sleepers.drain(..) {
                t.unpark();
            }
        }
        job.walk(0, self.shared.threads);
        // `job` lives on this stack frame: every worker must be out of it.
        let mut spins = 0u32;
        while self.shared.finished.load(Ordering::Acquire) + 1 < self.shared.threads {
            spins += 1;
            if spins < 4096 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        if let Some((step, reason)) = job.failure.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(HalError::Kernel { step, reason });
        }
        Ok(job
            .times
            .map(|t| t.into_inner().unwrap_or_else(|e| e.into_inner()))
            .unwrap_or_default())
    }
}

thread_local! {
    /// Where this thread was pinned last.
    static PINNED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Moves this thread to a core. One that has gone since it was listed costs speed
/// alone, so that is no error.
fn pin(core: Option<usize>) {
    if let Some(core) = core {
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        let _ = rustix::thread::sched_setaffinity(None, &set);
        PINNED.set(Some(core));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for w in self.workers.drain(..) {
            w.thread().unpark();
            let _ = w.join();
        }
    }
}

impl Job<'_> {
    fn walk(&self, thread: usize, threads: usize) {
        let ctx = TaskCtx {
            thread,
            threads,
            barrier: &self.barrier,
        };
        for step in self.steps {
            if step.barrier_before || self.times.is_some() {
                self.barrier.arrive();
            }
            if self.barrier.is_poisoned() {
                return;
            }
            let start = self.times.is_some().then(Instant::now);
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (step.run)(&ctx))) {
                let reason = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
                    .unwrap_or_else(|| "panic".into());
                let mut failure = self.failure.lock().unwrap_or_else(|e| e.into_inner());
                failure.get_or_insert((step.label.clone(), reason));
                drop(failure);
                self.barrier.poison();
                return;
            }
            if let (Some(start), Some(times)) = (start, &self.times) {
                self.barrier.arrive();
                if thread == 0 {
                    let mut times = times.lock().unwrap_or_else(|e| e.into_inner());
                    times.push(StepTime {
                        label: step.label.clone(),
                        seconds: start.elapsed().as_secs_f64(),
                    });
                }
            }
        }
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        let mut seen = 0u64;
        loop {
            seen = self.next_epoch(seen);
            if self.quit.load(Ordering::SeqCst) {
                return;
            }
            let job: *const Job<'static> = self.job.load(Ordering::Relaxed).cast_const().cast();
            // SAFETY: `run` published the job before it moved the epoch on, and
            // keeps it alive until this worker has counted itself finished.
            unsafe { (*job).walk(thread, self.threads) };
            self.finished.fetch_add(1, Ordering::Release);
        }
    }

    fn next_epoch(&self, seen: u64) -> u64 {
        for _ in 0..IDLE_SPINS {
            let now = self.epoch.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            std::hint::spin_loop();
        }
        loop {
            // Announce first, then look again: `run` moves the epoch before it
            // looks for sleepers, so one of the two sees the other.
            {
                let mut sleepers = self.sleepers.lock().unwrap_or_else(|e| e.into_inner());
                sleepers.push(std::thread::current());
            }
            self.asleep.fetch_add(1, Ordering::SeqCst);
            let mut now = self.epoch.load(Ordering::SeqCst);
            if now == seen {
                std::thread::park();
                now = self.epoch.load(Ordering::SeqCst);
            }
            self.asleep.fetch_sub(1, Ordering::SeqCst);
            if now != seen {
                return now;
            }
        }
    }
}
