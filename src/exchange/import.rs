//! Files become a store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::source::Sources;
use super::state::State;
use super::values::{Flow, Piece, Values};
use super::{ForeignDtype, ForeignTensor, not_storable};
use crate::error::{Error, Result};
use crate::format::directory::Dtype;
use crate::format::records::RowMode;
use crate::layout::COMPENSATION_PLANE;
use crate::optim::TensorClock;
use crate::options::Options;
use crate::param_store::{ParamStore, Place};
use crate::schema::{ParamGroup, Schema, TensorSpec};
use crate::units::to_u64;

/// What the name of a store ends in while it is being imported.
const UNFINISHED: &str = ".importing";

/// Bytes of rows that are imported between two commits, which keep what is known in memory of rows in the log within bounds.
const COMMIT_BYTES: u64 = 256 << 20;

/// Bytes of memory for each row of them.
const ROW_BYTES: u64 = 512;

/// A choice for each tensor, by its name.
type ByName<'a, T> = Box<dyn Fn(&str) -> T + 'a>;

/// How files become a store.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::exchange::{Export, Import};
/// use paramstore::{Error, Optimizer, ParamGroup, ParamStore, Precision, Schema, TensorSpec};
///
/// # let file = dir.path().join("model.safetensors");
/// # store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// # Export::new().to_file(&store, &file, |_| {})?;
/// let adamw = Optimizer::from_name("adamw")?;
/// let schema = Schema::new()
///     .group(ParamGroup::new("head", adamw))
///     .group(ParamGroup::new("body", adamw))
///     .precision(Precision::BF16.everywhere())
///     .tensor(TensorSpec::new("head", &[3, 10]));           // new, not in the file
/// let import = Import::with_schema(schema)
///     .source(&file)
///     .rename(|name| Some(format!("body.{name}")))          // `None` leaves it out
///     .assign(|name| name.starts_with("body.").then(|| "body".to_owned()))
///     .freeze(|name| name.starts_with("body."))
///     .keep_dtypes(false)                                   // rounded, as the precision says
///     .with_state(false)
///     .skip_unsupported(true)
///     .sparse(true)
///     .memory_budget(32 << 20);
/// let plan = import.plan()?;                                // reads headers only
/// assert!(plan.tensors.iter().any(|tensor| tensor.source == "w" && tensor.is_frozen));
///
/// let to = dir.path().join("tuned.store");
/// import.run(&to, |done| assert!(done <= plan.bytes))?;     // durable when it returns
/// let store = ParamStore::open(&to, &import.options())?;
/// assert_eq!(store.view("body.w")?[..], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
///
/// let again = Import::new(ParamGroup::new("all", adamw)).source(&file).run(&to, |_| {});
/// assert!(matches!(again, Err(Error::AlreadyExists { .. })));
/// # Ok::<(), paramstore::Error>(())
/// ```
#[expect(clippy::struct_excessive_bools, reason = "choices that do not depend on each other")]
pub struct Import<'a> {
    schema: Schema,
    sources: Vec<PathBuf>,
    rename: ByName<'a, Option<String>>,
    assign: ByName<'a, Option<String>>,
    freeze: ByName<'a, bool>,
    rows: ByName<'a, Option<RowMode>>,
    keep_dtypes: bool,
    with_state: bool,
    skip_unsupported: bool,
    sparse: bool,
    memory_bytes: u64,
}

impl std::fmt::Debug for Import<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import").field("sources", &self.sources).finish_non_exhaustive()
    }
}

