//! The shader files, embedded.

use crate::checksum::Fnv;

macro_rules! table {
    ($($file:literal)+) => { &[$(($file, include_str!(concat!("../../shaders/", $file))),)+] };
}

/// Path below `shaders/` and text of every file that kernels are composed from.
pub(super) const SOURCES: &[(&str, &str)] = table!(
    "argmax.wgsl"
    "attention.wgsl"
    "attention_combine.wgsl"
    "attention_coop.wgsl"
    "attention_each.wgsl"
    "attention_few.wgsl"
    "attention_lanes.wgsl"
    "attention_tile.wgsl"
    "cache_write.wgsl"
    "conv2d.wgsl"
    "conv2d_lanes.wgsl"
    "expert_tiles.wgsl"
    "gather.wgsl"
    "half_rows.wgsl"
    "layer_norm.wgsl"
    "lib/attention.wgsl"
    "lib/attention_block.wgsl"
    "lib/cached.wgsl"
    "lib/convolution.wgsl"
    "lib/decode_prologue.wgsl"
    "lib/fifths.wgsl"
    "lib/half_units.wgsl"
    "lib/lanes.wgsl"
    "lib/lanes_each.wgsl"
    "lib/lanes_ends.wgsl"
    "lib/lookup.wgsl"
    "lib/maxima.wgsl"
    "lib/norm_operand.wgsl"
    "lib/operand.wgsl"
    "lib/ordered.wgsl"
    "lib/packed/IQ4_NL.wgsl"
    "lib/packed/IQ4_XS.wgsl"
    "lib/packed/MXFP4.wgsl"
    "lib/packed/Q2_K.wgsl"
    "lib/packed/Q3_K.wgsl"
    "lib/packed/Q4_0.wgsl"
    "lib/packed/Q4_1.wgsl"
    "lib/packed/Q4_K.wgsl"
    "lib/packed/Q5_0.wgsl"
    "lib/packed/Q5_1.wgsl"
    "lib/packed/Q5_K.wgsl"
    "lib/packed/Q6_K.wgsl"
    "lib/packed/Q8_0.wgsl"
    "lib/packed_share.wgsl"
    "lib/packed_turn.wgsl"
    "lib/packed_weight.wgsl"
    "lib/product.wgsl"
    "lib/row_gains.wgsl"
    "lib/rows.wgsl"
    "lib/scalar_turn.wgsl"
    "lib/scalar_weight.wgsl"
    "lib/scales_k.wgsl"
    "lib/score.wgsl"
    "lib/step.wgsl"
    "lib/store_columns.wgsl"
    "lib/subgroup.wgsl"
    "lib/subgroup_begin.wgsl"
    "lib/subgroup_inputs.wgsl"
    "lib/team_sums.wgsl"
    "lib/times.wgsl"
    "lib/turn.wgsl"
    "lib/turned_row.wgsl"
    "lib/visible.wgsl"
    "lib/weight.wgsl"
    "lib/weight_wide.wgsl"
    "lib/windows.wgsl"
    "linear_coop.wgsl"
    "linear_each.wgsl"
    "linear_tile.wgsl"
    "linear_tile_shared.wgsl"
    "linear_vec.wgsl"
    "linear_wide.wgsl"
    "matmul.wgsl"
    "reduce.wgsl"
    "region.wgsl"
    "relative_attention.wgsl"
    "rms_norm.wgsl"
    "rope.wgsl"
    "route.wgsl"
    "top_k.wgsl"
);

/// A number for the whole table.
pub(crate) fn fingerprint() -> u64 {
    let mut hash = Fnv::new();
    SOURCES.iter().for_each(|(_, text)| hash.add(text.as_bytes()));
    hash.value()
}

#[cfg(test)]
mod tests;
