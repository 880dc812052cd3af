//! One judgement of a decoded directory: after it, indices, ranges and products may be trusted.

use std::collections::HashSet;

use super::PAGE_BYTES;
use super::codec::{Decoded, FormatError};
use super::directory::{
    Directory, Dtype, Extent, ExtentPlane, MAX_BLOCK_ELEMENTS, MAX_SEGMENT_BYTES, MIN_BLOCK_ELEMENTS, Plane,
    PlaneRole, Q8_BLOCK_ELEMENTS, SegmentSpec, Tensor, extent_bytes, is_plane_name,
};
use super::records::Records;
use super::row_log::{MAX_RING_BYTES, MIN_RING_BYTES};
use crate::units::{to_u64, to_usize};

fn bad<T>(
    what: impl Into<String>,
    got: impl std::fmt::Display,
    expected: impl std::fmt::Display,
) -> Decoded<T> {
    Err(FormatError::new(format!("directory {}", what.into()), 0, got, expected))
}

pub(crate) fn directory(d: &Directory) -> Decoded<()> {
    planes(d)?;
    segments(d)?;
    extents(d)?;
    tensors(d)?;
    log(d)
}

/// A log of rows exists where there are rows, and is one segment.
fn log(d: &Directory) -> Decoded<()> {
    let has_rows = d.extents.iter().any(|extent| extent.records.is_some());
    let is_log = |plane: &&Plane| plane.role == PlaneRole::Log;
    let planes = d.planes.iter().filter(is_log).count();
    let segments: Vec<_> = d.segments.iter().filter(|segment| is_of_log(d, segment)).collect();
    match (has_rows, planes, segments.as_slice()) {
        (false, 0, []) => Ok(()),
        (true, 1, [log]) if (MIN_RING_BYTES..=MAX_RING_BYTES).contains(&log.bytes) => Ok(()),
        (_, _, segments) => {
            let got = format!("{planes} planes and {} segments of a log, rows: {has_rows}", segments.len());
            bad("row log", got, "one of each where there are rows, 64 KiB to 32 GiB")
        }
    }
}

fn is_of_log(d: &Directory, segment: &SegmentSpec) -> bool {
    d.planes.get(usize::from(segment.plane)).is_some_and(|plane| plane.role == PlaneRole::Log)
}

fn planes(d: &Directory) -> Decoded<()> {
    let mut names = HashSet::new();
    for (i, plane) in d.planes.iter().enumerate() {
        if !is_plane_name(&plane.name) || !names.insert(&plane.name) {
            return bad("plane name", format!("{:?}", plane.name), "distinct lower-case names");
        }
        if (plane.role == PlaneRole::Param) != (i == 0) {
            return bad(
                "plane role",
                format!("{:?} at place {i}", plane.role),
                "the parameter plane first, once",
            );
        }
    }
    if d.planes.is_empty() || d.planes.len() > 64 {
        return bad("plane count", d.planes.len(), "1 to 64");
    }
    Ok(())
}

fn segments(d: &Directory) -> Decoded<()> {
    let mut next = vec![0_u32; d.planes.len()];
    for segment in &d.segments {
        let plane = usize::from(segment.plane);
        let (Some(role), Some(next)) = (d.planes.get(plane).map(|p| p.role), next.get_mut(plane)) else {
            return bad("segment plane", segment.plane, format!("below {}", d.planes.len()));
        };
        let homes = role.homes();
        if segment.homes != homes || segment.index != *next || segment.index > 9999 {
            let got = format!("index {}, {} homes", segment.index, segment.homes);
            return bad("segment", got, format!("index {next} (up to 9999), {homes} homes"));
        }
        *next += 1;
        if segment.bytes == 0 || segment.bytes > MAX_SEGMENT_BYTES || segment.bytes % PAGE_BYTES != 0 {
            return bad("segment length", segment.bytes, "a multiple of 4096 up to 1 TiB");
        }
    }
    Ok(())
}

fn extents(d: &Directory) -> Decoded<()> {
    let mut used = vec![0_u64; d.segments.len()];
    let mut block = 0_u64;
    let mut slot = to_u64(d.tensors.len());
    for (i, extent) in d.extents.iter().enumerate() {
        let size = extent.block_elements;
        let sizes = MIN_BLOCK_ELEMENTS..=MAX_BLOCK_ELEMENTS;
        if !size.is_power_of_two() || !sizes.contains(&size) || extent.elements == 0 {
            let got = format!("{} elements in blocks of {size}", extent.elements);
            return bad(
                format!("extent {i}"),
                got,
                "blocks of a power of two from 1024 to 67108864 elements",
            );
        }
        if extent.first_block != block || extent.first_slot != slot {
            let got = format!("block {}, slot {}", extent.first_block, extent.first_slot);
            return bad(format!("extent {i} start"), got, format!("block {block}, slot {slot}"));
        }
        let planes = to_u64(extent.planes.len());
        let next = extent.blocks().checked_mul(planes).and_then(|n| n.checked_add(slot));
        let (Some(next), Some(blocks)) = (next, block.checked_add(extent.blocks())) else {
            return bad(format!("extent {i}"), format!("{} blocks", extent.blocks()), "fewer blocks");
        };
        (slot, block) = (next, blocks);
        extent_planes(d, i, extent, &mut used)?;
    }
    for (i, (segment, used)) in d.segments.iter().zip(&used).enumerate() {
        if segment.bytes != *used && !is_of_log(d, segment) {
            return bad(format!("segment {i} length"), segment.bytes, format!("{used}, as its extents take"));
        }
    }
    Ok(())
}

