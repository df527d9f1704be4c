//! The comparison as one SVG: a group of bars for each scenario, the service's in colour.

use std::fmt::Write;

use super::{peer::is_served, report::Report};

const WIDTH: f64 = 860.0;
const LABELS: f64 = 230.0;
const BAR: f64 = 15.0;
const GAP: f64 = 34.0;
const OURS: &str = "#c2410c";
const THEIRS: &str = "#94a3b8";

/// Bars whose lengths are how many times as good as the best peer in fp32 each candidate is.
pub fn draw(reports: &[Report]) -> String {
    let groups: Vec<_> = reports
        .iter()
        .map(|report| (report.scenario.name, report.against_best()))
        .collect();
    let longest = groups
        .iter()
        .flat_map(|(_, bars)| bars.iter().map(|(_, ratio)| ratio.median))
        .fold(1.0, f64::max);
    let scale = (WIDTH - LABELS - 60.0) / longest;
    let mut body = String::new();
    let mut y = 44.0;
    for (name, bars) in &groups {
        text(&mut body, (12.0, y), "font-weight=\"bold\"", name);
        y += 8.0;
        for (candidate, ratio) in bars {
            let (length, colour) = (ratio.median * scale, colour(candidate));
            let middle = y + BAR - 4.0;
            let at_end = "text-anchor=\"end\"";
            text(&mut body, (LABELS - 8.0, middle), at_end, candidate);
            line(
                &mut body,
                format_args!(
                    "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" \
                     fill=\"{colour}\"/>",
                    BAR - 3.0
                ),
            );
            let number = format!("{:.2}", ratio.median);
            text(&mut body, (LABELS + length + 6.0, middle), "", &number);
            y += BAR;
        }
        y += GAP;
    }
    let one = LABELS + scale;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{y:.0}\" \
         viewBox=\"0 0 {WIDTH} {y:.0}\" font-family=\"sans-serif\" font-size=\"11\" \
         fill=\"#1e293b\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"20\" font-size=\"13\">Times as good as the best fp32 peer \
         (tokens per second; for lone queries, latency)</text>\n{body}\
         <line x1=\"{one:.1}\" y1=\"30\" x2=\"{one:.1}\" y2=\"{y:.0}\" stroke=\"#1e293b\" \
         stroke-dasharray=\"3 3\"/>\n</svg>\n"
    )
}

fn colour(candidate: &str) -> &'static str {
    if is_served(candidate) { OURS } else { THEIRS }
}

/// The texts are this program's own names, without anything that XML would want escaped.
fn text(body: &mut String, (x, y): (f64, f64), attributes: &str, text: &str) {
    let element = format_args!("<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
    line(body, element);
}

fn line(body: &mut String, element: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(body, "{element}");
}
