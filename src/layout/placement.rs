//! Lays tensors out in extents and segments when a store is created.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::format::directory::{
    Directory, Dtype, Extent, ExtentPlane, Init, MAX_BLOCK_ELEMENTS, MAX_RANK, MAX_SEGMENT_BYTES,
    MIN_BLOCK_ELEMENTS, Plane, PlaneRole, Q8_BLOCK_ELEMENTS, SegmentSpec, Tensor, extent_bytes,
};
use crate::format::records::{RecordPlane, Records, RowMode};
use crate::units::to_u64;

use super::records::{default_log_bytes, page_bytes};

/// Name of the plane that holds the parameters.
pub(crate) const PARAM_PLANE: &str = "param";
/// Name of the scratch plane that collects gradients.
pub(crate) const GRAD_PLANE: &str = "grad";
/// Name of the plane of records, whose files hold all planes of tensors of rows.
pub(crate) const RECORD_PLANE: &str = "record";
/// Name of the plane of parameters that are never updated.
pub(crate) const FROZEN_PLANE: &str = "frozen";
/// Name of the plane that is a copy of the parameters in 16 bits.
pub(crate) const COMPUTE_PLANE: &str = "compute";
/// Name of the plane that keeps what rounding the parameters lost.
pub(crate) const COMPENSATION_PLANE: &str = "compensation";
/// Name of the plane that stands for the log of rows.
pub(crate) const LOG_PLANE: &str = "row_log";
/// Names that no optimizer's plane may have.
const OWN_PLANES: [&str; 7] =
    [PARAM_PLANE, GRAD_PLANE, RECORD_PLANE, LOG_PLANE, FROZEN_PLANE, COMPUTE_PLANE, COMPENSATION_PLANE];
/// Small tensors that share a block start at multiples of this many elements: a cache line of f32.
const PACK_ALIGN_ELEMENTS: u64 = 16;
/// A tensor of at most this fraction of a block shares its block with others.
const PACK_FRACTION: u64 = 16;
/// Largest extent: half a segment of f32, so that a segment always takes one.
const MAX_EXTENT_ELEMENTS: u64 = 1 << 37;

/// A tensor as asked for.
#[derive(Debug, Clone)]
pub(crate) struct TensorRequest {
    pub(crate) name: String,
    pub(crate) shape: Vec<u64>,
    pub(crate) group: u32,
    pub(crate) init: Init,
    /// The type of its parameters.
    pub(crate) dtype: Dtype,
    /// State planes of its group's optimizer.
    pub(crate) state: Vec<StateRequest>,
    /// How its rows are kept as records, if they are.
    pub(crate) rows: Option<RowRequest>,
    /// Never updated: one home, and no state.
    pub(crate) is_frozen: bool,
    /// The type of a copy of its parameters, if it has one.
    pub(crate) compute: Option<Dtype>,
    /// Whether a plane keeps what rounding its parameters, which are of 16 bits, lost.
    pub(crate) is_compensated: bool,
}

/// How rows are kept, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowRequest {
    pub(crate) mode: RowMode,
    pub(crate) admission: u32,
}

/// A state plane as asked for.
#[derive(Debug, Clone)]
pub(crate) struct StateRequest {
    pub(crate) name: String,
    /// The initial value of every element.
    pub(crate) fill: f32,
    /// One value for each row.
    pub(crate) per_row: bool,
    pub(crate) dtype: Dtype,
}

#[cfg(test)]
impl StateRequest {
    /// A plane of f32 zeros, one for each element.
    pub(crate) fn zeros(name: &str) -> Self {
        Self { name: name.into(), fill: 0.0, per_row: false, dtype: Dtype::F32 }
    }
}

/// A store as asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) tensors: Vec<TensorRequest>,
    pub(crate) groups: u32,
    pub(crate) seed: u64,
    pub(crate) block_elements: u64,
    /// Elements of a block of records; at least a page of them.
    pub(crate) row_block_elements: u64,
    /// Bytes of the log of rows; without it, by the size of the tables.
    pub(crate) row_log_bytes: Option<u64>,
    pub(crate) gradient_plane: bool,
}

