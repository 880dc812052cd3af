//! Which elements or rows of a tensor a step has seen. Pure.

use std::ops::Range;

/// A set of elements, as ascending ranges that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Coverage {
    ranges: Vec<Range<u64>>,
}

impl Coverage {
    /// Whether any element of a range is in the set.
    pub(super) fn overlaps(&self, range: &Range<u64>) -> bool {
        let at = self.ranges.partition_point(|r| r.end <= range.start);
        !range.is_empty() && self.ranges.get(at).is_some_and(|r| r.start < range.end)
    }

    /// Adds a range; joins it with its neighbours.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let last = self.ranges.partition_point(|r| r.start <= range.end);
        let joined = self.ranges.get(first..last).unwrap_or_default();
        let start = joined.first().map_or(range.start, |r| r.start.min(range.start));
        let end = joined.last().map_or(range.end, |r| r.end.max(range.end));
        self.ranges.splice(first..last, std::iter::once(start..end));
    }

    /// Cuts a range into parts that are in the set (true) and parts that are not (false), ascending.
    pub(super) fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let mut parts = Vec::new();
        let mut position = range.start;
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        for seen in self.ranges.iter().skip(first).take_while(|r| r.start < range.end) {
            if position < seen.start {
                parts.push((position..seen.start, false));
            }
            let end = seen.end.min(range.end);
            parts.push((position.max(seen.start)..end, true));
            position = end;
        }
        if position < range.end {
            parts.push((position..range.end, false));
        }
        parts
    }

    /// Whether every element below `len` is in the set.
    pub(super) fn is_whole(&self, len: u64) -> bool {
        matches!(self.ranges.as_slice(), [only] if *only == (0..len))
    }

    /// The first element below `len` that is not in the set.
    pub(super) fn first_gap(&self) -> u64 {
        self.ranges.first().map_or(0, |r| if r.start == 0 { r.end } else { 0 })
    }
}

/// What a step has updated of a tensor.
#[derive(Debug)]
pub(super) enum Done {
    /// Ranges of elements, which have to become the whole.
    Elements(Coverage),
    /// Rows that had gradients; the others need nothing.
    Rows(RowSet),
}

/// A set of rows, as ascending lists.
#[derive(Debug, Default)]
pub(super) struct RowSet {
    lists: Vec<Vec<u64>>,
}

impl RowSet {
    /// The first of some ascending rows that is in the set.
    pub(super) fn first_of(&self, rows: &[u64]) -> Option<u64> {
        let is_seen = |row: &u64| self.lists.iter().any(|list| list.binary_search(row).is_ok());
        rows.iter().copied().find(is_seen)
    }

    /// Adds ascending rows that are not in the set. Each list is more than twice as long as the one after it, so that a
    /// row is moved, and looked for, a logarithmic number of times however small the parts.
    #[expect(clippy::stable_sort_primitive, reason = "two runs, which a stable sort finds and merges")]
    pub(super) fn insert(&mut self, mut rows: Vec<u64>) {
        while let Some(last) = self.lists.pop_if(|last| last.len() <= 2 * rows.len()) {
            rows.extend(last);
            rows.sort();
        }
        if !rows.is_empty() {
            self.lists.push(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order_join_to_the_whole() {
        let mut coverage = Coverage::default();
        for range in [6..8, 0..2, 4..6, 9..9, 2..3, 3..4, 8..10] {
            assert!(!coverage.overlaps(&range));
            coverage.insert(range);
        }
        assert!(coverage.is_whole(10) && !coverage.is_whole(11));
        assert_eq!(coverage.first_gap(), 10);
    }

    #[test]
    fn split_tells_seen_parts_from_new_ones() {
        let mut coverage = Coverage::default();
        coverage.insert(2..4);
        coverage.insert(6..7);
        let parts = coverage.split(0..10);
        assert_eq!(parts, [(0..2, false), (2..4, true), (4..6, false), (6..7, true), (7..10, false)]);
        assert_eq!(coverage.split(3..6), [(3..4, true), (4..6, false)]);
        assert!(coverage.overlaps(&(3..5)) && !coverage.overlaps(&(4..6)) && !coverage.overlaps(&(5..5)));
        assert_eq!(coverage.first_gap(), 0);
    }

    #[test]
    fn rows_are_found_whatever_the_parts_in_which_they_came() {
        let mut seen = RowSet::default();
        seen.insert(Vec::new());
        assert_eq!((seen.first_of(&[0, 1]), seen.lists.len()), (None, 0));
        for row in (0..100).rev() {
            assert_eq!(seen.first_of(&[3 * row, 3 * row + 1]), None);
            seen.insert(vec![3 * row]);
        }
        assert!(seen.lists.len() <= 7, "{} lists", seen.lists.len());
        assert!(seen.lists.iter().all(|list| list.is_sorted()));
        assert!((0..100).all(|row| seen.first_of(&[3 * row + 1, 3 * row + 3, 500]) != Some(3 * row + 1)));
        assert_eq!((seen.first_of(&[1, 2, 297]), seen.first_of(&[4, 300])), (Some(297), None));
    }
}
