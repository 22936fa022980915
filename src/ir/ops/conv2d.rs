//! Two-dimensional convolution over channels-innermost pictures.

use rayon::prelude::*;

use super::{Lowering, OpDef, linear::LinearParams, linear_coop::HalfRows};
use crate::{
    Result,
    ir::{
        Case, DType, Data, Dim, FixedType, Shape, Type, Value,
        emit::Emit,
        expect_dtype,
        kernel::{Kernel, weight_option},
        tolerance::{Scale, Tolerance},
        work::Work,
    },
};

/// `y[b, i, j, o] = Σ x[b, i·s + r − top, j·s + q − left, c] · W[o, c, r, q] + β[o]`, in f32, as torch's `conv2d`
/// computes it: a correlation, and x is zero outside. Sums over c and over the taps r and q; with groups over c = o.
///
/// Operands: x `[B, H, W, C]`, the weight `[O, C/groups, kh, kw]` as torch stores it, and with `bias` β `[O]` of the
/// weight's type. The result is `[B, H', W', O]`, `H' = ⌊(H + top + bottom − kh)/s⌋ + 1` and W' likewise.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv2d {
    /// s, the same both ways.
    pub stride: usize,
    /// Rows and columns of zeros: top, bottom, left, right.
    pub padding: [usize; 4],
    /// 1, or C (depthwise), where O = C.
    pub groups: usize,
    /// True if there is a β.
    pub bias: bool,
}

/// The size of the result along a dimension of `size` with `padding` zeros. A symbol stays one with stride 1 alone.
fn slid(size: Dim, padding: usize, kernel: usize, stride: usize) -> Option<Dim> {
    match size.fixed() {
        Some(size) => Some(((size + padding).checked_sub(kernel)? / stride + 1).into()),
        None if stride == 1 => size.checked_add((padding + 1).checked_sub(kernel)?.into()),
        None => None,
    }
}

/// The dimensions of an operand, which has four.
fn four(value: &Value) -> [usize; 4] {
    std::array::from_fn(|i| value.shape[i])
}

/// One position of the result: the taps that lie in x, as places of a pixel's first element and numbers of the tap.
struct Taps {
    height: usize,
    width: usize,
    channels: usize,
    kernel: [usize; 2],
    stride: usize,
    /// Top and left.
    before: [usize; 2],
}

impl Taps {
    fn at(&self, picture: usize, row: usize, column: usize) -> impl Iterator<Item = (usize, usize)> {
        let [rows, columns] = self.kernel;
        (0..rows * columns).filter_map(move |tap| {
            let y = (row * self.stride + tap / columns).checked_sub(self.before[0])?;
            let x = (column * self.stride + tap % columns).checked_sub(self.before[1])?;
            let inside = y < self.height && x < self.width;
            inside.then_some((((picture * self.height + y) * self.width + x) * self.channels, tap))
        })
    }
}

impl Conv2d {
    pub(super) fn example() -> Self {
        Self { stride: 2, padding: [0, 1, 0, 1], groups: 1, bias: true }
    }

    /// Top and bottom, left and right.
    fn padded(&self) -> [usize; 2] {
        let [top, bottom, left, right] = self.padding;
        [top + bottom, left + right]
    }

    /// The weight `[O, C/groups, taps]` as `[taps, C/groups, O]`.
    fn tap_first(weight: &[f32], [out, channels, taps]: [usize; 3]) -> Vec<f32> {
        let mut turned = vec![0.0; weight.len()];
        for (at, value) in weight.iter().enumerate() {
            let [o, c, tap] = [at / (channels * taps), at / taps % channels, at % taps];
            turned[(tap * channels + c) * out + o] = *value;
        }
        turned
    }

    /// The sizes of `lib/windows.wgsl`.
    fn windows(&self, emit: &Emit) -> Vec<(&'static str, f64)> {
        let x = &emit.inputs[0].ty.shape;
        let weight = &emit.inputs[1].ty.shape;
        let y = &emit.output.ty.shape;
        let sizes = [
            ("IN_HEIGHT", x[1]),
            ("IN_WIDTH", x[2]),
            ("C", x[3]),
            ("OUT_HEIGHT", y[1]),
            ("OUT_WIDTH", y[2]),
            ("IN", weight[1..].iter().product()),
            ("KH", weight[2]),
            ("KW", weight[3]),
            ("STRIDE", self.stride),
            ("TOP", self.padding[0]),
            ("LEFT", self.padding[2]),
        ];
        sizes.map(|(name, size)| (name, size as f64)).to_vec()
    }

    /// What lies under the taps, as rows for cooperative matrices, which add no bias.
    fn half_windows(&self, emit: &mut Emit) -> Option<HalfRows> {
        if self.groups != 1 || self.bias {
            return None;
        }
        let weight = emit.inputs[1].clone();
        HalfRows::of_windows(emit, &weight, &self.windows(emit))
    }

