//! From a graph to a plan: decompose, decide what is materialised, write the generated WGSL, place values in slots.

mod bound;
mod fuse;
mod place;
mod region;
#[cfg(test)]
mod tests;

use std::ops::Range;

use bound::Bound;

use crate::{
    Error, Result,
    ir::{
        Compute, DimBinding, Graph, LowerOptions, PassReport,
        kernel::Target,
        passes::{prepare, unmatched},
    },
    plan::Plan,
};

/// Lowers `graph` with its symbols replaced by `binding` for a device like `target`, as `options` say; the plan reports what
/// the passes did.
///
/// `shards` gives the rows of each binding that a resident weight was cut into; `None` takes
/// [`row_shards`](crate::ir::kernel::row_shards).
///
/// # Errors
/// [`Error::Input`] for an unbound symbol, [`Error::Graph`] when a cache value is read after it was overwritten in place,
/// [`Error::Unsupported`] for what the device cannot bind or compute or no kernel computes, [`Error::Unfused`] as
/// [`LowerOptions::assert_clean`] asks.
pub fn lower(
    graph: &Graph,
    binding: &DimBinding,
    target: &Target,
    options: &LowerOptions,
    shards: &dyn Fn(&str) -> Option<Vec<Range<usize>>>,
) -> Result<Plan> {
    let mut report = PassReport::default();
    let options = &possible(target, options, &mut report)?;
    let graph = prepare(graph, options, &mut report)?;
    for name in options.unmatched(graph.nodes()) {
        report.note(unmatched(&graph, name));
    }
    let bound = Bound::new(&graph, binding, target, options, shards)?;
    let groups = fuse::groups(&bound)?;
    let regions = fuse::own_regions(&bound, &groups);
    if options.assert_clean && !regions.is_empty() {
        return Err(Error::Unfused { graph: graph.name.clone(), regions });
    }
    report.add("fuse", graph.nodes().len(), groups.len(), None);
    Ok(Plan { report, ..place::place(&bound, &groups)? })
}

/// The options as far as the device allows them.
fn possible(target: &Target, options: &LowerOptions, report: &mut PassReport) -> Result<LowerOptions> {
    if options.compute == Compute::F32 || target.f16 {
        return Ok(options.clone());
    }
    if !options.mixed {
        let what = "precision.compute = \"f16\" with precision.mixed = \"none\" on a device without WGSL's f16 (mixed = \"auto\" would compute in f32 there)";
        return Err(Error::Unsupported(what.into()));
    }
    report.note("precision.compute = \"f16\": this device has no f16, products are computed in f32".into());
    Ok(LowerOptions { compute: Compute::F32, ..options.clone() })
}
