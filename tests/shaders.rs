//! Every kernel variant, without hardware: composed, parsed, validated, specialised and translated for Vulkan, Metal
//! and DX12; with every barrier and subgroup operation in uniform control flow.

mod common;

use std::collections::BTreeMap;

use common::{cases, plan_with, title, uniformity};
use gemmaflow::{
    Error,
    error::DeviceError,
    gemma::{GemmaConfig, GemmaFlow, random_weights},
    internals::{
        ir::{
            LowerOptions,
            kernel::{CooperativeTile, Kernel, Target, Tier},
        },
        lower::{Unplaced, lower},
        plan::{Plan, sampling},
        shader::{Access, Reflected, Sizes, compose, reflect, standard},
    },
    ir::{Compute, DType, DimBinding, Packed, sym},
};
use naga::{
    back::{self, pipeline_constants::process_overrides},
    valid::{Capabilities, ValidationFlags, Validator},
};

fn targets() -> Vec<Target> {
    let with = |tier, software| Target {
        tier,
        max_binding: 1 << 30,
        max_storage_buffers: 16,
        f16: true,
        software,
        ..Target::portable()
    };
    let sizes = [4, 8, 16, 32, 64].map(|size| with(Tier::Subgroup(size), false));
    let software = [Tier::Portable, Tier::Subgroup(4), Tier::Subgroup(8)].map(|tier| with(tier, true));
    let wide = Target { int64: true, ..with(Tier::Subgroup(8), true) };
    // NVIDIA, RDNA3, Metal and Mesa's software driver.
    let cooperative =
        [(Tier::Subgroup(32), 16, 128), (Tier::Subgroups, 16, 256), (Tier::Subgroups, 8, 128), (Tier::Subgroup(8), 8, 32)];
    let cooperative = cooperative.map(|(tier, side, lanes)| Target {
        cooperative: Some(CooperativeTile { m: side, n: side, k: side, lanes, memory: 32 << 10 }),
        ..with(tier, false)
    });
    let several = [with(Tier::Subgroups, false), with(Tier::Subgroups, true)];
    [vec![Target::portable(), wide], several.to_vec(), sizes.to_vec(), software.to_vec(), cooperative.to_vec()].concat()
}

/// The plans of real models: prefill chunk, small chunk and decode step, with what samples from them.
fn model_plans(target: &Target, options: &LowerOptions) -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for (name, dtype) in [
        ("gemma-2b", DType::F16),
        ("gemma-2-2b", DType::BF16),
        ("gemma-3-270m", DType::F32),
        ("gemma-3n-e2b", DType::BF16),
        ("gemma-4-e2b", DType::BF16),
    ] {
        let mut config = GemmaConfig::preset(name).expect("a preset");
        // One full and one sliding layer say all that the others do, and in Gemma 4 one of each that owns no keys.
        config.num_kv_shared_layers = if name == "gemma-4-e2b" { 30 } else { 0 };
        config.effective_num_layers = Some(match name {
            "gemma-3-270m" => 6,
            "gemma-3n-e2b" => 5,
            "gemma-4-e2b" => 10,
            _ => 2,
        });
        let mut loader = random_weights(&config, dtype, 1).expect("weights of a preset");
        let built = GemmaFlow::resident(&config).last_token_logits().build(&mut loader).expect("a graph");
        for tokens in [1, 4, 128] {
            let binding = DimBinding::new().with(sym::SEQ, tokens).with(sym::CACHE, 8192).with(sym::RING, 640);
            let plan = lower(&built.graph, &binding, target, options, &Unplaced).unwrap_or_else(|e| panic!("{name}: {e}"));
            plans.push((format!("{name}, {tokens} tokens"), plan));
        }
        plans.extend([false, true].map(|maxima| (name.into(), sampling::argmax(1, config.vocab_size, maxima, target))));
        plans.push((name.into(), sampling::argmax(4, config.vocab_size, false, target)));
        plans.extend([1, 4].map(|rows| (name.into(), sampling::top_k(rows, config.vocab_size, 64, target))));
    }
    plans
}

