//! The directory: tensors, planes, segments and extents of a store. Written at creation, then only read.

use super::PAGE_BYTES;
use super::codec::{Decoded, FormatError, Reader, Writer};
use super::records::Records;
use crate::units::round_up;

/// Largest number of dimensions of a tensor.
pub(crate) const MAX_RANK: usize = 16;
/// Largest segment file in bytes: well below ext4's limit of 16 TiB.
pub(crate) const MAX_SEGMENT_BYTES: u64 = 1 << 40;
/// Smallest and largest number of elements in a block; always a power of two.
pub(crate) const MIN_BLOCK_ELEMENTS: u64 = 1024;
/// See [`MIN_BLOCK_ELEMENTS`].
pub(crate) const MAX_BLOCK_ELEMENTS: u64 = 1 << 26;

/// Elements that share a scale in planes of 8 bits.
pub(crate) const Q8_BLOCK_ELEMENTS: u64 = 256;

/// The type of a plane's elements on disk.
///
/// # Example
///
/// ```
/// use paramstore::Dtype;
///
/// assert_eq!(Dtype::from_name("bf16"), Some(Dtype::Bf16));
/// assert_eq!((Dtype::Bf16.name(), Dtype::Bf16.element_bytes()), ("bf16", Some(2)));
/// assert_eq!((Dtype::Q8Signed.element_bytes(), Dtype::Q8Signed.bytes_of(512)), (None, Some(512 + 8)));
/// assert!(Dtype::Q8Signed.is_trainable() && !Dtype::I64.is_trainable());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// IEEE 754 binary32, little-endian.
    F32,
    /// The upper half of a binary32, little-endian.
    Bf16,
    /// IEEE 754 binary16, little-endian.
    F16,
    /// Codes of 8 bits for values of both signs, and a binary32 scale for each 256 elements of a block behind them.
    Q8Signed,
    /// As [`Q8Signed`](Self::Q8Signed), for values that are never negative.
    Q8Unsigned,
    /// IEEE 754 binary64, little-endian. This and all that follow are kept as they are: for frozen tensors only.
    F64,
    /// Integers with a sign, little-endian, of 64 bits.
    I64,
    /// As [`I64`](Self::I64), of 32 bits.
    I32,
    /// As [`I64`](Self::I64), of 16 bits.
    I16,
    /// As [`I64`](Self::I64), of 8 bits.
    I8,
    /// Integers without a sign, little-endian, of 64 bits.
    U64,
    /// As [`U64`](Self::U64), of 32 bits.
    U32,
    /// As [`U64`](Self::U64), of 16 bits.
    U16,
    /// As [`U64`](Self::U64), of 8 bits.
    U8,
    /// A byte that is 0 or 1.
    Bool,
    /// Floats of 8 bits, 4 of them exponent and 3 mantissa, without infinities.
    F8E4M3,
    /// Floats of 8 bits, 5 of them exponent and 2 mantissa.
    F8E5M2,
}

impl Dtype {
    const ALL: [Self; 17] = [
        Self::F32,
        Self::Bf16,
        Self::F16,
        Self::Q8Signed,
        Self::Q8Unsigned,
        Self::F64,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::Bool,
        Self::F8E4M3,
        Self::F8E5M2,
    ];

    /// Bytes that `elements` of this type take in a block, without padding; `None` on overflow. [Example](Self#example).
    #[must_use]
    pub fn bytes_of(self, elements: u64) -> Option<u64> {
        if let Some(size) = self.element_bytes() {
            return elements.checked_mul(size);
        }
        let scales = elements.div_ceil(Q8_BLOCK_ELEMENTS).checked_mul(4)?;
        round_up(elements, 4)?.checked_add(scales)
    }

    /// Bytes of an element; `None` where elements share scales. [Example](Self#example).
    #[must_use]
    pub fn element_bytes(self) -> Option<u64> {
        match self {
            Self::F64 | Self::I64 | Self::U64 => Some(8),
            Self::F32 | Self::I32 | Self::U32 => Some(4),
            Self::Bf16 | Self::F16 | Self::I16 | Self::U16 => Some(2),
            Self::I8 | Self::U8 | Self::Bool | Self::F8E4M3 | Self::F8E5M2 => Some(1),
            Self::Q8Signed | Self::Q8Unsigned => None,
        }
    }

