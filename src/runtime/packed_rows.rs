//! Rows of packed weights on their way to a device.

use crate::{Error, Result, ir::DType, ir::Packed, weights::Tensor};

/// Bytes that are read from a file at a time, unless a single row has more.
const READ_BYTES: usize = 256 << 10;

/// A packed tensor's bytes as a device holds them.
pub(crate) struct PackedRows<'a> {
    tensor: &'a Tensor,
    format: Packed,
    /// Bytes of a row in the file and on the device.
    stored: usize,
    resident: usize,
    /// Rows as the file has them.
    raw: Vec<u8>,
    /// A row as the device has it, of which a part is asked for.
    row: Vec<u8>,
}

impl<'a> PackedRows<'a> {
    /// The rows of a tensor; `None` for one that is not packed.
    ///
    /// # Errors
    /// [`Error::Input`] for a packed tensor that is no matrix of whole blocks.
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Option<Self>> {
        let DType::Packed(format) = tensor.dtype() else { return Ok(None) };
        let sizes = match tensor.shape() {
            [_, row] => tensor.dtype().row_bytes(*row).zip(tensor.dtype().resident_row_bytes(*row)),
            _ => None,
        };
        let Some((stored, resident)) = sizes.filter(|(stored, _)| *stored > 0) else {
            let problem =
                format!("has shape {:?}, {} is for matrices whose rows are whole blocks", tensor.shape(), format.name());
            return Err(Error::Input { name: tensor.name().into(), problem });
        };
        let stored = stored as usize;
        let resident = resident as usize;
        let raw = vec![0; (READ_BYTES / stored).max(1).min(tensor.shape()[0].max(1)) * stored];
        Ok(Some(Self { tensor, format, stored, resident, raw, row: vec![0; resident] }))
    }

    /// Fills `out` with the bytes from `start` on.
    pub(crate) fn read(&mut self, start: u64, out: &mut [u8]) -> Result<()> {
        let mut at = start as usize;
        let mut rest = out;
        while !rest.is_empty() {
            let first = at / self.resident;
            let skip = at % self.resident;
            let whole = (rest.len() / self.resident).min(self.raw.len() / self.stored);
            let count = if skip == 0 && whole > 0 { whole * self.resident } else { rest.len().min(self.resident - skip) };
            let (now, later) = rest.split_at_mut(count);
            if count.is_multiple_of(self.resident) {
                self.arrange(first, now)?;
            } else {
                let mut row = std::mem::take(&mut self.row);
                self.arrange(first, &mut row)?;
                now.copy_from_slice(&row[skip..skip + count]);
                self.row = row;
            }
            (at, rest) = (at + count, later);
        }
        Ok(())
    }

    /// Reads whole rows, from row `first` on, and arranges them.
    fn arrange(&mut self, first: usize, out: &mut [u8]) -> Result<()> {
        let raw = &mut self.raw[..out.len() / self.resident * self.stored];
        self.tensor.read_bytes(first * self.stored, raw)?;
        for (row, out) in raw.chunks_exact(self.stored).zip(out.chunks_exact_mut(self.resident)) {
            self.format.arrange(row, out);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
