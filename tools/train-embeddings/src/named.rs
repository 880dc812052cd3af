//! Rows named by the examples of a batch: which are distinct, and where each is named. Gradients of a row are summed in the
//! order of these places, so that the sum does not depend on threads.

use rayon::prelude::*;

use crate::num::small;

/// Rows in the order in which examples name them, sorted out.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Distinct ids, ascending.
    ids: Vec<u64>,
    /// Where each id's places begin, and one more entry for the end.
    starts: Vec<u32>,
    /// Places, ascending for each id.
    places: Vec<u32>,
    /// For each place the index of its id.
    slots: Vec<u32>,
}

impl Named {
    /// Sorts out the ids that a batch names.
    pub(crate) fn new(named: &[u64]) -> Self {
        let mut order: Vec<(u64, u32)> =
            named.iter().enumerate().map(|(place, &id)| (id, small(place))).collect();
        order.par_sort_unstable();
        let mut sorted = Self { slots: vec![0; named.len()], ..Self::default() };
        for (i, (id, place)) in order.into_iter().enumerate() {
            if sorted.ids.last() != Some(&id) {
                sorted.ids.push(id);
                sorted.starts.push(small(i));
            }
            sorted.slots[place as usize] = small(sorted.ids.len() - 1);
            sorted.places.push(place);
        }
        sorted.starts.push(small(named.len()));
        sorted
    }

    /// The distinct ids, ascending.
    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Places in all.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// Which of the distinct ids is named at a place.
    pub(crate) fn slot(&self, place: usize) -> usize {
        self.slots[place] as usize
    }

    /// The row that is named at a place, out of one row for each distinct id.
    pub(crate) fn row<'a>(&self, rows: &'a [f32], width: usize, place: usize) -> &'a [f32] {
        &rows[self.slot(place) * width..][..width]
    }

    /// One row for each distinct id: `add` is called for its places in ascending order, and adds to it.
    pub(crate) fn sum(&self, width: usize, add: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
        let mut out = vec![0.0; self.ids.len() * width];
        out.par_chunks_mut(width.max(1)).enumerate().with_min_len(16).for_each(|(slot, row)| {
            let places = self.starts[slot] as usize..self.starts[slot + 1] as usize;
            for &place in &self.places[places] {
                add(place as usize, row);
            }
        });
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_ascending_and_every_place_finds_its_own() {
        let named = [7, 3, 7, 7, 0, 3];
        let sorted = Named::new(&named);
        assert_eq!(sorted.ids(), [0, 3, 7]);
        assert_eq!(sorted.places(), 6);
        for (place, &id) in named.iter().enumerate() {
            assert_eq!(sorted.ids()[sorted.slot(place)], id);
        }
    }

    #[test]
    fn sums_visit_the_places_of_a_row_in_order() {
        let sorted = Named::new(&[5, 1, 5, 5]);
        // A sum that depends on the order: the row becomes its decimal digits.
        let sum = sorted.sum(2, |place, row| {
            for x in row {
                *x = *x * 10.0 + f32::from(u8::try_from(place).unwrap()) + 1.0;
            }
        });
        assert_eq!(sum, [2.0, 2.0, 134.0, 134.0]);
        assert_eq!(sorted.row(&sum, 2, 3), [134.0, 134.0]);
    }

    #[test]
    fn no_ids_have_no_rows() {
        let sorted = Named::new(&[]);
        assert!(sorted.ids().is_empty() && sorted.sum(4, |_, _| ()).is_empty());
    }
}
