//! What has moved between two stores, two generations of one, or a store and its checkpoint.

use std::ops::Range;

use super::parts::{Held, LEAF, Leaf, Leaves, Memory, Part, Sum, Tree, default_threads, in_parts, parts};
use super::statistics::{LANES, fold, share};
use crate::error::Result;
use crate::format::directory::Dtype;
use crate::layout::{block_place, pieces};
use crate::param_store::{ParamStore, TensorInfo};
use crate::storage::Buffer;
use crate::units::{to_u64, to_usize};

/// What [`diff`] compares, and how.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::ParamStore;
/// use paramstore::inspect::{DiffOptions, diff};
///
/// store.keep("before")?;
/// let mut step = store.begin_step()?;
/// step.apply("w", &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0])?;
/// step.finish()?;
/// let before = ParamStore::open_read_only(path.join("checkpoints/before"), &options)?;
/// let options = DiffOptions::new().all_planes(true).threads(2);
/// let difference = diff(&before, &store, &options, |_bytes| {})?;
/// let w = &difference.tensors[0];
/// assert!(!difference.is_same() && !w.is_same());
/// assert_eq!((w.planes[0].changed, w.planes[0].max_abs), (1, 0.5));
/// assert_eq!(w.planes[0].relative(), None); // it moved, and all was zero before
/// assert_eq!(w.planes[1].plane, "momentum_buffer");
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    all_planes: bool,
    threads: Option<usize>,
}

impl DiffOptions {
    /// The defaults: parameters only, two threads for each processor. [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also compares what the optimizer keeps. [Example](Self#example).
    #[must_use]
    pub fn all_planes(mut self, all: bool) -> Self {
        self.all_planes = all;
        self
    }

    /// Threads that look, 1 or more; fewer where a memory budget does not hold a block for each. Results do not depend on it.
    /// [Example](Self#example).
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }
}

/// What differs between two stores A and B.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Difference {
    /// Tensors that only A has, in its order.
    pub only_in_a: Vec<String>,
    /// Tensors that only B has, in its order.
    pub only_in_b: Vec<String>,
    /// Tensors of both whose shapes are not the same; their values are not compared.
    pub other_shape: Vec<OtherShape>,
    /// Tensors of both, in the order of A.
    pub tensors: Vec<TensorDifference>,
    /// Bytes of values, as A stores them, that were not read: their blocks are known to be the same.
    pub bytes_known_same: u64,
}

impl Difference {
    /// Whether both have the same tensors, with the same bits in all values that were compared.
    /// [Example](DiffOptions#example).
    #[must_use]
    pub fn is_same(&self) -> bool {
        let one_sided = self.only_in_a.is_empty() && self.only_in_b.is_empty() && self.other_shape.is_empty();
        one_sided && self.tensors.iter().all(TensorDifference::is_same)
    }
}

/// A tensor with one shape in A and another in B.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherShape {
    /// The tensor.
    pub name: String,
    /// Its dimensions in A.
    pub a: Vec<u64>,
    /// Its dimensions in B.
    pub b: Vec<u64>,
}

/// What differs of one tensor.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TensorDifference {
    /// The tensor.
    pub name: String,
    /// Planes that were compared, the parameters first.
    pub planes: Vec<PlaneDifference>,
    /// Planes to be compared that only one of them has, or that have other lengths.
    pub one_sided: Vec<String>,
}

impl TensorDifference {
    /// Whether all values that were compared have the same bits. [Example](DiffOptions#example).
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.one_sided.is_empty() && self.planes.iter().all(|plane| plane.changed == 0)
    }
}

/// What differs of one plane. Values in few bits count as the f32 that they stand for. Elements that are NaN or infinite in A
/// or B count in `changed` and `non_finite` alone. Sums are those of [`PlaneStatistics`](super::PlaneStatistics): their bits
/// depend on nothing but the values.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlaneDifference {
    /// The plane.
    pub plane: String,
    /// Its elements.
    pub elements: u64,
    /// Elements whose bits differ.
    pub changed: u64,
    /// Elements that are NaN or infinite in A or B.
    pub non_finite: u64,
    /// The largest distance.
    pub max_abs: f64,
    /// The root of the mean square of the distances.
    pub rms: f64,
    /// The root of the mean square of A's values; `None` where nothing was read, since all blocks are known to be the same.
    pub rms_a: Option<f64>,
    /// The cosine of the angle between A and B; `None` where nothing was read, or one of them is zero.
    pub cosine: Option<f64>,
}

