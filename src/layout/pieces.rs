//! From a range of a tensor to pieces of blocks, and from a block's plane to its bytes.

use std::ops::Range;

use crate::format::directory::{Directory, Extent, ExtentPlane, padded_bytes};
use crate::units::{BlockIndex, SlotIndex, to_u64, to_usize};

/// The part of a tensor that one block holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Index of the extent.
    pub(crate) extent: usize,
    pub(crate) block: BlockIndex,
    /// Elements inside the block.
    pub(crate) within: Range<usize>,
    /// The same elements inside the tensor.
    pub(crate) of_tensor: Range<u64>,
}

/// Cuts a range of a tensor's elements at block ends, in ascending order. The range lies inside the tensor.
pub(crate) fn pieces(
    directory: &Directory,
    tensor: usize,
    range: Range<u64>,
) -> impl Iterator<Item = Piece> + '_ {
    let (first, count, offset) = directory
        .tensors
        .get(tensor)
        .map_or((0, 0, 0), |t| (to_usize(t.extent.into()), to_usize(t.extents.into()), t.offset));
    let mut extent = first;
    // Elements of the tensor before this extent; the offset of a shared tensor counts as negative.
    let mut before = 0_u64;
    let mut position = range.start;
    std::iter::from_fn(move || {
        if position >= range.end {
            return None;
        }
        loop {
            if extent >= first + count {
                return None;
            }
            let e = directory.extents.get(extent)?;
            let end = before + e.elements - if extent == first { offset } else { 0 };
            if position < end {
                let local = position - before + if extent == first { offset } else { 0 };
                let number = local / e.block_elements;
                let start = local % e.block_elements;
                let left = (e.block_elements - start).min(end - position).min(range.end - position);
                let piece = Piece {
                    extent,
                    block: BlockIndex(e.first_block + number),
                    within: to_usize(start)..to_usize(start + left),
                    of_tensor: position..position + left,
                };
                position += left;
                return Some(piece);
            }
            before = end;
            extent += 1;
        }
    })
}

/// Where one plane of one block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockPlace {
    /// Index of the segment.
    pub(crate) segment: usize,
    /// Offset in each home of the segment.
    pub(crate) offset: u64,
    /// Bytes that count.
    pub(crate) bytes: usize,
    /// Bytes transferred: `bytes` rounded up for direct I/O.
    pub(crate) padded: usize,
    /// Table entry; scratch planes have none.
    pub(crate) slot: SlotIndex,
}

/// The place of a block's plane; `plane` counts the extent's planes, and one past the last is the scratch plane.
pub(crate) fn block_place(extent: &Extent, block: BlockIndex, plane: usize) -> Option<BlockPlace> {
    let number = block.0.checked_sub(extent.first_block)?;
    let planes = extent.planes.len();
    let spec: &ExtentPlane = match extent.planes.get(plane) {
        Some(spec) => spec,
        None if plane == planes => extent.scratch.as_ref()?,
        None => return None,
    };
    let elements = block_elements(extent, block)?;
    let stride = padded_bytes(spec.dtype, extent.block_elements)?;
    Some(BlockPlace {
        segment: to_usize(spec.segment.into()),
        offset: spec.offset + number * stride,
        bytes: to_usize(spec.dtype.bytes_of(elements)?),
        padded: to_usize(padded_bytes(spec.dtype, elements)?),
        slot: SlotIndex(extent.first_slot + number * to_u64(planes) + to_u64(plane)),
    })
}

/// Elements of a block; the last one of an extent may be shorter.
pub(crate) fn block_elements(extent: &Extent, block: BlockIndex) -> Option<u64> {
    let number = block.0.checked_sub(extent.first_block)?;
    let start = number.checked_mul(extent.block_elements)?;
    let left = extent.elements.checked_sub(start).filter(|&left| left > 0)?;
    Some(left.min(extent.block_elements))
}