/// A tensor that an import makes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannedTensor {
    /// Its name in the store.
    pub name: String,
    /// Its name in the file.
    pub source: String,
    /// The file.
    pub path: PathBuf,
    /// Its type in the file.
    pub from: ForeignDtype,
    /// Its type in the store.
    pub to: Dtype,
    /// The dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Its group; `None`: the schema's first.
    pub group: Option<String>,
    /// Whether no step updates it.
    pub is_frozen: bool,
    /// Whether a plane keeps what rounding its parameters loses.
    pub is_compensated: bool,
    /// What becomes of its rows in steps that do not name them, if it is kept by rows.
    pub rows: Option<RowMode>,
    /// State planes that come from the files, by the store's names.
    pub planes: Vec<String>,
    /// Updates so far, where the files tell; 0 for a tensor without state.
    pub steps: u64,
}

/// What an import would make.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ImportPlan {
    /// The tensors, in the order of the store.
    pub tensors: Vec<PlannedTensor>,
    /// Tensors of the files that are left out since a store cannot hold their types.
    pub skipped: Vec<ForeignTensor>,
    /// Bytes that are read.
    pub bytes: u64,
    /// The step at which the store begins.
    pub step: u64,
    /// The schema of the store.
    pub schema: Schema,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ImportReport {
    /// Tensors made.
    pub tensors: u64,
    /// Bytes of elements read from the files.
    pub bytes: u64,
    /// Seconds that it took, the commit included.
    pub seconds: f64,
}

/// What is read from where, and for what.
pub(super) struct Part {
    pub(super) source: usize,
    pub(super) tensor: usize,
    /// `None`: the parameters.
    pub(super) plane: Option<String>,
}

/// A plan with what it takes to carry it out.
struct Prepared {
    plan: ImportPlan,
    sources: Sources,
    parts: Vec<Part>,
    clocks: Vec<(usize, TensorClock)>,
}

impl<'a> Import<'a> {
    /// Tensors of this group, which is the only one; see [`with_schema`](Self::with_schema). [Example](Self#example).
    #[must_use]
    pub fn new(group: ParamGroup) -> Self {
        Self::with_schema(Schema::new().group(group))
    }

    /// Into a store of this schema: its groups, precision, block size, gradient plane and seed; tensors that it has itself are
    /// made too, with their initial values. [Example](Self#example).
    #[must_use]
    pub fn with_schema(schema: Schema) -> Self {
        Self {
            schema,
            sources: Vec::new(),
            rename: Box::new(|name| Some(name.to_owned())),
            assign: Box::new(|_| None),
            freeze: Box::new(|_| false),
            rows: Box::new(|_| None),
            keep_dtypes: true,
            with_state: true,
            skip_unsupported: false,
            sparse: false,
            memory_bytes: 1 << 30,
        }
    }

    /// Adds what [`list`](super::list) takes: a file, an index of shards, or a directory. [Example](Self#example).
    #[must_use]
    pub fn source(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(path.into());
        self
    }

