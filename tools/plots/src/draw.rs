//! Lines in a frame, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

const SIZE: (u32, u32) = (800, 480);
const COLORS: [RGBColor; 3] = [RGBColor(31, 90, 160), RGBColor(200, 80, 30), RGBColor(60, 140, 70)];

pub(crate) struct Axis {
    pub(crate) name: &'static str,
    pub(crate) log: bool,
}

/// Lines of the same name have the same colour.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Plot {
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
    /// Where the lines' names cover nothing.
    pub(crate) legend: SeriesLabelPosition,
}

/// A scale from the lowest to the highest value, by logarithm or not.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn of(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        if axis.log {
            // Values of one kind fill the page too.
            let margin = (high / low).powf(0.2).clamp(1.01, 1.3);
            Self { low: low / margin, high: high * margin, log: true }
        } else {
            Self { low: 0.0, high: high * 1.1, log: false }
        }
    }

    /// Where a value stands, 0 to 1.
    fn share(&self, x: f64) -> f64 {
        if self.log {
            (x / self.low).ln() / (self.high / self.low).ln()
        } else {
            (x - self.low) / (self.high - self.low)
        }
    }

    /// Round values: 1, 2 and 5 times powers of ten, or steps of that length where few of these lie on the scale.
    fn ticks(&self) -> Vec<f64> {
        if !self.log || self.high / self.low < 5.0 {
            let step = nice((self.high - self.low) / 6.0);
            let first = (self.low / step).ceil();
            return (0..=10).map(|i| (first + f64::from(i)) * step).filter(|&x| x <= self.high).collect();
        }
        let decades = -6..=9;
        let ticks = decades.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(power)));
        ticks.filter(|&x| x >= self.low && x <= self.high).collect()
    }
}

/// The next higher of 1, 2, 5 times a power of ten.
fn nice(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|&x| x >= step).unwrap_or(step)
}

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a place on a page")]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        from + (self.share(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl Plot {
    /// Writes the plot.
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        ensure!(
            all().all(|(x, y)| x.is_finite() && *y > 0.0),
            "{}: a value that cannot be drawn",
            self.title
        );
        self.draw_on(SVGBackend::new(path, SIZE)).map_err(|error| anyhow!("{}: {error}", path.display()))
    }

    fn draw_on(&self, backend: SVGBackend<'_>) -> Result<(), Box<dyn std::error::Error + '_>> {
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let (x, y) = (Scale::of(&self.x, all().map(|p| p.0)), Scale::of(&self.y, all().map(|p| p.1)));
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(65)
            .build_cartesian_2d(x, y)?;
        let label = |x: &f64| format!("{}", (x * 1000.0).round() / 1000.0);
        chart
            .configure_mesh()
            .x_desc(self.x.name)
            .y_desc(self.y.name)
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .light_line_style(TRANSPARENT)
            .draw()?;
        let mut names: Vec<&str> = Vec::new();
        for line in &self.lines {
            let known = names.iter().position(|name| *name == line.name);
            let color = COLORS[known.unwrap_or(names.len()) % COLORS.len()];
            let mut points = line.points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let width = if self.lines.len() > COLORS.len() { 1 } else { 2 };
            let drawn =
                chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(width)))?;
            if known.is_none() {
                names.push(line.name);
                drawn
                    .label(line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            }
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(self.legend.clone())
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside_the_scale() {
        let axis = |log| Axis { name: "", log };
        let linear = Scale::of(&axis(false), [0.2, 1.9].into_iter());
        assert_eq!(linear.ticks(), [0.0, 0.5, 1.0, 1.5, 2.0]);
        let log = Scale::of(&axis(true), [10.0, 800.0].into_iter());
        assert_eq!(log.ticks(), [10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0]);
        let narrow = Scale::of(&axis(true), [4.0, 6.0].into_iter());
        assert_eq!(narrow.ticks(), [4.0, 4.5, 5.0, 5.5, 6.0, 6.5]);
    }

    #[test]
    fn a_plot_holds_its_names_and_a_point_for_each_value() {
        let line = Line { name: "step", points: vec![(1.0, 2.0), (3.0, 1.0)] };
        let axis = |name| Axis { name, log: false };
        let plot = Plot {
            title: "A title",
            x: axis("across"),
            y: axis("up"),
            lines: vec![line],
            legend: SeriesLabelPosition::LowerLeft,
        };
        let file = std::env::temp_dir().join(format!("paramstore-plots-{}.svg", std::process::id()));
        plot.draw(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(["A title", "across", "up", "step"].iter().all(|name| text.contains(name)));
        assert_eq!(text.matches("<circle").count(), 2);
    }
}
