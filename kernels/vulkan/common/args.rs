//! Bindings and push constants of one dispatch.

use crate::common::launch::{Result, rows_word};
use crate::common::stored::Matrix;
use hal::Buffer;
use hal::vulkan::StorageBind;
use registry::{KernelError, RowsFrom, TensorRef};

/// In place of a step word, for an operand of one row.
const ROWS_FIXED: u32 = u32::MAX;

/// Collects the arguments in the order in which the shader declares them.
///
/// A binding may start only at multiples of the device's alignment: operands are
/// bound from the one below, and the elements between are part of the offset
/// that the shader adds.
pub struct Args<'a> {
    pub binds: Vec<StorageBind<'a>>,
    pub push: Vec<u32>,
    key: &'a str,
    alignment: u64,
}

impl<'a> Args<'a> {
    pub fn new(key: &'a str, alignment: u64) -> Self {
        Args {
            binds: Vec::new(),
            push: Vec::new(),
            key,
            // Vector loads want 16 even where the device asks for less.
            alignment: alignment.max(16),
        }
    }

    fn refuse(&self, reason: String) -> KernelError {
        KernelError::Prepare {
            key: self.key.into(),
            reason,
        }
    }

    /// Binds bytes `at .. at + bytes` of a tensor of elements of `size` bytes, and
    /// returns the element at which they start in the binding.
    pub fn bind(&mut self, t: &'a TensorRef, at: u64, bytes: u64, size: u64) -> Result<u32> {
        let start = t.offset + at;
        if !start.is_multiple_of(size) {
            return Err(self.refuse(format!(
                "an operand of {size}-byte elements starts at byte {start}: align it when the buffer is laid out"
            )));
        }
        let offset = start / self.alignment * self.alignment;
        self.binds.push(StorageBind {
            buffer: &t.buffer,
            offset,
            bytes: start - offset + bytes,
        });
        Ok(((start - offset) / size) as u32)
    }

    /// Binds rows `first .. first + n` of a matrix and returns where the first one
    /// begins, in the matrix's units.
    pub fn matrix(
        &mut self,
        t: &'a TensorRef,
        matrix: &Matrix,
        first: usize,
        n: usize,
    ) -> Result<usize> {
        let (at, bytes) = (first as u64 * matrix.row, n as u64 * matrix.row);
        Ok(self.bind(t, at, bytes, matrix.unit)? as usize)
    }

    /// Binds all of an f32 or u32 tensor.
    pub fn words(&mut self, t: &'a TensorRef) -> Result<u32> {
        self.bind(t, 0, t.bytes, 4)
    }

    pub fn u32(&mut self, value: usize) -> Result<()> {
        match u32::try_from(value) {
            Ok(v) => {
                self.push.push(v);
                Ok(())
            }
            Err(_) => Err(self.refuse(format!(
                "{value} does not fit the 32 bits in which shaders count elements"
            ))),
        }
    }

    pub fn u32s(&mut self, values: &[usize]) -> Result<()> {
        values.iter().try_for_each(|&v| self.u32(v))
    }

    pub fn f32(&mut self, value: f32) {
        self.push.push(value.to_bits());
    }

    /// Binds all of a buffer.
    pub fn whole(&mut self, buffer: &'a Buffer) {
        self.binds.push(StorageBind {
            buffer,
            offset: 0,
            bytes: buffer.len(),
        });
    }

    /// Binds f32 rows; the first element and the stride are the push constants.
    pub fn rows(&mut self, t: &'a TensorRef) -> Result<(usize, usize)> {
        Ok((self.words(t)? as usize, t.row_stride()))
    }

    /// Binds the step buffer and returns its first word in the binding.
    pub fn step(&mut self, t: &'a TensorRef) -> Result<usize> {
        Ok(self.words(t)? as usize)
    }

    /// The push constant that says how many rows are real. `step` is where the
    /// step buffer starts.
    pub fn count(&mut self, step: usize, from: RowsFrom) -> Result<()> {
        match rows_word(from) {
            Some(word) => self.u32(step + word as usize),
            None => {
                self.push.push(ROWS_FIXED);
                Ok(())
            }
        }
    }
}