    /// The kernel and its workgroups.
    fn kernel(&self, emit: &Emit) -> (Kernel, usize) {
        let weight = &emit.inputs[1].ty.shape;
        let bias = if self.bias { "yes" } else { "no" };
        let mut options = vec![("BIAS", bias.into()), weight_option(emit.inputs[1].ty.dtype), ("WEIGHTS", "1".into())];
        let positions = emit.output.ty.rows();
        let out = emit.output.ty.last();
        let mut overrides = self.windows(emit);
        overrides.extend([("P", positions as f64), ("O", out as f64)]);
        let params = LinearParams::of(emit.target);
        let (shader, count) = if self.groups != 1 {
            options.extend([("GROUPS", "all".into()), ("VEC", "1".into())]);
            ("conv2d", (positions.div_ceil(4) * out).div_ceil(64))
        } else if params.software {
            let tile = out.div_ceil(params.lanes).min(4);
            let held = positions.min(8);
            let vector = if weight[1..].iter().product::<usize>().is_multiple_of(8) && !self.bias { 8 } else { 1 };
            let sizes = [("LANES", params.lanes), ("NR", tile), ("ROWS", held), ("VEC", vector)];
            options.extend(sizes.map(|(name, size)| (name, size.to_string())));
            options.extend([("EXPERTS", "no".into()), ("MAXIMA", "no".into())]);
            ("conv2d_lanes", positions.div_ceil(held) * out.div_ceil(tile * params.lanes))
        } else {
            options.extend([("GROUPS", "one".into()), ("VEC", "1".into())]);
            ("conv2d", positions.div_ceil(64) * out.div_ceil(64))
        };
        (Kernel { shader, options, overrides, hole: emit.epilogue.text.clone() }, count)
    }
}

