//! `--svg`: a bar for each kernel of a profile, with the part that the roofline would need.

use gemmaflow::runtime::RunTimes;

use crate::{
    dispatches::{Group, ceilings, groups, title, total},
    roofline::Roofline,
    svg::Svg,
};

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
    let mut out = Svg::default();
    out.text(12.0, 22.0, "font-size=\"15\" font-weight=\"bold\"", model);
    out.text(12.0, 42.0, "fill=\"#555555\"", format!("{}; dark: what the roofline would need", ceilings(roofline).trim()));
    let mut y = 64.0;
    for (title, groups) in &runs {
        out.text(12.0, y + 20.0, "font-size=\"13\" font-weight=\"bold\"", title);
        y += HEAD - 12.0;
        let longest = groups.iter().map(|g| g.seconds.max(g.least)).fold(1e-12, f64::max);
        for group in groups {
            let scale = |seconds: f64| seconds / longest * (WIDTH - LABELS - FIGURES);
            out.text(LABELS - 8.0, y + 15.0, "text-anchor=\"end\"", format!("{} × {}", group.name, group.calls));
            let mut bar = |height: f64, seconds: f64, colour: &str| {
                out.rect([LABELS, y + (ROW - height) / 2.0, scale(seconds), height], &format!("fill=\"{colour}\""));
            };
            bar(16.0, group.seconds, "#9ecae1");
            bar(8.0, group.least, "#08519c");
            let share = group.least / group.seconds.max(1e-12) * 100.0;
            let x = LABELS + scale(group.seconds.max(group.least)) + 6.0;
            out.text(x, y + 15.0, "fill=\"#333333\"", format!("{:.0} µs, {share:.0} % of roofline", group.seconds * 1e6));
            y += ROW;
        }
        y += 12.0;
    }
    out.finish(WIDTH, height, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n")
}
