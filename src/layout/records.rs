//! From a row of a table to its record: extent, block, page, bytes. Pure.

use std::ops::Range;

use super::block_place;
use crate::format::directory::{Directory, Init};
use crate::format::records::{MAX_PAGE_BYTES, PAGE_HEADER_BYTES, Records};
use crate::format::row_log::MIN_RING_BYTES;
use crate::units::{BlockIndex, round_up, to_u64, to_usize};

/// A tensor of rows: everything that is needed to find a record.
#[derive(Debug, Clone)]
pub(crate) struct RowTable {
    /// Index of the tensor.
    pub(crate) tensor: usize,
    pub(crate) rows: u64,
    pub(crate) init: Init,
    pub(crate) records: Records,
    per_page: usize,
    pages_per_block: usize,
    rows_per_extent: u64,
    first_extent: usize,
    extents: usize,
    /// First block of the first extent; the blocks of a tensor's extents follow each other.
    first_block: u64,
    blocks: u64,
    blocks_per_extent: u64,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordPlace {
    pub(crate) block: BlockIndex,
    /// Number of its page in the block.
    pub(crate) page: usize,
    /// Where it begins in its page.
    pub(crate) within: usize,
    /// Its number among the rows of the block.
    pub(crate) row_in_block: u32,
}

/// All tensors of rows, in the order of the directory.
pub(crate) fn row_tables(directory: &Directory) -> Vec<RowTable> {
    let tensors = 0..directory.tensors.len();
    tensors.filter_map(|tensor| RowTable::new(directory, tensor)).collect()
}

impl RowTable {
    /// `None` for a tensor that is not of rows.
    pub(crate) fn new(directory: &Directory, tensor: usize) -> Option<Self> {
        let spec = directory.tensors.get(tensor)?;
        let (first_extent, extents) = (to_usize(spec.extent.into()), to_usize(spec.extents.into()));
        let own = directory.extents.get(first_extent..first_extent + extents)?;
        let first = own.first()?;
        let records = first.records.clone()?;
        let &[rows, _] = spec.shape.as_slice() else { return None };
        let page_elements = u64::from(records.page_bytes) / 4;
        let per_page = records.per_page();
        Some(Self {
            tensor,
            rows,
            init: spec.init,
            per_page,
            pages_per_block: to_usize(first.block_elements / page_elements),
            rows_per_extent: first.elements / page_elements * to_u64(per_page),
            first_extent,
            extents,
            first_block: first.first_block,
            blocks: own.iter().map(crate::format::directory::Extent::blocks).sum(),
            blocks_per_extent: first.blocks(),
            records,
        })
    }

    /// Rows of a whole block.
    pub(crate) fn rows_per_block(&self) -> usize {
        self.per_page * self.pages_per_block
    }

    pub(crate) fn page_bytes(&self) -> usize {
        to_usize(self.records.page_bytes.into())
    }

    /// Bytes of all records on disk, in one home.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows.div_ceil(to_u64(self.per_page)).saturating_mul(self.records.page_bytes.into())
    }

    /// Where a row's record stands; the row lies in the table.
    pub(crate) fn place(&self, row: u64) -> RecordPlace {
        let (extent, local) = (row / self.rows_per_extent, row % self.rows_per_extent);
        let in_block = to_u64(self.rows_per_block());
        let (number, row_in_block) = (local / in_block, to_usize(local % in_block));
        let (page, slot) = (row_in_block / self.per_page, row_in_block % self.per_page);
        RecordPlace {
            block: BlockIndex(self.first_block + extent * self.blocks_per_extent + number),
            page,
            within: PAGE_HEADER_BYTES + slot * self.records.bytes(),
            row_in_block: u32::try_from(row_in_block).unwrap_or(u32::MAX),
        }
    }

    /// The blocks of the table.
    pub(crate) fn blocks(&self) -> Range<u64> {
        self.first_block..self.first_block + self.blocks
    }

    /// The rows of a block.
    pub(crate) fn rows_of(&self, block: BlockIndex) -> Range<u64> {
        let local = block.0 - self.first_block;
        let (extent, number) = (local / self.blocks_per_extent, local % self.blocks_per_extent);
        let begin = extent * self.rows_per_extent;
        let start = begin + number * to_u64(self.rows_per_block());
        let end = (start + to_u64(self.rows_per_block())).min(begin + self.rows_per_extent).min(self.rows);
        start..end
    }

    /// Where the bytes of a block stand in each home: segment, offset, and its entry of the table.
    pub(crate) fn block_place(&self, directory: &Directory, block: BlockIndex) -> Option<super::BlockPlace> {
        let extents = directory.extents.get(self.first_extent..self.first_extent + self.extents)?;
        let at = extents.partition_point(|extent| extent.first_block <= block.0).checked_sub(1)?;
        block_place(extents.get(at)?, block, 0)
    }
}

