//! The shader files, embedded.

macro_rules! table {
    ($($file:literal)+) => { &[$(($file, include_str!(concat!("../../shaders/", $file))),)+] };
}

/// Path below `shaders/` and text of every file that kernels are composed from.
pub(super) const SOURCES: &[(&str, &str)] = table!(
    "argmax.wgsl"
    "attention.wgsl"
    "attention_combine.wgsl"
    "cache_write.wgsl"
    "gather.wgsl"
    "half_rows.wgsl"
    "lib/lanes.wgsl"
    "lib/maxima.wgsl"
    "lib/new_row.wgsl"
    "lib/norm_operand.wgsl"
    "lib/operand.wgsl"
    "lib/ordered.wgsl"
    "lib/product.wgsl"
    "lib/step.wgsl"
    "lib/weight.wgsl"
    "lib/weight_wide.wgsl"
    "linear_coop.wgsl"
    "linear_tile.wgsl"
    "linear_tile_shared.wgsl"
    "linear_vec.wgsl"
    "linear_wide.wgsl"
    "matmul.wgsl"
    "reduce.wgsl"
    "region.wgsl"
    "rms_norm.wgsl"
    "rope.wgsl"
    "top_k.wgsl"
);

#[cfg(test)]
mod tests {
    use super::SOURCES;

    /// Shaders that are complete as they are and compiled by the module that uses them.
    const PLAIN: [&str; 3] = ["fill_random.wgsl", "multiply_add.wgsl", "read_memory.wgsl"];

    #[test]
    fn the_table_is_the_folder() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
        let mut found = Vec::new();
        for folder in ["", "lib/"] {
            for entry in std::fs::read_dir(format!("{root}/{folder}")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.ends_with(".wgsl") && !PLAIN.contains(&name.as_str()) {
                    found.push(format!("{folder}{name}"));
                }
            }
        }
        found.sort();
        assert_eq!(found, SOURCES.iter().map(|(file, _)| *file).collect::<Vec<_>>());
    }
}
