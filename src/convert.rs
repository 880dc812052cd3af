//! Another precision: a store written anew, streaming, with what rounding did to it. [Example](Convert#example).

use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::directory::Dtype;
use crate::layout::{COMPENSATION_PLANE, COMPUTE_PLANE};
use crate::options::Options;
use crate::param_store::{ParamStore, Place};
use crate::precision::{Half, Precision};
use crate::schema::{Schema, TensorSpec};
use crate::units::{to_u64, to_usize};

/// What the name of a store ends in while it is being made.
const UNFINISHED: &str = ".converting";

/// Elements that are on their way at a time: whole blocks of codes of 8 bits.
const PART_LEN: usize = 1 << 18;

/// What rounding did to one plane, over all tensors that have it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlaneError {
    /// The plane.
    pub name: String,
    /// Elements.
    pub elements: u64,
    /// Elements whose value is not what it was.
    pub changed: u64,
    /// Elements that were not zero and are.
    pub lost: u64,
    /// The largest change.
    pub max_abs: f64,
    /// The root of the mean square of the changes.
    pub rms: f64,
    /// The root of the mean square of the values before.
    pub rms_value: f64,
    square_error: f64,
    square_value: f64,
}

impl PlaneError {
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            name,
            elements: 0,
            changed: 0,
            lost: 0,
            max_abs: 0.0,
            rms: 0.0,
            rms_value: 0.0,
            square_error: 0.0,
            square_value: 0.0,
        }
    }

    /// Takes in elements before and after.
    fn add(&mut self, before: &[f32], after: &[f32]) {
        for (&x, &y) in before.iter().zip(after) {
            let error = (f64::from(x) - f64::from(y)).abs();
            self.changed += u64::from(x.to_bits() != y.to_bits());
            self.lost += u64::from(x != 0.0 && y == 0.0);
            self.max_abs = self.max_abs.max(error);
            self.square_error += error * error;
            self.square_value += f64::from(x) * f64::from(x);
        }
        self.elements += to_u64(before.len());
    }

    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    fn finish(&mut self) {
        let n = self.elements.max(1) as f64;
        self.rms = (self.square_error / n).sqrt();
        self.rms_value = (self.square_value / n).sqrt();
    }
}

/// How a store is converted.
///
/// # Example
///
/// ```
#[doc = include_str!("examples/store.txt")]
/// use paramstore::convert::Convert;
/// use paramstore::{ParamStore, Precision};
///
/// store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 1.001])?;
/// store.commit(b"")?;
/// let to = dir.path().join("bf16.store");
/// let convert = Convert::to(Precision::BF16.everywhere(), 16 << 20); // small tensors too
/// let errors = convert.run(&path, &to, |_elements| {})?;
/// assert_eq!((errors[0].name.as_str(), errors[0].changed), ("param", 1));
/// assert!(errors[0].max_abs < 0.002);
/// assert_eq!(ParamStore::open_read_only(&to, &options)?.view("w")?[..], [1.0, 2.0, 3.0, 4.0, 5.0, 1.0]);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Convert {
    precision: Precision,
    memory_bytes: u64,
}

impl Convert {
    /// To this precision, for all groups; what stays in f32 stays so by the rule of [`Precision`]. `memory_bytes` is the memory
    /// of both stores together. [Example](Self#example).
    #[must_use]
    pub fn to(precision: Precision, memory_bytes: u64) -> Self {
        Self { precision, memory_bytes }
    }