    /// Whether its elements are read and written as f32. Those of other types are kept as they are, in frozen tensors, and are
    /// read and written as bytes. [Example](Self#example).
    #[must_use]
    pub fn is_trainable(self) -> bool {
        matches!(self, Self::F32 | Self::Bf16 | Self::F16) || self.is_q8()
    }

    /// The name used in files, on the command line and in JSON. [Example](Self#example).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q8Signed => "q8-signed",
            Self::Q8Unsigned => "q8-unsigned",
            Self::F64 => "f64",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::Bool => "bool",
            Self::F8E4M3 => "f8-e4m3",
            Self::F8E5M2 => "f8-e5m2",
        }
    }

    /// The type of that name. [Example](Self#example).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Whether its elements share scales.
    pub(crate) fn is_q8(self) -> bool {
        matches!(self, Self::Q8Signed | Self::Q8Unsigned)
    }

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        let code = r.u8("dtype")?;
        let known = Self::ALL.into_iter().find(|dtype| dtype.code() == code);
        known.ok_or_else(|| FormatError::unsupported("directory dtype", format!("code {code}")))
    }
}

/// What a plane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaneRole {
    /// The parameters; exactly one plane has this role and it is the first.
    Param,
    /// State of an optimizer.
    State,
    /// Work space that no generation owns; one home, no table entry.
    Scratch,
    /// Records of rows: parameters and state of a row together.
    Record,
    /// The log of rows: one segment with one home and no blocks.
    Log,
    /// Parameters that are never updated: one home, written before the first commit.
    Frozen,
    /// A copy of f32 parameters in 16 bits, rounded to the nearest: what a forward pass reads.
    Compute,
    /// What rounding lost of parameters in 16 bits.
    Compensation,
}

impl PlaneRole {
    const ALL: [Self; 8] = [
        Self::Param,
        Self::State,
        Self::Scratch,
        Self::Record,
        Self::Log,
        Self::Frozen,
        Self::Compute,
        Self::Compensation,
    ];

    /// How many homes its segments have.
    pub(crate) fn homes(self) -> u8 {
        match self {
            Self::Param | Self::State | Self::Record | Self::Compute | Self::Compensation => 2,
            Self::Scratch | Self::Log | Self::Frozen => 1,
        }
    }
}

/// One plane: a component of the per-element record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plane {
    pub(crate) name: String,
    pub(crate) role: PlaneRole,
}

/// One segment file (each home of it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentSpec {
    /// Index of its plane.
    pub(crate) plane: u16,
    /// Number among the segments of its plane.
    pub(crate) index: u32,
    /// How many homes exist: 2, or 1 for scratch, the log and what is frozen.
    pub(crate) homes: u8,
    /// Exact length of the file.
    pub(crate) bytes: u64,
}

/// How the elements of a never-written block come into being.
///
/// # Example
///
/// ```
/// use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
///
/// # let dir = tempfile::tempdir().expect("a temporary directory");
/// let schema = Schema::new()
///     .group(ParamGroup::new("all", Optimizer::from_name("adamw")?))
///     .tensor(TensorSpec::new("norm", &[4]).init(Init::Constant(1.0)))
///     .tensor(TensorSpec::new("w", &[1000]).init(Init::Uniform { low: -0.5, high: 0.5 }));
/// let store = ParamStore::create(dir.path().join("s"), &schema, &Options::new().memory_budget(4 << 20))?;
/// assert_eq!(store.view("norm")?[..], [1.0; 4]);
/// assert!(store.view("w")?.iter().all(|x| (-0.5..=0.5).contains(x)));
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// All zero.
    Zeros,
    /// All the same value.
    Constant(f32),
    /// Independent normal values.
    Normal {
        /// The mean.
        mean: f32,
        /// The standard deviation, not negative.
        std: f32,
    },
    /// Independent uniform values from `low` to `high`.
    Uniform {
        /// The lower bound.
        low: f32,
        /// The upper bound.
        high: f32,
    },
}