    /// Chooses tensors and names them: gets a name in a file, and gives the name in the store, or `None` to leave it out. Optimizer
    /// state follows its parameter. [Example](Self#example).
    #[must_use]
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String> + 'a) -> Self {
        self.rename = Box::new(rename);
        self
    }

    /// Puts tensors into groups: gets a name in the store, and gives a group of the schema, or `None` for the first one.
    /// [Example](Self#example).
    #[must_use]
    pub fn assign(mut self, assign: impl Fn(&str) -> Option<String> + 'a) -> Self {
        self.assign = Box::new(assign);
        self
    }

    /// Chooses tensors that no step updates, by their names in the store; see [`TensorSpec::frozen`].
    /// [Example](Self#example).
    #[must_use]
    pub fn freeze(mut self, freeze: impl Fn(&str) -> bool + 'a) -> Self {
        self.freeze = Box::new(freeze);
        self
    }

    /// Chooses matrices that are kept by rows, in f32, by their names in the store; see [`TensorSpec::row_mode`]. All their rows
    /// are written, and are as rows that were updated once: none is unborn.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::exchange::{Export, Import};
    /// use paramstore::{Optimizer, ParamGroup, ParamStore, RowMode};
    ///
    /// # let file = dir.path().join("model.safetensors");
    /// # store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
    /// # Export::new().to_file(&store, &file, |_| {})?;
    /// # let to = dir.path().join("rows.store");
    /// let adagrad = ParamGroup::new("all", Optimizer::from_name("adagrad")?);
    /// let import = Import::new(adagrad).source(&file).rows(|name| (name == "w").then_some(RowMode::Lazy));
    /// import.run(&to, |_| {})?;
    /// let mut store = ParamStore::open(&to, &import.options())?;
    /// let mut batch = [0.0; 3];
    /// store.gather_rows("w", &[1], &mut batch)?;
    /// assert_eq!(batch, [4.0, 5.0, 6.0]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn rows(mut self, rows: impl Fn(&str) -> Option<RowMode> + 'a) -> Self {
        self.rows = Box::new(rows);
        self
    }

    /// Whether parameters stay in f32, bf16 or f16 as they are in the file, bit for bit (the default), or are rounded to what
    /// the schema's precision says. Integers, and f64 where types are kept, are kept as they are in any case, and frozen.
    /// [Example](Self#example).
    #[must_use]
    pub fn keep_dtypes(mut self, keep: bool) -> Self {
        self.keep_dtypes = keep;
        self
    }

    /// Whether optimizer state comes along (the default); see [`run`](Self::run). [Example](Self#example).
    #[must_use]
    pub fn with_state(mut self, with_state: bool) -> Self {
        self.with_state = with_state;
        self
    }

    /// Leaves out tensors whose type a store cannot hold (quantised blocks), in place of refusing them.
    /// [Example](Self#example).
    #[must_use]
    pub fn skip_unsupported(mut self, skip: bool) -> Self {
        self.skip_unsupported = skip;
        self
    }

    /// As [`Options::sparse`]. [Example](Self#example).
    #[must_use]
    pub fn sparse(mut self, sparse: bool) -> Self {
        self.sparse = sparse;
        self
    }

    /// Bytes of memory for blocks and values on their way (default 1 GiB). A hard limit, whatever the size of the model.
    /// [Example](Self#example).
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Says what would be made. Reads headers only. [Example](Self#example).
    ///
    /// # Errors
    /// As [`run`](Self::run), as far as headers tell.
    pub fn plan(&self) -> Result<ImportPlan> {
        Ok(self.prepare()?.plan)
    }

    /// How the store is created: the blocks get five eighths of the memory. [Example](Self#example).
    #[must_use]
    pub fn options(&self) -> Options {
        Options::new().memory_budget(self.memory_bytes / 8 * 5).sparse(self.sparse)
    }

    /// Makes the store `to`, which must not exist or be an empty directory. `progress` gets the bytes done of
    /// [`ImportPlan::bytes`], again and again.
    ///
    /// The store is made under the name `to.importing` and gets its own name when it is whole and durable: an import that is
    /// interrupted leaves no store `to`. What it left under the other name is removed by the next import to the same place.
    ///
    /// Optimizer state comes along where a source has it by PyTorch's names: `exp_avg.NAME` for each plane of the parameter
    /// `NAME`, its updates so far as `step.NAME` or `step`, and for NAdam `mu_product.NAME`. It has to be complete: a parameter
    /// has all its planes or none. What rounding lost (`compensation.NAME`, as a store exports it) comes along to parameters
    /// that are [compensated](crate::Precision::compensated) and of the file's type. [Example](Self#example).
    ///
    /// # Errors
    /// [`Error::Foreign`] for a file that is not what its format asks for; [`Error::Invalid`] for tensors that a store cannot
    /// hold, names that are there twice, and state that is not complete; [`Error::AlreadyExists`]; [`Error::Locked`] beside
    /// another import to the same place; as [`ParamStore::create`].
    pub fn run(&self, to: impl AsRef<Path>, mut progress: impl FnMut(u64)) -> Result<ImportReport> {
        let start = Instant::now();
        let to = to.as_ref();
        let prepared = self.prepare()?;
        let place = Place::take(to, UNFINISHED)?;
        let mut store = ParamStore::create(&place.unfinished, &prepared.plan.schema, &self.options())?;
        for (tensor, clock) in &prepared.clocks {
            if let Some(planned) = prepared.plan.tensors.get(*tensor) {
                store.set_tensor_clock(&planned.name, *clock)?;
            }
        }
        store.set_step(prepared.plan.step)?;
        self.fill(&mut store, &prepared, &mut progress)?;
        store.commit(b"")?;
        drop(store);
        place.publish()?;
        Ok(ImportReport {
            tensors: to_u64(prepared.plan.tensors.len()),
            bytes: prepared.plan.bytes,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Streams all values, in the order of each file. What rounding lost comes after all parameters, for these say it too; rows
    /// at last, for they take commits, after which frozen tensors are not written any more.
    fn fill(
        &self,
        store: &mut ParamStore,
        prepared: &Prepared,
        progress: &mut impl FnMut(u64),
    ) -> Result<()> {
        let Prepared { plan, sources, parts, .. } = prepared;
        let blocks = store.directory().extents.iter().map(|extent| extent.block_elements).max();
        let is_of_rows = |part: &&Part| plan.tensors.get(part.tensor).is_some_and(|of| of.rows.is_some());
        let (rows, dense): (Vec<_>, Vec<_>) = parts.iter().partition(is_of_rows);
        let (lost, dense): (Vec<_>, Vec<_>) =
            dense.into_iter().partition(|part| part.plane.as_deref() == Some(COMPENSATION_PLANE));
        let (mut done, mut uncommitted) = (0, (0, 0));
        for parts in [dense, lost, rows] {
            let piece = Piece::new(blocks.unwrap_or(1), self.memory_bytes / 8)?;
            let places = parts.iter().map(|part| part.source);
            let flow = Flow::new(sources, places, (self.memory_bytes / 4).min(64 << 20), piece);
            flow.run(|number, from, values| {
                let part = parts.get(number).and_then(|part| Some((part, plan.tensors.get(part.tensor)?)));
                let Some((part, planned)) = part else { return Ok(()) };
                let bytes = to_u64(values.bytes.len());
                write(store, planned, part.plane.as_deref(), from, values)?;
                if planned.rows.is_some() {
                    let width = planned.shape.last().copied().unwrap_or(1).max(1);
                    uncommitted = (uncommitted.0 + bytes, uncommitted.1 + bytes / 4 / width);
                    if uncommitted.0 >= COMMIT_BYTES || uncommitted.1 * ROW_BYTES >= self.memory_bytes {
                        store.commit(b"")?;
                        uncommitted = (0, 0);
                    }
                }
                done += bytes;
                progress(done);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn prepare(&self) -> Result<Prepared> {
        let mut sources = Sources::default();
        for path in &self.sources {
            sources.add(path)?;
        }
        // Those that are left out too: their state is theirs all the same, and left out with them.
        let originals: HashMap<&str, usize> =
            sources.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.as_str(), at)).collect();
        let mut state = State::default();
        let mut plan = ImportPlan {
            tensors: Vec::new(),
            skipped: Vec::new(),
            bytes: 0,
            step: 0,
            schema: self.schema.clone(),
        };
        let mut parts = Vec::new();
        let mut names = HashMap::new();
        for (at, tensor) in sources.tensors.iter().enumerate() {
            if state.take(at, tensor, &originals) {
                continue;
            }
            let Some(name) = (self.rename)(&tensor.name) else { continue };
            let Some(stored) = tensor.dtype.stored() else {
                if self.skip_unsupported {
                    plan.skipped.push(tensor.clone());
                    continue;
                }
                return Err(not_storable(tensor));
            };
            if let Some(other) = names.insert(name.clone(), at) {
                let other = sources.tensors.get(other).map_or("", |other| other.name.as_str());
                let got = format!("{:?} and {other:?}", tensor.name);
                return Err(Error::invalid(
                    format!("tensor {name:?} of the store"),
                    got,
                    "one tensor of the files",
                ));
            }
            parts.push(Part { source: at, tensor: plan.tensors.len(), plane: None });
            let (planned, spec) = self.plan_tensor(&name, tensor, stored)?;
            plan.tensors.push(planned);
            plan.schema = plan.schema.tensor(spec);
        }
        let clocks =
            if self.with_state { state.attach(&sources, &mut plan, &mut parts)? } else { Vec::new() };
        parts.sort_by_key(|part| part.source);
        let bytes = |part: &Part| sources.tensors.get(part.source).map_or(0, |tensor| tensor.bytes);
        plan.bytes = parts.iter().map(bytes).sum();
        Ok(Prepared { plan, sources, parts, clocks })
    }

    fn plan_tensor(
        &self,
        name: &str,
        tensor: &ForeignTensor,
        stored: Dtype,
    ) -> Result<(PlannedTensor, TensorSpec)> {
        let group = (self.assign)(name);
        let mut spec = TensorSpec::new(name, &tensor.shape);
        if let Some(group) = &group {
            spec = spec.group(group);
        }
        let is_float = stored.is_trainable() || (stored == Dtype::F64 && !self.keep_dtypes);
        let mut is_frozen = (self.freeze)(name);
        let rows = (self.rows)(name);
        let mut precision = self.schema.precision_for(name, &tensor.shape, group.as_deref());
        let mut to = if is_float && !self.keep_dtypes { precision.params } else { stored };
        if let Some(mode) = rows {
            check_rows(name, tensor, is_float, is_frozen)?;
            (spec, to) = (spec.row_mode(mode), Dtype::F32);
        } else if is_float {
            precision.params = to;
            precision.compensated &= to != Dtype::F32;
            spec = spec.precision(precision);
            if is_frozen {
                spec = spec.frozen();
            }
        } else {
            is_frozen = true;
            spec = spec.stored_as(stored);
        }
        let planned = PlannedTensor {
            name: name.to_owned(),
            source: tensor.name.clone(),
            path: tensor.path.to_path_buf(),
            from: tensor.dtype.clone(),
            to,
            shape: tensor.shape.clone(),
            group,
            is_compensated: is_float && precision.compensated && !is_frozen,
            is_frozen,
            rows,
            planes: Vec::new(),
            steps: 0,
        };
        Ok((planned, spec))
    }
}

/// Writes values where they belong.
fn write(
    store: &mut ParamStore,
    planned: &PlannedTensor,
    plane: Option<&str>,
    from: u64,
    mut values: Values<'_>,
) -> Result<()> {
    let PlannedTensor { name, to, rows, .. } = planned;
    match plane {
        Some(plane) => store.write_plane_range(name, plane, from, values.floats()?),
        None if values.dtype.stored() == Some(*to) && rows.is_none() => {
            store.write_bytes(name, from, values.bytes)
        }
        None => store.write_range(name, from, values.floats()?),
    }
}

/// Refuses what cannot be kept by rows.
fn check_rows(name: &str, tensor: &ForeignTensor, is_float: bool, is_frozen: bool) -> Result<()> {
    let wrong = |got: String, expected: &str| {
        let what = format!("tensor {name:?}, which is to be kept by rows");
        Err(Error::invalid(what, got, expected))
    };
    if tensor.shape.len() != 2 {
        return wrong(format!("the shape {:?}", tensor.shape), "two dimensions, rows and width");
    }
    if !is_float {
        let got = tensor.dtype.name().to_ascii_lowercase();
        return wrong(got, "f32, bf16 or f16; or f64 where types are not kept");
    }
    if is_frozen {
        return wrong("to be frozen too".to_owned(), "one of both: frozen tensors are kept as a whole");
    }
    Ok(())
}
