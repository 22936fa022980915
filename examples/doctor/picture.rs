//! The report as a picture.

use indicatif::HumanBytes;

use crate::{
    report::{Adapter, Rate, Rates, Report, Speed},
    svg::Svg,
    text,
};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
const ROW: f64 = 22.0;
/// Where the bars of decode and of prefill begin, and how long a share of all is.
const DECODE: f64 = 270.0;
const PREFILL: f64 = 615.0;
const BAR: f64 = 180.0;

/// Colours for light and dark surroundings.
const STYLE: &str = "<style>
.page { fill: #ffffff } .text { fill: #1f2328 } .dim { fill: #656d76 } .line { fill: #d0d7de } .track { fill: #eaeef2 }
.bar { fill: #2f6feb } .over { fill: #9a6700 } .right { fill: #1a7f37 } .wrong { fill: #cf222e }
@media (prefers-color-scheme: dark) {
.page { fill: #0d1117 } .text { fill: #e6edf3 } .dim { fill: #8d96a0 } .line { fill: #30363d } .track { fill: #21262d }
.bar { fill: #4493f8 } .over { fill: #d29922 } .right { fill: #3fb950 } .wrong { fill: #f85149 }
}
</style>
<rect class=\"page\" width=\"100%\" height=\"100%\"/>
";

struct Page {
    svg: Svg,
    y: f64,
}

impl Page {
    fn text(&mut self, x: f64, class: &str, content: impl std::fmt::Display) {
        self.svg.text(x, self.y, &format!("class=\"{class}\""), content);
    }

    fn right(&mut self, x: f64, class: &str, content: impl std::fmt::Display) {
        self.svg.text(x, self.y, &format!("class=\"{class}\" text-anchor=\"end\""), content);
    }

    fn section(&mut self, title: &str) {
        self.y += 34.0;
        self.svg.text(MARGIN, self.y, "class=\"text\" font-size=\"14\" font-weight=\"bold\"", title);
        self.svg.rect([MARGIN, self.y + 7.0, WIDTH - 2.0 * MARGIN, 1.0], "class=\"line\"");
        self.y += 26.0;
    }
}

/// The picture of a report.
pub fn picture(report: &Report) -> String {
    let mut page = Page { svg: Svg::default(), y: 40.0 };
    headline(&mut page, report);
    if let Some(rates) = &report.rates {
        rates_of(&mut page, rates);
    }
    if let Some(start) = &report.first_start {
        page.y += 18.0;
        page.text(MARGIN, "text", text::first_token(start));
    }
    verdicts(&mut page, report);
    if !report.speed.is_empty() {
        speeds(&mut page, &report.speed);
        let software = report.adapter.as_ref().is_some_and(|adapter| adapter.software);
        if let Some(tuned) = &report.tuning {
            page.y += ROW + 8.0;
            page.text(MARGIN, "dim", text::tuned_in_short(tuned, software));
        }
    }
    let height = page.y + 20.0;
    page.svg.finish(WIDTH, height, STYLE)
}

fn headline(page: &mut Page, report: &Report) {
    let name = report.adapter.as_ref().map_or("No adapter", |adapter| &adapter.name);
    page.svg.text(MARGIN, page.y, "class=\"text\" font-size=\"22\" font-weight=\"bold\"", name);
    let class = if report.exit_code() == 0 { "right" } else { "wrong" };
    page.y += 26.0;
    page.svg.text(MARGIN, page.y, &format!("class=\"{class}\" font-size=\"14\" font-weight=\"bold\""), text::sentence(report));
    let Some(adapter) = &report.adapter else { return };
    let Adapter { kind, backend, driver, tier, tier_why, matrices_why, software, .. } = adapter;
    let system = &report.system;
    for line in [
        format!("{kind}, {backend}; driver {driver}; {} on {}", system.os, system.processor),
        format!("Kernels: {tier}, as {tier_why}"),
        format!("Matrices: {matrices_why}"),
    ] {
        page.y += 20.0;
        page.text(MARGIN, "dim", shortened(&line, 140));
    }
    if *software {
        page.y += 20.0;
        page.text(MARGIN, "over", "A software driver computes on the CPU: these figures say little about any GPU.");
    }
    page.right(WIDTH - MARGIN, "dim", format!("gemmaflow {}", report.gemmaflow));
}

fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() > most { text.chars().take(most - 1).chain(['…']).collect() } else { text.to_owned() }
}

/// The rates in one row, each above its name.
fn rates_of(page: &mut Page, rates: &Rates) {
    page.section("Measured at best");
    let tera = |rate: Option<f64>| match rate {
        None => "none".into(),
        Some(rate) if rate >= 1000.0 => format!("{:.1} TFLOP/s", rate / 1000.0),
        Some(rate) => format!("{rate:.1} GFLOP/s"),
    };
    let dispatch = rates.dependent_dispatch_us.map_or("-".into(), |us| format!("{us:.2} µs"));
    let cells = [
        (format!("{:.1} GB/s", rates.read_gb_s), "memory read"),
        (tera(Some(rates.f32_gflop_s)), "multiply-add in f32"),
        (tera(rates.f16_gflop_s), "multiply-add in f16"),
        (tera(rates.matrices_gflop_s), "matrices, f16 to f32"),
        (dispatch, "a dependent dispatch"),
    ];
    let width = (WIDTH - 2.0 * MARGIN) / cells.len() as f64;
    for (index, (figure, name)) in cells.iter().enumerate() {
        let x = MARGIN + width * index as f64;
        page.svg.text(x, page.y + 4.0, "class=\"text\" font-size=\"18\"", figure);
        page.svg.text(x, page.y + 22.0, "class=\"dim\"", name);
    }
    page.y += 30.0;
}

fn verdicts(page: &mut Page, report: &Report) {
    page.section("Kernels against the reference");
    let columns = [430.0, 550.0, 630.0, 740.0, WIDTH - MARGIN];
    for (x, head) in columns.into_iter().zip(["right", "ran before", "wrong", "not reached", "worst of what is allowed"]) {
        page.right(x, "dim", head);
    }
    for tier in &report.kernels {
        page.y += ROW;
        page.text(MARGIN, "text", format!("tier {}", tier.name));
        page.text(MARGIN + 130.0, "dim", format!("{} cases of all ops", tier.cases));
        let counts = [tier.right, tier.same, tier.wrong.len(), tier.not_reached];
        for (x, (count, class)) in columns.into_iter().zip(counts.into_iter().zip(["right", "dim", "wrong", "dim"])) {
            page.right(x, if count == 0 { "dim" } else { class }, count);
        }
        page.right(columns[4], "text", format!("{:.2}", tier.worst));
    }
    if !report.models.is_empty() {
        let right = report.models.iter().filter(|model| model.right).count();
        let wrong = report.models.len() - right;
        page.y += ROW;
        page.text(MARGIN, "text", "small models");
        page.text(MARGIN + 130.0, "dim", "logits of whole models, all tiers");
        page.right(columns[0], "right", right);
        page.right(columns[2], if wrong == 0 { "dim" } else { "wrong" }, wrong);
        page.right(columns[3], "dim", report.models_not_reached);
    }
    let wrong = report.kernels.iter().flat_map(|tier| &tier.wrong);
    for wrong in wrong.take(8) {
        page.y += ROW;
        let line = format!("{} '{}' in {}, tier {}: {}", wrong.op, wrong.case, wrong.numbers, wrong.tier, wrong.problem);
        page.text(MARGIN, "wrong", shortened(&line, 140));
    }
}

fn speeds(page: &mut Page, speeds: &[Speed]) {
    page.section("Tokens a second, and the share of the roofline");
    page.text(DECODE, "dim", "decode");
    let prompt = speeds.iter().map(|speed| speed.prompt).max().unwrap_or(0);
    page.text(PREFILL, "dim", format!("prefill of {prompt}"));
    for of_shape in speeds.chunk_by(|a, b| a.shape == b.shape) {
        page.y += ROW + 4.0;
        page.text(MARGIN, "text", of_shape[0].shape);
        for (index, row) in text::rows(of_shape).into_iter().enumerate() {
            page.y += if index > 0 { ROW } else { 0.0 };
            page.text(MARGIN + 110.0, "text", row.stored);
            match row.figures {
                Ok((decode, prefill)) => {
                    page.right(DECODE - 16.0, "dim", HumanBytes(row.weight_bytes));
                    bar(page, DECODE, decode);
                    bar(page, PREFILL, prefill);
                }
                Err(problem) => page.text(DECODE, "dim", shortened(&problem, 100)),
            }
        }
    }
}

/// A bar for a share, up to all of the roofline, and the figures after it.
fn bar(page: &mut Page, x: f64, rate: Rate) {
    let share = rate.share.unwrap_or(0.0);
    let class = if share > 1.0 { "over" } else { "bar" };
    page.svg.rect([x, page.y - 11.0, BAR, 14.0], "class=\"track\" rx=\"2\"");
    page.svg.rect([x, page.y - 11.0, BAR * share.clamp(0.0, 1.0), 14.0], &format!("class=\"{class}\" rx=\"2\""));
    let figures = match rate.share {
        Some(_) => format!("{:.1} t/s, {}", rate.tokens_per_s, text::share(rate)),
        None => format!("{:.1} t/s", rate.tokens_per_s),
    };
    page.text(x + BAR + 8.0, "text", figures);
}
