//! The scalar functions: each one's name, meaning and WGSL text in one line.
//!
//! The reference and the shaders share nothing but this table.

// Arguments of WGSL's `tanh` are clamped to ±15: drivers with fast mathematics turn large ones into NaN, and tanh(15)
// is 1 in f32. A clamp makes a number of NaN; that of broken logits must stay to be noticed, which only its bits tell
// on such drivers.

fn gelu_tanh(x: f64) -> f64 {
    // ½(1 + tanh u) is 1 / (1 + e⁻²ᵘ).
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn unary(out: &mut [f32], [x]: [&[f32]; 1], f: impl Fn(f64) -> f64) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out = f(f64::from(*x)) as f32);
}

fn binary(out: &mut [f32], [a, b]: [&[f32]; 2], f: impl Fn(f64, f64) -> f64) {
    out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = f(f64::from(*a), f64::from(*b)) as f32);
}

/// One row a function: documentation, variant, name, meaning in f64, and WGSL text in which `§` (and `‖`) stand for the
/// operands.
macro_rules! scalar_table {
    ($(#[$doc:meta])* $kind:ident as $signature:ty, $fill:ident($operands:ty);
     $($(#[$vdoc:meta])* $variant:ident $name:literal $eval:expr, $wgsl:literal;)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $kind { $($(#[$vdoc])* $variant,)+ }

        impl $kind {
            /// Every function of this kind.
            pub const ALL: &'static [$kind] = &[$($kind::$variant,)+];

            /// The meaning, rounded to f32, of as many numbers as `out` holds.
            pub(crate) fn fill(self, out: &mut [f32], operands: $operands) {
                // One loop a function: one chosen for each number would be called for each.
                match self { $($kind::$variant => $fill(out, operands, $eval),)+ }
            }

            fn row(self) -> (&'static str, $signature, &'static str) {
                match self { $($kind::$variant => ($name, $eval, $wgsl),)+ }
            }

            /// The name used in printed graphs.
            pub fn name(self) -> &'static str {
                self.row().0
            }
        }
    };
}

scalar_table! {
    /// A function of one number.
    UnaryFn as fn(f64) -> f64, unary([&[f32]; 1]);
    /// −x
    Neg "neg" |x| -x, "(-§)";
    /// |x|
    Abs "abs" f64::abs, "abs(§)";
    /// eˣ
    Exp "exp" f64::exp, "exp(§)";
    /// ln x
    Log "log" f64::ln, "log(§)";
    /// √x
    Sqrt "sqrt" f64::sqrt, "sqrt(§)";
    /// 1/x
    Recip "recip" |x| 1.0 / x, "(1.0 / §)";
    /// tanh x
    Tanh "tanh" f64::tanh, "select(tanh(clamp(§, -15.0, 15.0)), §, (bitcast<u32>(§) & 0x7fffffffu) > 0x7f800000u)";
    /// 1/(1 + e⁻ˣ), the gate of a GLU, and the factor of SiLU
    Sigmoid "sigmoid" sigmoid, "select(0.5 + 0.5 * tanh(clamp(0.5 * §, -15.0, 15.0)), §, (bitcast<u32>(§) & 0x7fffffffu) > 0x7f800000u)";
    /// ½x(1 + tanh(√(2/π)(x + 0.044715x³))), the GELU of every Gemma (docs/gemma.md, GeGLU)
    GeluTanh "gelu_tanh" gelu_tanh, "(0.5 * § * (1.0 + tanh(clamp(0.7978845608028654 * (§ + 0.044715 * § * § * §), -15.0, 15.0))))";
}

scalar_table! {
    /// A function of two numbers. Comparisons give 1 or 0.
    BinaryFn as fn(f64, f64) -> f64, binary([&[f32]; 2]);
    /// a + b
    Add "add" |a, b| a + b, "(§ + ‖)";
    /// a − b
    Sub "sub" |a, b| a - b, "(§ - ‖)";
    /// a · b
    Mul "mul" |a, b| a * b, "(§ * ‖)";
    /// a / b
    Div "div" |a, b| a / b, "(§ / ‖)";
    /// the larger
    Max "max" f64::max, "max(§, ‖)";
    /// the smaller
    Min "min" f64::min, "min(§, ‖)";
    /// a < b
    Less "less" |a, b| f64::from(a < b), "select(0.0, 1.0, § < ‖)";
}

impl UnaryFn {
    /// The meaning.
    pub fn eval(self, x: f64) -> f64 {
        self.row().1(x)
    }

    /// The WGSL expression over an f32 operand.
    pub fn wgsl(self, x: &str) -> String {
        self.row().2.replace('§', x)
    }
}

impl BinaryFn {
    /// The meaning.
    pub fn eval(self, a: f64, b: f64) -> f64 {
        self.row().1(a, b)
    }

    /// The WGSL expression over f32 operands.
    pub fn wgsl(self, a: &str, b: &str) -> String {
        self.row().2.replace('§', a).replace('‖', b)
    }
}

#[cfg(test)]
mod tests;
