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
    Result,
    ir::{DimBinding, Graph, decompose, kernel::Target},
    plan::Plan,
};

/// Lowers `graph` with its symbols replaced by `binding` for a device like `target`.
///
/// `shards` gives the rows of each binding that a resident weight was cut into; `None` takes
/// [`row_shards`](crate::ir::kernel::row_shards).
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) for an unbound symbol, [`Error::Graph`](crate::Error::Graph) when a cache value is read
/// after it was overwritten in place, [`Error::Unsupported`](crate::Error::Unsupported) for what the device cannot bind or no
/// kernel computes.
pub fn lower(
    graph: &Graph,
    binding: &DimBinding,
    target: &Target,
    shards: &dyn Fn(&str) -> Option<Vec<Range<usize>>>,
) -> Result<Plan> {
    let graph = decompose(graph)?;
    let bound = Bound::new(&graph, binding, target, shards)?;
    let groups = fuse::groups(&bound)?;
    place::place(&bound, &groups)
}