/// Computes the directory of a new store.
pub(crate) fn place(request: &Request) -> Result<Directory> {
    check(request)?;
    let planes = planes(request);
    let mut placer = Placer { planes: &planes, request, extents: Vec::new(), packs: HashMap::new() };
    let mut tensors = Vec::with_capacity(request.tensors.len());
    for (place, tensor) in request.tensors.iter().enumerate() {
        tensors.push(placer.tensor(place, tensor)?);
    }
    let (mut extents, segments) = placer.finish(&mut tensors)?;
    let mut block = 0;
    let mut slot = to_u64(tensors.len());
    for extent in &mut extents {
        (extent.first_block, extent.first_slot) = (block, slot);
        block += extent.blocks();
        slot += extent.blocks() * to_u64(extent.planes.len());
    }
    Ok(Directory { seed: request.seed, planes, segments, extents, tensors, groups: request.groups })
}

fn check(request: &Request) -> Result<()> {
    for size in [request.block_elements, request.row_block_elements] {
        check_block_size(size)?;
    }
    check_tensors(request)
}

fn check_block_size(size: u64) -> Result<()> {
    if !size.is_power_of_two() || !(MIN_BLOCK_ELEMENTS..=MAX_BLOCK_ELEMENTS).contains(&size) {
        return Err(Error::invalid(
            "block size",
            format!("{size} elements"),
            "a power of two from 1,024 (4 KiB of f32) to 67,108,864 elements (256 MiB)",
        ));
    }
    Ok(())
}

fn check_tensors(request: &Request) -> Result<()> {
    if request.tensors.is_empty() {
        return Err(Error::invalid("schema", "no tensor", "at least one"));
    }
    let mut names = std::collections::HashSet::new();
    let mut total = 0_u64;
    for tensor in &request.tensors {
        let name = &tensor.name;
        if name.is_empty() || name.len() > 1024 || name.chars().any(char::is_control) {
            return Err(Error::invalid("tensor name", format!("{name:?}"), "1 to 1,024 printable bytes"));
        }
        if !names.insert(name) {
            return Err(Error::invalid("tensor name", format!("{name:?} twice"), "distinct names"));
        }
        let elements = tensor.shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d)).unwrap_or(0);
        if elements == 0 || elements > 1 << 50 || tensor.shape.len() > MAX_RANK {
            return Err(Error::invalid(
                format!("shape of tensor {name:?}"),
                format!("{:?}", tensor.shape),
                format!("up to {MAX_RANK} dimensions, none of them 0, with at most 2^50 elements in all"),
            ));
        }
        if tensor.rows.is_some() && !matches!(tensor.shape.as_slice(), &[_, width] if width < 1 << 16) {
            return Err(Error::invalid(
                format!("shape of tensor of rows {name:?}"),
                format!("{:?}", tensor.shape),
                "two dimensions, rows of at most 65,535 elements",
            ));
        }
        let narrow = [tensor.dtype].into_iter().chain(tensor.state.iter().map(|plane| plane.dtype));
        if let Some(dtype) =
            narrow.into_iter().find(|&dtype| dtype != Dtype::F32).filter(|_| tensor.rows.is_some())
        {
            return Err(Error::invalid(
                format!("type of tensor of rows {name:?}"),
                dtype.name(),
                "f32 parameters and moments, or a tensor that is not of rows",
            ));
        }
        if let Some(plane) = tensor.state.iter().find(|plane| OWN_PLANES.contains(&plane.name.as_str())) {
            return Err(Error::invalid("name of a state plane", &plane.name, "another name"));
        }
        total = total.saturating_add(elements);
    }
    if total > 1 << 50 {
        return Err(Error::invalid("schema", format!("{total} parameters"), "at most 2^50"));
    }
    Ok(())
}

fn planes(request: &Request) -> Vec<Plane> {
    let mut planes = vec![Plane { name: PARAM_PLANE.to_owned(), role: PlaneRole::Param }];
    for StateRequest { name, .. } in request.tensors.iter().flat_map(|tensor| &tensor.state) {
        if planes.iter().all(|plane| plane.name != *name) {
            planes.push(Plane { name: name.clone(), role: PlaneRole::State });
        }
    }
    if request.gradient_plane {
        planes.push(Plane { name: GRAD_PLANE.to_owned(), role: PlaneRole::Scratch });
    }
    if request.tensors.iter().any(|tensor| tensor.rows.is_some()) {
        planes.push(Plane { name: RECORD_PLANE.to_owned(), role: PlaneRole::Record });
        planes.push(Plane { name: LOG_PLANE.to_owned(), role: PlaneRole::Log });
    }
    if request.tensors.iter().any(|tensor| tensor.compute.is_some()) {
        planes.push(Plane { name: COMPUTE_PLANE.to_owned(), role: PlaneRole::Compute });
    }
    if request.tensors.iter().any(|tensor| tensor.is_compensated) {
        planes.push(Plane { name: COMPENSATION_PLANE.to_owned(), role: PlaneRole::Compensation });
    }
    if request.tensors.iter().any(|tensor| tensor.is_frozen) {
        planes.push(Plane { name: FROZEN_PLANE.to_owned(), role: PlaneRole::Frozen });
    }
    planes
}

