// What changes from one step to the next. Rows at and past `rows` are padding.
struct Step {
    rows: u32,        // live new tokens of this run, at most T
    end: u32,         // cache rows live after this step's write; 0xffffffff when the whole cache input is live
    seed: u32,
    draw: u32,
    temperature: f32,
    capacity: u32,    // rows of the caches that grow: what S = 0 stands for
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(8) var<uniform> step: Step;
