//! The figures as bars: SVG, written by hand.

use std::fmt::Write;

/// One bar of each contender; none where there is no figure.
pub struct Group {
    /// Lines below the bars.
    pub labels: [String; 2],
    /// Millions of frames per second.
    pub bars: Vec<Option<f64>>,
}

const COLOURS: [&str; 3] = ["#9aa5b1", "#1f6feb", "#d9822b"];
const BAR: f64 = 26.0;
const GAP: f64 = 34.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 64.0;
const HEIGHT: f64 = 300.0;

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a string does not fail.
    let _written = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{words}</text>"
    );
}

fn bar(svg: &mut String, x: f64, y: f64, height: f64, colour: &str) {
    // As above.
    let _written = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{BAR}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

/// A chart of groups of bars.
pub fn chart(title: &str, names: &[&str], groups: &[Group]) -> String {
    let all = groups.iter().flat_map(|g| g.bars.iter().flatten());
    let most = all.copied().fold(1.0, f64::max);
    // Round steps, at most eight.
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]
        .into_iter()
        .find(|step| most / step <= 8.0)
        .unwrap_or(100.0);
    let top = (most / step).ceil() * step;
    let wide = BAR * names.len() as f64 + GAP;
    let width = LEFT + wide * groups.len() as f64 + GAP;
    let (floor, total) = (TOP + HEIGHT, TOP + HEIGHT + 56.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{total:.0}\" \
         viewBox=\"0 0 {width:.0} {total:.0}\" font-family=\"sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, LEFT, 22.0, "start", 15, title);
    for (n, (name, colour)) in names.iter().zip(COLOURS).enumerate() {
        let x = LEFT + 150.0 * n as f64;
        bar(&mut svg, x, 34.0, 12.0, colour);
        text(&mut svg, x + BAR + 6.0, 45.0, "start", 12, name);
    }
    let mut line = 0.0;
    while line <= top {
        let y = floor - HEIGHT * line / top;
        // As above.
        let _written = writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{width:.0}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>"
        );
        text(&mut svg, LEFT - 8.0, y + 4.0, "end", 12, &format!("{line:.0}"));
        line += step;
    }
    for (n, group) in groups.iter().enumerate() {
        let left = LEFT + GAP / 2.0 + wide * n as f64;
        for (at, (value, colour)) in group.bars.iter().zip(COLOURS).enumerate() {
            let x = left + BAR * at as f64;
            let height = HEIGHT * value.unwrap_or(0.0) / top;
            bar(&mut svg, x, floor - height, height, colour);
            let said = value.map_or("-".to_string(), |v| format!("{v:.1}"));
            text(&mut svg, x + BAR / 2.0, floor - height - 4.0, "middle", 10, &said);
        }
        let middle = left + (wide - GAP) / 2.0;
        for (row, label) in group.labels.iter().enumerate() {
            text(
                &mut svg,
                middle,
                floor + 20.0 + 16.0 * row as f64,
                "middle",
                11,
                label,
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_they_should() {
        let group = Group {
            labels: ["1 endpoint".to_string(), "a < b".to_string()],
            bars: vec![Some(20.0), Some(10.0), None],
        };
        let svg = chart("frames & cores", &["a", "b", "c"], &[group]);
        assert!(
            svg.contains("height=\"300.0\" fill=\"#9aa5b1\"")
                && svg.contains("height=\"150.0\" fill=\"#1f6feb\"")
        );
        assert!(svg.contains(">-</text>") && svg.contains("a &lt; b") && svg.contains("frames &amp; cores"));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