/// What tensors must share to share an extent: planes, their types, and initial state, bit for bit.
type PackKey = (Form, Vec<(String, u32, Dtype)>);

/// What a tensor's elements are kept as, beside its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Form {
    dtype: Dtype,
    is_frozen: bool,
    compute: Option<Dtype>,
    is_compensated: bool,
}

impl Form {
    fn of(request: &TensorRequest) -> Self {
        let &TensorRequest { dtype, is_frozen, compute, is_compensated, .. } = request;
        Self { dtype, is_frozen, compute, is_compensated }
    }
}

struct Pack {
    end: u64,
    form: Form,
    state: Vec<StateRequest>,
    members: Vec<usize>,
}

struct Placer<'a> {
    planes: &'a [Plane],
    request: &'a Request,
    extents: Vec<Extent>,
    packs: HashMap<PackKey, Pack>,
}

impl Placer<'_> {
    fn tensor(&mut self, place: usize, request: &TensorRequest) -> Result<Tensor> {
        let elements = request.shape.iter().product::<u64>();
        let mut tensor = Tensor {
            name: request.name.clone(),
            dtype: request.dtype,
            shape: request.shape.clone(),
            group: request.group,
            init: request.init,
            extent: 0,
            extents: 1,
            offset: 0,
        };
        if request.rows.is_some() {
            let first = self.extents.len();
            self.rows(request);
            tensor.extent = index(first)?;
            tensor.extents = index(self.extents.len() - first)?;
            return Ok(tensor);
        }
        let block = self.request.block_elements;
        if elements <= block / PACK_FRACTION {
            tensor.offset = self.pack(place, request, elements);
            return Ok(tensor);
        }
        let first = self.extents.len();
        let mut left = elements;
        while left > 0 {
            let part = left.min(MAX_EXTENT_ELEMENTS);
            self.extents.push(self.extent(part, Form::of(request), &request.state));
            left -= part;
        }
        tensor.extent = index(first)?;
        tensor.extents = index(self.extents.len() - first)?;
        Ok(tensor)
    }

    /// Gives a small tensor its place among those with the same planes: never across a block's end.
    fn pack(&mut self, place: usize, request: &TensorRequest, elements: u64) -> u64 {
        let of_state = |plane: &StateRequest| (plane.name.clone(), plane.fill.to_bits(), plane.dtype);
        let key = (Form::of(request), request.state.iter().map(of_state).collect());
        let shares_scales = request.state.iter().any(|plane| plane.dtype.is_q8());
        let align = if shares_scales { Q8_BLOCK_ELEMENTS } else { PACK_ALIGN_ELEMENTS };
        let block = self.request.block_elements;
        let pack = self.packs.entry(key).or_insert_with(|| Pack {
            end: 0,
            form: Form::of(request),
            state: request.state.clone(),
            members: Vec::new(),
        });
        let mut start = pack.end.next_multiple_of(align);
        if start / block != (start + elements - 1) / block {
            start = start.next_multiple_of(block);
        }
        pack.end = start + elements;
        pack.members.push(place);
        start
    }

    fn extent(&self, elements: u64, form: Form, state: &[StateRequest]) -> Extent {
        let Form { dtype, is_frozen, compute, is_compensated } = form;
        let first = if is_frozen { FROZEN_PLANE } else { PARAM_PLANE };
        let has_scratch = self.request.gradient_plane && !is_frozen;
        let mut planes = vec![ExtentPlane { dtype, ..self.extent_plane(first, 0.0) }];
        let of_state = |plane: &StateRequest| ExtentPlane {
            dtype: plane.dtype,
            ..self.extent_plane(&plane.name, plane.fill)
        };
        planes.extend(state.iter().map(of_state));
        planes.extend(compute.map(|dtype| ExtentPlane { dtype, ..self.extent_plane(COMPUTE_PLANE, 0.0) }));
        if is_compensated {
            planes.push(ExtentPlane { dtype, ..self.extent_plane(COMPENSATION_PLANE, 0.0) });
        }
        Extent {
            elements,
            block_elements: self.request.block_elements,
            first_block: 0,
            first_slot: 0,
            planes,
            scratch: has_scratch.then(|| self.extent_plane(GRAD_PLANE, 0.0)),
            records: None,
        }
    }

    fn plane_index(&self, name: &str) -> u16 {
        let found = self.planes.iter().position(|p| p.name == name).unwrap_or(0);
        u16::try_from(found).unwrap_or(u16::MAX)
    }

    fn extent_plane(&self, name: &str, fill: f32) -> ExtentPlane {
        ExtentPlane { plane: self.plane_index(name), dtype: Dtype::F32, fill, segment: 0, offset: 0 }
    }

    /// The extents of a tensor of rows: pages of records, and as many of them as the rows need.
    fn rows(&mut self, request: &TensorRequest) {
        let (rows, width) = match *request.shape.as_slice() {
            [rows, width] => (rows, u32::try_from(width).unwrap_or(u32::MAX)),
            _ => (0, 0),
        };
        let plane = |name: &str, width, fill| RecordPlane { plane: self.plane_index(name), width, fill };
        let mut planes = vec![plane(PARAM_PLANE, width, 0.0)];
        let state =
            |state: &StateRequest| plane(&state.name, if state.per_row { 1 } else { width }, state.fill);
        planes.extend(request.state.iter().map(state));
        let RowRequest { mode, admission } = request.rows.unwrap_or_default();
        let mut records = Records { page_bytes: 4096, mode, admission, planes };
        records.page_bytes = page_bytes(records.bytes());
        let page = u64::from(records.page_bytes) / 4;
        let block_elements = self.request.row_block_elements.max(page);
        let pages = rows.div_ceil(to_u64(records.per_page().max(1)));
        let mut left = pages.saturating_mul(page);
        while left > 0 {
            let elements = left.min(MAX_EXTENT_ELEMENTS);
            let planes = vec![self.extent_plane(RECORD_PLANE, 0.0)];
            self.extents.push(Extent {
                elements,
                block_elements,
                first_block: 0,
                first_slot: 0,
                planes,
                scratch: None,
                records: Some(records.clone()),
            });
            left -= elements;
        }
    }

    /// Bytes of all records, without paddings of blocks.
    fn record_bytes(&self) -> u64 {
        let rows = self.extents.iter().filter(|extent| extent.records.is_some());
        rows.fold(0, |sum, extent| sum.saturating_add(extent.elements.saturating_mul(4)))
    }

    /// Appends the packs and gives every extent its place in the segments.
    fn finish(mut self, tensors: &mut [Tensor]) -> Result<(Vec<Extent>, Vec<SegmentSpec>)> {
        let mut packs: Vec<_> = std::mem::take(&mut self.packs).into_values().collect();
        packs.sort_by_key(|pack| pack.members.first().copied());
        for pack in packs {
            let extent = index(self.extents.len())?;
            self.extents.push(self.extent(pack.end, pack.form, &pack.state));
            for member in pack.members {
                if let Some(tensor) = tensors.get_mut(member) {
                    tensor.extent = extent;
                }
            }
        }
        let mut segments = Segments { planes: self.planes, list: Vec::new(), current: HashMap::new() };
        for extent in &mut self.extents {
            let (elements, block) = (extent.elements, extent.block_elements);
            for plane in extent.planes.iter_mut().chain(&mut extent.scratch) {
                (plane.segment, plane.offset) = segments.take(plane, elements, block)?;
            }
        }
        if let Some(plane) = self.planes.iter().position(|plane| plane.role == PlaneRole::Log) {
            let bytes = self.request.row_log_bytes.unwrap_or_else(|| default_log_bytes(self.record_bytes()));
            let plane = u16::try_from(plane).unwrap_or(u16::MAX);
            segments.list.push(SegmentSpec { plane, index: 0, homes: PlaneRole::Log.homes(), bytes });
        }
        Ok((self.extents, segments.list))
    }
}

