//! `--svg`: a bar for each kernel of a profile, with the part that the roofline would need.

use std::fmt::Write;

use gemmaflow::runtime::RunTimes;

use crate::dispatches::{Group, Roofline, ceilings, groups, title, total};

const WIDTH: f64 = 960.0;
const LABELS: f64 = 300.0;
const FIGURES: f64 = 170.0;
const ROW: f64 = 22.0;
const HEAD: f64 = 44.0;

/// Bars for each run, one below the other.
pub fn svg(model: &str, runs: &[RunTimes], roofline: &Roofline) -> String {
    let runs: Vec<(String, Vec<Group>)> = runs
        .iter()
        .map(|run| {
            let groups = groups(run, roofline);
            let all = total(&groups);
            let share = all.least / all.seconds.max(1e-12) * 100.0;
            (format!("{}: {:.2} ms, roofline {:.2} ms ({share:.0} %)", title(run), all.seconds * 1e3, all.least * 1e3), groups)
        })
        .collect();
    let height = 64.0 + runs.iter().map(|(_, groups)| HEAD + ROW * groups.len() as f64).sum::<f64>();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut text = |x: f64, y: f64, style: &str, content: &str| {
        let content = content.trim().replace('&', "&amp;").replace('<', "&lt;");
        // Writing to a text cannot fail.
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" {style}>{content}</text>");
    };
    text(12.0, 22.0, "font-size=\"15\" font-weight=\"bold\"", model);
    text(12.0, 42.0, "fill=\"#555555\"", &format!("{}; dark: what the roofline would need", ceilings(roofline).trim()));
    let mut bars = String::new();
    let mut y = 64.0;
    for (title, groups) in &runs {
        text(12.0, y + 20.0, "font-size=\"13\" font-weight=\"bold\"", title);
        y += HEAD - 12.0;
        let longest = groups.iter().map(|g| g.seconds.max(g.least)).fold(1e-12, f64::max);
        for group in groups {
            let scale = |seconds: f64| seconds / longest * (WIDTH - LABELS - FIGURES);
            text(LABELS - 8.0, y + 15.0, "text-anchor=\"end\"", &format!("{} × {}", group.name, group.calls));
            let mut bar = |height: f64, seconds: f64, colour: &str| {
                let (top, width) = (y + (ROW - height) / 2.0, scale(seconds));
                let _ = writeln!(
                    bars,
                    "<rect x=\"{LABELS}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>"
                );
            };
            bar(16.0, group.seconds, "#9ecae1");
            bar(8.0, group.least, "#08519c");
            let share = group.least / group.seconds.max(1e-12) * 100.0;
            let x = LABELS + scale(group.seconds.max(group.least)) + 6.0;
            text(x, y + 15.0, "fill=\"#333333\"", &format!("{:.0} µs, {share:.0} % of roofline", group.seconds * 1e6));
            y += ROW;
        }
        y += 12.0;
    }
    out + &bars + "</svg>\n"
}
