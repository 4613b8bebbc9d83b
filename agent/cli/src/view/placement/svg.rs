//! The picture of placement: a row of boxes for each path, and below it a line for each rule.

use svg::Document;
use svg::node::element::{Circle, Line, Rectangle, Text, Title};

use super::{PathView, PlacementTargetView, PlacementView};

/// Pixels: the width of a box and of the gap between two, the height of a box and of a line.
const BOX: usize = 250;
const GAP: usize = 40;
const HIGH: usize = 88;
const LINE: usize = 20;
const MARGIN: usize = 20;
/// Room for the name of a rule at the left.
const NAMES: usize = 280;
/// Rules drawn for one path; the others are counted.
const MOST: usize = 60;

pub(super) fn picture(view: &PlacementView) -> String {
    let longest = view
        .paths
        .iter()
        .map(|path| path.targets.len())
        .max()
        .unwrap_or(0);
    let width = 2 * MARGIN + NAMES + (longest + 1) * (BOX + GAP);
    let mut document = Document::new();
    let mut y = MARGIN + LINE;
    document = document.add(text(
        MARGIN,
        y,
        &format!("generation {}", view.generation),
        "bold",
    ));
    y += LINE;
    for path in &view.paths {
        (document, y) = drawn(document, path, &view.targets, y);
    }
    let document = document
        .set("width", width)
        .set("height", y + MARGIN)
        .set("font-family", "sans-serif")
        .set("font-size", 12);
    format!("{document}\n")
}

/// One path from here downwards, and where the next one begins.
fn drawn(
    mut document: Document,
    path: &PathView,
    targets: &[PlacementTargetView],
    mut y: usize,
) -> (Document, usize) {
    let left = MARGIN + NAMES;
    document = document.add(text(MARGIN, y + HIGH / 2, "uplink", "bold"));
    document = document.add(wire(MARGIN + 60, left, y + HIGH / 2));
    for (at, name) in path.targets.iter().enumerate() {
        let x = left + at * (BOX + GAP);
        let target = targets.iter().find(|target| target.name == *name);
        let fill = match target {
            Some(target) if target.hardware => "#dbeafe",
            _ => "#f1f5f9",
        };
        document = document
            .add(frame(x, y, fill))
            .add(text(x + 10, y + 20, name, "bold"))
            .add(wire(x + BOX, x + BOX + GAP, y + HIGH / 2));
        if let Some(target) = target {
            document = document.add(text(x + 10, y + 38, &target.what(), "normal"));
            for (line, room) in target.room().iter().take(2).enumerate() {
                document = document.add(text(x + 10, y + 56 + line * 18, room, "normal"));
            }
        }
    }
    let end = left + path.targets.len() * (BOX + GAP);
    document = document.add(text(end + 10, y + HIGH / 2 + 4, &path.servers(), "normal"));
    y += HIGH + LINE;
    for rule in path.rules.iter().take(MOST) {
        let name = format!("{} {}", rule.direction.unwrap_or_default(), rule.rule);
        document = document.add(text(MARGIN, y + 4, &name, "normal"));
        for (at, held) in rule.at.iter().enumerate() {
            let x = left + at * (BOX + GAP) + BOX / 2;
            let title = match held.why.is_empty() {
                true => held.extent.clone(),
                false => format!("{}: {}", held.extent, held.why),
            };
            document = document
                .add(dot(x, y, &held.extent).add(Title::new(title)))
                .add(text(x + 12, y + 4, &held.extent, "normal"));
        }
        document = document.add(text(end + 10, y + 4, &rule.placement, "normal"));
        y += LINE;
    }
    if let Some(more) = path.rules.len().checked_sub(MOST).filter(|more| *more > 0) {
        document = document.add(text(MARGIN, y + 4, &format!("and {more} more"), "normal"));
        y += LINE;
    }
    (document, y + LINE)
}

fn text(x: usize, y: usize, what: &str, weight: &str) -> Text {
    let what = portcullis_policy::text::plain(what);
    Text::new(what.into_owned())
        .set("x", x)
        .set("y", y)
        .set("font-weight", weight)
}

fn frame(x: usize, y: usize, fill: &str) -> Rectangle {
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", BOX)
        .set("height", HIGH)
        .set("rx", 6)
        .set("fill", fill)
        .set("stroke", "#334155")
}

fn wire(from: usize, to: usize, y: usize) -> Line {
    Line::new()
        .set("x1", from)
        .set("x2", to)
        .set("y1", y)
        .set("y2", y)
        .set("stroke", "#334155")
}

/// Filled where all of a rule is held, half transparent for a part, and empty where nothing is.
fn dot(x: usize, y: usize, extent: &str) -> Circle {
    let (fill, opacity) = match extent {
        "whole" => ("#15803d", "1"),
        "part" => ("#15803d", "0.4"),
        "unknown" => ("#94a3b8", "1"),
        _ => ("none", "1"),
    };
    Circle::new()
        .set("cx", x)
        .set("cy", y)
        .set("r", 6)
        .set("fill", fill)
        .set("fill-opacity", opacity)
        .set("stroke", "#334155")
}
