//! Rows of stored numbers, widened or multiplied by rows of f32 a block at a time.
//!
//! A format has one meaning: the function that widens one of its blocks. The compiler puts it into both loops, once for
//! each instruction set that `pulp` tells at run time.

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

/// Partial sums of a dot product: the same on every processor and for any number of rows.
const LANES: usize = 32;

/// Those of a block that has a factor: whole vectors, where vectors are no longer.
const BLOCK_LANES: usize = 8;

/// Elements of a block of numbers that have no blocks of their own.
pub(super) const PLAIN: usize = 32;

/// The most rows of f32 that share the widening of a block.
const SHARED: usize = 4;

/// The operations on rows of a type.
pub(crate) struct Rows {
    widen: fn(&[u8], &mut [f32]),
    multiply: fn(&[u8], &[f32], usize, &mut [f32]),
}

impl Rows {
    pub(super) const fn new(widen: fn(&[u8], &mut [f32]), multiply: fn(&[u8], &[f32], usize, &mut [f32])) -> Self {
        Self { widen, multiply }
    }

    /// Widens whole blocks, or any number of elements of a type without blocks; `out` holds their elements.
    pub(crate) fn widen(&self, stored: &[u8], out: &mut [f32]) {
        (self.widen)(stored, out);
    }

    /// `out[n, m] = Σₖ stored[n, k] · x[m, k]`, k below `inner`: sums in f32, each in one order, whatever the number of
    /// rows.
    pub(crate) fn multiply(&self, stored: &[u8], x: &[f32], inner: usize, out: &mut [f32]) {
        (self.multiply)(stored, x, inner, out);
    }
}

/// The [`Rows`] of blocks of `$elements` elements in `$bytes` bytes, which `$block` widens. Elements that it widens
/// `but for` a factor are still to be multiplied by the number that it returns.
macro_rules! rows {
    ($elements:expr, $bytes:expr, $block:path) => {
        $crate::quant::rows::rows!(of $elements, $bytes, |stored, out| {
            $block(stored, out);
            None
        })
    };
    ($elements:expr, $bytes:expr, but for $block:path) => {
        $crate::quant::rows::rows!(of $elements, $bytes, |stored, out| Some($block(stored, out)))
    };
    (of $elements:expr, $bytes:expr, $block:expr) => {
        $crate::quant::rows::Rows::new(
            |stored, out| $crate::quant::rows::widen::<$elements, $bytes>(stored, out, $block),
            |stored, x, inner, out| $crate::quant::rows::multiply::<$elements, $bytes>(stored, x, inner, out, $block),
        )
    };
}

pub(super) use rows;

pub(crate) const F32: Rows = rows!(PLAIN, 128, f32_block);
pub(crate) const F16: Rows = rows!(PLAIN, 64, f16_block);
pub(crate) const BF16: Rows = rows!(PLAIN, 64, bf16_block);

#[inline(always)]
fn f32_block(block: &[u8; 128], out: &mut [f32; PLAIN]) {
    out.iter_mut().zip(block.as_chunks().0).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
}

#[inline(always)]
fn f16_block(block: &[u8; 64], out: &mut [f32; PLAIN]) {
    out.iter_mut().zip(block.as_chunks().0).for_each(|(out, bytes)| *out = half(u16::from_le_bytes(*bytes)));
}

#[inline(always)]
fn bf16_block(block: &[u8; 64], out: &mut [f32; PLAIN]) {
    let wide = |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    out.iter_mut().zip(block.as_chunks().0).for_each(|(out, bytes)| *out = wide(*bytes));
}

/// The number of these bits of binary16: as `half` has it, without the branches and the call that keep a loop from
/// vectors.
#[inline(always)]
pub(super) fn half(bits: u16) -> f32 {
    // The sign, and exponent and fraction where binary32 has them; a product then moves the exponent, of subnormal
    // numbers too.
    let moved = ((i32::from(bits as i16) << 13) as u32) & 0x8fff_e000;
    let number = f32::from_bits(moved) * f32::from_bits((127 + 112) << 23);
    let finite = moved & 0x0f80_0000 != 0x0f80_0000;
    f32::from_bits(number.to_bits() | if finite { 0 } else { 0x7f80_0000 })
}

pub(super) fn widen<const E: usize, const B: usize>(
    stored: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; E]) -> Option<f32>,
) {
    Arch::new().dispatch(Widen { stored, out, block });
}

pub(super) fn multiply<const E: usize, const B: usize>(
    stored: &[u8],
    x: &[f32],
    inner: usize,
    out: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; E]) -> Option<f32> + Copy,
) {
    if inner == 0 {
        return out.fill(0.0);
    }
    let arch = Arch::new();
    let rows = x.len() / inner;
    let mut first = 0;
    while first < rows {
        let place = Place { stored, x, inner, first, rows, block };
        match rows - first {
            1 => arch.dispatch(Multiply::<_, E, B, 1> { place, out }),
            _ => arch.dispatch(Multiply::<_, E, B, SHARED> { place, out }),
        }
        first += SHARED;
    }
}

struct Widen<'a, F, const E: usize, const B: usize>
where
    F: Fn(&[u8; B], &mut [f32; E]) -> Option<f32>,
{
    stored: &'a [u8],
    out: &'a mut [f32],
    block: F,
}

