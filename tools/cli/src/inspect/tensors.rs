//! The tensors of `inspect`: which, in what order, and what is in them.

use std::io::Write;

use clap::{Args, ValueEnum};
use paramstore::inspect::{Bin, PlaneStatistics, StatisticsOptions, TensorStatistics};
use paramstore::{ParamStore, TensorInfo};
use serde_json::{Map, Value, json};

use super::{shape, value_bytes};
use crate::failure::Failure;
use crate::human::{Table, grouped, number, percent};
use crate::{style, terminal};

/// Tensors that are listed without being asked for.
const SHOWN: usize = 8;
/// Columns of a sparkline for one sign, and on a narrow terminal.
const SPARKS: [usize; 2] = [24, 14];

/// What the list is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    Name,
    Size,
    Updates,
    Norm,
    Std,
    Max,
    Ratio,
}

impl Sort {
    /// Whether values have to be read for it.
    fn needs_values(self) -> bool {
        matches!(self, Self::Norm | Self::Std | Self::Max | Self::Ratio)
    }
}

#[derive(Debug, Args)]
pub(crate) struct TensorsArguments {
    /// List only tensors whose names contain TEXT, or match it where it has * or ?
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Sort tensors; the largest first, but for names. norm, std, max and ratio read all values
    #[arg(long, value_name = "KEY", value_enum)]
    sort: Option<Sort>,
    /// List the first N tensors
    #[arg(long, value_name = "N")]
    top: Option<usize>,
    /// Read all values: norm, mean, deviation, extremes, zeros, NaN, infinities, and the size of the last update by that of the
    /// parameters
    #[arg(long)]
    stats: bool,
    /// As --stats, for each plane that the optimizer keeps, too
    #[arg(long)]
    planes: bool,
    /// Show how many values there are of each magnitude, a bar for each power of two
    #[arg(long)]
    histograms: bool,
}

impl TensorsArguments {
    /// Whether something says which tensors to list.
    fn is_choosing(&self) -> bool {
        let Self { filter, sort, top, stats, planes, histograms } = self;
        filter.is_some() || sort.is_some() || top.is_some() || *stats || *planes || *histograms
    }

    fn needs_values(&self) -> bool {
        self.stats || self.planes || self.histograms || self.sort.is_some_and(Sort::needs_values)
    }
}

/// One tensor of the list.
pub(super) struct Row<'s> {
    pub(super) info: TensorInfo<'s>,
    pub(super) steps: u64,
    statistics: Option<TensorStatistics>,
}

/// The tensors to list.
pub(super) struct List<'s> {
    pub(super) rows: Vec<Row<'s>>,
    /// Tensors that match the filter.
    all: usize,
    planes: bool,
    histograms: bool,
}

/// Finds what is to be listed, and reads the values if they are needed.
pub(super) fn list<'s>(
    store: &'s ParamStore,
    arguments: &TensorsArguments,
    is_long: bool,
) -> Result<List<'s>, Failure> {
    let mut rows = Vec::new();
    let filter = arguments.filter.as_deref();
    for info in store.tensors().filter(|info| filter.is_none_or(|filter| matches(filter, info.name()))) {
        rows.push(Row { info, steps: store.tensor_clock(info.name())?.steps, statistics: None });
    }
    let all = rows.len();
    let limit = match arguments.top {
        Some(top) => top,
        None if is_long || arguments.is_choosing() => all,
        None => SHOWN,
    };
    // Values are read of as few tensors as can be.
    let by_values = arguments.sort.filter(|sort| sort.needs_values());
    if by_values.is_none() {
        sort(&mut rows, arguments.sort);
        rows.truncate(limit);
    }
    if arguments.needs_values() {
        read(store, &mut rows)?;
    }
    if by_values.is_some() {
        sort(&mut rows, by_values);
        rows.truncate(limit);
    }
    Ok(List { rows, all, planes: arguments.planes, histograms: arguments.histograms })
}

