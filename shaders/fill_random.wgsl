// words[i] = bits of one F32, or of two F16 or BF16, uniform in [-scale, scale).
//
// Value e is a function of seed and of the element's index first + e alone: a weight that is split has the same values.
// One invocation writes one word, a workgroup 256 consecutive words. Workgroups run over x, then y.

struct Params {
    seed: u32,
    scale: f32,
    // Index of the first element in the whole weight.
    first: u32,
    elements: u32,
    // 0 F32, 1 F16, 2 BF16.
    format: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;

// PCG (RXS-M-XS, 32 bits), O'Neill 2014.
fn pcg(value: u32) -> u32 {
    let state = value * 747796405u + 2891336453u;
    let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
    return (word >> 22u) ^ word;
}

fn draw(element: u32) -> f32 {
    let index = params.first + element;
    let bits = pcg(pcg(index ^ pcg(params.seed)) + params.seed * 0x9e3779b9u);
    // 24 bits make steps that F32 holds exactly.
    return (f32(bits >> 8u) * 0x1p-23 - 1.0) * params.scale;
}

// Round to nearest, ties to even; values are finite.
fn to_bf16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}

// The same; values are below 65504. WGSL leaves the rounding of pack2x16float to the device.
fn to_f16(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude < 0x38800000u {
        // Below 2^-14 the steps are 2^-24, which is the step of F32 between 0.5 and 1.
        return sign | (bitcast<u32>(bitcast<f32>(magnitude) + 0.5) - 0x3f000000u);
    }
    return sign | ((magnitude + 0xfffu + ((magnitude >> 13u) & 1u) - 0x38000000u) >> 13u);
}

@compute @workgroup_size(256)
fn fill_random(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let word = (group.y * groups.x + group.x) * 256u + lane;
    if params.format == 0u {
        if word < params.elements {
            words[word] = bitcast<u32>(draw(word));
        }
        return;
    }
    let element = word * 2u;
    if element >= params.elements {
        return;
    }
    let low = draw(element);
    // The half after an odd last element is padding and stays zero.
    let high = select(0.0, draw(element + 1u), element + 1u < params.elements);
    if params.format == 1u {
        words[word] = to_f16(low) | (to_f16(high) << 16u);
    } else {
        words[word] = to_bf16(low) | (to_bf16(high) << 16u);
    }
}