impl Init {
    fn encode(self, w: &mut Writer) {
        let (code, a, b) = match self {
            Self::Zeros => (0, 0.0, 0.0),
            Self::Constant(value) => (1, value, 0.0),
            Self::Normal { mean, std } => (2, mean, std),
            Self::Uniform { low, high } => (3, low, high),
        };
        w.u8(code);
        w.f32(a);
        w.f32(b);
    }

    fn decode(r: &mut Reader<'_>) -> Decoded<Self> {
        let code = r.u8("init")?;
        let (a, b) = (r.f32("init")?, r.f32("init")?);
        match code {
            0 => Ok(Self::Zeros),
            1 => Ok(Self::Constant(a)),
            2 => Ok(Self::Normal { mean: a, std: b }),
            3 => Ok(Self::Uniform { low: a, high: b }),
            _ => Err(FormatError::unsupported("directory init", format!("code {code}"))),
        }
    }
}

/// Where a plane of an extent stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ExtentPlane {
    /// Index of the plane.
    pub(crate) plane: u16,
    pub(crate) dtype: Dtype,
    /// Value of elements that were never written (the parameter plane asks the tensor's [`Init`] instead).
    pub(crate) fill: f32,
    /// Index of the segment that holds it.
    pub(crate) segment: u32,
    /// Offset of the first block in the segment.
    pub(crate) offset: u64,
}

/// A run of blocks with the same planes: all or part of one large tensor, or several small tensors together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extent {
    pub(crate) elements: u64,
    /// Elements of each block but the last, a power of two.
    pub(crate) block_elements: u64,
    pub(crate) first_block: u64,
    /// Table slot of the first plane of the first block.
    pub(crate) first_slot: u64,
    /// The parameter plane, then the state planes in the optimizer's order: each has a table slot per block. An extent of
    /// rows has one plane, of records.
    pub(crate) planes: Vec<ExtentPlane>,
    /// The `grad` plane, if the store has one.
    pub(crate) scratch: Option<ExtentPlane>,
    /// What the records are, in an extent of rows; its elements are then those of pages of records.
    pub(crate) records: Option<Records>,
}

impl Extent {
    pub(crate) fn blocks(&self) -> u64 {
        self.elements.div_ceil(self.block_elements)
    }

    /// The type of a plane; one past the last is the scratch plane.
    pub(crate) fn dtype(&self, plane: usize) -> Dtype {
        self.planes.get(plane).or(self.scratch.as_ref()).map_or(Dtype::F32, |plane| plane.dtype)
    }
}

/// A named array.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    /// Index of its parameter group.
    pub(crate) group: u32,
    pub(crate) init: Init,
    /// The first of its extents.
    pub(crate) extent: u32,
    /// How many extents it spans; its elements continue from one to the next.
    pub(crate) extents: u32,
    /// Its first element in the first extent; not 0 only where small tensors share one.
    pub(crate) offset: u64,
}

impl Tensor {
    pub(crate) fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d))
    }
}

/// Everything that is fixed at creation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Directory {
    /// Seed of lazy initialisation.
    pub(crate) seed: u64,
    pub(crate) planes: Vec<Plane>,
    pub(crate) segments: Vec<SegmentSpec>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) tensors: Vec<Tensor>,
    /// How many parameter groups the record holds.
    pub(crate) groups: u32,
}

/// Whether a plane may have this name: it becomes part of file names.
pub(crate) fn is_plane_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

impl Directory {
    /// Entries of the table: one per tensor, then one per plane and block.
    pub(crate) fn slots(&self) -> u64 {
        self.extents
            .last()
            .map_or(0, |last| last.first_slot + last.blocks() * crate::units::to_u64(last.planes.len()))
    }

    /// Whether some tensors are of rows.
    pub(crate) fn has_rows(&self) -> bool {
        self.extents.iter().any(|extent| extent.records.is_some())
    }

    /// Whether some tensors are frozen.
    pub(crate) fn has_frozen(&self) -> bool {
        self.planes.iter().any(|plane| plane.role == PlaneRole::Frozen)
    }

    /// Whether some tensors have a copy in 16 bits.
    pub(crate) fn has_compute(&self) -> bool {
        self.planes.iter().any(|plane| plane.role == PlaneRole::Compute)
    }

