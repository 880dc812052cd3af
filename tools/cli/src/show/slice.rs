//! Slices as Python has them.

/// What is to be seen of each dimension.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Slice(Vec<Item>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Index(i64),
    Range {
        start: Option<i64>,
        stop: Option<i64>,
        step: i64,
    },
    /// As many whole dimensions as are left.
    Rest,
}

/// What is seen of one dimension: `count` places from `start` on, `step` apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) start: u64,
    pub(super) count: u64,
    pub(super) step: i64,
    /// Whether it is one place, and no dimension of the result.
    pub(super) is_index: bool,
}

impl Axis {
    /// The place of one of the values seen.
    pub(super) fn place(&self, at: u64) -> u64 {
        let forward = at.saturating_mul(self.step.unsigned_abs());
        if self.step < 0 { self.start.saturating_sub(forward) } else { self.start.saturating_add(forward) }
    }
}

/// Takes a slice such as `[0:3,:8]`, with or without brackets.
pub(super) fn parse(text: &str) -> Result<Slice, String> {
    let trimmed = text.trim();
    let inner = match (trimmed.strip_prefix('['), trimmed.ends_with(']')) {
        (Some(inner), true) => inner.trim_end_matches(']'),
        (None, false) => trimmed,
        _ => return Err("expected a bracket at both ends, or at none".to_owned()),
    };
    if inner.trim().is_empty() {
        return Ok(Slice::default());
    }
    let items = inner.trim_end_matches(',').split(',').map(|part| item(part.trim()));
    let items = items.collect::<Result<Vec<_>, _>>()?;
    if items.iter().filter(|item| **item == Item::Rest).count() > 1 {
        return Err("expected `...` at most once".to_owned());
    }
    Ok(Slice(items))
}

fn item(part: &str) -> Result<Item, String> {
    let expected = || format!("{part:?}: expected an index, START:STOP:STEP, or `...`");
    let number = |text: &str| -> Result<Option<i64>, String> {
        let text = text.trim();
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| expected()) }
    };
    if part == "..." {
        return Ok(Item::Rest);
    }
    let parts: Vec<_> = part.split(':').collect();
    match parts[..] {
        [index] => number(index)?.map(Item::Index).ok_or_else(expected),
        [start, stop] => Ok(Item::Range { start: number(start)?, stop: number(stop)?, step: 1 }),
        [start, stop, step] => match number(step)?.unwrap_or(1) {
            0 => Err(format!("{part:?}: expected a step other than 0")),
            step => Ok(Item::Range { start: number(start)?, stop: number(stop)?, step }),
        },
        _ => Err(expected()),
    }
}

impl Slice {
    /// What is seen of a tensor of this shape.
    pub(super) fn of(&self, shape: &[u64]) -> Result<Vec<Axis>, String> {
        let named = self.0.iter().filter(|item| **item != Item::Rest).count();
        if named > shape.len() {
            return Err(format!("slice: got {named} dimensions, expected at most {}", shape.len()));
        }
        let whole = Item::Range { start: None, stop: None, step: 1 };
        let mut items = Vec::new();
        for item in &self.0 {
            match item {
                Item::Rest => items.extend(vec![whole; shape.len() - named]),
                item => items.push(*item),
            }
        }
        items.resize(shape.len(), whole);
        items.iter().zip(shape).enumerate().map(|(at, (item, &len))| axis(at, *item, len)).collect()
    }
}

fn axis(at: usize, item: Item, len: u64) -> Result<Axis, String> {
    let signed = i64::try_from(len).unwrap_or(i64::MAX);
    let from_end = |place: i64| if place < 0 { place.saturating_add(signed) } else { place };
    let unsigned = |place: i64| u64::try_from(place).unwrap_or(0);
    match item {
        Item::Index(index) => {
            let place = from_end(index);
            if !(0..signed).contains(&place) {
                return Err(format!("slice: got index {index} in dimension {at}, which has {len}"));
            }
            Ok(Axis { start: unsigned(place), count: 1, step: 1, is_index: true })
        }
        Item::Range { start, stop, step } => {
            // The bounds of Python's slice.indices.
            let (low, high) = if step > 0 { (0, signed) } else { (-1, signed - 1) };
            let (first, last) = if step > 0 { (low, high) } else { (high, low) };
            let start = start.map_or(first, |place| from_end(place).clamp(low, high));
            let stop = stop.map_or(last, |place| from_end(place).clamp(low, high));
            let distance = if step > 0 { stop - start } else { start - stop };
            let count = if distance > 0 { unsigned(distance).div_ceil(step.unsigned_abs()) } else { 0 };
            Ok(Axis { start: unsigned(start), count, step, is_index: false })
        }
        Item::Rest => Err("slice: got a second `...`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(slice: &str, len: u64) -> Vec<u64> {
        let axes = parse(slice).unwrap().of(&[len]).unwrap();
        (0..axes[0].count).map(|at| axes[0].place(at)).collect()
    }

    /// As Python gives for `range(10)[slice]`.
    #[test]
    fn slices_name_the_places_that_they_name_in_python() {
        let cases: [(&str, &[u64]); 12] = [
            ("[2:5]", &[2, 3, 4]),
            ("7:", &[7, 8, 9]),
            ("[:-7]", &[0, 1, 2]),
            ("-2:", &[8, 9]),
            ("[::4]", &[0, 4, 8]),
            ("[1:8:3]", &[1, 4, 7]),
            ("[::-3]", &[9, 6, 3, 0]),
            ("[2::-1]", &[2, 1, 0]),
            ("[8:2:-4]", &[8, 4]),
            ("[5:2]", &[]),
            ("[-100:2]", &[0, 1]),
            ("[-1]", &[9]),
        ];
        for (slice, expected) in cases {
            assert_eq!(places(slice, 10), expected, "{slice}");
        }
        assert_eq!(places("[:]", 3), [0, 1, 2]);
    }

    #[test]
    fn dimensions_that_are_not_named_are_whole() {
        let counts = |slice: &str| -> Vec<_> {
            let axes = parse(slice).unwrap().of(&[4, 5, 6]).unwrap();
            axes.iter().map(|axis| (axis.count, axis.is_index)).collect()
        };
        assert_eq!(counts(""), [(4, false), (5, false), (6, false)]);
        assert_eq!(counts("[1]"), [(1, true), (5, false), (6, false)]);
        assert_eq!(counts("[..., :2]"), [(4, false), (5, false), (2, false)]);
        assert_eq!(counts("[0, ..., 0]"), [(1, true), (5, false), (1, true)]);
    }

    #[test]
    fn what_is_no_slice_is_refused() {
        for slice in ["[", "a", "1:2:3:4", "[::0]", "[..., ...]", "[1,,2]", "1]"] {
            assert!(parse(slice).is_err(), "{slice}");
        }
        assert!(parse("[0,0]").unwrap().of(&[3]).is_err());
        assert!(parse("[3]").unwrap().of(&[3]).is_err());
        assert!(parse("[-4]").unwrap().of(&[3]).is_err());
    }
}
