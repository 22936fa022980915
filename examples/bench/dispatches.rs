//! `--profile`: the time of one run by kernel, against what the device can read and compute.

use std::collections::BTreeMap;

use gemmaflow::runtime::{Cost, RunTimes};
use serde_json::{Value, json};

use crate::roofline::Roofline;

/// The dispatches of one shader in one role of a layer, all layers together.
pub struct Group {
    pub name: String,
    pub calls: usize,
    pub seconds: f64,
    pub cost: Cost,
    /// The least seconds by the roofline, dispatch by dispatch.
    pub least: f64,
}

/// A label without the number of its layer: `layer.3.geglu` is `geglu`. Those of towers are `vision.layer.3.output`.
fn role(label: &str) -> &str {
    let label = label.strip_prefix("vision.").unwrap_or(label);
    let inner = label.strip_prefix("layer.").and_then(|rest| rest.split_once('.'));
    inner.map_or(label, |(_, role)| role)
}

/// Groups, the longest first.
pub fn groups(times: &RunTimes, roofline: &Roofline) -> Vec<Group> {
    let mut found: BTreeMap<String, Group> = BTreeMap::new();
    for dispatch in &times.dispatches {
        let name = format!("{} {}", dispatch.shader, role(&dispatch.label));
        let empty = Group { name: name.clone(), calls: 0, seconds: 0.0, cost: Cost::default(), least: 0.0 };
        let group = found.entry(name).or_insert(empty);
        group.calls += 1;
        group.seconds += dispatch.seconds;
        group.cost.bytes += dispatch.cost.bytes;
        group.cost.flops += dispatch.cost.flops;
        group.least += roofline.seconds(dispatch);
    }
    let mut groups: Vec<Group> = found.into_values().collect();
    groups.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    groups
}

/// The groups as one.
pub fn total(groups: &[Group]) -> Group {
    let sum = |of: fn(&Group) -> f64| groups.iter().map(of).sum();
    let cost = Cost { bytes: groups.iter().map(|g| g.cost.bytes).sum(), flops: groups.iter().map(|g| g.cost.flops).sum() };
    let calls = groups.iter().map(|g| g.calls).sum();
    Group { name: "all".into(), calls, seconds: sum(|g| g.seconds), cost, least: sum(|g| g.least) }
}

/// What was run.
pub fn title(times: &RunTimes) -> String {
    match times.tokens {
        1 => format!("decode step at depth {}", times.start),
        tokens => format!("prefill chunk of {tokens} tokens at depth {}", times.start),
    }
}

/// A table for people.
pub fn table(title: &str, times: &RunTimes, roofline: &Roofline) -> String {
    let groups = groups(times, roofline);
    let all = total(&groups);
    let mut text = format!(
        "\n{title}: {:.0} µs as one pass, {:.0} µs dispatch by dispatch ({}; medians of {})\n",
        times.whole * 1e6,
        all.seconds * 1e6,
        times.clock,
        times.reps
    );
    let width = groups.iter().map(|g| g.name.chars().count()).max().unwrap_or(0).max(6);
    let heads = ["calls", "µs", "share", "MB", "GB/s", "of read", "MFLOP", "GFLOP/s", "of FMA", "of roofline"];
    text.push_str(&format!("{:width$}", "kernel"));
    heads.iter().for_each(|head| text.push_str(&format!(" {head:>11}")));
    text.push('\n');
    for group in groups.iter().chain([&all]) {
        let seconds = group.seconds.max(1e-12);
        let (bytes, flops) = (group.cost.bytes as f64, group.cost.flops as f64);
        let percent = |part: f64| format!("{:.1} %", part * 100.0);
        let cells = [
            group.calls.to_string(),
            format!("{:.1}", seconds * 1e6),
            percent(seconds / all.seconds.max(1e-12)),
            format!("{:.3}", bytes / 1e6),
            format!("{:.2}", bytes / seconds / 1e9),
            percent(bytes / seconds / roofline.bandwidth),
            format!("{:.2}", flops / 1e6),
            format!("{:.2}", flops / seconds / 1e9),
            percent(flops / seconds / roofline.arithmetic),
            percent(group.least / seconds),
        ];
        text.push_str(&format!("{:width$}", group.name));
        cells.iter().for_each(|cell| text.push_str(&format!(" {cell:>11}")));
        text.push('\n');
    }
    text
}

/// The same for programs.
pub fn json(times: &RunTimes, roofline: &Roofline) -> Value {
    let groups = groups(times, roofline);
    let one = |group: &Group| {
        json!({
            "kernel": group.name, "calls": group.calls, "us": group.seconds * 1e6,
            "bytes": group.cost.bytes, "flops": group.cost.flops, "roofline_us": group.least * 1e6,
        })
    };
    json!({
        "run": title(times),
        "tokens": times.tokens,
        "depth": times.start,
        "clock": times.clock.to_string(),
        "whole_us": times.whole * 1e6,
        "all": one(&total(&groups)),
        "kernels": groups.iter().map(one).collect::<Vec<_>>(),
    })
}

/// What the shares are shares of.
pub fn ceilings(roofline: &Roofline) -> String {
    let rate = |rate: Option<f64>| rate.map_or("not offered".into(), |rate| format!("{:.1} GFLOP/s", rate / 1e9));
    format!(
        "measured: {:.2} GB/s read, {:.1} GFLOP/s of multiply-add in f32 ({} in f16; {} by matrices)\n",
        roofline.bandwidth / 1e9,
        roofline.arithmetic / 1e9,
        rate(roofline.half),
        rate(roofline.matrices)
    )
}
