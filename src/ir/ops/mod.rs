//! The closed set of ops, one definition each: shape rule, meaning, kernel, parity cases.

mod attend;
mod attention;
mod attention_cases;
mod attention_kernels;
mod attention_layouts;
mod cache_write;
mod conv2d;
mod elementwise;
mod expert_linear;
mod gather;
mod layer_norm;
mod linear;
mod linear_coop;
mod linear_vec;
mod matmul;
mod movement;
mod product;
mod reduce;
mod relative_attention;
mod rms_norm;
mod rope;
mod route;
mod softmax;
mod source;

pub use attention::{Attention, DEAD_KEY};
pub use cache_write::CacheWrite;
pub use conv2d::Conv2d;
pub use elementwise::{Binary, Cast, Select, Unary};
pub use expert_linear::ExpertLinear;
pub(crate) use expert_linear::{MOST_EXPERTS, MOST_UNGROUPED};
pub use gather::Gather;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use matmul::MatMul;
pub(crate) use movement::strides;
pub use movement::{Broadcast, Concat, Permute, Reshape, Slice};
pub use reduce::{Reduce, ReduceFn};
pub use relative_attention::RelativeAttention;
pub use rms_norm::{Gain, RmsNorm};
pub use rope::{Rope, cos_sin, rope_row, rope_rows};
pub use route::Route;
pub use softmax::Softmax;
pub use source::{Const, Input, PositionRule, Role, RopeTable, Weight};

use super::{Case, Data, FixedType, Graph, NodeId, Type, Value, emit::Emit, tolerance::Tolerance};
use crate::{Error, Result};

/// The definition of an op. A primitive has [`eval`](OpDef::eval), a composite [`decompose`](OpDef::decompose) (and may
/// have `eval` too, where materialising the decomposition would cost too much; a test holds the two equal).
pub trait OpDef {
    /// The name used in printed graphs.
    fn name(&self) -> &'static str;

    /// The attributes as printed, such as `{eps=1e-6}`.
    fn attributes(&self) -> String {
        String::new()
    }

    /// The result's type, or what is wrong with the operands.
    fn infer(&self, inputs: &[&Type]) -> Result<Type, String>;

    /// The meaning, on host arrays.
    fn eval(&self, inputs: &[&Value], output: &FixedType) -> Result<Data> {
        let _ = (inputs, output);
        Err(Error::Unsupported(format!("evaluating {} without its decomposition", self.name())))
    }

    /// The definition in terms of primitives; `None` for a primitive.
    fn decompose(&self, graph: &mut Graph, inputs: &[NodeId]) -> Option<Result<NodeId>> {
        let _ = (graph, inputs);
        None
    }

    /// Returns `true` if the reference runs the decomposition instead of [`eval`](OpDef::eval).
    fn runs_decomposed(&self) -> bool {
        false
    }

    /// How the op reaches a device.
    fn lowering(&self) -> Lowering {
        Lowering::Region
    }

    /// Emits the kernel of an op whose lowering is [`Lowering::Kernel`].
    fn emit(&self, emit: &mut Emit) -> Result<()> {
        Err(emit.refuse("has no kernel"))
    }

    /// Returns `true` if the kernel applies an elementwise epilogue to each result.
    fn takes_epilogue(&self) -> bool {
        false
    }

    /// Returns `true` if the kernel runs once for each shard of this operand, a weight that is larger than a binding.
    fn takes_shards(&self, operand: usize) -> bool {
        let _ = operand;
        false
    }

    /// How far a kernel in f32 may be from the meaning in a case, with the reason.
    fn tolerance(&self, case: &Case) -> Tolerance {
        let _ = case;
        Tolerance::EXACT
    }

    /// How far a kernel may be from it that rounds what it multiplies to f16.
    fn half_tolerance(&self, case: &Case) -> Tolerance {
        self.tolerance(case)
    }

    /// Inputs on which every kernel must agree with the meaning.
    fn cases(&self) -> Vec<Case> {
        Vec::new()
    }
}

/// How an op reaches a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lowering {
    /// It is given: an input, a weight.
    Source,
    /// It becomes part of a generated elementwise region, or of its reader's index arithmetic.
    Region,
    /// It has a kernel.
    Kernel,
    /// It is replaced by its decomposition.
    Decompose,
}

macro_rules! ops {
    ($($name:ident),+ $(,)?) => {
        /// Any op.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)+
        }

        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })+

        impl Op {
            /// The definition.
            pub fn def(&self) -> &(dyn OpDef + 'static) {
                match self { $(Op::$name(op) => op,)+ }
            }

            /// One example of every op, in order: what the parity suite and the docs walk.
            pub fn examples() -> Vec<Op> {
                vec![$($name::example().into(),)+]
            }
        }
    };
}

ops!(
    Input,
    Weight,
    Const,
    Unary,
    Binary,
    Select,
    Cast,
    Reshape,
    Permute,
    Broadcast,
    Slice,
    Concat,
    MatMul,
    Reduce,
    Gather,
    CacheWrite,
    RmsNorm,
    LayerNorm,
    Softmax,
    Rope,
    Linear,
    Conv2d,
    Attention,
    RelativeAttention,
    Route,
    ExpertLinear,
);

impl std::ops::Deref for Op {
    type Target = dyn OpDef + 'static;

    fn deref(&self) -> &Self::Target {
        self.def()
    }
}

/// Checks the number of operands.
pub(crate) fn expect_operands<'a, const N: usize>(inputs: &[&'a Type]) -> Result<[&'a Type; N], String> {
    inputs.try_into().map_err(|_| format!("{} operands, expected {N}", inputs.len()))
}
