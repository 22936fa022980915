//! Query, key and value projections that a file holds as one matrix.

use crate::weights::{GgufEntry, GgufMetadata, row_bytes};

const FUSED: &str = ".attn_qkv.weight";
const PARTS: [&str; 3] = [".attn_q.weight", ".attn_k.weight", ".attn_v.weight"];

/// The tensors that an entry stands for: of `blk.N.attn_qkv.weight` the rows of N query heads, then K key heads, then K
/// value heads; itself otherwise.
///
/// # Errors
/// Says which rows there are where they are not those of so many heads.
pub(super) fn split(entry: GgufEntry, metadata: &GgufMetadata, architecture: &str) -> Result<Vec<GgufEntry>, String> {
    let (Some(block), [rows, inner]) = (entry.name.strip_suffix(FUSED), &entry.shape[..]) else {
        return Ok(vec![entry]);
    };
    let layer: usize = block.strip_prefix("blk.").and_then(|layer| layer.parse().ok()).unwrap_or(0);
    let heads = |key: &str| -> Result<Option<usize>, String> {
        let counts = metadata.sizes(&format!("{architecture}.attention.{key}"))?;
        Ok(counts.and_then(|counts| if counts.len() == 1 { counts.first().copied() } else { counts.get(layer).copied() }))
    };
    let Some(query) = heads("head_count")? else { return Ok(vec![entry]) };
    let key = heads("head_count_kv")?.unwrap_or(query);
    let all = key.checked_mul(2).and_then(|both| both.checked_add(query)).filter(|all| *all > 0 && rows.is_multiple_of(*all));
    let (Some(all), Some(row_bytes)) = (all, row_bytes(entry.dtype, *inner)) else {
        return Err(format!("tensor '{}' has {rows} rows, expected as many as {query} + 2 · {key} heads have", entry.name));
    };
    let head_dim = rows / all;
    let mut first = 0;
    let parts = PARTS.iter().zip([query, key, key]).map(|(part, heads)| {
        let shape = vec![heads * head_dim, *inner];
        let offset = entry.offset + first as u64 * row_bytes;
        first += shape[0];
        GgufEntry { name: format!("{block}{part}"), bytes: shape[0] as u64 * row_bytes, shape, dtype: entry.dtype, offset }
    });
    Ok(parts.collect())
}