fn sort(rows: &mut [Row<'_>], key: Option<Sort>) {
    let value = |row: &Row<'_>| {
        let statistics = row.statistics.as_ref();
        let parameters = statistics.and_then(|statistics| statistics.planes.first());
        let value = match key {
            Some(Sort::Norm) => parameters.map(|plane| plane.norm),
            Some(Sort::Std) => parameters.and_then(|plane| plane.std),
            Some(Sort::Max) => {
                let largest = |plane: &PlaneStatistics| Some(plane.max?.abs().max(plane.min?.abs()));
                parameters.and_then(largest)
            }
            Some(Sort::Ratio) => statistics.and_then(TensorStatistics::update_ratio),
            _ => None,
        };
        value.unwrap_or(f64::NEG_INFINITY)
    };
    match key {
        None => {}
        Some(Sort::Name) => rows.sort_by(|a, b| a.info.name().cmp(b.info.name())),
        Some(Sort::Size) => rows.sort_by_key(|row| std::cmp::Reverse(row.info.elements())),
        Some(Sort::Updates) => rows.sort_by_key(|row| std::cmp::Reverse(row.steps)),
        Some(_) => rows.sort_by(|a, b| value(b).total_cmp(&value(a))),
    }
}

fn read(store: &ParamStore, rows: &mut [Row<'_>]) -> Result<(), Failure> {
    let bar = terminal::progress(
        rows.iter().map(|row| value_bytes(&row.info, usize::MAX)).sum(),
        "{elapsed} [{bar:30}] {binary_bytes} of {binary_total_bytes} read, {binary_bytes_per_sec}, {eta} left",
    );
    let options = StatisticsOptions::new().tensors(rows.iter().map(|row| row.info.name()));
    let seen = store.statistics(&options, |done| bar.set_position(done));
    bar.finish_and_clear();
    for (row, seen) in rows.iter_mut().zip(seen?) {
        row.statistics = Some(seen);
    }
    Ok(())
}

/// Whether a name contains a text, or matches it as a whole where it has `*` (anything) or `?` (one character).
fn matches(filter: &str, name: &str) -> bool {
    if !filter.contains(['*', '?']) {
        return name.contains(filter);
    }
    let (filter, name): (Vec<_>, Vec<_>) = (filter.chars().collect(), name.chars().collect());
    // By character of the filter: which beginnings of the name match so far.
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    for c in filter {
        let before = ends.clone();
        for at in 0..ends.len() {
            ends[at] = match c {
                '*' => before[at] || (at > 0 && ends[at - 1]),
                c => at > 0 && before[at - 1] && (c == '?' || c == name[at - 1]),
            };
        }
    }
    ends[name.len()]
}

pub(super) fn write(list: &List<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "\ntensors")?;
    if list.rows.iter().any(|row| row.statistics.is_some()) {
        statistics(list, out)?;
    } else {
        let headings = ["name", "dtype", "shape", ">parameters", "group", ">updates"];
        let mut table = Table::new(&headings).fit(&["group", "dtype", "updates"]);
        for Row { info, steps, .. } in &list.rows {
            table.row(vec![
                info.name().to_owned(),
                info.dtype().name().to_owned(),
                shape(info),
                grouped(info.elements()),
                info.group().to_owned(),
                grouped(*steps),
            ]);
        }
        table.write(out)?;
    }
    if list.rows.len() < list.all {
        writeln!(out, "  ... and {} more (--tensors lists all)", list.all - list.rows.len())?;
    }
    if list.histograms {
        histograms(list, out)?;
    }
    Ok(())
}

fn statistics(list: &List<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    let headings = [
        "name",
        "plane",
        "shape",
        ">updates",
        ">norm",
        ">mean",
        ">std",
        ">min",
        ">max",
        ">zeros",
        ">NaN",
        ">inf",
        ">update/weight",
    ];
    let mut fit = vec!["updates", "mean", "min", "shape", "max", "zeros", "inf", "NaN"];
    if !list.planes {
        fit.insert(0, "plane");
    }
    let mut table = Table::new(&headings).fit(&fit);
    let some = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    for row in &list.rows {
        let Some(seen) = &row.statistics else { continue };
        let planes = seen.planes.iter().take(if list.planes { usize::MAX } else { 1 });
        for (at, plane) in planes.enumerate() {
            let ratio = if at == 0 { some(seen.update_ratio()) } else { String::new() };
            table.row(vec![
                row.info.name().to_owned(),
                plane.plane.clone(),
                shape(&row.info),
                grouped(row.steps),
                number(plane.norm),
                some(plane.mean),
                some(plane.std),
                some(plane.min),
                some(plane.max),
                percent(plane.zeros, plane.elements),
                grouped(plane.nan),
                grouped(plane.infinite),
                ratio,
            ]);
            if plane.nan > 0 {
                table.alarm(10);
            }
            if plane.infinite > 0 {
                table.alarm(11);
            }
        }
    }
    Ok(table.write(out)?)
}