impl<F: Fn(&[u8; B], &mut [f32; E]) -> Option<f32>, const E: usize, const B: usize> NullaryFnOnce for Widen<'_, F, E, B> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (blocks, end) = self.stored.as_chunks::<B>();
        let (places, rest) = self.out.as_chunks_mut::<E>();
        let widened = |block: &[u8; B]| {
            // On its own, where the compiler knows that it does not overlap the block.
            let mut wide = [0.0; E];
            match (self.block)(block, &mut wide) {
                Some(factor) => wide.map(|x| x * factor),
                None => wide,
            }
        };
        for (block, place) in blocks.iter().zip(places) {
            *place = widened(block);
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&widened(&padded(end))[..rest.len()]);
        }
    }
}

/// Rows of f32 from `first` on times stored rows.
#[derive(Clone, Copy)]
struct Place<'a, F> {
    stored: &'a [u8],
    x: &'a [f32],
    inner: usize,
    first: usize,
    rows: usize,
    block: F,
}

struct Multiply<'a, F, const E: usize, const B: usize, const R: usize> {
    place: Place<'a, F>,
    out: &'a mut [f32],
}

impl<F, const E: usize, const B: usize, const R: usize> WithSimd for Multiply<'_, F, E, B, R>
where
    F: Fn(&[u8; B], &mut [f32; E]) -> Option<f32> + Copy,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Place { stored, x, inner, first, rows, block } = self.place;
        let columns = self.out.len() / rows;
        let width = stored.len() / columns.max(1);
        // A row that is not there is the last once more.
        let mut xs: [&[f32]; R] = [&[]; R];
        for (r, row) in xs.iter_mut().enumerate() {
            *row = &x[(first + r).min(rows - 1) * inner..][..inner];
        }
        for (row, out) in stored.chunks_exact(width).zip(self.out.chunks_exact_mut(rows)) {
            let sums = dots(simd, row, xs, block);
            for (out, sum) in out[first..].iter_mut().zip(sums) {
                *out = sum;
            }
        }
    }
}

#[inline(always)]
fn dots<S: Simd, const E: usize, const B: usize, const R: usize>(
    simd: S,
    row: &[u8],
    xs: [&[f32]; R],
    block: impl Fn(&[u8; B], &mut [f32; E]) -> Option<f32>,
) -> [f32; R] {
    let mut sums = [[0.0; LANES]; R];
    let mut wide = [0.0; E];
    let (blocks, end) = row.as_chunks::<B>();
    for (i, stored) in blocks.iter().enumerate() {
        let factor = block(stored, &mut wide);
        for (x, sums) in xs.iter().zip(&mut sums) {
            if let Some(x) = x.as_chunks().0.get(i) {
                add(simd, sums, &wide, x, factor);
            }
        }
    }
    if !end.is_empty() {
        let factor = block(&padded(end), &mut wide);
        for (x, sums) in xs.iter().zip(&mut sums) {
            add(simd, sums, &wide, &padded(x.as_chunks::<E>().1), factor);
        }
    }
    let mut totals = [0.0; R];
    for (total, sums) in totals.iter_mut().zip(sums) {
        *total = sum(sums);
    }
    totals
}

#[inline(always)]
fn add<S: Simd, const E: usize>(simd: S, sums: &mut [f32; LANES], wide: &[f32; E], x: &[f32; E], factor: Option<f32>) {
    match factor {
        Some(factor) if size_of::<S::f32s>() <= size_of::<[f32; BLOCK_LANES]>() => add_block(simd, sums, wide, x, factor),
        Some(factor) => add_each(simd, sums, &wide.map(|w| w * factor), x),
        None => add_each(simd, sums, wide, x),
    }
}

#[inline(always)]
fn add_each<S: Simd, const E: usize>(simd: S, sums: &mut [f32; LANES], wide: &[f32; E], x: &[f32; E]) {
    let sums = S::as_mut_simd_f32s(sums).0;
    for (wide, x) in wide.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        let products = S::as_simd_f32s(wide).0.iter().zip(S::as_simd_f32s(x).0);
        for (sum, (wide, x)) in sums.iter_mut().zip(products) {
            *sum = simd.mul_add_e_f32s(*wide, *x, *sum);
        }
    }
}

/// One multiplication of the block's sums by its factor, instead of one of each element.
#[inline(always)]
fn add_block<S: Simd, const E: usize>(simd: S, sums: &mut [f32; LANES], wide: &[f32; E], x: &[f32; E], factor: f32) {
    let mut block = [0.0; BLOCK_LANES];
    for (wide, x) in wide.as_chunks::<BLOCK_LANES>().0.iter().zip(x.as_chunks::<BLOCK_LANES>().0) {
        let products = S::as_simd_f32s(wide).0.iter().zip(S::as_simd_f32s(x).0);
        for (sum, (wide, x)) in S::as_mut_simd_f32s(&mut block).0.iter_mut().zip(products) {
            *sum = simd.mul_add_e_f32s(*wide, *x, *sum);
        }
    }
    let factor = simd.splat_f32s(factor);
    let sums = S::as_mut_simd_f32s(&mut sums[..BLOCK_LANES]).0;
    for (sum, block) in sums.iter_mut().zip(S::as_simd_f32s(&block).0) {
        *sum = simd.mul_add_e_f32s(*block, factor, *sum);
    }
}

/// The sum of the lanes, as a tree.
#[inline(always)]
fn sum(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// The rest of a row, padded with zeros.
#[inline(always)]
fn padded<T: Copy + Default, const N: usize>(rest: &[T]) -> [T; N] {
    let mut out = [T::default(); N];
    out[..rest.len()].copy_from_slice(rest);
    out
}

#[cfg(test)]
mod tests;
