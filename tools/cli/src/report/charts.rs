//! Charts as SVG, out of numbers alone. Colors are classes, so that the page chooses them by light and dark.

use std::fmt::Write as _;

use super::html::escape;
use crate::human::{grouped, number, seconds};

/// Points of a curve at most.
pub(super) const POINTS_MAX: usize = 2_000;
/// Bars of a stack at most.
const BARS_MAX: usize = 120;
/// A chart in the units of its text, about pixels: readable on a phone, where it is as wide as the screen.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 220.0;
/// The plot within: left, top, right, bottom.
const PLOT: [f64; 4] = [56.0, 10.0, 382.0, 188.0];

/// What an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Plain,
    Steps,
    Seconds,
    Bytes,
}

impl Unit {
    pub(super) fn text(self, value: f64) -> String {
        if value == 0.0 {
            return "0".to_owned();
        }
        match self {
            Self::Seconds => {
                let text = seconds(value);
                let (digits, unit) = text.split_once(' ').unwrap_or((&text, ""));
                let digits = if digits.contains('.') {
                    digits.trim_end_matches('0').trim_end_matches('.')
                } else {
                    digits
                };
                format!("{digits} {unit}")
            }
            Self::Bytes => decimal(value),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "steps are whole")]
            Self::Steps => grouped(value.round().max(0.0) as u64),
            Self::Plain => number(value),
        }
    }
}

/// Bytes in decimal units, which round ticks are round in.
fn decimal(value: f64) -> String {
    const UNITS: [(f64, &str); 5] = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")];
    let (scale, unit) = UNITS.into_iter().find(|(scale, _)| value.abs() >= *scale).unwrap_or((1.0, "B"));
    let digits = format!("{:.2}", value / scale);
    format!("{} {unit}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// Round values in a range: steps of 1, 2 or 5 times a power of ten.
pub(super) fn ticks(low: f64, high: f64, about: f64) -> Vec<f64> {
    let raw = (high - low) / about;
    if raw <= 0.0 || !raw.is_finite() {
        return vec![low];
    }
    let power = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= raw * 0.999).unwrap_or(10.0);
    let step = factor * power;
    let mut ticks = Vec::new();
    let mut tick = (low / step).ceil();
    while tick * step <= high + step * 1e-9 && ticks.len() < 50 {
        // Without the last bits of the multiplication: 0.3, not 0.30000000000000004.
        let digits = (-step.log10().floor()).max(0.0);
        let rounded = 10_f64.powf(digits);
        let value = tick * step;
        ticks.push(if rounded.is_finite() && digits < 15.0 {
            (value * rounded).round() / rounded
        } else {
            value
        });
        tick += 1.0;
    }
    ticks
}

/// The curve in at most `POINTS_MAX` points: of each stretch the least and the greatest, so that no spike is lost.
pub(super) fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let stretches = POINTS_MAX / 2;
    let at = |stretch: usize| stretch * points.len() / stretches;
    let mut kept = Vec::with_capacity(POINTS_MAX);
    for stretch in 0..stretches {
        let part = points.get(at(stretch)..at(stretch + 1)).unwrap_or_default();
        let least = part.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        let greatest = part.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut two: Vec<_> = least.into_iter().chain(greatest).copied().collect();
        two.sort_by(|a, b| a.0.total_cmp(&b.0));
        two.dedup();
        kept.extend(two);
    }
    kept
}

/// A named curve; points ascend.
pub(super) struct Curve {
    pub(super) name: &'static str,
    /// The color, as a number of the page's palette.
    pub(super) color: u8,
    pub(super) points: Vec<(f64, f64)>,
}

