// The rows of x and of the weight that a workgroup of a linear multiplies, and the places of the results.
// `tile_of` gives the workgroup's tile; `x_row` and `y_row` give row j of a tile in x and in y, `weight_row` column n
// in the weight.
// Constant: HEIGHT, the most rows of a tile. Options: EXPERTS =
//   no: neighbouring rows of x [T, IN] by all of W [OUT, IN];
//   each: one product a tile (HEIGHT = 1), by the expert that the route [T/TOP, 2, TOP] at binding 6 names for it;
//   tiles: products of one expert, as expert_tiles.wgsl lists them: TILES tiles at binding 6, their products at 7.
// With experts product p of T is row p/SHARE of x by the rows e*OUT .. (e+1)*OUT of W [E*OUT, IN]. The BOUND rows from
// FIRST_ROW on are bound: only results of these are written.
struct Tile {
    // Of the rows or of the list.
    first: u32,
    count: u32,
    // The bound row that column 0 stands for, modulo 2^32.
    weight: u32,
}
#if EXPERTS == no
fn tile_count() -> u32 { return (T + HEIGHT - 1u) / HEIGHT; }
fn tile_of(index: u32) -> Tile {
    let first = min(index * HEIGHT, T);
    return Tile(first, min(HEIGHT, T - first), 0u);
}
fn x_row(tile: Tile, j: u32) -> u32 { return min(tile.first + j, T - 1u); }
fn y_row(tile: Tile, j: u32) -> u32 { return tile.first + j; }
fn weight_row(tile: Tile, n: u32) -> u32 { return n; }
fn is_held(tile: Tile, n: u32) -> bool { return true; }
fn is_idle(tile: Tile, n0: u32, width: u32) -> bool { return tile.count == 0u; }
#else
override E: u32;
override SHARE: u32;
override FIRST_ROW: u32;
override BOUND: u32;
fn tile_from(expert: u32, first: u32, count: u32) -> Tile { return Tile(first, count, min(expert, E - 1u) * OUT - FIRST_ROW); }
fn weight_row(tile: Tile, n: u32) -> u32 { return min(tile.weight + n, BOUND - 1u); }
fn is_held(tile: Tile, n: u32) -> bool { return tile.weight + n < BOUND; }
// True if none of the columns n0 .. n0+width is bound.
fn is_idle(tile: Tile, n0: u32, width: u32) -> bool {
    let first = tile.weight + n0;
    return tile.count == 0u || (first >= BOUND && first + width - 1u >= BOUND);
}
#if EXPERTS == each
override TOP: u32;
@group(0) @binding(6) var<storage, read> route: array<f32>;
fn tile_count() -> u32 { return T; }
fn tile_of(index: u32) -> Tile { return tile_from(u32(route[index / TOP * 2u * TOP + index % TOP]), index, 1u); }
fn y_row(tile: Tile, j: u32) -> u32 { return tile.first; }
#elif EXPERTS == tiles
override TILES: u32;
@group(0) @binding(6) var<storage, read> tiles: array<vec4<u32>>;
@group(0) @binding(7) var<storage, read> order: array<u32>;
fn tile_count() -> u32 { return TILES; }
fn tile_of(index: u32) -> Tile {
    let tile = tiles[index];
    return tile_from(tile.x, tile.y, tile.z);
}
fn y_row(tile: Tile, j: u32) -> u32 { return order[tile.first + min(j, tile.count - 1u)]; }
#endif
fn x_row(tile: Tile, j: u32) -> u32 { return y_row(tile, j) / SHARE; }
#endif
