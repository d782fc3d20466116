//! Two curves of a run over time: hosts that are done, and what has left the source.

use std::fmt::Write as _;

use crate::Summary;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 160.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 50.0;
/// Between the two charts.
const GAP: f64 = 60.0;
const BLUE: &str = "#1f6feb";
const ORANGE: &str = "#d9730d";

/// Draws both curves as an SVG of its own.
pub fn svg(summary: &Summary) -> String {
    let end = summary.makespan.max(summary.bound).max(1e-3);
    let mut out = String::new();
    let (width, height) = (LEFT + WIDTH + 30.0, TOP + 2.0 * HEIGHT + GAP + 50.0);
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>",
        escaped(&summary.title),
    );
    let hosts = summary.completed as f64 / summary.hosts.max(1) as f64;
    let parts = summary.completion.len().max(1) as f64;
    let done = summary.completion.iter().enumerate();
    let done = done.map(|(at, time)| (*time, (at + 1) as f64 / parts * hosts));
    chart(
        &mut out,
        TOP,
        end,
        "hosts done",
        &percent_axis(),
        BLUE,
        done,
    );
    let bound = x(summary.bound, end);
    let _ = writeln!(
        out,
        "<line x1=\"{bound:.1}\" y1=\"{TOP}\" x2=\"{bound:.1}\" y2=\"{:.1}\" stroke=\"#999\" \
         stroke-dasharray=\"4 3\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" \
         fill=\"#777\">bound {:.2} s</text>",
        TOP + HEIGHT,
        bound - 4.0,
        TOP + 12.0,
        summary.bound,
    );
    let size = summary.bytes.max(1) as f64;
    let most = (summary.origin_bytes as f64 / size).max(1.0);
    let sent = summary.origin_sent.iter().enumerate();
    let sent = sent.map(|(at, bytes)| {
        let time = (at + 1) as f64 * summary.origin_span;
        (time.min(end), *bytes as f64 / size / most)
    });
    let axis = [(0.0, "0".to_owned()), (1.0, format!("{most:.2}"))];
    let top = TOP + HEIGHT + GAP;
    chart(
        &mut out,
        top,
        end,
        "copies from the source",
        &axis,
        ORANGE,
        sent,
    );
    out.push_str("</svg>\n");
    out
}

fn percent_axis() -> [(f64, String); 3] {
    [0.0, 0.5, 1.0].map(|share| (share, format!("{:.0} %", share * 100.0)))
}

fn x(time: f64, end: f64) -> f64 {
    LEFT + time / end * WIDTH
}

/// A step curve of points (time, share of the height) under a title.
fn chart(
    out: &mut String,
    top: f64,
    end: f64,
    title: &str,
    axis: &[(f64, String)],
    colour: &str,
    points: impl Iterator<Item = (f64, f64)>,
) {
    let base = top + HEIGHT;
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{:.1}\">{title}</text>",
        top - 8.0
    );
    for (share, label) in axis {
        let y = base - share * HEIGHT;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT + WIDTH,
            LEFT - 6.0,
            y + 4.0,
        );
    }
    for part in 0..=4 {
        let time = end * f64::from(part) / 4.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{time:.2} s</text>",
            x(time, end),
            base + 18.0,
        );
    }
    let mut path = format!("M{LEFT:.1} {base:.1}");
    for (time, share) in points {
        let _ = write!(path, "H{:.1}V{:.1}", x(time, end), base - share * HEIGHT);
    }
    let _ = write!(path, "H{:.1}", LEFT + WIDTH);
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use crate::{Spec, Summary};

    #[test]
    fn a_title_can_not_break_the_drawing() {
        let spec = Spec::parse("title = \"<a & b>\"\nsize = \"2 MB\"\nhosts = 3").expect("parses");
        let report = spec.scenario().expect("makes sense").run();
        let drawn = super::svg(&Summary::new(&spec, &report));
        assert!(drawn.contains("&lt;a &amp; b&gt;"));
        assert_eq!(drawn.matches("<path").count(), 2);
        assert!(!drawn.contains("NaN"), "{drawn}");
    }
}