/// The block and the plane that a table entry stands for, with the index of their extent; `None` for the entry of a
/// tensor.
pub(crate) fn block_of_slot(directory: &Directory, slot: SlotIndex) -> Option<(usize, BlockIndex, usize)> {
    let after = directory.extents.partition_point(|extent| extent.first_slot <= slot.0);
    let at = after.checked_sub(1)?;
    let extent = directory.extents.get(at)?;
    let within = slot.0 - extent.first_slot;
    let planes = to_u64(extent.planes.len());
    let number = within.checked_div(planes).filter(|&number| number < extent.blocks())?;
    Some((at, BlockIndex(extent.first_block + number), to_usize(within % planes)))
}

/// The extent and the plane of a block, by the plane's name: the way back from a finding to its place.
pub(crate) fn plane_of_block(
    directory: &Directory,
    block: BlockIndex,
    plane: &str,
) -> Option<(usize, usize)> {
    let after = directory.extents.partition_point(|extent| extent.first_block <= block.0);
    let at = after.checked_sub(1)?;
    let extent = directory.extents.get(at)?;
    let name_of = |spec: &ExtentPlane| directory.planes.get(usize::from(spec.plane)).map(|p| p.name.as_str());
    Some((at, extent.planes.iter().position(|spec| name_of(spec) == Some(plane))?))
}

/// Which tensors stand in which extent, for listings.
pub(crate) struct Occupants {
    /// By extent: indices of tensors, in ascending order of their place.
    extents: Vec<Vec<usize>>,
}

impl Occupants {
    pub(crate) fn new(directory: &Directory) -> Self {
        let mut extents: Vec<Vec<usize>> = directory.extents.iter().map(|_| Vec::new()).collect();
        for (index, tensor) in directory.tensors.iter().enumerate() {
            let first = to_usize(tensor.extent.into());
            for list in extents.iter_mut().skip(first).take(to_usize(tensor.extents.into())) {
                list.push(index);
            }
        }
        let offset = |index: &usize| directory.tensors.get(*index).map_or(0, |tensor| tensor.offset);
        for list in &mut extents {
            list.sort_by_key(offset);
        }
        Self { extents }
    }

    /// Names of the tensors in a block, in ascending order of their place.
    pub(crate) fn names<'a>(
        &self,
        directory: &'a Directory,
        extent: usize,
        block: BlockIndex,
    ) -> Vec<&'a str> {
        let (Some(list), Some(spec)) = (self.extents.get(extent), directory.extents.get(extent)) else {
            return Vec::new();
        };
        let start = (block.0 - spec.first_block) * spec.block_elements;
        let end = start.saturating_add(spec.block_elements).min(spec.elements);
        let tensors = list.iter().filter_map(|&index| directory.tensors.get(index));
        let here = tensors.filter(|tensor| {
            let elements = tensor.elements().unwrap_or(0);
            tensor.extents > 1
                || spec.records.is_some()
                || (tensor.offset < end && tensor.offset.saturating_add(elements) > start)
        });
        here.map(|tensor| tensor.name.as_str()).collect()
    }
}

