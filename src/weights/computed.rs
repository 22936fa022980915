//! Tensors whose f32 elements are computed as they are read.

use crate::Result;

/// Elements that are computed at once, on the stack.
pub(crate) const AT_ONCE: usize = 512;

/// Fills `out` with the bytes of f32 elements, from byte `offset` of the tensor on. `compute` gets the first element of
/// a portion and the slice for its values, of [`AT_ONCE`] elements at most.
///
/// # Errors
/// Those of `compute`.
pub(crate) fn read_computed(offset: u64, out: &mut [u8], mut compute: impl FnMut(usize, &mut [f32]) -> Result<()>) -> Result<()> {
    let mut values = [0f32; AT_ONCE];
    let mut at = offset as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let skip = at % 4;
        let wanted = (skip + rest.len()).div_ceil(4).min(AT_ONCE);
        compute(at / 4, &mut values[..wanted])?;
        let made = &bytemuck::cast_slice::<f32, u8>(&values[..wanted])[skip..];
        let count = made.len().min(rest.len());
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&made[..count]);
        (at, rest) = (at + count, later);
    }
    Ok(())
}