/// Every kernel that the cases and models lower to, with the first that asked for it.
fn kernels() -> BTreeMap<String, (Kernel, String)> {
    let mut kernels = BTreeMap::new();
    let f32 = LowerOptions { chosen_from: Some("logits".into()), ..LowerOptions::default() };
    let f16 = LowerOptions { compute: Compute::F16, mixed: false, ..f32.clone() };
    for (target, options) in targets().into_iter().flat_map(|t| [f32.clone(), f16.clone()].map(|o| (t.clone(), o))) {
        // Portable means that nothing optional is there.
        if options.compute == Compute::F16 && !target.f16 {
            continue;
        }
        for (model, plan) in model_plans(&target, &options) {
            for dispatch in plan.dispatches {
                kernels.entry(dispatch.kernel.key()).or_insert((dispatch.kernel, model.clone()));
            }
        }
        for case in cases() {
            let plan = plan_with(&case, &target, &options).unwrap_or_else(|e| panic!("{}: {e}", title(&case)));
            for dispatch in plan.dispatches {
                kernels.entry(dispatch.kernel.key()).or_insert((dispatch.kernel, title(&case)));
            }
        }
    }
    kernels
}

fn translate(kernel: &Kernel) -> Result<(), String> {
    // Only drivers on the CPU, which are Vulkan's, take sizes as data.
    let Reflected { module, info, .. } = reflect(kernel, Sizes::Uniform).map_err(|e| e.to_string())?;
    let (module, info) = process_overrides(&module, &info, None, &Default::default()).map_err(|e| format!("overrides: {e}"))?;
    uniformity::check(&module)?;
    back::spv::write_vec(&module, &info, &back::spv::Options { lang_version: (1, 3), ..Default::default() }, None)
        .map_err(|e| format!("SPIR-V with sizes as data: {e}"))?;
    let Reflected { module, info, bindings, .. } = reflect(kernel, Sizes::Constants).map_err(|e| e.to_string())?;
    let bound = bindings.iter().filter(|b| b.access != Access::Uniform).count();
    // A device that binds no more than WebGPU's 8 makes a new row in steps, and what reads more values in parts.
    let most = match kernel.shader {
        "region" => 16,
        _ if kernel.options.contains(&("PROLOGUE", "yes".into())) => 11,
        _ => 8,
    };
    if bound > most {
        return Err(format!("binds {bound} storage buffers, expected at most {most}"));
    }
    let constants = kernel.overrides.iter().map(|(name, value)| (name.to_string(), *value)).collect();
    let (module, info) = process_overrides(&module, &info, None, &constants).map_err(|e| format!("overrides: {e}"))?;
    uniformity::check(&module)?;
    let memory: u32 = module
        .global_variables
        .iter()
        .filter(|(_, global)| global.space == naga::AddressSpace::WorkGroup)
        .map(|(_, global)| module.types[global.ty].inner.size(module.to_ctx()))
        .sum();
    // Where there are cooperative matrices there is more memory than WebGPU's; `Capabilities::target` asks for it.
    let cooperative = kernel.uses_matrices();
    let room = if cooperative { 32 << 10 } else { 16352 };
    if memory > room {
        return Err(format!("takes {memory} bytes of workgroup memory, expected at most {room}"));
    }
    back::spv::write_vec(&module, &info, &back::spv::Options { lang_version: (1, 3), ..Default::default() }, None)
        .map_err(|e| format!("SPIR-V: {e}"))?;
    // Metal multiplies tiles of 8 alone, Direct3D none.
    let vulkan_alone = cooperative && ["M", "P"].iter().any(|side| kernel.options.contains(&(side, "16".into())));
    let msl = back::msl::Options { lang_version: (2, 3), ..Default::default() };
    if !vulkan_alone {
        back::msl::write_string(&module, &info, &msl, &Default::default()).map_err(|e| format!("MSL: {e}"))?;
    }
    if cooperative {
        return Ok(());
    }
    // Direct3D has 16-bit types from shader model 6.2 on.
    let half = kernel.options.contains(&("COMPUTE", "f16".into()));
    let shader_model = if half { back::hlsl::ShaderModel::V6_2 } else { back::hlsl::ShaderModel::V6_0 };
    let hlsl = back::hlsl::Options { shader_model, ..Default::default() };
    let mut text = String::new();
    back::hlsl::Writer::new(&mut text, &hlsl, &Default::default())
        .write(&module, &info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

#[test]
fn every_variant_translates_for_every_backend() {
    let kernels = kernels();
    let failures: Vec<String> = kernels
        .values()
        .filter_map(|(kernel, case)| translate(kernel).err().map(|problem| format!("{case}: {kernel}: {problem}")))
        .collect();
    assert!(failures.is_empty(), "{} of {} variants:\n{}", failures.len(), kernels.len(), failures.join("\n"));
    let reached = |shader: &str, options: &[(&'static str, &str)]| {
        let has = |kernel: &Kernel| options.iter().all(|(name, text)| kernel.options.contains(&(name, text.to_string())));
        assert!(
            kernels.values().any(|(kernel, _)| kernel.shader == shader && has(kernel)),
            "no case reaches {shader} {options:?}"
        );
    };
    for shader in [
        "attention",
        "attention_each",
        "attention_few",
        "attention_lanes",
        "attention_tile",
        "attention_combine",
        "conv2d",
        "conv2d_lanes",
        "gather",
        "relative_attention",
        "linear_each",
        "linear_vec",
        "linear_tile",
        "linear_tile_shared",
        "region",
    ] {
        reached(shader, &[]);
    }
    for shader in ["linear_each", "linear_vec", "linear_tile", "linear_wide"] {
        reached(shader, &[("MAXIMA", "yes")]);
    }
    for shader in ["argmax", "layer_norm", "rms_norm", "route", "top_k"] {
        reached(shader, &[("TIER", "alone")]);
    }
    for words in ["1", "2"] {
        reached("linear_tile", &[("WORDS", words)]);
    }
    for stage in ["slices", "merge", "maxima"] {
        reached("argmax", &[("STAGE", stage)]);
    }
    for (size, dtype) in ["16", "8"].into_iter().flat_map(|size| ["f32", "f16", "bf16"].map(|dtype| (size, dtype))) {
        for weights in ["1", "2"] {
            reached("linear_coop", &[("M", size), ("WEIGHT", dtype), ("WEIGHTS", weights)]);
        }
    }
    for (size, dtype) in ["16", "8"].into_iter().flat_map(|size| ["f32", "f16"].map(|dtype| (size, dtype))) {
        reached("attention_coop", &[("P", size), ("KV", dtype)]);
    }
    for format in Packed::all() {
        for shader in ["linear_each", "linear_vec", "linear_tile", "linear_tile_shared", "linear_coop", "gather"] {
            reached(shader, &[("WEIGHT", format.name())]);
        }
    }
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let stored = ("WEIGHT", dtype.name().to_string());
        assert!(kernels.values().any(|(kernel, _)| kernel.options.contains(&stored)), "no case stores {dtype}");
    }
}

#[test]
fn divergent_control_flow_is_noticed() {
    let check = |statement: &str| {
        let hole = format!("fn element(i: u32) -> f32 {{ var n = i; n = i / 64u; {statement} return f32(n); }}\n");
        let kernel = region(vec![("OUT", "f32".into())], &hole);
        uniformity::check(&reflect(&kernel, Sizes::Constants).unwrap().module)
    };
    // Every element of a region runs after `if i >= TOTAL { return; }`.
    assert!(check("").is_ok());
    assert!(check("workgroupBarrier();").unwrap_err().contains("a barrier"));
    let module = |body: &str| {
        let text = format!(
            "var<workgroup> shared_: array<u32, 64>; @group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32, @builtin(workgroup_id) wid: vec3<u32>)
            {{ {body} }}"
        );
        uniformity::check(&naga::front::wgsl::parse_str(&text).unwrap())
    };
    for uniform in [
        "for (var i = 0u; i < 8u; i++) { workgroupBarrier(); }",
        "if wid.x > 3u { return; } workgroupBarrier();",
        "var n = lane; n = shared_[0]; for (var i = n; i < 8u; i++) { workgroupBarrier(); }",
        "for (var i = lane; i < 8u; i += 64u) { out[i] = i; } workgroupBarrier();",
        "var n = subgroupMin(lane); if n == 1u { workgroupBarrier(); }",
        "if lane == 0u { shared_[1] = 1u; } workgroupBarrier();",
    ] {
        assert_eq!(module(uniform), Ok(()), "{uniform}");
    }
    for divergent in [
        "if lane == 0u { workgroupBarrier(); }",
        "if lane == 0u { return; } workgroupBarrier();",
        "for (var i = lane; i < 8u; i++) { workgroupBarrier(); }",
        "for (var i = 0u; i < 8u; i++) { if i == lane { break; } workgroupBarrier(); }",
        "for (var i = 0u; i < 8u; i++) { if i == lane { continue; } workgroupBarrier(); }",
        "var n = 0u; if lane == 0u { n = 1u; } if n == 1u { workgroupBarrier(); }",
        "if shared_[lane] == 1u { workgroupBarrier(); }",
        "if out[0] == 1u { workgroupBarrier(); }",
        "if lane == 0u { out[0] = subgroupAdd(lane); }",
    ] {
        assert!(module(divergent).is_err(), "{divergent}");
    }
}

/// One subgroup multiplies together: all of its invocations, or the result is undefined.
#[test]
fn a_divergent_cooperative_matrix_is_noticed() {
    let module = |body: &str| {
        let text = format!(
            "enable f16; enable wgpu_cooperative_matrix;
            var<workgroup> tile: array<f16, 256>; var<workgroup> sum: array<f32, 256>;
            @compute @workgroup_size(32) fn main(
                @builtin(local_invocation_index) lane: u32,
                @builtin(subgroup_id) subgroup: u32,
                @builtin(num_subgroups) subgroups: u32,
            ) {{
            var s: coop_mat16x16<f32, C>;
            {body} }}"
        );
        uniformity::check(&naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text))))
    };
    let (load, store) = ("let a = coopLoadT<coop_mat16x16<f16, A>>(&tile[0], 16u);", "coopStoreT(s, &sum[0], 16u);");
    assert_eq!(module(&format!("{load} {store}")), Ok(()));
    for statement in [load, store, "s = coopMultiplyAdd(coop_mat16x16<f16, A>(), coop_mat16x16<f16, B>(), s);"] {
        assert!(module(&format!("if lane == 0u {{ {statement} }}")).is_err(), "{statement}");
        assert!(module(&format!("if lane / 32u == subgroup {{ {statement} }}")).is_err(), "{statement}");
        assert_eq!(module(&format!("if subgroup < 3u {{ {statement} }}")), Ok(()), "a subgroup goes its own way as one");
        assert_eq!(module(&format!("if subgroups < 3u {{ {statement} workgroupBarrier(); }}")), Ok(()));
        assert!(module(&format!("if subgroup < 3u {{ {statement} workgroupBarrier(); }}")).is_err(), "a barrier is for all");
    }
}

