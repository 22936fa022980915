// The application's own picture: hills that roll by under a sun, a panel, and text drawn as one quad a glyph.

struct Frame {
    // Pixels.
    size: vec2f,
    // Seconds.
    time: f32,
    // How much of the panel is there, 0 to 1.
    panel: f32,
}

@group(0) @binding(0) var<uniform> frame: Frame;
// 128 glyphs of 8 by 8, side by side.
@group(0) @binding(1) var font: texture_2d<f32>;

const HILLS: i32 = 5;

@vertex
fn whole(@builtin(vertex_index) corner: u32) -> @builtin(position) vec4f {
    return vec4f(f32(corner & 1u) * 4.0 - 1.0, f32(corner >> 1u) * 4.0 - 1.0, 0.0, 1.0);
}

// How far `at` lies inside of the panel, in pixels; its corners are round. It leaves the lower hills free.
fn inside_panel(at: vec2f) -> f32 {
    let half = (frame.size - vec2f(32.0, 96.0)) * 0.5;
    let corner = abs(at - half - vec2f(16.0)) - half + vec2f(10.0);
    return 10.0 - length(max(corner, vec2f(0.0)));
}

@fragment
fn scene(@builtin(position) at: vec4f) -> @location(0) vec4f {
    let pixel = 1.5 / frame.size.y;
    let p = at.xy / frame.size.y;
    let sun = vec2f(1.3 + 0.12 * sin(frame.time * 0.4), 0.26 + 0.03 * cos(frame.time * 0.3));
    var colour = mix(vec3f(0.98, 0.70, 0.45), vec3f(0.99, 0.90, 0.62), smoothstep(0.13 + pixel, 0.13, distance(p, sun)));
    for (var hill = 0; hill < HILLS; hill++) {
        let near = f32(hill + 1) / f32(HILLS);
        let x = p.x * (1.6 + 2.2 * near) + frame.time * 0.5 * near + f32(hill) * 1.9;
        let top = 0.30 + 0.13 * f32(hill) + (0.07 - 0.03 * near) * (sin(x) + 0.5 * sin(2.3 * x + 1.0));
        let shade = mix(vec3f(0.80, 0.42, 0.42), vec3f(0.10, 0.11, 0.25), near);
        colour = mix(colour, shade, smoothstep(-pixel, pixel, p.y - top));
    }
    let panel = smoothstep(-0.5, 0.5, inside_panel(at.xy)) * frame.panel;
    return vec4f(mix(colour, colour * 0.22 + vec3f(0.01, 0.01, 0.05), panel), 1.0);
}

struct Glyph {
    @builtin(position) at: vec4f,
    // Texels of the glyph.
    @location(0) texel: vec2f,
    @location(1) @interpolate(flat) code: u32,
    @location(2) @interpolate(flat) style: u32,
}

// `cell`: left and top in pixels, the character's code and its style.
@vertex
fn glyph(@builtin(vertex_index) corner: u32, @location(0) cell: vec4u) -> Glyph {
    let texel = vec2f(f32(corner & 1u), f32(corner >> 1u)) * 8.0;
    let pixel = vec2f(cell.xy) + texel * 2.0;
    let clip = pixel / frame.size * vec2f(2.0, -2.0) + vec2f(-1.0, 1.0);
    return Glyph(vec4f(clip, 0.0, 1.0), texel, cell.z, cell.w);
}

@fragment
fn ink(glyph: Glyph) -> @location(0) vec4f {
    let texel = vec2u(clamp(glyph.texel, vec2f(0.0), vec2f(7.0)));
    let lit = textureLoad(font, vec2u(glyph.code * 8u + texel.x, texel.y), 0).r;
    let colours = array(vec3f(0.96, 0.94, 0.88), vec3f(0.99, 0.80, 0.45), vec3f(0.65, 0.68, 0.80));
    return vec4f(colours[min(glyph.style, 2u)], lit);
}