/// From values to places.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    fn over(points: impl Iterator<Item = (f64, f64)>, from_zero: bool) -> Option<Self> {
        let mut frame = Self { x: (f64::INFINITY, f64::NEG_INFINITY), y: (f64::INFINITY, f64::NEG_INFINITY) };
        for (x, y) in points {
            frame.x = (frame.x.0.min(x), frame.x.1.max(x));
            frame.y = (frame.y.0.min(y), frame.y.1.max(y));
        }
        if !(frame.x.0.is_finite() && frame.y.0.is_finite()) {
            return None;
        }
        if from_zero {
            frame.y.0 = frame.y.0.min(0.0);
        }
        // What is flat, or one point, still needs a scale.
        if frame.x.0 >= frame.x.1 {
            frame.x = (frame.x.0 - 0.5, frame.x.1 + 0.5);
        }
        let room = (frame.y.1 - frame.y.0) * 0.04;
        let room = if room > 0.0 { room } else { (frame.y.1.abs() * 0.1).max(1e-12) };
        frame.y = (if from_zero { frame.y.0 } else { frame.y.0 - room }, frame.y.1 + room);
        Some(frame)
    }

    fn x(&self, value: f64) -> f64 {
        let [left, _, right, _] = PLOT;
        left + (value - self.x.0) / (self.x.1 - self.x.0) * (right - left)
    }

    fn y(&self, value: f64) -> f64 {
        let [_, top, _, bottom] = PLOT;
        bottom - (value - self.y.0) / (self.y.1 - self.y.0) * (bottom - top)
    }

    /// Lines, labels and the name of the lower axis.
    fn axes(&self, svg: &mut String, x_name: &str, x_unit: Unit, y_unit: Unit) {
        let [left, _, right, bottom] = PLOT;
        for tick in ticks(self.y.0, self.y.1, 5.0) {
            let (y, text) = (self.y(tick), escape(&y_unit.text(tick)));
            put(svg, &format!("<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>"));
            put(svg, &format!("<text class=\"e\" x=\"{}\" y=\"{:.1}\">{text}</text>", left - 5.0, y + 4.0));
        }
        // Half a step is no step.
        let whole = |tick: &f64| x_unit != Unit::Steps || tick.fract() == 0.0;
        for tick in ticks(self.x.0, self.x.1, 4.0).into_iter().filter(whole) {
            let (x, text) = (self.x(tick), escape(&x_unit.text(tick)));
            put(svg, &format!("<path class=\"grid\" d=\"M{x:.1} {bottom}v4\"/>"));
            put(svg, &format!("<text class=\"m\" x=\"{x:.1}\" y=\"{}\">{text}</text>", bottom + 16.0));
        }
        let middle = f64::midpoint(left, right);
        put(
            svg,
            &format!("<text class=\"m\" x=\"{middle}\" y=\"{}\">{}</text>", HEIGHT - 2.0, escape(x_name)),
        );
        put(svg, &format!("<path class=\"axis\" d=\"M{left} {bottom}H{right}\"/>"));
    }
}

/// Writing to memory does not fail.
fn put(svg: &mut String, text: &str) {
    let _written = writeln!(svg, "{text}");
}

fn open(label: &str, height: f64) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n", escape(label))
}

/// Names of colors, above a chart.
pub(super) fn legend<'a>(names: impl IntoIterator<Item = (u8, &'a str)>) -> String {
    let entry =
        |(color, name): (u8, &str)| format!("<span><i class=\"b{color}\"></i>{}</span>", escape(name));
    format!("<p class=\"legend\">{}</p>\n", names.into_iter().map(entry).collect::<String>())
}

/// Curves over steps; empty where there is nothing to show.
pub(super) fn lines(label: &str, curves: &[Curve], y_unit: Unit, from_zero: bool) -> String {
    let all = curves.iter().flat_map(|curve| curve.points.iter().copied());
    let Some(frame) = Frame::over(all, from_zero) else { return String::new() };
    let mut svg = open(label, HEIGHT);
    frame.axes(&mut svg, "step", Unit::Steps, y_unit);
    for curve in curves.iter().filter(|curve| !curve.points.is_empty()) {
        let place = |&(x, y): &(f64, f64)| (frame.x(x), frame.y(y));
        let places: Vec<_> = thinned(&curve.points).iter().map(place).collect();
        let line: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put(&mut svg, &format!("<polyline class=\"l{}\" points=\"{}\"/>", curve.color, line.join(" ")));
        // Few points are seen as such.
        for (x, y) in places.iter().filter(|_| places.len() <= 30) {
            put(
                &mut svg,
                &format!("<circle class=\"b{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>", curve.color),
            );
        }
    }
    svg + "</svg>\n"
}

/// Parts of a quantity over steps, on top of each other; of stretches of steps the mean, each step counted once.
pub(super) fn stacked(label: &str, steps: &[f64], parts: &[(u8, Vec<f64>)], y_unit: Unit) -> String {
    let (Some(first), Some(last)) = (steps.first(), steps.last()) else { return String::new() };
    let bars = steps.len().min(BARS_MAX);
    let at = |bar: usize| bar * steps.len() / bars;
    let mean = |values: &[f64], bar: usize| {
        let stretch = values.get(at(bar)..at(bar + 1)).unwrap_or_default();
        stretch.iter().sum::<f64>() / count(stretch.len()).max(1.0)
    };
    let heights: Vec<Vec<f64>> =
        (0..bars).map(|bar| parts.iter().map(|(_, values)| mean(values, bar)).collect()).collect();
    let highest = heights.iter().map(|parts| parts.iter().sum::<f64>()).fold(0.0, f64::max);
    let corners = [(first - 0.5, 0.0), (last + 0.5, highest)];
    let Some(frame) = Frame::over(corners.into_iter(), true) else { return String::new() };
    let mut svg = open(label, HEIGHT);
    frame.axes(&mut svg, "step", Unit::Steps, y_unit);
    for (bar, heights) in heights.iter().enumerate() {
        // Up to the first step of the next bar: what was thinned out took its time too.
        let step = |at: usize| steps.get(at).map_or(last + 0.5, |step| step - 0.5);
        let (left, right) = (frame.x(step(at(bar))), frame.x(step(at(bar + 1))));
        let mut below = 0.0;
        for ((color, _), height) in parts.iter().zip(heights).filter(|(_, height)| **height > 0.0) {
            let (top, bottom) = (frame.y(below + height), frame.y(below));
            let (width, tall) = ((right - left).max(0.5), bottom - top);
            put(
                &mut svg,
                &format!(
                    "<rect class=\"b{color}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.2}\" height=\"{tall:.1}\"/>"
                ),
            );
            below += height;
        }
    }
    svg + "</svg>\n"
}

