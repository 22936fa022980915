// The values that change from one step to the next. Rows at and past `rows` are padding.
struct Step {
    rows: u32,        // live new tokens of this run, at most T
    end: u32,         // cache rows live after this step's write; 0xffffffff when the whole cache input is live
    draw: f32,        // where a draw ends, as a part of the mass: 0 to 1
    top_k: u32,       // tokens that a draw keeps; 0: all
    temperature: f32,
    capacity: u32,    // rows of the caches that grow; the size where S = 0
    top_p: f32,       // part of the mass that a draw keeps
    min_p: f32,       // least probability that a draw keeps, as a part of the largest
    sequence: u32,    // where sequences lie apart: the row of this dispatch's sequence in all but its caches; else 0
}

@group(0) @binding(8) var<uniform> step: Step;
