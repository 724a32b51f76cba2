//! The barrier between two steps of a recording.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Spins this often before it lets others run: steps last microseconds, so a
/// wait is short unless the cores are oversubscribed.
const SPINS: u32 = 4096;

/// A reusable barrier for a fixed number of threads.
pub struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    generation: AtomicUsize,
    /// Set when a thread died in a kernel, so that the others do not wait for it.
    poisoned: AtomicBool,
}

impl Barrier {
    pub(crate) fn new(threads: usize) -> Self {
        Barrier {
            threads,
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
        }
    }

    /// Returns once every thread has called it. What they wrote before is
    /// visible after. Where a thread died, the others are unwound out of the kernel
    /// that waits for it: what it was to write is not there.
    pub fn wait(&self) {
        self.arrive();
        if self.is_poisoned() {
            std::panic::resume_unwind(Box::new("another thread of this kernel failed"));
        }
    }

    /// As [`Barrier::wait`], between kernels: whoever calls it asks for itself whether
    /// a thread died.
    pub(crate) fn arrive(&self) {
        if self.threads == 1 || self.poisoned.load(Ordering::Relaxed) {
            return;
        }
        let generation = self.generation.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.generation
                .store(generation.wrapping_add(1), Ordering::Release);
            return;
        }
        let mut spins = 0u32;
        while self.generation.load(Ordering::Acquire) == generation {
            if self.poisoned.load(Ordering::Relaxed) {
                return;
            }
            spins += 1;
            if spins < SPINS {
                hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }
}