#[expect(clippy::cast_precision_loss, reason = "numbers of points")]
pub(super) fn count(value: usize) -> f64 {
    value as f64
}

/// One bar, divided by shares of a whole.
pub(super) fn divided(label: &str, parts: &[(u8, f64)]) -> String {
    let whole: f64 = parts.iter().map(|(_, part)| part).sum();
    let mut svg = open(label, 26.0);
    let mut left = 0.0;
    for (color, part) in parts.iter().filter(|_| whole > 0.0) {
        let width = part / whole * WIDTH;
        put(
            &mut svg,
            &format!("<rect class=\"b{color}\" x=\"{left:.2}\" width=\"{width:.2}\" height=\"26\"/>"),
        );
        left += width;
    }
    svg + "</svg>\n"
}

/// A cell of a map: color, how strong from 0 to 1, and what it says when it is pointed at.
pub(super) struct MapCell {
    pub(super) color: u8,
    pub(super) strength: f64,
    pub(super) title: String,
}

/// Cells in rows, of the same size.
pub(super) fn map(label: &str, cells: &[MapCell]) -> String {
    const COLUMNS: usize = 50;
    let size = WIDTH / count(COLUMNS);
    let rows = cells.len().div_ceil(COLUMNS).max(1);
    let mut svg = open(label, count(rows) * size);
    for (at, cell) in cells.iter().enumerate() {
        let (x, y) = (count(at % COLUMNS) * size, count(at / COLUMNS) * size);
        let MapCell { color, strength, title } = cell;
        put(
            &mut svg,
            &format!(
                "<rect class=\"b{color}\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{w}\" opacity=\"{strength:.2}\"><title>{}</title></rect>",
                escape(title),
                w = size - 1.0
            ),
        );
    }
    svg + "</svg>\n"
}

/// Marks on a line of steps from 0 to the last one; labels take turns in three rows, and what has no room is a mark alone.
pub(super) fn timeline(label: &str, last: f64, marks: &[(f64, String, u8)]) -> String {
    const ROWS: usize = 3;
    let [left, _, right, _] = PLOT;
    let (left, last) = (left / 3.0, last.max(1.0));
    let place = |step: f64| left + step / last * (right - left);
    let mut svg = open(label, 110.0);
    put(&mut svg, &format!("<path class=\"axis\" d=\"M{left:.1} 70H{right}\"/>"));
    for tick in ticks(0.0, last, 4.0).into_iter().filter(|tick| tick.fract() == 0.0) {
        let (x, text) = (place(tick), Unit::Steps.text(tick));
        put(&mut svg, &format!("<path class=\"grid\" d=\"M{x:.1} 70v5\"/>"));
        put(&mut svg, &format!("<text class=\"m\" x=\"{x:.1}\" y=\"88\">{text}</text>"));
    }
    put(&mut svg, &format!("<text class=\"m\" x=\"{}\" y=\"106\">step</text>", f64::midpoint(left, right)));
    let mut ends = [f64::NEG_INFINITY; ROWS];
    for (step, name, color) in marks {
        let x = place(*step);
        put(
            &mut svg,
            &format!(
                "<path class=\"l{color}\" d=\"M{x:.1} 58V76\"><title>{}</title></path>",
                escape(&format!("{name}, step {}", Unit::Steps.text(*step)))
            ),
        );
        // Letters are about 6.5 wide.
        let half = count(name.chars().count()) * 3.25;
        let center = x.clamp(half.min(WIDTH / 2.0), (WIDTH - half).max(WIDTH / 2.0));
        if let Some((row, end)) = ends.iter_mut().enumerate().find(|(_, end)| center - half > **end + 4.0) {
            *end = center + half;
            let y = 50.0 - 16.0 * count(row);
            put(&mut svg, &format!("<text class=\"m\" x=\"{center:.1}\" y=\"{y}\">{}</text>", escape(name)));
        }
    }
    svg + "</svg>\n"
}