/// The page in which least is lost beside records of this size: the smallest that loses at most a seventh, or the best.
pub(super) fn page_bytes(record_bytes: usize) -> u32 {
    let sizes = (12..=20).map(|bits| 1_usize << bits);
    let used = |page: usize| (page - PAGE_HEADER_BYTES) / record_bytes.max(1) * record_bytes;
    let good = sizes.clone().find(|&page| used(page) * 7 >= page * 6);
    let best = || sizes.max_by_key(|&page| (used(page) << 20) / page);
    let page = good.or_else(best).unwrap_or(to_usize(MAX_PAGE_BYTES));
    u32::try_from(page).unwrap_or(4096)
}

/// Bytes of the log of rows where nobody says: as much as the tables, up to 8 GiB.
pub(super) fn default_log_bytes(record_bytes: u64) -> u64 {
    const MOST: u64 = 8 << 30;
    const LEAST: u64 = 16 << 20;
    const { assert!(LEAST >= MIN_RING_BYTES) };
    round_up(record_bytes, 1 << 20).unwrap_or(MOST).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::super::{Request, RowRequest, StateRequest, TensorRequest, place};
    use super::*;
    use crate::format::directory::Dtype;

    fn directory(tables: &[(u64, u64)]) -> Directory {
        let tensors = tables.iter().enumerate().map(|(i, &(rows, width))| TensorRequest {
            name: format!("t{i}"),
            shape: vec![rows, width],
            group: 0,
            init: Init::Zeros,
            dtype: Dtype::F32,
            state: vec![StateRequest::zeros("exp_avg")],
            rows: (i % 2 == 0).then_some(RowRequest::default()),
            is_frozen: false,
            compute: None,
            is_compensated: false,
        });
        let request = Request {
            tensors: tensors.collect(),
            groups: 1,
            seed: 0,
            block_elements: 1024,
            row_block_elements: 4096,
            row_log_bytes: None,
            gradient_plane: false,
        };
        place(&request).unwrap()
    }

    #[test]
    fn a_placed_table_survives_its_own_validation() {
        let directory = directory(&[(1000, 5), (30, 7), (1, 1), (100, 100), (7, 3000)]);
        assert_eq!(Directory::decode(&directory.encode()).unwrap(), directory);
        assert_eq!(row_tables(&directory).iter().map(|t| t.tensor).collect::<Vec<_>>(), [0, 2, 4]);
        assert!(RowTable::new(&directory, 1).is_none());
    }

    #[test]
    fn every_row_has_a_place_of_its_own_and_is_found_in_its_block() {
        let directory = directory(&[(3000, 60), (30, 7), (1, 1)]);
        for table in row_tables(&directory) {
            let mut taken = std::collections::HashSet::new();
            for row in 0..table.rows {
                let place = table.place(row);
                assert!(place.within + table.records.bytes() <= table.page_bytes());
                assert!(taken.insert((place.block, place.page, place.within)));
                assert!(table.blocks().contains(&place.block.0));
                let rows = table.rows_of(place.block);
                assert_eq!(rows.start + u64::from(place.row_in_block), row);
                assert!(rows.contains(&row));
                let bytes = table.block_place(&directory, place.block).unwrap();
                assert!((place.page + 1) * table.page_bytes() <= bytes.bytes);
            }
            let rows: u64 =
                table.blocks().map(|b| table.rows_of(BlockIndex(b))).map(|r| r.end - r.start).sum();
            assert_eq!(rows, table.rows);
        }
    }

    #[test]
    fn tables_of_many_extents_keep_their_rows_in_order() {
        let directory = directory(&[(10_000_000_000, 64)]);
        let table = &row_tables(&directory)[0];
        assert!(table.extents > 1);
        let edge = table.rows_per_extent;
        let (before, after) = (table.place(edge - 1), table.place(edge));
        assert_eq!(after.block.0, before.block.0 + 1);
        assert_eq!((after.row_in_block, table.rows_of(after.block).start), (0, edge));
        assert_eq!(table.rows_of(before.block).end, edge);
        assert_eq!(table.place(table.rows - 1).block.0, table.blocks().end - 1);
    }

    #[test]
    fn pages_lose_little_where_they_can() {
        assert_eq!(page_bytes(776), 4096);
        assert_eq!(page_bytes(1544), 8192);
        assert_eq!(page_bytes(3000), 16384);
        assert_eq!(page_bytes(8), 4096);
        assert_eq!(page_bytes(786_000), 1 << 20);
    }
}
