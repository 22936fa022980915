//! `--profile`: one decode step and one chunk of prefill, dispatch by dispatch.

use anyhow::{Result, anyhow, bail};
use gemmaflow::{
    generate::GemmaGenerator,
    runtime::{Clock, Device, Opened},
};
use serde_json::{Value, json};

use crate::{Arguments, chart, common, dispatches, open_quietly, roofline::Roofline, tokens};

pub fn run(name: &str, generator: &mut GemmaGenerator, arguments: &Arguments) -> Result<()> {
    let vocab = generator.config().vocab_size;
    let (depth, clock) = (arguments.depth[0], arguments.clock.map(Clock::from));
    let decode = tokens(depth + 1, 0, vocab);
    if depth > 0 {
        // Rows of all but the last token, so that the run is one of decode.
        generator.prefill_get_last_logits(&decode[..depth])?;
    }
    generator.prefill(&decode)?;
    let mut runs = vec![generator.time_dispatches(arguments.reps, clock)?];
    generator.prefill(tokens(arguments.prompt[0], 1, vocab))?;
    runs.push(generator.time_dispatches(arguments.reps, clock)?);
    let roofline = roofline(&arguments.device)?;
    if let Some(file) = &arguments.svg {
        std::fs::write(file, chart::svg(name, &runs, &roofline)).map_err(|e| anyhow!("{}: {e}", file.display()))?;
    }
    if arguments.json {
        let runs: Vec<Value> = runs.iter().map(|run| dispatches::json(run, &roofline)).collect();
        let report = json!({
            "model": name,
            "adapter": generator.stats().device,
            "copy_bandwidth_read_gb_s": roofline.bandwidth / 1e9,
            "arithmetic_gflop_s": roofline.arithmetic / 1e9,
            "arithmetic_f16_gflop_s": roofline.half.map(|rate| rate / 1e9),
            "matrices_gflop_s": roofline.matrices.map(|rate| rate / 1e9),
            "runs": runs,
        });
        return Ok(common::print(&format!("{report}\n"))?);
    }
    let tables: String = runs.iter().map(|run| dispatches::table(&dispatches::title(run), run, &roofline)).collect();
    let layers = generator.config().active_num_layers();
    let head = format!("{name}, {layers} layers, on {}\n{}", generator.stats().device, dispatches::ceilings(&roofline));
    Ok(common::print(&(head + &tables))?)
}

/// What the device reads and computes at best.
fn roofline(device: &Device) -> Result<Roofline> {
    match open_quietly(device)? {
        Opened::Gpu(context) => Roofline::measure(&context),
        Opened::Reference => bail!("--profile needs a GPU adapter; the CPU reference has no dispatches"),
    }
}