struct Segments<'a> {
    planes: &'a [Plane],
    list: Vec<SegmentSpec>,
    /// The segment that is being filled, by plane.
    current: HashMap<u16, usize>,
}

impl Segments<'_> {
    fn take(&mut self, plane: &ExtentPlane, elements: u64, block_elements: u64) -> Result<(u32, u64)> {
        let bytes = extent_bytes(plane.dtype, elements, block_elements).unwrap_or(u64::MAX);
        let current = self.current.get(&plane.plane).copied();
        if let Some(at) = current
            && let Some(segment) = self.list.get_mut(at)
            && segment.bytes.checked_add(bytes).is_some_and(|end| end <= MAX_SEGMENT_BYTES)
        {
            let offset = segment.bytes;
            segment.bytes += bytes;
            return Ok((index(at)?, offset));
        }
        let number = self.list.iter().filter(|segment| segment.plane == plane.plane).count();
        let role = self.planes.get(usize::from(plane.plane)).map(|p| p.role);
        let homes = role.map_or(2, PlaneRole::homes);
        let at = self.list.len();
        self.current.insert(plane.plane, at);
        self.list.push(SegmentSpec { plane: plane.plane, index: index(number)?, homes, bytes });
        Ok((index(at)?, 0))
    }
}

fn index(value: usize) -> Result<u32> {
    u32::try_from(value).map_err(|_| Error::invalid("schema", value, "fewer extents or segments"))
}