    /// Whether some tensors keep what rounding their parameters lost.
    pub(crate) fn has_compensation(&self) -> bool {
        self.planes.iter().any(|plane| plane.role == PlaneRole::Compensation)
    }

    /// The plane of an extent that is a copy of its parameters, which is its last.
    pub(crate) fn copy_plane(&self, extent: &Extent) -> Option<usize> {
        self.last_plane(extent, PlaneRole::Compute)
    }

    /// The plane of an extent that keeps what rounding its parameters lost, which is its last.
    pub(crate) fn compensation_plane(&self, extent: &Extent) -> Option<usize> {
        self.last_plane(extent, PlaneRole::Compensation)
    }

    /// The last plane of an extent, if it has this role.
    fn last_plane(&self, extent: &Extent, role: PlaneRole) -> Option<usize> {
        let last = extent.planes.len().checked_sub(1)?;
        let plane = self.planes.get(usize::from(extent.planes.get(last)?.plane))?;
        (plane.role == role).then_some(last)
    }

    /// Whether an extent holds parameters that are never updated.
    pub(crate) fn is_frozen(&self, extent: &Extent) -> bool {
        let plane = extent.planes.first().and_then(|plane| self.planes.get(usize::from(plane.plane)));
        plane.is_some_and(|plane| plane.role == PlaneRole::Frozen)
    }

    /// Whether some planes are not f32.
    pub(crate) fn has_narrow(&self) -> bool {
        let planes = self.extents.iter().flat_map(|extent| extent.planes.iter().chain(&extent.scratch));
        planes.into_iter().any(|plane| plane.dtype != Dtype::F32)
    }

    /// The segment of the log of rows.
    pub(crate) fn log_segment(&self) -> Option<usize> {
        let is_log = |segment: &SegmentSpec| {
            let plane = self.planes.get(usize::from(segment.plane));
            plane.is_some_and(|plane| plane.role == PlaneRole::Log)
        };
        self.segments.iter().position(is_log)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u64(self.seed);
        w.u32(self.groups);
        w.count(self.planes.len());
        for plane in &self.planes {
            w.string(&plane.name);
            w.u8(plane.role as u8);
        }
        w.count(self.segments.len());
        for segment in &self.segments {
            w.u16(segment.plane);
            w.u32(segment.index);
            w.u8(segment.homes);
            w.u64(segment.bytes);
        }
        w.count(self.extents.len());
        for extent in &self.extents {
            encode_extent(&mut w, extent);
        }
        w.count(self.tensors.len());
        for tensor in &self.tensors {
            encode_tensor(&mut w, tensor);
        }
        w.into_bytes()
    }

    /// Decodes and judges a directory; everything after it may assume that it is consistent.
    pub(crate) fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut r = Reader::new("directory", bytes);
        let seed = r.u64("seed")?;
        let groups = r.u32("group count")?;
        let count = r.count("plane count", 4)?;
        let planes = (0..count).map(|_| decode_plane(&mut r)).collect::<Decoded<Vec<_>>>()?;
        let count = r.count("segment count", 15)?;
        let segments = (0..count).map(|_| decode_segment(&mut r)).collect::<Decoded<Vec<_>>>()?;
        let count = r.count("extent count", 34)?;
        let extents = (0..count).map(|_| decode_extent(&mut r)).collect::<Decoded<Vec<_>>>()?;
        let count = r.count("tensor count", 33)?;
        let tensors = (0..count).map(|_| decode_tensor(&mut r)).collect::<Decoded<Vec<_>>>()?;
        r.end()?;
        let directory = Self { seed, planes, segments, extents, tensors, groups };
        super::validate::directory(&directory)?;
        Ok(directory)
    }
}

/// Bytes that one block of a plane takes in its segment, padded for direct transfers.
pub(crate) fn padded_bytes(dtype: Dtype, elements: u64) -> Option<u64> {
    dtype.bytes_of(elements).and_then(|bytes| round_up(bytes, PAGE_BYTES))
}