impl OpDef for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn attributes(&self) -> String {
        let Self { stride, padding: [top, bottom, left, right], groups, bias } = self;
        format!("{{stride={stride}, padding={top} {bottom} {left} {right}, groups={groups}, bias={bias}}}")
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let operands = 2 + usize::from(self.bias);
        if inputs.len() != operands {
            return Err(format!("{} operands, expected {operands}", inputs.len()));
        }
        expect_dtype("x", inputs[0], &[DType::F32])?;
        expect_dtype("the weight", inputs[1], &[DType::F32, DType::F16, DType::BF16])?;
        let ([batch, height, width, channels], Some([out, depth, rows, columns])) =
            (&inputs[0].shape.0[..], inputs[1].shape.fixed().and_then(|shape| <[usize; 4]>::try_from(shape).ok()))
        else {
            return Err("expected x [B, H, W, C] and a weight [O, C/groups, kh, kw]".into());
        };
        let depthwise = self.groups != 1;
        let fits = channels.fixed() == Some(depth * self.groups) && (!depthwise || (depth == 1 && out == self.groups));
        if !fits || depth * out * rows * columns == 0 || self.stride == 0 {
            let expected = "groups of 1, or of C with a weight [C, 1, kh, kw]; and a stride from 1 on";
            return Err(format!("x {} by {} with {}, expected {expected}", inputs[0], inputs[1], self.attributes()));
        }
        if inputs[2..].iter().any(|bias| bias.dtype != inputs[1].dtype || bias.shape != [out].into()) {
            return Err(format!("the bias must be {}[{out}]", inputs[1].dtype));
        }
        let slid = |size: Dim, padding, kernel, what: &str| {
            let expected = "at least the kernel's, and with a stride above 1 a number";
            slid(size, padding, kernel, self.stride)
                .ok_or_else(|| format!("{what} is {size} with {padding} of zeros for a kernel of {kernel}, expected {expected}"))
        };
        let [above, beside] = self.padded();
        let height = slid(*height, above, rows, "the height")?;
        let width = slid(*width, beside, columns, "the width")?;
        Ok(Type { dtype: DType::F32, shape: Shape(vec![*batch, height, width, out.into()]) })
    }

    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let weight = inputs[1].to_f32()?;
        let [_, height, width, channels] = four(inputs[0]);
        let [out, depth, rows, columns] = four(inputs[1]);
        let weight = Self::tap_first(&weight, [out, depth, rows * columns]);
        let bias = match inputs.get(2) {
            Some(bias) => bias.to_f32()?.iter().map(|x| f64::from(*x)).collect(),
            None => vec![0.0; out],
        };
        let before = [self.padding[0], self.padding[2]];
        let taps = Taps { height, width, channels, kernel: [rows, columns], stride: self.stride, before };
        let [of_row, of_picture] = [output.shape[2], output.shape[1] * output.shape[2]];
        let mut results = vec![0.0; output.len()];
        results.par_chunks_exact_mut(out).enumerate().for_each(|(p, result)| {
            let mut sums: Vec<f64> = bias.clone();
            for (pixel, tap) in taps.at(p / of_picture, p % of_picture / of_row, p % of_row) {
                let weight = &weight[tap * depth * out..(tap + 1) * depth * out];
                let x = &x[pixel..pixel + channels];
                if self.groups == 1 {
                    for (x, weight) in x.iter().zip(weight.chunks_exact(out)) {
                        sums.iter_mut().zip(weight).for_each(|(sum, w)| *sum += f64::from(*x) * f64::from(*w));
                    }
                } else {
                    sums.iter_mut().zip(x).zip(weight).for_each(|((sum, x), w)| *sum += f64::from(*x) * f64::from(*w));
                }
            }
            result.iter_mut().zip(sums).for_each(|(result, sum)| *result = sum as f32);
        });
        Ok(Data::F32(results))
    }

    fn lowering(&self) -> Lowering {
        Lowering::Kernel
    }

    fn emit(&self, emit: &mut Emit) -> Result<()> {
        let elements = emit.output.ty.len();
        let inner: usize = emit.inputs[1].ty.shape[1..].iter().product();
        let halves = self.half_windows(emit);
        let (kernel, count) = match &halves {
            Some(halves) => halves.kernel(emit, &emit.inputs[1..2], emit.output.ty.last()),
            None => self.kernel(emit),
        };
        let operand = halves.as_ref().map_or_else(|| emit.inputs[0].operand(), HalfRows::operand);
        let mut bindings = vec![(0, operand), (1, emit.output.operand())];
        bindings.extend((2..).zip(emit.inputs[1..].iter().map(|weight| weight.operand())));
        bindings.extend(halves.iter().map(|halves| (4, halves.scales())));
        bindings.extend(emit.epilogue_bindings(0));
        let [read, elements, inner] = [emit.inputs[0].ty.len(), elements, inner].map(|count| count as u64);
        let moved = read + elements * (1 + emit.epilogue.operands.len() as u64);
        emit.dispatch(kernel, bindings, [count, 1], Work::of(4 * moved, 2 * inner * elements));
        Ok(())
    }

    fn takes_epilogue(&self) -> bool {
        true
    }

    fn tolerance(&self, case: &Case) -> Tolerance {
        let products: usize = case.inputs[1].shape[1..].iter().product();
        Tolerance::new(Tolerance::of_sum(products + 1), Scale::Absolute, 0.0)
    }

    fn half_tolerance(&self, case: &Case) -> Tolerance {
        self.tolerance(case).of_half_products(case.inputs[1].shape[1..].iter().product())
    }

    fn cases(&self) -> Vec<Case> {
        let case = |op: Conv2d, x: [usize; 4], out: usize, kernel: [usize; 2], dtype| {
            let name = format!("{x:?} to {out} by {kernel:?} {} {dtype}", op.attributes());
            let weight = Case::weight(&[out, x[3] / op.groups, kernel[0], kernel[1]], 2, 0.5, dtype);
            let bias = op.bias.then(|| Case::weight(&[out], 3, 1.0, dtype));
            Case::new(name, op, [Case::values(&x, 1, 1.0), weight].into_iter().chain(bias).collect())
        };
        let dense = |stride, padding, bias| Conv2d { stride, padding, groups: 1, bias };
        let deep = |stride, padding, groups| Conv2d { stride, padding, groups, bias: false };
        vec![
            case(dense(1, [0; 4], true), [1, 1, 1, 1], 1, [1, 1], DType::F32),
            case(dense(2, [0, 1, 0, 1], true), [1, 16, 12, 3], 8, [3, 3], DType::BF16),
            case(dense(2, [1; 4], false), [1, 13, 9, 5], 70, [3, 3], DType::F16),
            case(dense(2, [0, 2, 1, 1], false), [1, 17, 16, 1], 9, [3, 3], DType::F32),
            case(dense(2, [0, 2, 1, 1], false), [1, 9, 8, 64], 32, [3, 3], DType::BF16),
            case(dense(1, [1; 4], false), [1, 9, 11, 16], 33, [3, 3], DType::BF16),
            case(dense(1, [1; 4], true), [2, 5, 7, 17], 65, [3, 3], DType::F32),
            case(dense(1, [0; 4], false), [1, 3, 5, 33], 6, [1, 1], DType::BF16),
            case(dense(1, [4, 0, 0, 0], false), [1, 6, 1, 4], 4, [5, 1], DType::F32),
            case(deep(1, [1; 4], 7), [1, 5, 6, 7], 7, [3, 3], DType::BF16),
            case(deep(2, [0, 1, 0, 1], 66), [1, 8, 6, 66], 66, [3, 3], DType::F16),
            case(deep(2, [1; 4], 3), [1, 9, 7, 3], 3, [3, 3], DType::F32),
            case(deep(1, [2; 4], 24), [2, 5, 4, 24], 24, [5, 5], DType::F32),
            case(deep(2, [1, 2, 1, 2], 5), [1, 8, 10, 5], 5, [5, 5], DType::BF16),
            case(deep(1, [4, 0, 0, 0], 16), [1, 11, 1, 16], 16, [5, 1], DType::F32),
            case(Conv2d { bias: true, ..deep(2, [2; 4], 9) }, [1, 11, 7, 9], 9, [5, 5], DType::F32),
        ]
    }
}