    /// Makes the store `to`, which must not exist or be an empty directory, from the committed generation of the store `from`: the same tensors,
    /// settings, clocks, step and user record, in another precision; frozen tensors as they are. Parameters and moments are rounded to the nearest.
    /// [Compensated](Precision::compensated) parameters count with what their rounding lost, on both sides.
    /// `progress` gets the elements done of all planes, again and again. Returns what it did to each plane.
    /// [Example](Self#example).
    ///
    /// The store is made under the name `to.converting` and gets its own name when it is whole and durable: a conversion that is
    /// interrupted leaves no store `to`. What it left under the other name is removed by the next one to the same place.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a store with tensors of rows, which stay in f32; as [`ParamStore::create`] and
    /// [`ParamStore::open_read_only`]; [`Error::AlreadyExists`]; [`Error::Locked`] beside another conversion to the same place.
    pub fn run(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<PlaneError>> {
        let options = Options::new().memory_budget(self.memory_bytes / 2);
        let source = ParamStore::open_read_only(from, &options)?;
        let schema = self.schema(&source)?;
        let place = Place::take(to.as_ref(), UNFINISHED)?;
        let mut target = ParamStore::create(&place.unfinished, &schema, &options)?;
        let mut errors: Vec<PlaneError> = Vec::new();
        let mut done = 0;
        let tensors: Vec<_> = source.tensors().map(|tensor| (tensor.name(), tensor.elements())).collect();
        for (tensor, (name, elements)) in tensors.into_iter().enumerate() {
            let planes = source.tensor(name).into_iter().flat_map(|info| info.planes());
            // A copy is made where the parameters are written, and what rounding lost goes with them.
            let is_own = |plane: &&str| !matches!(*plane, COMPUTE_PLANE | COMPENSATION_PLANE);
            let planes: Vec<_> = planes.filter(is_own).collect();
            if source.is_frozen(tensor) {
                copy_frozen(&source, &mut target, name)?;
                continue;
            }
            for (plane, plane_name) in planes.into_iter().enumerate() {
                if errors.iter().all(|error| error.name != plane_name) {
                    errors.push(PlaneError::new(plane_name));
                }
                let Some(error) = errors.iter_mut().find(|error| error.name == plane_name) else { continue };
                for start in (0..elements).step_by(PART_LEN) {
                    let range = start..elements.min(start + to_u64(PART_LEN));
                    copy(&source, &mut target, (tensor, plane), range.clone(), error)?;
                    done += range.end - range.start;
                    progress(done);
                }
            }
            target.take_clock(&source, tensor)?;
        }
        target.commit_as(&source)?;
        drop(target);
        place.publish()?;
        errors.iter_mut().for_each(PlaneError::finish);
        Ok(errors)
    }

    /// The schema of the new store.
    fn schema(&self, source: &ParamStore) -> Result<Schema> {
        let directory = source.directory();
        let blocks = directory.extents.iter().map(|extent| extent.block_elements).max().unwrap_or(0);
        let mut schema = Schema::new()
            .seed(directory.seed)
            .block_bytes(4 * blocks)
            .gradient_plane(source.check_gradient_plane("the copy of a store").is_ok())
            .precision(self.precision);
        schema = source.groups().iter().fold(schema, |schema, group| schema.group(group.clone()));
        for (info, tensor) in source.tensors().zip(&directory.tensors) {
            if info.is_rows() {
                let expected = "a store without tensors of rows, which stay in f32";
                return Err(Error::invalid(format!("tensor {:?}", info.name()), "kept by rows", expected));
            }
            let spec = TensorSpec::new(info.name(), info.shape()).group(info.group()).init(tensor.init);
            let copy = info.plane_dtype(COMPUTE_PLANE).filter(|_| self.precision.params == Dtype::F32);
            schema = schema.tensor(match copy {
                _ if info.is_frozen() => spec.stored_as(info.dtype()),
                Some(Dtype::F16) => spec.compute(Half::F16),
                Some(_) => spec.compute(Half::Bf16),
                None => spec,
            });
        }
        Ok(schema)
    }
}

/// Copies a frozen tensor, which stays as it is.
fn copy_frozen(source: &ParamStore, target: &mut ParamStore, name: &str) -> Result<()> {
    let Some(info) = source.tensor(name) else { return Ok(()) };
    let size = info.dtype().element_bytes().unwrap_or(1);
    let mut bytes = vec![0; PART_LEN];
    let part = to_u64(PART_LEN) / size;
    for start in (0..info.elements()).step_by(to_usize(part)) {
        let len = to_usize(part.min(info.elements() - start) * size);
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        source.read_bytes(name, start, bytes)?;
        target.write_bytes(name, start, bytes)?;
    }
    Ok(())
}

/// Copies a part of a plane and looks at what became of it.
fn copy(
    source: &ParamStore,
    target: &mut ParamStore,
    (tensor, plane): (usize, usize),
    range: Range<u64>,
    error: &mut PlaneError,
) -> Result<()> {
    let len = to_usize(range.end - range.start);
    let (mut before, mut after) = (vec![0.0; len], vec![0.0; len]);
    read(source, (tensor, plane), range.clone(), &mut before)?;
    target.write_plane(tensor, plane, range.clone(), &before)?;
    read(target, (tensor, plane), range, &mut after)?;
    error.add(&before, &after);
    Ok(())
}

fn read(
    store: &ParamStore,
    (tensor, plane): (usize, usize),
    range: Range<u64>,
    out: &mut [f32],
) -> Result<()> {
    if plane == 0 {
        return store.read_with_lost(tensor, range, out);
    }
    store.pager().read_into(tensor, plane, range, out)
}