fn extent_planes(d: &Directory, i: usize, extent: &Extent, used: &mut [u64]) -> Decoded<()> {
    match &extent.records {
        Some(of) => records(d, i, extent, of)?,
        None if d.is_frozen(extent) && extent.planes.len() == 1 && extent.scratch.is_none() => {}
        None if extent.planes.first().is_none_or(|plane| plane.plane != 0) => {
            let expected = "the parameter plane first, or a frozen plane alone";
            return bad(format!("extent {i}"), "no parameter plane in front", expected);
        }
        None => {}
    }
    let mut seen = HashSet::new();
    for (plane, scratch) in
        extent.planes.iter().map(|p| (p, false)).chain(extent.scratch.iter().map(|p| (p, true)))
    {
        let role = d.planes.get(usize::from(plane.plane)).map(|p| p.role);
        let fits = role.is_some_and(|role| match role {
            PlaneRole::Param | PlaneRole::State => !scratch && extent.records.is_none(),
            PlaneRole::Frozen => !scratch && extent.records.is_none() && extent.planes.len() == 1,
            PlaneRole::Compute | PlaneRole::Compensation => {
                !scratch && extent.records.is_none() && is_last(extent, plane)
            }
            PlaneRole::Record => !scratch && extent.records.is_some(),
            PlaneRole::Scratch => scratch,
            PlaneRole::Log => false,
        });
        if !fits || !seen.insert(plane.plane) {
            return bad(format!("extent {i} plane"), plane.plane, "distinct planes of the right role");
        }
        let fits = role.is_some_and(|role| match role {
            PlaneRole::Param => plane.dtype.is_trainable() && !plane.dtype.is_q8(),
            PlaneRole::State => plane.dtype.is_trainable(),
            PlaneRole::Frozen => !plane.dtype.is_q8(),
            PlaneRole::Compute => {
                matches!(plane.dtype, Dtype::Bf16 | Dtype::F16) && extent.dtype(0) == Dtype::F32
            }
            PlaneRole::Compensation => {
                matches!(plane.dtype, Dtype::Bf16 | Dtype::F16) && extent.dtype(0) == plane.dtype
            }
            PlaneRole::Record | PlaneRole::Scratch | PlaneRole::Log => plane.dtype == Dtype::F32,
        });
        if !fits {
            let expected = "f32, bf16 or f16 parameters, what rounding lost in their type, f32 gradients and records; other \
                            types where it is frozen";
            return bad(format!("extent {i} dtype"), plane.dtype.name(), expected);
        }
        place(d, i, extent, plane, used)?;
    }
    Ok(())
}

/// Whether a plane is the last of several of an extent.
fn is_last(extent: &Extent, plane: &ExtentPlane) -> bool {
    extent.planes.len() > 1 && extent.planes.last().is_some_and(|last| last.plane == plane.plane)
}

/// What an extent of rows holds: whole pages of records of distinct planes, the parameters first, and nothing else.
fn records(d: &Directory, i: usize, extent: &Extent, of: &Records) -> Decoded<()> {
    let mut seen = HashSet::new();
    for (at, plane) in of.planes.iter().enumerate() {
        let role = d.planes.get(usize::from(plane.plane)).map(|p| p.role);
        let expected = if at == 0 { PlaneRole::Param } else { PlaneRole::State };
        if role != Some(expected) || !seen.insert(plane.plane) {
            return bad(
                format!("extent {i} record"),
                format!("plane {} at {at}", plane.plane),
                "distinct planes",
            );
        }
    }
    let page = u64::from(of.page_bytes) / 4;
    let is_whole = extent.elements.is_multiple_of(page) && extent.block_elements.is_multiple_of(page);
    if extent.planes.len() != 1 || extent.scratch.is_some() || !is_whole {
        let got = format!("{} planes, {} elements", extent.planes.len(), extent.elements);
        return bad(format!("extent {i} of rows"), got, format!("one plane, whole pages of {page} elements"));
    }
    Ok(())
}

/// Whether extents hold exactly the pages that the rows of a tensor need, of records as wide as the rows.
fn holds_rows(tensor: &Tensor, extents: &[Extent]) -> bool {
    let Some(records) = extents.first().and_then(|extent| extent.records.as_ref()) else { return false };
    let &[rows, width] = tensor.shape.as_slice() else { return false };
    let is_alike = |e: &Extent| {
        let alike = extents.first().is_some_and(|first| first.block_elements == e.block_elements);
        e.records.as_ref() == Some(records) && alike
    };
    let pages = extents
        .iter()
        .try_fold(0_u64, |n, e| n.checked_add(e.elements / (u64::from(records.page_bytes) / 4)));
    let needed = rows.div_ceil(to_u64(records.per_page().max(1)));
    let is_even = match extents {
        [first, middle @ .., _] => middle.iter().all(|e| e.elements == first.elements),
        _ => true,
    };
    tensor.offset == 0
        && records.planes.first().is_some_and(|plane| u64::from(plane.width) == width)
        && is_even
        && extents.iter().all(is_alike)
        && pages == Some(needed)
}