/// Chooses a block size where the caller names none: large enough for the disk, small enough that a budget holds
/// several blocks and that a small store does not consist of a single one.
///
/// `planes` is the largest number of planes of a tensor, `budget` the memory budget in bytes.
pub(crate) fn default_block_elements(total_elements: u64, planes: u64, budget: u64) -> u64 {
    const LARGEST: u64 = 1 << 20;
    const SMALLEST: u64 = 1 << 14;
    const BLOCKS_IN_BUDGET: u64 = 16;
    let by_budget = budget / (4 * planes.max(1) * BLOCKS_IN_BUDGET);
    let by_size = total_elements / 64;
    let wanted = by_budget.min(by_size).clamp(SMALLEST, LARGEST);
    1 << wanted.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(shapes: &[&[u64]], block_elements: u64) -> Request {
        let tensors = shapes.iter().enumerate().map(|(i, shape)| TensorRequest {
            name: format!("t{i}"),
            shape: shape.to_vec(),
            group: 0,
            init: Init::Zeros,
            dtype: Dtype::F32,
            state: ["exp_avg", "exp_avg_sq"].map(StateRequest::zeros).into(),
            rows: None,
            is_frozen: false,
            compute: None,
            is_compensated: false,
        });
        Request {
            tensors: tensors.collect(),
            groups: 1,
            seed: 0,
            block_elements,
            row_block_elements: block_elements,
            row_log_bytes: None,
            gradient_plane: true,
        }
    }

    #[test]
    fn a_placed_store_survives_its_own_validation() {
        let request = request(&[&[7], &[3000, 5], &[], &[64], &[1_000_000], &[63]], 1024);
        let directory = place(&request).unwrap();
        assert_eq!(Directory::decode(&directory.encode()).unwrap(), directory);
    }

    #[test]
    fn small_tensors_share_a_block_and_keep_to_cache_lines() {
        let directory = place(&request(&[&[3], &[5_000], &[40], &[1]], 1024)).unwrap();
        assert_eq!(directory.extents.len(), 2);
        let offsets: Vec<_> = directory.tensors.iter().map(|t| (t.extent, t.offset)).collect();
        assert_eq!(offsets, [(1, 0), (0, 0), (1, 16), (1, 64)]);
    }

    #[test]
    fn a_trillion_parameters_split_into_extents_below_the_segment_limit() {
        let directory = place(&request(&[&[1_000_000_000_000]], 1 << 20)).unwrap();
        assert_eq!(directory.extents.len(), 8);
        assert!(directory.segments.iter().all(|s| s.bytes <= MAX_SEGMENT_BYTES));
        let blocks: u64 = directory.extents.iter().map(Extent::blocks).sum();
        assert_eq!(blocks, 953_675);
        assert_eq!(Directory::decode(&directory.encode()).unwrap(), directory);
    }

    #[test]
    fn a_schema_that_cannot_be_stored_is_refused_with_its_reason() {
        for shapes in [&[][..], &[&[0][..]], &[&[u64::MAX, 2]], &[&[1; 17]]] {
            assert!(matches!(place(&request(shapes, 1024)), Err(Error::Invalid { .. })), "{shapes:?}");
        }
        assert!(matches!(place(&request(&[&[1]], 1000)), Err(Error::Invalid { .. })));
        let mut twice = request(&[&[1], &[1]], 1024);
        twice.tensors[1].name = "t0".into();
        assert!(matches!(place(&twice), Err(Error::Invalid { .. })));
    }

    #[test]
    fn default_blocks_leave_room_for_several_in_the_budget() {
        assert_eq!(default_block_elements(1 << 40, 3, 1 << 30), 1 << 20);
        assert_eq!(default_block_elements(1 << 40, 3, 16 << 20), 1 << 16);
        assert_eq!(default_block_elements(1000, 3, 1 << 30), 1 << 14);
        assert_eq!(default_block_elements(0, 0, 0), 1 << 14);
    }
}
