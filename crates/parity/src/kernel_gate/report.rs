//! What the gate found.

use hal::DeviceInfo;
use registry::Key;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Failures kept word for word; the rest are counted.
const KEPT: usize = 3;

/// One key in one layout.
#[derive(Clone, Debug)]
pub struct KeyReport {
    pub key: Key,
    pub layout: &'static str,
    pub tolerance: f32,
    /// Cases that ran.
    pub cases: usize,
    /// Why the kernel refused cases, and how many for each reason.
    pub refusals: BTreeMap<String, usize>,
    /// Refused cases that a device with more features would have run.
    pub lacking: usize,
    /// Largest error over tolerance among the cases that passed.
    pub worst: f64,
    pub failed: usize,
    /// The first few failures.
    pub failures: Vec<String>,
    /// Hash of every output bit: equal for equal numbers, whatever the threads.
    pub digest: u64,
    /// What its cases took, the oracle's part included.
    pub took: Duration,
}

impl KeyReport {
    pub(super) fn new(key: Key, layout: &'static str, tolerance: f32) -> Self {
        KeyReport {
            key,
            layout,
            tolerance,
            cases: 0,
            refusals: BTreeMap::new(),
            lacking: 0,
            worst: 0.0,
            failed: 0,
            failures: Vec::new(),
            digest: 0xcbf2_9ce4_8422_2325,
            took: Duration::ZERO,
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.failed += 1;
        if self.failures.len() < KEPT {
            self.failures.push(reason);
        }
    }

    pub(super) fn refuse(&mut self, reason: String) {
        *self.refusals.entry(reason).or_default() += 1;
    }

    pub(super) fn digest(&mut self, outputs: &[Vec<u8>]) {
        for word in outputs.iter().flat_map(|o| o.chunks(8)) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            let mixed = (self.digest ^ u64::from_le_bytes(bytes)).wrapping_mul(0x0100_0000_01b3);
            self.digest = mixed ^ (mixed >> 29);
        }
    }

    pub fn refused(&self) -> usize {
        self.refusals.values().sum()
    }

    /// Some case ran, unless the device lacks what the key needs, and none failed.
    pub fn passed(&self) -> bool {
        self.failed == 0 && (self.cases > 0 || self.unsupported())
    }

    /// The device lacks a feature that every case needs.
    pub fn unsupported(&self) -> bool {
        self.cases == 0 && self.lacking > 0
    }
}

impl fmt::Display for KeyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.passed(), self.unsupported()) {
            (true, true) => "none",
            (true, false) => "ok  ",
            (false, _) => "FAIL",
        };
        write!(
            f,
            "{verdict} {} [{}] {} cases, {} refused, worst {:.2} of tolerance {:.0e}, {:.1} s",
            self.key,
            self.layout,
            self.cases,
            self.refused(),
            self.worst,
            self.tolerance,
            self.took.as_secs_f64()
        )?;
        if self.cases == 0 {
            write!(f, "; no case fitted")?;
            for (reason, n) in &self.refusals {
                write!(f, "\n     {n} x {reason}")?;
            }
        }
        if self.failed > 0 {
            write!(f, "; {} failed", self.failed)?;
            for reason in &self.failures {
                write!(f, "\n     {reason}")?;
            }
        }
        Ok(())
    }
}

/// All keys of one backend on one device.
#[derive(Clone, Debug)]
pub struct Report {
    pub backend: String,
    pub device: String,
    pub keys: Vec<KeyReport>,
}

impl Report {
    pub(super) fn new(backend: &str, device: &DeviceInfo) -> Self {
        Report {
            backend: backend.into(),
            device: format!("{} ({})", device.name, device.driver),
            keys: Vec::new(),
        }
    }

    /// Every key passed. A backend without keys passes nothing.
    pub fn passed(&self) -> bool {
        !self.keys.is_empty() && self.keys.iter().all(KeyReport::passed)
    }

    pub fn failures(&self) -> impl Iterator<Item = &KeyReport> {
        self.keys.iter().filter(|k| !k.passed())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {}", self.backend, self.device)?;
        for key in &self.keys {
            writeln!(f, "{key}")?;
        }
        let failed = self.failures().count();
        write!(f, "{} of {} keys failed", failed, self.keys.len())
    }
}
