//! Values in rows and brackets.

use std::io::Write;

use paramstore::inspect::Element;
use serde_json::Value;

use super::slice::Axis;
use super::{Values, to_json};
use crate::failure::Failure;

/// Values that are printed without leaving any out.
const WHOLE_MAX: u64 = 1000;
/// Values shown at each end of a dimension that is not shown whole.
const EDGE: u64 = 3;
/// Digits behind the point.
const DIGITS_MAX: usize = 8;
/// Columns of a line where there is no terminal, as NumPy has it.
const WIDTH: usize = 75;

/// Places of one dimension that are shown, and before which of them something is left out.
struct Shown {
    places: Vec<u64>,
    gap: Option<usize>,
}

fn shown(axis: &Axis, is_whole: bool) -> Shown {
    if is_whole || axis.count <= 2 * EDGE {
        return Shown { places: (0..axis.count).map(|at| axis.place(at)).collect(), gap: None };
    }
    let at = (0..EDGE).chain(axis.count - EDGE..axis.count);
    Shown { places: at.map(|at| axis.place(at)).collect(), gap: Some(3) }
}

/// Reads the values at some places of the last dimension, those that stand together at once.
fn row(values: &Values<'_>, base: u64, places: &[u64]) -> Result<Vec<Element>, Failure> {
    let mut read = Vec::with_capacity(places.len());
    for run in places.chunk_by(|a, b| a + 1 == *b) {
        if let Some(first) = run.first() {
            read.extend(values.read(base + first, run.len())?);
        }
    }
    Ok(read)
}

/// Elements between neighbours of each dimension.
fn strides(shape: &[u64]) -> Vec<u64> {
    let mut strides = vec![1; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at] * shape[at];
    }
    strides
}

/// All rows of the last dimension that are shown, in order.
fn rows(values: &Values<'_>, strides: &[u64], dims: &[Shown]) -> Result<Vec<Vec<Element>>, Failure> {
    let Some((last, outer)) = dims.split_last() else { return Ok(vec![values.read(0, 1)?]) };
    let mut bases = vec![0];
    for (shown, stride) in outer.iter().zip(strides) {
        let inner = |base: &u64| shown.places.iter().map(|place| base + place * stride).collect::<Vec<_>>();
        bases = bases.iter().flat_map(inner).collect();
    }
    bases.iter().map(|base| row(values, *base, &last.places)).collect()
}

/// All values as nested lists.
pub(super) fn json(values: &Values<'_>, shape: &[u64], axes: &[Axis]) -> Result<Value, Failure> {
    let dims: Vec<_> = axes.iter().map(|axis| shown(axis, true)).collect();
    let all = rows(values, &strides(shape), &dims)?;
    let mut lists: Vec<Value> = Vec::new();
    for row in all {
        let mut row: Vec<_> = row.into_iter().map(|element| to_json(element, values.is_narrow())).collect();
        match axes.last() {
            Some(last) if !last.is_index => lists.push(row.into()),
            _ => lists.append(&mut row),
        }
    }
    for axis in axes.iter().rev().skip(1).filter(|axis| !axis.is_index) {
        let each = usize::try_from(axis.count).unwrap_or(usize::MAX).max(1);
        let outer = lists.chunks(each).map(|part| Value::from(part.to_vec())).collect();
        lists = if axis.count == 0 { vec![Value::Array(Vec::new())] } else { outer };
    }
    Ok(lists.pop().unwrap_or_else(|| Value::Array(Vec::new())))
}

