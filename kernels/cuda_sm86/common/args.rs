//! The one parameter of a kernel: a struct of pointers, then 32-bit words.

use crate::common::launch::{Result, Step, rows_word};
use hal::Buffer;
use hal::cuda::{Matrix, Strided, TensorMap};
use registry::{KernelError, RowsFrom, TensorRef};

/// Collects the fields in the order in which the kernel's struct declares them:
/// tensor maps, then all pointers, so that no padding lies between.
#[derive(Default)]
pub struct Args {
    maps: Vec<TensorMap>,
    pointers: Vec<u64>,
    words: Vec<u32>,
    pub keep: Vec<Buffer>,
}

impl Args {
    /// A matrix as the copy engine takes it.
    pub fn map(&mut self, step: &Step<'_>, matrix: &Matrix<'_>) -> Result<()> {
        self.maps.push(step.recorder.tensor_map(matrix)?);
        self.keep.push(matrix.buffer.clone());
        Ok(())
    }

    /// A tensor as the copy engine takes it.
    pub fn strided_map(&mut self, step: &Step<'_>, tensor: &Strided<'_>) -> Result<()> {
        self.maps.push(step.recorder.strided_map(tensor)?);
        self.keep.push(tensor.buffer.clone());
        Ok(())
    }

    /// Pointer to byte `at` of a tensor of which `bytes` bytes may be touched.
    pub fn part(&mut self, step: &Step<'_>, t: &TensorRef, at: u64, bytes: u64) -> Result<u64> {
        let address = step.recorder.address(&t.buffer, t.offset + at, bytes)?;
        self.pointers.push(address);
        self.keep.push(t.buffer.clone());
        Ok(address)
    }

    /// Pointer to the start of a tensor.
    pub fn tensor(&mut self, step: &Step<'_>, t: &TensorRef) -> Result<u64> {
        self.part(step, t, 0, t.bytes)
    }

    /// Pointer to a tensor, or null.
    pub fn optional(&mut self, step: &Step<'_>, t: Option<&TensorRef>) -> Result<()> {
        match t {
            Some(t) => self.tensor(step, t).map(|_| ()),
            None => {
                self.pointers.push(0);
                Ok(())
            }
        }
    }

    /// Pointer to a word of the step buffer.
    pub fn step(&mut self, step: &Step<'_>, word: usize) -> Result<()> {
        let t = &step.binds.step;
        let at = word as u64 * 4;
        self.part(step, t, at, t.bytes.saturating_sub(at))
            .map(|_| ())
    }

    /// Pointer to the word that counts an operand's rows; null for one row.
    pub fn count(&mut self, step: &Step<'_>, from: RowsFrom) -> Result<()> {
        match rows_word(from) {
            Some(word) => self.step(step, word),
            None => {
                self.pointers.push(0);
                Ok(())
            }
        }
    }

    pub fn u32(&mut self, step: &Step<'_>, value: usize) -> Result<()> {
        match u32::try_from(value) {
            Ok(v) => {
                self.words.push(v);
                Ok(())
            }
            Err(_) => Err(too_large(step, value)),
        }
    }

    pub fn u32s(&mut self, step: &Step<'_>, values: &[usize]) -> Result<()> {
        values.iter().try_for_each(|&v| self.u32(step, v))
    }

    pub fn f32(&mut self, value: f32) {
        self.words.push(value.to_bits());
    }

    pub fn bytes(&self) -> Vec<u8> {
        let maps = self.maps.iter().flat_map(|m| m.0);
        let pointers = maps.chain(self.pointers.iter().copied());
        let words = self.words.iter().flat_map(|w| w.to_le_bytes());
        let mut bytes: Vec<u8> = pointers.flat_map(u64::to_le_bytes).chain(words).collect();
        if !self.maps.is_empty() {
            // A struct's size is a multiple of its alignment.
            bytes.resize(bytes.len().next_multiple_of(64), 0);
        }
        bytes
    }
}

fn too_large(step: &Step<'_>, value: usize) -> KernelError {
    step.refuse(format!(
        "{value} does not fit the 32 bits in which kernels count elements"
    ))
}

#[cfg(test)]
mod tests {
    use super::{Args, TensorMap};

    #[test]
    fn fields_lie_as_the_struct_declares_them() {
        let mut args = Args {
            pointers: vec![0x1122_3344_5566_7788],
            words: vec![9],
            ..Args::default()
        };
        args.f32(1.0);
        let plain = args.bytes();
        assert_eq!(plain.len(), 16);
        assert_eq!((plain[0], plain[8], plain[15]), (0x88, 9, 0x3f));
        args.maps.push(TensorMap([7; 16]));
        let mapped = args.bytes();
        assert_eq!(mapped.len(), 192, "a struct of maps is aligned to 64");
        assert_eq!((mapped[0], mapped[127], mapped[128]), (7, 0, 0x88));
    }
}