fn place(d: &Directory, i: usize, extent: &Extent, plane: &ExtentPlane, used: &mut [u64]) -> Decoded<()> {
    let index = to_usize(u64::from(plane.segment));
    let (Some(segment), Some(used)) = (d.segments.get(index), used.get_mut(index)) else {
        return bad(format!("extent {i} segment"), plane.segment, format!("below {}", d.segments.len()));
    };
    let bytes = extent_bytes(plane.dtype, extent.elements, extent.block_elements);
    let end = bytes.and_then(|bytes| plane.offset.checked_add(bytes));
    let fits = end.is_some_and(|end| end <= segment.bytes);
    if segment.plane != plane.plane || plane.offset != *used || !fits {
        let got = format!("{bytes:?} bytes at {} of segment {index}", plane.offset);
        return bad(format!("extent {i} place"), got, format!("offset {used} in {} bytes", segment.bytes));
    }
    *used = end.unwrap_or(u64::MAX);
    Ok(())
}

fn tensors(d: &Directory) -> Decoded<()> {
    let mut names = HashSet::new();
    let mut next_extent = 0_u64;
    let mut next_offset = 0_u64;
    let mut by_place: Vec<_> = d.tensors.iter().collect();
    by_place.sort_by_key(|tensor| (tensor.extent, tensor.offset));
    for tensor in by_place {
        let what = |field: &str| format!("tensor {:?} {field}", tensor.name);
        if !names.insert(tensor.name.as_str()) {
            return bad(what("name"), "a second tensor of that name", "distinct names");
        }
        if tensor.group >= d.groups {
            return bad(what("group"), tensor.group, format!("below {}", d.groups));
        }
        let first = u64::from(tensor.extent);
        let end = first + u64::from(tensor.extents);
        let range = to_usize(first)..to_usize(end);
        let (Some(elements), Some(extents)) = (tensor.elements(), d.extents.get(range)) else {
            return bad(what("extents"), format!("{first}..{end}"), format!("up to {}", d.extents.len()));
        };
        let [one, more @ ..] = extents else {
            return bad(what("extents"), "none", "one or more");
        };
        let shared = first + 1 == next_extent && tensor.offset >= next_offset && more.is_empty();
        if !(shared || (first == next_extent && tensor.offset == 0)) {
            let got = format!("element {} of extent {first}", tensor.offset);
            return bad(what("place"), got, format!("extent {next_extent} or after its neighbour"));
        }
        if extents.iter().any(|extent| extent.dtype(0) != tensor.dtype) {
            return bad(what("dtype"), tensor.dtype.name(), format!("{}, as its plane", one.dtype(0).name()));
        }
        let shares_scales = one.planes.iter().any(|plane| plane.dtype.is_q8());
        if shares_scales && tensor.offset % Q8_BLOCK_ELEMENTS != 0 {
            return bad(what("place"), tensor.offset, "a multiple of 256 elements, as planes of 8 bits need");
        }
        if extents.iter().any(|extent| extent.records.is_some()) {
            if first != next_extent || !holds_rows(tensor, extents) {
                let got = format!("the shape {:?} from extent {first} on", tensor.shape);
                return bad(what("rows"), got, format!("extents of its rows from {next_extent} on"));
            }
            if extents[..extents.len() - 1].iter().any(|e| e.elements % e.block_elements != 0) {
                return bad(what("extents"), "a partial block inside", "whole blocks but for the last");
            }
            (next_extent, next_offset) = (end, u64::MAX);
            continue;
        }
        let total = extents.iter().try_fold(0_u64, |n, e| n.checked_add(e.elements));
        let end_element = tensor.offset.checked_add(elements);
        let Some(end_element) = end_element.filter(|&e| elements > 0 && total.is_some_and(|t| e <= t)) else {
            return bad(what("elements"), elements, format!("1 up to the extents' {total:?}"));
        };
        let whole = tensor.offset == 0 && total == Some(elements);
        if !whole && tensor.offset / one.block_elements != (end_element - 1) / one.block_elements {
            return bad(what("place"), "a shared tensor that crosses blocks", "one block");
        }
        if !more.is_empty() && extents[..extents.len() - 1].iter().any(|e| e.elements % e.block_elements != 0)
        {
            return bad(what("extents"), "a partial block inside", "whole blocks but for the last");
        }
        (next_extent, next_offset) = (end.max(next_extent), end_element);
    }
    if next_extent != to_u64(d.extents.len()) || d.tensors.is_empty() || d.groups == 0 {
        let got = format!("{} tensors, {} groups, {next_extent} extents", d.tensors.len(), d.groups);
        return bad("totals", got, format!("1 or more, 1 or more, {}", d.extents.len()));
    }
    Ok(())
}