pub(super) fn text(
    values: &Values<'_>,
    shape: &[u64],
    axes: &[Axis],
    is_all: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let total = axes.iter().fold(1_u64, |total, axis| total.saturating_mul(axis.count));
    let is_whole = is_all || total <= WHOLE_MAX;
    let dims: Vec<_> = axes.iter().map(|axis| shown(axis, is_whole)).collect();
    let rows = rows(values, &strides(shape), &dims)?;
    let cells = cells(&rows, values.is_narrow());
    let kept: Vec<_> = dims.iter().zip(axes).filter(|(_, axis)| !axis.is_index).map(|(dim, _)| dim).collect();
    let mut cells = cells.into_iter();
    let width = crate::style::width().unwrap_or(WIDTH).max(20);
    let mut text = String::new();
    nest(&kept, 0, &mut cells, width, &mut text);
    Ok(writeln!(out, "{text}")?)
}

/// Writes one dimension and all below it.
fn nest(
    dims: &[&Shown],
    depth: usize,
    cells: &mut impl Iterator<Item = String>,
    width: usize,
    text: &mut String,
) {
    let Some((dim, inner)) = dims.split_first() else {
        text.push_str(cells.next().unwrap_or_default().trim());
        return;
    };
    text.push('[');
    if inner.is_empty() {
        let mut column = depth + 1;
        for at in 0..dim.places.len() {
            let cell = cells.next().unwrap_or_default();
            let cell = if dim.gap == Some(at) { format!("... {cell}") } else { cell };
            if at > 0 && column + 1 + cell.len() > width - depth - 1 {
                text.push('\n');
                text.push_str(&" ".repeat(depth + 1));
                column = depth + 1;
            } else if at > 0 {
                text.push(' ');
                column += 1;
            }
            column += cell.len();
            text.push_str(&cell);
        }
    } else {
        for at in 0..dim.places.len() {
            if at > 0 {
                text.push_str(&"\n".repeat(inner.len()));
                text.push_str(&" ".repeat(depth + 1));
            }
            if dim.gap == Some(at) {
                text.push_str("...");
                text.push_str(&"\n".repeat(inner.len()));
                text.push_str(&" ".repeat(depth + 1));
            }
            nest(inner, depth + 1, cells, width, text);
        }
    }
    text.push(']');
}

/// All values with as many digits as tell them from others, and the same width.
fn cells(rows: &[Vec<Element>], is_narrow: bool) -> Vec<String> {
    let all = || rows.iter().flatten();
    let sizes = all().filter_map(|element| match element {
        Element::Float(value) if value.is_finite() && *value != 0.0 => Some(value.abs()),
        _ => None,
    });
    let (low, high) =
        sizes.fold((f64::INFINITY, 0.0_f64), |(low, high), size| (low.min(size), high.max(size)));
    // NumPy's rule for when a column of numbers needs exponents.
    let has_exponents =
        high >= 1e8 || low < 1e-4 || (high > 0.0 && high / low > 1e3 && low < 1e-2 && high > 1e3);
    let digits_of = |text: &str| text.split_once('.').map_or(0, |(_, digits)| digits.len());
    let shortest = |value: f64| {
        if is_narrow { narrow(value).to_string() } else { value.to_string() }
    };
    let floats = || {
        all().filter_map(|element| match element {
            Element::Float(value) if value.is_finite() => Some(*value),
            _ => None,
        })
    };
    let digits = floats().map(|value| digits_of(&shortest(value))).max().unwrap_or(0).clamp(1, DIGITS_MAX);
    let cell = |element: &Element| match element {
        Element::Float(value) if !value.is_finite() => value.to_string().to_lowercase(),
        Element::Float(value) if has_exponents => format!("{value:.8e}"),
        Element::Float(value) => format!("{value:.digits$}"),
        Element::Signed(value) => value.to_string(),
        Element::Unsigned(value) => value.to_string(),
        Element::Bool(value) => value.to_string(),
        _ => String::new(),
    };
    let cells: Vec<_> = all().map(cell).collect();
    let width = cells.iter().map(String::len).max().unwrap_or(0);
    cells.into_iter().map(|cell| format!("{cell:>width$}")).collect()
}

/// An f32 that an f64 holds.
#[expect(clippy::cast_possible_truncation, reason = "the value was widened from f32")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}