/// Bytes that all blocks of a plane of an extent take in their segment.
pub(crate) fn extent_bytes(dtype: Dtype, elements: u64, block_elements: u64) -> Option<u64> {
    let full = elements / block_elements;
    let full = padded_bytes(dtype, block_elements)?.checked_mul(full)?;
    full.checked_add(padded_bytes(dtype, elements % block_elements)?)
}

fn encode_extent(w: &mut Writer, extent: &Extent) {
    w.u64(extent.elements);
    w.u64(extent.block_elements);
    w.u64(extent.first_block);
    w.u64(extent.first_slot);
    w.u8(u8::try_from(extent.planes.len()).unwrap_or(u8::MAX));
    w.u8(u8::from(extent.scratch.is_some()) | u8::from(extent.records.is_some()) << 1);
    for plane in extent.planes.iter().chain(&extent.scratch) {
        w.u16(plane.plane);
        w.u8(plane.dtype.code());
        w.f32(plane.fill);
        w.u32(plane.segment);
        w.u64(plane.offset);
    }
    if let Some(records) = &extent.records {
        records.encode(w);
    }
}

fn decode_extent(r: &mut Reader<'_>) -> Decoded<Extent> {
    let elements = r.u64("extent elements")?;
    let block_elements = r.u64("extent block elements")?;
    let first_block = r.u64("extent first block")?;
    let first_slot = r.u64("extent first slot")?;
    let count = r.u8("extent plane count")?;
    let flags = r.u8("extent flags")?;
    if flags > 3 {
        return Err(r.error("extent flags", flags, "0 to 3"));
    }
    let planes = (0..count).map(|_| decode_extent_plane(r)).collect::<Decoded<Vec<_>>>()?;
    let scratch = if flags & 1 != 0 { Some(decode_extent_plane(r)?) } else { None };
    let records = if flags & 2 != 0 { Some(Records::decode(r)?) } else { None };
    Ok(Extent { elements, block_elements, first_block, first_slot, planes, scratch, records })
}

fn decode_extent_plane(r: &mut Reader<'_>) -> Decoded<ExtentPlane> {
    Ok(ExtentPlane {
        plane: r.u16("extent plane")?,
        dtype: Dtype::decode(r)?,
        fill: r.f32("extent fill")?,
        segment: r.u32("extent segment")?,
        offset: r.u64("extent offset")?,
    })
}

fn encode_tensor(w: &mut Writer, tensor: &Tensor) {
    w.string(&tensor.name);
    w.u8(tensor.dtype.code());
    w.u8(u8::try_from(tensor.shape.len()).unwrap_or(u8::MAX));
    for &dim in &tensor.shape {
        w.u64(dim);
    }
    w.u32(tensor.group);
    tensor.init.encode(w);
    w.u32(tensor.extent);
    w.u32(tensor.extents);
    w.u64(tensor.offset);
}

fn decode_tensor(r: &mut Reader<'_>) -> Decoded<Tensor> {
    let name = r.string("tensor name")?;
    let dtype = Dtype::decode(r)?;
    let rank = usize::from(r.u8("tensor rank")?);
    if rank > MAX_RANK {
        return Err(r.error("tensor rank", rank, format!("at most {MAX_RANK}")));
    }
    let shape = (0..rank).map(|_| r.u64("tensor dimension")).collect::<Decoded<Vec<_>>>()?;
    Ok(Tensor {
        name,
        dtype,
        shape,
        group: r.u32("tensor group")?,
        init: Init::decode(r)?,
        extent: r.u32("tensor extent")?,
        extents: r.u32("tensor extent count")?,
        offset: r.u64("tensor offset")?,
    })
}

fn decode_plane(r: &mut Reader<'_>) -> Decoded<Plane> {
    let name = r.string("plane name")?;
    let code = r.u8("plane role")?;
    let role = PlaneRole::ALL.get(usize::from(code)).copied();
    let role =
        role.ok_or_else(|| FormatError::unsupported("directory plane role", format!("code {code}")))?;
    Ok(Plane { name, role })
}

fn decode_segment(r: &mut Reader<'_>) -> Decoded<SegmentSpec> {
    Ok(SegmentSpec {
        plane: r.u16("segment plane")?,
        index: r.u32("segment index")?,
        homes: r.u8("segment homes")?,
        bytes: r.u64("segment length")?,
    })
}
