//! Low ranks of stacked experts, as PEFT's `target_parameters` keep them.

use super::keys::{Module, Role};
use crate::{
    gemma::{GemmaConfig, LayerWeight, WeightPosition},
    weights::Tensor,
};

/// Rank r of E experts by A `[E·r, K]` and B `[N, r·E]`: A has each expert's rows together, B's columns go over ranks,
/// and over the experts of each. Gives the stack that they fit, with B as `[E·N, r]`.
///
/// # Errors
/// Shapes that fit neither stack of the layer, or the rank `r` that the configuration says.
pub(super) fn parts(
    config: &GemmaConfig,
    layer: usize,
    rank: usize,
    module: &mut Module,
    name: &str,
) -> Result<(WeightPosition, Tensor, Tensor), String> {
    let a = module.take(Role::A, name)?;
    let b = module.take(Role::B, name)?;
    let stacks = [LayerWeight::ExpertGateUp, LayerWeight::ExpertDown].map(|weight| WeightPosition::Layer(layer, weight));
    let fits = |at: &WeightPosition| {
        let [experts, out, inner] = config.weight_shape(*at)[..] else { return None };
        let ranks = experts.checked_mul(rank)?;
        (a.shape() == [ranks, inner] && b.shape() == [out, ranks]).then_some([experts, out])
    };
    let found = stacks.iter().find_map(|at| fits(at).map(|sizes| (*at, sizes)));
    let Some((at, [experts, out])) = found else {
        let shapes = stacks.map(|at| format!("{at} {:?}", config.weight_shape(at)));
        let found = format!("A {:?} and B {:?}", a.shape(), b.shape());
        return Err(format!("{name} has {found}, which fit neither {} with rank {rank}", shapes.join(" nor ")));
    };
    let values = b.to_f32().map_err(|e| e.to_string())?;
    let mut by_expert = vec![0.0; values.len()];
    for (row, columns) in values.chunks_exact(rank * experts).enumerate() {
        for (at, value) in columns.iter().enumerate() {
            let r = at / experts;
            let expert = at % experts;
            by_expert[(expert * out + row) * rank + r] = *value;
        }
    }
    let b = Tensor::from_f32(b.name(), vec![experts * out, rank], &by_expert);
    Ok((at, a, b))
}