/// Lines of bars: negative values on the left, the largest magnitudes outside.
fn histograms(list: &List<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    writeln!(out, "\nmagnitudes, a bar for each power of two (negative | positive)")?;
    let mut table = Table::new(&["name", "plane", ">", ">", "", ""]).fit(&["plane"]);
    for row in &list.rows {
        let Some(seen) = &row.statistics else { continue };
        for plane in seen.planes.iter().take(if list.planes { usize::MAX } else { 1 }) {
            let bins: Vec<_> = plane.histogram.bins().collect();
            let (low, high) = bins.iter().fold((i32::MAX, i32::MIN), |(low, high), bin| {
                (low.min(bin.exponent), high.max(bin.exponent))
            });
            let ends = if bins.is_empty() { String::new() } else { format!("2^{low} .. 2^{}", high + 1) };
            let mut negative = sparks(&bins, true, low..=high);
            negative.reverse();
            let text = |sparks: Vec<char>| sparks.into_iter().collect::<String>();
            table.row(vec![
                row.info.name().to_owned(),
                plane.plane.clone(),
                text(negative),
                "|".to_owned(),
                text(sparks(&bins, false, low..=high)),
                ends,
            ]);
        }
    }
    Ok(table.write(out)?)
}

/// Bars for the magnitudes of one sign, small ones first; several powers of two in one where there are many.
fn sparks(bins: &[Bin], is_negative: bool, range: std::ops::RangeInclusive<i32>) -> Vec<char> {
    let exponents: Vec<_> = range.collect();
    let each =
        exponents.len().div_ceil(SPARKS[usize::from(style::width().is_some_and(|width| width < 100))]).max(1);
    let count = |part: &[i32], is_negative: bool| -> u64 {
        let bins = bins.iter().filter(|bin| bin.is_negative == is_negative);
        bins.filter(|bin| part.contains(&bin.exponent)).map(|bin| bin.count).sum()
    };
    // Both signs on one scale.
    let highest =
        exponents.chunks(each).map(|part| count(part, true).max(count(part, false))).max().unwrap_or(0);
    exponents.chunks(each).map(|part| spark(count(part, is_negative), highest.max(1))).collect()
}

/// One of eight bars; a space for nothing at all, and the lowest bar for anything else.
fn spark(count: u64, highest: u64) -> char {
    const BARS: [char; 8] =
        ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
    if count == 0 {
        return ' ';
    }
    let at = u128::from(count) * 8 / (u128::from(highest) + 1);
    BARS.get(usize::try_from(at).unwrap_or(7)).copied().unwrap_or('\u{2588}')
}

/// What was found in a tensor's values.
pub(super) fn to_json(row: &Row<'_>) -> Option<Value> {
    let seen = row.statistics.as_ref()?;
    let planes: Map<_, _> =
        seen.planes.iter().map(|plane| (plane.plane.clone(), plane_to_json(plane))).collect();
    Some(json!({ "planes": planes, "update_rms": seen.update_rms, "update_to_weight": seen.update_ratio() }))
}

fn plane_to_json(plane: &PlaneStatistics) -> Value {
    let bin = |bin: Bin| json!({ "negative": bin.is_negative, "exponent": bin.exponent, "count": bin.count });
    json!({
        "elements": plane.elements,
        "zeros": plane.zeros,
        "nan": plane.nan,
        "infinite": plane.infinite,
        "norm": plane.norm,
        "mean": plane.mean,
        "std": plane.std,
        "min": plane.min,
        "max": plane.max,
        "histogram": plane.histogram.bins().map(bin).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_parts_of_names_or_patterns_for_the_whole() {
        let cases = [
            ("attn", "layer.0.attn.weight", true),
            ("attn", "layer.0.mlp", false),
            ("layer.*.weight", "layer.0.attn.weight", true),
            ("layer.*.weight", "layer.0.attn.bias", false),
            ("layer.?.x", "layer.1.x", true),
            ("layer.?.x", "layer.12.x", false),
            ("*", "", true),
            ("*a", "b", false),
            ("a*b*c", "a1b2b3c", true),
        ];
        for (filter, name, expected) in cases {
            assert_eq!(matches(filter, name), expected, "{filter} {name}");
        }
    }

    #[test]
    fn bars_are_as_high_as_their_share() {
        assert_eq!([0, 1, 50, 100].map(|count| spark(count, 100)), [' ', '\u{2581}', '\u{2584}', '\u{2588}']);
    }
}
