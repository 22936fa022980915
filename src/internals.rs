//! Items for tests, benchmarks and the examples that look inside, beside the public face. No part of it is stable.

/// Graphs below the public face: kernels as data, passes, cases.
pub mod ir {
    pub use crate::ir::{
        case::Case,
        choices::{Fallback, KernelChoices},
        decompose::decompose,
        options::LowerOptions,
    };

    /// A dispatch as data.
    pub mod kernel {
        pub use crate::ir::kernel::*;
    }

    /// Passes over graphs.
    pub mod passes {
        pub use crate::ir::passes::*;
    }

    pub use crate::ir::passes::PassReport;

    /// Inputs that follow from others.
    pub mod derive {
        pub use crate::ir::derive::*;
    }

    /// The bytes and operations of a dispatch.
    pub mod work {
        pub use crate::ir::work::*;
    }
}

/// From a graph to a plan.
pub mod lower {
    pub use crate::lower::*;
}

/// Plans as plain data.
pub mod plan {
    pub use crate::plan::*;
}

/// The CPU reference.
pub mod reference {
    pub use crate::reference::*;
}

/// Prepared plans and the parts that they are made of.
pub mod runtime {
    pub use crate::runtime::{
        arithmetic::{measure_arithmetic_rate, measure_matrix_rate},
        bandwidth::measure_copy_bandwidth,
        dispatch_cost::measure_dispatch_cost,
        pipeline::PipelineCache,
        prepared::{Bindings, PreparedPlan, Step},
        read_back::StagedRead,
        resident::{ResidentWeight, Shard},
        scratch::ScratchPool,
        upload::WeightUploader,
    };
}

/// Composed shaders.
pub mod shader {
    pub use crate::shader::*;
}

/// The first node where a device leaves the reference.
pub mod trace {
    pub use crate::trace::*;
}

/// Words of chat formats.
#[cfg(feature = "tokenizer")]
pub mod text {
    pub use crate::text::chat::content::words_before_frame;
}

/// Towers as graphs.
#[cfg(any(feature = "audio", feature = "vision"))]
pub mod tower {
    #[cfg(feature = "audio")]
    pub use crate::hearing::encoder::{clip_graph, clip_inputs, clip_profile};
    pub use crate::tower::TowerInputs;
    #[cfg(feature = "vision")]
    pub use crate::vision::encoder::{picture_graph, picture_inputs, picture_profile};
}

/// What each input of the graph is for the whole of `prompt`, by its name. Soft tokens take the rows of tables that the
/// id `pad` has.
///
/// # Errors
/// What is wrong with a table on the host.
pub fn prompt_inputs(
    built: &crate::flow::BuiltModel,
    prompt: &crate::prompt::Prompt,
    pad: u32,
) -> crate::Result<Vec<(String, crate::ir::Value)>> {
    let run = crate::runtime::RunTokens { tokens: prompt.tokens(), start: 0, soft: prompt.spans() };
    let none = crate::ir::DimBinding::new();
    let value = |input: &crate::ir::ops::Input| run.input(input, pad, &none, built.params());
    let inputs = built.graph.inputs().filter_map(|(_, input)| Some((input.name.clone(), value(input).transpose()?)));
    inputs.map(|(name, value)| Ok((name, value?))).collect()
}

/// The flow with soft tokens among its own, as generators and embedders have it: their rows and flags are inputs.
pub fn with_soft_tokens(flow: crate::GemmaFlow<'_>) -> crate::GemmaFlow<'_> {
    flow.soft_tokens(true)
}