impl PlaneDifference {
    /// `rms` by `rms_a`: how far it moved, in parts of its own size. `None` where it moved and A is zero.
    /// [Example](DiffOptions#example).
    #[must_use]
    pub fn relative(&self) -> Option<f64> {
        if self.rms == 0.0 {
            return Some(0.0);
        }
        self.rms_a.filter(|rms| *rms > 0.0).map(|rms| self.rms / rms)
    }
}

/// Sums over a part.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Sums {
    apart: f64,
    of_a: f64,
    of_b: f64,
    of_both: f64,
}

impl Sum for Sums {
    fn join(self, right: Self) -> Self {
        Self {
            apart: self.apart + right.apart,
            of_a: self.of_a + right.of_a,
            of_b: self.of_b + right.of_b,
            of_both: self.of_both + right.of_both,
        }
    }
}

/// What does not depend on the order of elements.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    changed: u64,
    non_finite: u64,
    max_abs: f64,
}

impl Counts {
    fn join(&mut self, other: Self) {
        self.changed += other.changed;
        self.non_finite += other.non_finite;
        self.max_abs = self.max_abs.max(other.max_abs);
    }
}

/// A plane that both have.
struct Plane<'s> {
    name: &'s str,
    in_a: usize,
    in_b: usize,
    elements: u64,
    /// Bytes of A's values on disk.
    bytes: u64,
    is_known_same: bool,
}

/// A tensor that both have.
struct Item<'s> {
    name: &'s str,
    in_a: usize,
    in_b: usize,
    planes: Vec<Plane<'s>>,
    one_sided: Vec<String>,
    /// The types in A and B, if one of them is kept as it is.
    kept_as_is: Option<(Dtype, Dtype)>,
}

/// What a thread found in a part of a plane.
type Found = Vec<Option<(Option<Sums>, Counts)>>;

/// Compares two stores, tensor by tensor of the same name; with every update made so far, committed or not. Several threads
/// read, under the memory budgets of both.
///
/// Where both are readers of stores with one identity and one directory (a store and its checkpoint, its two generations), blocks
/// with the same generation and checksum are known to be the same, as [`roll_back_to`](ParamStore::roll_back_to) takes them; a
/// plane that consists of such blocks is not read. `progress` is told again and again how many bytes of A's values are done.
/// [Example](DiffOptions#example).
///
/// # Errors
/// Disk errors and damage, of either store.
pub fn diff(
    a: &ParamStore,
    b: &ParamStore,
    options: &DiffOptions,
    mut progress: impl FnMut(u64),
) -> Result<Difference> {
    let mut difference = Difference::default();
    let pair = Pair { a, b, is_lineage: is_lineage(a, b) };
    let mut items = Vec::new();
    for info in a.tensors() {
        match b.tensor(info.name()) {
            None => difference.only_in_a.push(info.name().to_owned()),
            Some(other) if other.shape() != info.shape() => difference.other_shape.push(OtherShape {
                name: info.name().to_owned(),
                a: info.shape().to_vec(),
                b: other.shape().to_vec(),
            }),
            Some(other) => items.push(pair.item(&info, &other, options)?),
        }
    }
    let only_in_b = b.tensors().filter(|info| a.tensor(info.name()).is_none());
    difference.only_in_b = only_in_b.map(|info| info.name().to_owned()).collect();
    let planes = || items.iter().flat_map(|item| &item.planes);
    difference.bytes_known_same = planes().filter(|plane| plane.is_known_same).map(|plane| plane.bytes).sum();
    let mut memory = pair.memory(options.threads.unwrap_or_else(default_threads))?;
    let (levels, part_elements) = (memory.levels, memory.part_elements());
    let elements: Vec<_> = items.iter().map(Item::elements).collect();
    let mut seen: Vec<Vec<_>> = items
        .iter()
        .map(|item| item.planes.iter().map(|_| (Tree::new(), Counts::default())).collect())
        .collect();
    let mut done = difference.bytes_known_same;
    let work = |memory: &mut Buffer, part: &Part| {
        items.get(part.item).map(|item| pair.look(memory, item, part)).transpose()
    };
    in_parts(&mut memory.buffers, parts(&elements, part_elements), work, |part, found: Option<Found>| {
        let (Some(item), Some(seen)) = (items.get(part.item), seen.get_mut(part.item)) else { return };
        for ((plane, (tree, counts)), found) in item.planes.iter().zip(seen).zip(found.into_iter().flatten())
        {
            let Some((sums, found)) = found else { continue };
            if let Some(sums) = sums {
                tree.push(levels, sums);
            }
            counts.join(found);
            let range = part.of_plane(plane.elements);
            done += share(plane.bytes, range.end - range.start, plane.elements);
        }
        progress(done);
    })?;
    difference.tensors = items.iter().zip(&seen).map(|(item, seen)| item.result(seen)).collect();
    Ok(difference)
}

