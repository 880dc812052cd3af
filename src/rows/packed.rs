//! Which rows a batch has, in a byte or two for each: what is kept of batches that come late.

/// Distinct rows, ascending: the distance of each from the one before it, in sevens of bits, the low ones first, with a high
/// bit where more follow (LEB128, as of DWARF 5, 7.6).
pub(super) struct Packed {
    distances: Box<[u8]>,
    rows: usize,
}

impl Packed {
    /// Packs rows; `None` if they take more than that many bytes.
    pub(super) fn of(rows: &[u64], most_bytes: usize) -> Option<Self> {
        let mut distances = Vec::with_capacity((2 * rows.len()).min(most_bytes));
        let mut before = 0;
        for &row in rows {
            let mut distance = row - before;
            while distance >= 1 << 7 {
                distances.push(low_byte(distance) | 1 << 7);
                distance >>= 7;
            }
            distances.push(low_byte(distance));
            before = row;
            if distances.len() > most_bytes {
                return None;
            }
        }
        Some(Self { distances: distances.into_boxed_slice(), rows: rows.len() })
    }

    /// The memory that they take.
    pub(super) fn bytes(&self) -> usize {
        self.distances.len()
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        let (mut row, mut distance, mut shift) = (0, 0, 0);
        self.distances.iter().filter_map(move |&byte| {
            distance |= u64::from(byte & 0x7f) << shift;
            if byte >= 1 << 7 {
                shift += 7;
                return None;
            }
            row += distance;
            (distance, shift) = (0, 0);
            Some(row)
        })
    }

    /// Whether they are these.
    pub(super) fn is(&self, rows: &[u64]) -> bool {
        self.rows == rows.len() && self.iter().eq(rows.iter().copied())
    }
}

fn low_byte(number: u64) -> u8 {
    let [low, ..] = number.to_le_bytes();
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_out_as_they_went_in() {
        let rows = [0, 1, 127, 255, 383, 384, 16_767, 16_768, 1 << 40, u64::MAX - 1, u64::MAX];
        let packed = Packed::of(&rows, 1000).unwrap();
        assert_eq!(packed.iter().collect::<Vec<_>>(), rows);
        assert!(packed.is(&rows) && !packed.is(&rows[1..]) && !packed.is(&[7; 11]));
        assert_eq!((packed.len(), packed.bytes()), (11, 6 + 3 + 2 + 2 + 6 + 10 + 1 - 2));
        let nothing = Packed::of(&[], 0).unwrap();
        assert!(nothing.is(&[]) && nothing.iter().next().is_none());
    }

    #[test]
    fn rows_that_take_too_much_are_refused() {
        let rows: Vec<u64> = (0..100).collect();
        assert!(Packed::of(&rows, 99).is_none());
        assert_eq!(Packed::of(&rows, 100).map(|packed| packed.bytes()), Some(100));
    }
}
