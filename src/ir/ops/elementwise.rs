//! Ops that work element by element. Their WGSL is generated from the scalar table.

use rayon::prelude::*;

use super::{OpDef, expect_operands};
use crate::{
    Result,
    ir::{
        BinaryFn, Case, DType, Data, FixedType, Type, UnaryFn, Value, expect_dtype,
        tolerance::{EPS, Scale, Tolerance},
    },
};

/// Elements below which a thread of the reference does not share its work.
pub(super) const SHARE: usize = 8192;

/// `f(x)`, f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Unary {
    /// The scalar function.
    pub f: UnaryFn,
}

impl Unary {
    pub(super) fn example() -> Self {
        Self { f: UnaryFn::Neg }
    }
}

impl OpDef for Unary {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        expect_dtype("the operand", x, &[DType::F32])?;
        Ok(x.clone())
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let x = inputs[0].to_f32()?;
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(SHARE).zip(x.par_chunks(SHARE)).for_each(|(out, x)| self.f.fill(out, [x]));
        Ok(Data::F32(out))
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        match self.f {
            UnaryFn::Neg | UnaryFn::Abs => Tolerance::EXACT,
            // WGSL: exp within 3 + 2|x| ULP, |x| ≤ 4 in the cases.
            UnaryFn::Exp => Tolerance::new(12.0 * EPS, Scale::Result, 0.0),
            // WGSL: log within 2⁻²¹ on [0.5, 2], else 3 ULP.
            UnaryFn::Log => Tolerance::new(3.0 * EPS, Scale::Result, 4.8e-7),
            // WGSL: sqrt is 1/inverseSqrt: 2 ULP, then 2.5.
            UnaryFn::Sqrt => Tolerance::new(5.0 * EPS, Scale::Result, 0.0),
            UnaryFn::Recip => Tolerance::new(2.5 * EPS, Scale::Result, 0.0),
            // WGSL: tanh is sinh/cosh, each a difference or sum of two exp of up to 3 + 2|x| ULP; WGSL bounds it
            // absolutely.
            UnaryFn::Tanh => Tolerance::new(0.0, Scale::Result, 1e-6),
            // Half of tanh's.
            UnaryFn::Sigmoid => Tolerance::new(EPS, Scale::Result, 5e-7),
            // ½x(1 + tanh): the error of tanh times x where tanh is not ±1, and a ULP of tanh times x where it is.
            UnaryFn::GeluTanh => Tolerance::new(EPS, Scale::Largest(0), 4e-6),
        }
    }

    fn cases(&self) -> Vec<Case> {
        UnaryFn::ALL
            .iter()
            .map(|&f| {
                let positive = matches!(f, UnaryFn::Log | UnaryFn::Sqrt | UnaryFn::Recip);
                let x = if positive { Case::positive(&[3, 67], 1) } else { Case::values(&[3, 67], 1, 4.0) };
                Case::new(f.name(), Unary { f }, vec![x])
            })
            .chain([UnaryFn::Tanh, UnaryFn::Sigmoid, UnaryFn::GeluTanh].map(|f| {
                let extremes = Value::f32([1, 6], vec![-1e4, -30.0, -15.0, 15.0, 30.0, 1e4]);
                Case::new("extremes", Unary { f }, vec![extremes])
            }))
            .collect()
    }
}

/// `f(a, b)`, f32, operands of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Binary {
    /// The scalar function.
    pub f: BinaryFn,
}

impl Binary {
    pub(super) fn example() -> Self {
        Self { f: BinaryFn::Add }
    }
}

impl OpDef for Binary {
    fn name(&self) -> &'static str {
        self.f.name()
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [a, b] = expect_operands(inputs)?;
        expect_dtype("the left operand", a, &[DType::F32])?;
        if a != b {
            return Err("both operands must have one type".into());
        }
        Ok(a.clone())
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let a = inputs[0].to_f32()?;
        let b = inputs[1].to_f32()?;
        let mut out = vec![0.0; a.len()];
        let parts = out.par_chunks_mut(SHARE).zip(a.par_chunks(SHARE)).zip(b.par_chunks(SHARE));
        parts.for_each(|((out, a), b)| self.f.fill(out, [a, b]));
        Ok(Data::F32(out))
    }

    fn tolerance(&self, _: &Case) -> Tolerance {
        match self.f {
            // WGSL: division within 2.5 ULP.
            BinaryFn::Div => Tolerance::new(2.5 * EPS, Scale::Result, 0.0),
            // IEEE 754 rounds these correctly, and no case has subnormals.
            _ => Tolerance::EXACT,
        }
    }

    fn cases(&self) -> Vec<Case> {
        let operands = || vec![Case::values(&[5, 33], 1, 3.0), Case::positive(&[5, 33], 2)];
        BinaryFn::ALL.iter().map(|&f| Case::new(f.name(), Binary { f }, operands())).collect()
    }
}

/// `if condition > 0.5 { a } else { b }`, f32, operands of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Select;

impl Select {
    pub(super) fn example() -> Self {
        Self
    }
}

impl OpDef for Select {
    fn name(&self) -> &'static str {
        "select"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [condition, a, b] = expect_operands(inputs)?;
        expect_dtype("the condition", condition, &[DType::F32])?;
        if condition != a || a != b {
            return Err("all operands must have one type".into());
        }
        Ok(a.clone())
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        let c = inputs[0].to_f32()?;
        let a = inputs[1].to_f32()?;
        let b = inputs[2].to_f32()?;
        Ok(Data::F32((0..c.len()).map(|i| if c[i] > 0.5 { a[i] } else { b[i] }).collect()))
    }

    fn cases(&self) -> Vec<Case> {
        let operands = vec![Case::values(&[70], 1, 1.0), Case::values(&[70], 2, 1.0), Case::values(&[70], 3, 1.0)];
        vec![Case::new("select", Select, operands)]
    }
}

/// Widens or converts to f32.
#[derive(Debug, Clone, PartialEq)]
pub struct Cast;

impl Cast {
    pub(super) fn example() -> Self {
        Self
    }
}

impl OpDef for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, inputs: &[&Type]) -> Result<Type, String> {
        let [x] = expect_operands(inputs)?;
        Ok(Type { dtype: DType::F32, shape: x.shape.clone() })
    }

    fn eval(&self, inputs: &[&Value], _: &FixedType) -> Result<Data> {
        Ok(Data::F32(inputs[0].to_f32()?.into_owned()))
    }

    fn cases(&self) -> Vec<Case> {
        let stored = |dtype| Case::new(dtype, Cast, vec![Case::weight(&[7, 9], 1, 2.0, dtype)]);
        let integers = Value::i32([4], vec![-3, 0, 131_071, 16_777_216]);
        vec![stored(DType::F32), stored(DType::F16), stored(DType::BF16), Case::new("i32", Cast, vec![integers])]
    }
}