/// The shader that measures the rate of matrices, which no kernel is made of.
#[test]
fn the_measured_matrices_are_valid_and_multiplied_by_whole_subgroups() {
    for (side, lanes) in [(16, 128), (16, 256), (8, 128), (8, 32)] {
        let put = |text: String, (name, value): (&str, u32)| text.replace(name, &value.to_string());
        let sizes = [("${M}", side), ("${N}", side), ("${K}", side), ("${LANES}", lanes)];
        let text = sizes.into_iter().fold(include_str!("../shaders/multiply_matrices.wgsl").to_owned(), put);
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        uniformity::check(&module).unwrap();
        let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module);
        let info = info.unwrap_or_else(|e| panic!("{}", e.emit_to_string(&text)));
        let options = back::spv::Options { lang_version: (1, 3), ..Default::default() };
        back::spv::write_vec(&module, &info, &options, None).unwrap();
    }
}

#[test]
fn standard_text_enables_subgroups_where_they_are_used() {
    let text = |tier: &str| {
        let options = [("X", "rows"), ("TIER", tier), ("LANES", "64"), ("VEC", "1"), ("COMPUTE", "f16")];
        let options = options.map(|(name, value)| (name, value.to_string())).to_vec();
        standard(&Kernel { shader: "half_rows", options, overrides: vec![], hole: String::new() }).unwrap()
    };
    assert!(text("subgroups").starts_with("enable f16;\nenable subgroups;\ndiagnostic(off, subgroup_uniformity);\n"));
    assert!(text("portable").contains("// ") && !text("portable").contains("enable subgroups"));
}

