//! From a graph to a plan, in a straight line: decompose, fuse, and for each group place and emit.

mod bound;
mod emit;
mod fuse;
mod parts;
mod place;
mod region;
mod sequences;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bound::Bound;
pub use fuse::weights_of_one_operand;
pub use parts::{Part, parts};
use place::Placer;

use crate::{
    Error, Result,
    error::GraphError,
    ir::{
        Compute, DimBinding, Graph, LowerOptions, PassReport,
        kernel::Target,
        passes::{prepare, unmatched},
    },
    plan::Plan,
};

/// How weights lie on a device.
pub trait Residency {
    /// The rows of each binding that the weight was cut into; `None` takes
    /// [`row_shards`](crate::ir::kernel::row_shards).
    fn shards(&self, weight: &str) -> Option<Vec<Range<usize>>>;

    /// Returns `true` if the weight `second` begins in memory where `first` ends, so that one binding can hold both.
    fn adjoin(&self, first: &str, second: &str) -> bool;
}

/// Weights that are on no device yet: cut by the rule, each on its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unplaced;

impl Residency for Unplaced {
    fn shards(&self, _: &str) -> Option<Vec<Range<usize>>> {
        None
    }

    fn adjoin(&self, _: &str, _: &str) -> bool {
        false
    }
}

/// Weights as a generator will place them: cut by the rule, those that multiply one value one behind the other.
#[derive(Debug, Clone)]
pub struct Together(Vec<Vec<String>>);

impl Together {
    /// The weights of `graph`.
    pub fn of(graph: &Graph) -> Self {
        Self(weights_of_one_operand(graph))
    }
}

impl Residency for Together {
    fn shards(&self, _: &str) -> Option<Vec<Range<usize>>> {
        None
    }

    fn adjoin(&self, first: &str, second: &str) -> bool {
        self.0.iter().any(|list| list.windows(2).any(|pair| pair == [first, second]))
    }
}

/// Lowers `graph` with its symbols replaced by `binding` for a device like `target`, as `options` say; the plan holds
/// the report of the passes.
///
/// `residency` tells how the weights lie on the device.
///
/// # Errors
/// [`Error::Input`] for an unbound symbol, [`GraphError::Malformed`](crate::error::GraphError::Malformed) when a cache
/// value is read after it was overwritten in place, [`Error::Unsupported`] for what the device cannot bind or compute
/// or no kernel computes, [`GraphError::Unfused`](crate::error::GraphError::Unfused) as [`LowerOptions::assert_clean`]
/// asks.
pub fn lower(
    graph: &Graph,
    binding: &DimBinding,
    target: &Target,
    options: &LowerOptions,
    residency: &dyn Residency,
) -> Result<Plan> {
    let mut report = PassReport::default();
    let options = &possible(target, options, &mut report)?.for_graph(graph);
    let graph = prepare(graph, options, &mut report)?;
    for name in options.unmatched(graph.nodes()) {
        report.note(unmatched(&graph, name));
    }
    let bound = Bound::new(&graph, binding, target, options, residency)?;
    let groups = fuse::groups(&bound)?;
    let regions = fuse::own_regions(&bound, &groups);
    if options.assert_clean && !regions.is_empty() {
        return Err(Error::Graph(GraphError::Unfused { graph: graph.name.clone(), regions }));
    }
    report.add("fuse", graph.nodes().len(), groups.len(), None);
    let mut placer = Placer::new(&bound, &groups)?;
    for (step, group) in groups.iter().enumerate() {
        let placed = placer.place(group)?;
        let emitted = emit::emit(&bound, group, placed, placer.plan())?;
        placer.append(step, group, emitted)?;
    }
    Ok(Plan { report, ..placer.finish()? })
}

/// The options as far as the device allows them.
fn possible(target: &Target, options: &LowerOptions, report: &mut PassReport) -> Result<LowerOptions> {
    if options.compute == Compute::Auto && (target.cooperative.is_none() || options.batched) {
        return Ok(LowerOptions { compute: Compute::F32, ..options.clone() });
    }
    if options.compute != Compute::F16 || target.f16 {
        return Ok(options.clone());
    }
    if !options.mixed {
        let what = "precision.compute = \"f16\" with precision.mixed = \"none\" on a device without WGSL's f16 \
                    (mixed = \"auto\" would compute in f32 there)";
        return Err(Error::Unsupported(what.into()));
    }
    report.note("precision.compute = \"f16\": this device has no f16, products are computed in f32".into());
    Ok(LowerOptions { compute: Compute::F32, ..options.clone() })
}