/// Names a block's plane for a message: the tensors in it, the plane, the block.
pub(crate) fn describe_block(directory: &Directory, block: BlockIndex, plane: usize) -> String {
    let after = directory.extents.partition_point(|extent| extent.first_block <= block.0);
    let at = after.saturating_sub(1);
    let Some(extent) = directory.extents.get(at) else { return format!("block {}", block.0) };
    let start = (block.0 - extent.first_block) * extent.block_elements;
    let end = (start + extent.block_elements).min(extent.elements);
    let inside = |tensor: &&crate::format::directory::Tensor| {
        let first = to_usize(tensor.extent.into());
        let whole = to_usize(tensor.extents.into()) > 1 || extent.records.is_some();
        let here = (first..first + to_usize(tensor.extents.into())).contains(&at);
        here && (whole || (tensor.offset < end && tensor.offset + tensor.elements().unwrap_or(0) > start))
    };
    let mut names = directory.tensors.iter().filter(inside).map(|tensor| format!("{:?}", tensor.name));
    let mut tensors = names.next().unwrap_or_default();
    let more = names.count();
    if more > 0 {
        tensors = format!("{tensors} and {more} more");
    }
    let spec = extent.planes.get(plane).or(extent.scratch.as_ref());
    let plane = spec.and_then(|spec| directory.planes.get(usize::from(spec.plane)));
    let plane = plane.map_or("?", |plane| plane.name.as_str());
    format!("tensor {tensors}, plane {plane}, block {}", block.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Request, StateRequest, TensorRequest, place};
    use super::*;
    use crate::format::directory::{Dtype, Init};

    /// A store of vectors in blocks of 1,024 elements, with one state plane and gradients.
    pub(crate) fn directory(shapes: &[u64]) -> Directory {
        let tensors = shapes.iter().enumerate().map(|(i, &n)| TensorRequest {
            name: format!("t{i}"),
            shape: vec![n],
            group: 0,
            init: Init::Zeros,
            dtype: Dtype::F32,
            state: vec![StateRequest::zeros("exp_avg")],
            rows: None,
            is_frozen: false,
            compute: None,
            is_compensated: false,
        });
        let request = Request {
            tensors: tensors.collect(),
            groups: 1,
            seed: 0,
            block_elements: 1024,
            row_block_elements: 1024,
            row_log_bytes: None,
            gradient_plane: true,
        };
        place(&request).unwrap()
    }

    #[test]
    fn pieces_cover_a_range_once_and_in_order() {
        let directory = directory(&[5, 5000, 60, 1024, 1025]);
        for (tensor, spec) in directory.tensors.iter().enumerate() {
            let n = spec.elements().unwrap();
            for range in [0..n, 0..1, n - 1..n, n / 3..n / 2 + 1] {
                let mut position = range.start;
                for piece in pieces(&directory, tensor, range.clone()) {
                    assert_eq!(piece.of_tensor.start, position);
                    assert_eq!(to_u64(piece.within.len()), piece.of_tensor.end - piece.of_tensor.start);
                    let extent = &directory.extents[piece.extent];
                    let elements = block_elements(extent, piece.block).unwrap();
                    assert!(to_u64(piece.within.end) <= elements);
                    position = piece.of_tensor.end;
                }
                assert_eq!(position, range.end);
            }
        }
    }

    #[test]
    fn entries_of_tensors_and_past_the_table_stand_for_no_block() {
        let directory = directory(&[5, 5000]);
        for slot in [0, 1, directory.slots(), u64::MAX] {
            assert_eq!(block_of_slot(&directory, SlotIndex(slot)), None, "{slot}");
        }
    }

    #[test]
    fn occupants_of_a_block_are_the_tensors_whose_pieces_it_holds() {
        let directory = directory(&[5, 5000, 60, 1024, 1025, 64, 3]);
        let occupants = Occupants::new(&directory);
        for (at, extent) in directory.extents.iter().enumerate() {
            for block in (extent.first_block..extent.first_block + extent.blocks()).map(BlockIndex) {
                let mut expected: Vec<_> = (0..directory.tensors.len())
                    .filter(|&t| {
                        pieces(&directory, t, 0..directory.tensors[t].elements().unwrap())
                            .any(|p| p.block == block)
                    })
                    .map(|t| directory.tensors[t].name.as_str())
                    .collect();
                let mut names = occupants.names(&directory, at, block);
                names.sort_unstable();
                expected.sort_unstable();
                assert_eq!(names, expected);
            }
        }
    }

    #[test]
    fn places_of_all_blocks_are_disjoint_and_inside_their_segments() {
        let directory = directory(&[5, 5000, 60, 1024, 1025]);
        let mut taken = std::collections::HashSet::new();
        let mut slots = std::collections::HashSet::new();
        for extent in &directory.extents {
            for block in (extent.first_block..extent.first_block + extent.blocks()).map(BlockIndex) {
                for plane in 0..=extent.planes.len() {
                    let place = block_place(extent, block, plane).unwrap();
                    assert!(place.offset + to_u64(place.padded) <= directory.segments[place.segment].bytes);
                    for page in 0..place.padded / 4096 {
                        assert!(taken.insert((place.segment, place.offset / 4096 + to_u64(page))));
                    }
                    assert!(plane == extent.planes.len() || slots.insert(place.slot));
                    if plane < extent.planes.len() {
                        let (at, of_slot, which) = block_of_slot(&directory, place.slot).unwrap();
                        assert_eq!((&directory.extents[at], of_slot, which), (extent, block, plane));
                    }
                }
            }
        }
        assert_eq!(to_u64(slots.len()) + to_u64(directory.tensors.len()), directory.slots());
    }
}