fn region(options: Vec<(&'static str, String)>, hole: &str) -> Kernel {
    Kernel { shader: "region", options, overrides: vec![("TOTAL", 64.0)], hole: hole.into() }
}

#[test]
fn mistakes_name_file_and_line() {
    let out = || ("OUT", "f32".to_string());
    let fails = |kernel: &Kernel, place: &str, text: &str| match reflect(kernel, Sizes::Constants) {
        Err(Error::Device(DeviceError::Shader { shader, problem })) => {
            assert!(shader.starts_with(place) && problem.contains(text), "{shader}: {problem}");
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{kernel} passed"),
    };
    let element = "fn element(i: u32) -> f32 { return 1.0; }\n";
    assert!(reflect(&region(vec![out()], element), Sizes::Constants).is_ok());
    fails(&region(vec![], element), "region.wgsl:7", "option OUT is not given");
    fails(&region(vec![out(), ("OUTT", "u32".into())], element), "region.wgsl", "OUTT is given");
    fails(&region(vec![out()], ""), "region.wgsl:17", "element");
    fails(&region(vec![out()], &element.repeat(2)), "hole:", "element");
    let unknown = Kernel { shader: "no_such", ..region(vec![], element) };
    fails(&unknown, "no_such.wgsl", "no shader file");
}

#[test]
fn options_choose_lines() {
    let kernel = |gain: &str| Kernel {
        shader: "rms_norm",
        options: [
            ("TIER", "portable"),
            ("LANES", "64"),
            ("GAIN", gain),
            ("WEIGHT", "bf16"),
            ("VEC", "1"),
            ("WEIGHTS", "1"),
            ("SECOND_NORM", "no"),
        ]
        .map(|(name, value)| (name, value.to_string()))
        .to_vec(),
        overrides: vec![],
        hole: "fn epilogue(i: u32, v: f32) -> f32 { return v; }\n".into(),
    };
    let with = compose(&kernel("plain"), Sizes::Constants).unwrap();
    assert!(with.contains("const LANES = 64u;") && with.contains("<< 16u") && !with.contains("${") && !with.contains("\n#"));
    assert!(!with.contains("unpack2x16float") && !with.contains("subgroupAdd"), "{with}");
    assert_eq!(with.matches("fn lanes_sum").count(), 1);
    let without = compose(&kernel("none"), Sizes::Constants).unwrap();
    assert!(!without.contains("w0") && without.ends_with("return v; }\n"), "{without}");
}