/// Whether equal entries of both block tables mean equal bytes.
fn is_lineage(a: &ParamStore, b: &ParamStore) -> bool {
    let identity = |store: &ParamStore| {
        let pager = store.pager().lock();
        let store = pager.store();
        (store.uuid(), store.superblock().directory, store.is_writer())
    };
    let (a_is, b_is) = (identity(a), identity(b));
    // What a writer has in memory, its table does not tell.
    a_is == b_is && !a_is.2 && a.directory() == b.directory()
}

struct Pair<'s> {
    a: &'s ParamStore,
    b: &'s ParamStore,
    is_lineage: bool,
}

impl<'s> Pair<'s> {
    /// Memory of A for as many threads as B has memory for, too.
    fn memory(&self, threads: usize) -> Result<Memory<'s>> {
        let of_b = Memory::of(self.b, threads)?.buffers.len();
        Memory::of(self.a, threads.min(of_b))
    }

    fn item(&self, a: &TensorInfo<'s>, b: &TensorInfo<'s>, options: &DiffOptions) -> Result<Item<'s>> {
        let (in_a, in_b) = (self.a.tensor_index(a.name())?, self.b.tensor_index(b.name())?);
        self.a.background().settle(in_a);
        self.b.background().settle(in_b);
        let mut item =
            Item { name: a.name(), in_a, in_b, planes: Vec::new(), one_sided: Vec::new(), kept_as_is: None };
        let count = if options.all_planes { usize::MAX } else { 1 };
        if !(a.dtype().is_trainable() && b.dtype().is_trainable()) {
            item.kept_as_is = Some((a.dtype(), b.dtype()));
        }
        for (plane, name) in a.planes().enumerate().take(count) {
            let elements = self.a.plane_elements(in_a, plane);
            // The first plane has another name in frozen tensors.
            let by_name = || b.planes().position(|other| other == name);
            let other = if plane == 0 { Some(0) } else { by_name() };
            let Some(other) = other.filter(|&other| self.b.plane_elements(in_b, other) == elements) else {
                item.one_sided.push(name.to_owned());
                continue;
            };
            let bytes = a.plane_dtype(name).and_then(|dtype| dtype.bytes_of(elements)).unwrap_or(0);
            let is_known_same = self.is_known_same(in_a, plane)?;
            item.planes.push(Plane { name, in_a: plane, in_b: other, elements, bytes, is_known_same });
        }
        let only_in_b = b.planes().take(count).skip(1).filter(|name| !a.planes().any(|other| other == *name));
        item.one_sided.extend(only_in_b.map(str::to_owned));
        Ok(item)
    }

    /// Whether all blocks of a plane are the same by their table entries.
    fn is_known_same(&self, tensor: usize, plane: usize) -> Result<bool> {
        // Of rows, the newest may stand in the log.
        if !self.is_lineage || self.a.table_of(tensor).is_some() {
            return Ok(false);
        }
        let directory = self.a.directory();
        for piece in pieces(&directory, tensor, 0..self.a.elements(tensor)) {
            let extent = directory.extents.get(piece.extent);
            let Some(place) = extent.and_then(|extent| block_place(extent, piece.block, plane)) else {
                return Ok(false);
            };
            let entry = |store: &ParamStore| store.pager().lock().store_mut().block_entry(place.slot);
            let (a, b) = (entry(self.a)?, entry(self.b)?);
            if (a.generation, a.crc) != (b.generation, b.crc) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares a part of all planes of a tensor.
    fn look(&self, memory: &mut Buffer, item: &Item<'_>, part: &Part) -> Result<Found> {
        let mut found = Vec::with_capacity(item.planes.len());
        for plane in &item.planes {
            let range = part.of_plane(plane.elements);
            if plane.is_known_same || range.is_empty() {
                found.push(None);
                continue;
            }
            if let Some((of_a, of_b)) = item.kept_as_is {
                found.push(Some(self.look_as_is(item.name, (of_a, of_b), range)?));
                continue;
            }
            self.b.begin_range(item.in_b, plane.in_b, range.clone())?;
            let mut held = Held::new(memory);
            self.a.show_range(item.in_a, plane.in_a, range.clone(), |run| held.take(run))?;
            let (mut leaves, mut comparison) = (Leaves::new(), Comparison::new());
            self.b.show_range(item.in_b, plane.in_b, range, |run| {
                leaves.take(run, |leaf| comparison.take(&held, &leaf));
            })?;
            leaves.finish(|leaf| comparison.take(&held, &leaf));
            found.push(Some((comparison.tree.finish(), comparison.counts)));
        }
        Ok(found)
    }
}

impl Pair<'_> {
    /// Compares a part of a tensor that one of them keeps as it is: by bytes where the types are the same.
    fn look_as_is(
        &self,
        name: &str,
        (of_a, of_b): (Dtype, Dtype),
        range: Range<u64>,
    ) -> Result<(Option<Sums>, Counts)> {
        let (mut tree, mut counts) = (Tree::new(), Counts::default());
        let mut start = range.start;
        self.a.show_elements(name, of_a, range, |a| {
            let end = start + to_u64(a.len);
            self.b.show_elements(name, of_b, start..end, |b| {
                let bytes = a.elements().zip(b.elements());
                let values = a.values().iter().zip(b.values());
                let changed = if of_a == of_b {
                    bytes.filter(|(a, b)| a != b).count()
                } else {
                    values.clone().filter(|(a, b)| a.to_bits() != b.to_bits()).count()
                };
                counts.changed += to_u64(changed);
                let mut sums = Sums::default();
                for (&a, &b) in values {
                    if a.is_finite() && b.is_finite() {
                        let sum = Sums { apart: (b - a) * (b - a), of_a: a * a, of_b: b * b, of_both: a * b };
                        sums = sums.join(sum);
                        counts.max_abs = counts.max_abs.max((b - a).abs());
                    } else {
                        counts.non_finite += 1;
                    }
                }
                tree.push(0, sums);
                Ok(())
            })?;
            start = end;
            Ok(())
        })?;
        Ok((tree.finish(), counts))
    }
}

