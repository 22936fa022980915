//! What the library found out about the kernels of the measured shapes as it loaded them: which were wrong and
//! replaced, and which of several was fastest.

use gemmaflow::internals::ir::KernelChoices;

use crate::report::{Chosen, Replaced, Tuned};

/// The section of the report.
pub fn section(choices: &KernelChoices) -> Tuned {
    let replaced = |(op, fallback): (&str, gemmaflow::internals::ir::Fallback)| Replaced { op: op.into(), by: fallback.name() };
    Tuned {
        tested: choices.tested(),
        replaced: choices.fallbacks().map(replaced).collect(),
        chosen: choices.fastest().map(|(work, number)| Chosen { work: work.into(), number }).collect(),
    }
}