impl Item<'_> {
    fn elements(&self) -> u64 {
        let read = self.planes.iter().filter(|plane| !plane.is_known_same);
        read.map(|plane| plane.elements).max().unwrap_or(0)
    }

    fn result(&self, seen: &[(Tree<Sums>, Counts)]) -> TensorDifference {
        let planes = self.planes.iter().zip(seen).map(|(plane, (tree, counts))| {
            let sums = tree.finish();
            #[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 is rounded as the sums are")]
            let finite = (plane.elements - counts.non_finite).max(1) as f64;
            let known = sums.unwrap_or_default();
            PlaneDifference {
                plane: plane.name.to_owned(),
                elements: plane.elements,
                changed: counts.changed,
                non_finite: counts.non_finite,
                max_abs: counts.max_abs,
                rms: (known.apart / finite).sqrt(),
                rms_a: sums.map(|sums| (sums.of_a / finite).sqrt()),
                cosine: sums.and_then(|sums| {
                    // The root of the product is exact for what is the same; only f64 can leave its range.
                    let product = sums.of_a * sums.of_b;
                    let roots = || sums.of_a.sqrt() * sums.of_b.sqrt();
                    let norms = if product.is_normal() { product.sqrt() } else { roots() };
                    (norms > 0.0).then(|| (sums.of_both / norms).clamp(-1.0, 1.0))
                }),
            }
        });
        let (name, planes) = (self.name.to_owned(), planes.collect());
        TensorDifference { name, planes, one_sided: self.one_sided.clone() }
    }
}

/// Compares what is held of A with the leaves of B.
struct Comparison {
    tree: Tree<Sums>,
    counts: Counts,
    at: usize,
}

impl Comparison {
    fn new() -> Self {
        Self { tree: Tree::new(), counts: Counts::default(), at: 0 }
    }

    fn take(&mut self, held: &Held<'_>, leaf: &Leaf<'_>) {
        match *leaf {
            Leaf::Values(b) => self.leaf(held, b),
            Leaf::Constant { value, leaves } if held.constant().is_some() => {
                let mut scratch = [0.0; LEAF];
                let before = std::mem::take(&mut self.counts);
                let sums = self.compare(held.values(self.at, LEAF, &mut scratch), &[value; LEAF]);
                let mut seen = std::mem::replace(&mut self.counts, before);
                seen.changed *= leaves;
                seen.non_finite *= leaves;
                self.counts.join(seen);
                self.tree.push_many(sums, leaves);
                self.at += to_usize(leaves * to_u64(LEAF));
            }
            Leaf::Constant { value, leaves } => (0..leaves).for_each(|_| self.leaf(held, &[value; LEAF])),
        }
    }

    fn leaf(&mut self, held: &Held<'_>, b: &[f32]) {
        let mut scratch = [0.0; LEAF];
        let sums = self.compare(held.values(self.at, b.len(), &mut scratch), b);
        self.tree.push(0, sums);
        self.at += b.len();
    }

    fn compare(&mut self, a: &[f32], b: &[f32]) -> Sums {
        let changed: u32 = a.iter().zip(b).map(|(a, b)| u32::from(a.to_bits() != b.to_bits())).sum();
        self.counts.changed += u64::from(changed);
        let finite = |(a, b): (&f32, &f32)| a.is_finite() && b.is_finite();
        let all: u32 = a.iter().zip(b).map(|pair| u32::from(finite(pair))).sum();
        let (mut of_a, mut of_b) = ([0.0; LEAF], [0.0; LEAF]);
        if to_usize(all.into()) == a.len() {
            return self.sums(a, b);
        }
        self.counts.non_finite += to_u64(a.len()) - u64::from(all);
        let kept = a.iter().zip(b).filter(|pair| finite(*pair));
        for ((a, b), (of_a, of_b)) in kept.zip(of_a.iter_mut().zip(&mut of_b)) {
            (*of_a, *of_b) = (*a, *b);
        }
        self.sums(&of_a, &of_b)
    }

    fn sums(&mut self, a: &[f32], b: &[f32]) -> Sums {
        let mut lanes = [[0.0_f64; LANES]; 4];
        let [apart, of_a, of_b, of_both] = &mut lanes;
        let mut furthest = [0.0_f64; LANES];
        let ((a_rows, a_rest), (b_rows, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        let mut each = |lane: usize, a: f32, b: f32| {
            let (a, b) = (f64::from(a), f64::from(b));
            let distance = (b - a).abs();
            furthest[lane] = if distance > furthest[lane] { distance } else { furthest[lane] };
            apart[lane] += distance * distance;
            of_a[lane] += a * a;
            of_b[lane] += b * b;
            of_both[lane] += a * b;
        };
        for (a, b) in a_rows.iter().zip(b_rows) {
            for (lane, (a, b)) in a.iter().zip(b).enumerate() {
                each(lane, *a, *b);
            }
        }
        for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
            each(lane, *a, *b);
        }
        self.counts.max_abs = furthest.into_iter().fold(self.counts.max_abs, f64::max);
        let [apart, of_a, of_b, of_both] = lanes.map(fold);
        Sums { apart, of_a, of_b, of_both }
    }
}
