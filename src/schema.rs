//! What a store is to hold: tensors, parameter groups and their optimizers.

use crate::error::{Error, Result};
use crate::format::directory::{Dtype, Init};
use crate::format::record::GroupRecord;
use crate::format::records::RowMode;
use crate::layout::{Request, RowRequest, StateRequest, TensorRequest, default_block_elements};
use crate::optim::{Optimizer, TensorClock};
use crate::precision::{Half, Precision};
use crate::units::to_u64;

/// Elements of a block of rows where nobody says: 256 KiB.
const ROW_BLOCK_ELEMENTS: u64 = 1 << 16;

/// Tensors that share an optimizer and its hyperparameters.
///
/// # Example
///
/// ```
/// use paramstore::optim::AdamW;
/// use paramstore::{Optimizer, ParamGroup};
///
/// let mut group = ParamGroup::new("decayed", Optimizer::AdamW(AdamW::default()));
/// group.set_lr(3e-4)?;
/// group.set("weight_decay", "0.1")?;
/// assert!(group.set("amsgrad", "on").is_err()); // it would need a plane more
/// assert_eq!((group.name(), group.optimizer().lr()), ("decayed", 3e-4));
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ParamGroup {
    name: String,
    optimizer: Optimizer,
}

impl ParamGroup {
    /// A group of this name, updated by this optimizer. [Example](Self#example).
    #[must_use]
    pub fn new(name: impl Into<String>, optimizer: Optimizer) -> Self {
        Self { name: name.into(), optimizer }
    }

    /// The name, unique in the store. [Example](Self#example).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The update rule and the hyperparameters in force. [Example](Self#example).
    #[must_use]
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Sets the learning rate; it is read at the next step and saved by the next commit. [Example](Self#example).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a negative or non-finite rate.
    pub fn set_lr(&mut self, lr: f64) -> Result<()> {
        let mut changed = self.optimizer;
        changed.set_lr(lr);
        changed.validate()?;
        self.optimizer = changed;
        Ok(())
    }

    /// Sets a hyperparameter by its PyTorch name, e.g. `("weight_decay", "0.1")`. [Example](Self#example).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown name, a value out of range, or one that would change which state the
    /// optimizer keeps (`momentum` from 0, `amsgrad`, `centered`): that is fixed at creation.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let mut changed = self.optimizer;
        changed.set(key, value)?;
        changed.validate()?;
        let names = |o: &Optimizer| o.state_planes().iter().map(|plane| plane.name).collect::<Vec<_>>();
        if names(&changed) != names(&self.optimizer) {
            return Err(Error::invalid(
                format!("{key} of group {:?}", self.name),
                value,
                "a value that keeps the same state per element; which planes exist is fixed at creation",
            ));
        }
        self.optimizer = changed;
        Ok(())
    }

    pub(crate) fn to_record(&self) -> GroupRecord {
        let settings = self.optimizer.settings();
        GroupRecord {
            name: self.name.clone(),
            optimizer: self.optimizer.name().to_owned(),
            settings: settings.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect(),
        }
    }

    pub(crate) fn from_record(record: &GroupRecord) -> Result<Self> {
        let optimizer = Optimizer::from_settings(&record.optimizer, &record.settings)?;
        Ok(Self { name: record.name.clone(), optimizer })
    }
}

/// One tensor of a schema, row-major; in f32 unless its group or itself says otherwise.
///
/// # Example
///
/// ```
/// use paramstore::precision::Half;
/// use paramstore::{Dtype, Init, Options, Precision, RowMode, TensorSpec};
/// # use paramstore::{Optimizer, ParamGroup, Schema};
///
/// let tensors = [
///     TensorSpec::new("wte", &[50_000, 64]).init(Init::Normal { mean: 0.0, std: 0.02 }),
///     TensorSpec::new("norm", &[64]).init(Init::Constant(1.0)).group("rest"),
///     TensorSpec::new("head", &[64, 10]).precision(Precision::BF16), // in 16 bits, however small
///     TensorSpec::new("attention", &[64, 64]).compute(Half::F16),    // f32, and a copy in 16 bits
///     TensorSpec::new("pretrained", &[64, 64]).frozen(),
///     TensorSpec::new("token_ids", &[1000]).stored_as(Dtype::U16),
///     TensorSpec::new("words", &[1_000_000, 16]).rows(),
///     TensorSpec::new("pages", &[1_000_000, 16]).row_mode(RowMode::CatchUp),
///     TensorSpec::new("users", &[1_000_000, 16]).hashed_ids(2),      // any u64, from its 2nd sighting
/// ];
/// # let rule = Optimizer::from_name("adamw")?;
/// # let schema = Schema::new().group(ParamGroup::new("all", rule)).group(ParamGroup::new("rest", rule));
/// let schema = tensors.into_iter().fold(schema, Schema::tensor);
/// let plan = schema.plan(&Options::new().memory_budget(64 << 20))?;
/// assert_eq!((plan.tensors, plan.rows.len()), (9, 3));
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    name: String,
    shape: Vec<u64>,
    group: Option<String>,
    init: Init,
    rows: Option<RowRequest>,
    precision: Option<Precision>,
    is_frozen: bool,
    /// The type of a frozen tensor's elements, if it is not that of its precision.
    stored_as: Option<Dtype>,
    compute: Option<Half>,
}

impl TensorSpec {
    /// A tensor of this name and shape (no dimensions: a scalar), zero at first, in the schema's first group.
    /// [Example](Self#example).
    #[must_use]
    pub fn new(name: impl Into<String>, shape: &[u64]) -> Self {
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            group: None,
            init: Init::Zeros,
            rows: None,
            precision: None,
            is_frozen: false,
            stored_as: None,
            compute: None,
        }
    }

    /// Puts it into a group. [Example](Self#example).
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Gives it initial values. They are computed when a block is first touched, from the schema's seed and the
    /// tensor's name, and do not depend on block size or order. [Example](Self#example).
    #[must_use]
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// Keeps it by rows: a tensor `[rows, width]` of which a step updates some rows, such as a table of embeddings.
    ///
    /// Parameters and state of a row stand together in a record, so that it is read with one small transfer; rows are
    /// cached one by one; a row costs nothing before it is first updated; and a commit writes the rows that were updated
    /// since the last one, to a log, and no blocks around them. Such a tensor is updated by
    /// [`apply_rows`](crate::Step::apply_rows) and read by [`gather_rows`](crate::ParamStore::gather_rows), or copied by
    /// ranges; it has no views and no dense updates.
    ///
    /// A row that a step does not name stays as it is ([`RowMode::Lazy`]); [`row_mode`](Self::row_mode) chooses otherwise.
    /// [Example](Self#example).
    #[must_use]
    pub fn rows(self) -> Self {
        self.row_mode(RowMode::Lazy)
    }

    /// As [`rows`](Self::rows), and says what becomes of a row in the steps that do not name it: fixed at creation.
    ///
    /// With [`RowMode::CatchUp`] a row is brought to where a dense run, in which its gradients were zeros, would have it:
    /// before it is updated, and in what is read. That is, for the tensor's updates that the row has missed, momentum goes
    /// on moving it, moments decay, AdamW shrinks it; all with the hyperparameters that its group has *then*, so that a
    /// dense run with a schedule of learning rates differs by what the rates differed. SGD (with coupled weight decay too),
    /// Adagrad, row-wise Adagrad, Adadelta, RMSprop, Adam and AdamW have such a form; of Adagrad the rows do not change.
    ///
    /// The first 64 missed steps (for Adam and AdamW as many as their moves last, 181 with the default betas, at most
    /// 4,096) are taken one by one and give the bits of the dense run, but for the sign of zeros under `maximize`; the rest at
    /// once. With `k` steps missed, that differs from the dense run by less than `k * 2^-22` of the largest value that a
    /// moment had on the way (and 2^-136), and of a parameter by less than `k * 2^-23` of its largest value on the way, and
    /// 2^-24 of the largest move of a missed step. Where Adam's moves last for longer than 4,096 steps (`beta1` above 0.994,
    /// or `beta2` hardly above its square), what they would still do to the parameter is left out. [Example](Self#example).
    #[must_use]
    pub fn row_mode(mut self, mode: RowMode) -> Self {
        self.rows.get_or_insert_default().mode = mode;
        self
    }

    /// Keeps it by [rows](Self::rows) that are found by ids: any number of distinct `u64`, hashed to the rows that there
    /// are. [`apply_ids`](crate::Step::apply_ids) updates them; [`rows_of_ids`](crate::ParamStore::rows_of_ids) says which
    /// rows they are, for reading.
    ///
    /// Ids that are hashed to the same row share it. The record of a row remembers the first id that came to it, and how
    /// often the row was seen; sightings of any other id are counted as collided. A row is updated from its `admission`-th
    /// sighting on (duplicates in a batch are sightings each; all of a batch count before it is updated; 0 is taken for 1); until then gradients for it are left
    /// out, and counted. Takes 24 bytes more for each row. [`ParamStore::row_uses`](crate::ParamStore::row_uses) has the counts.
    /// [Example](Self#example).
    #[must_use]
    pub fn hashed_ids(mut self, admission: u32) -> Self {
        self.rows.get_or_insert_default().admission = admission.max(1);
        self
    }

    /// Keeps it as it is: it has no state and one home in place of two, and no step updates it. Its values are written
    /// ([`ParamStore::write`](crate::ParamStore::write)) before the first commit; they never change after it. A frozen f32 tensor
    /// takes 4 bytes for each element, where with AdamW it takes 24. [Example](Self#example).
    #[must_use]
    pub fn frozen(mut self) -> Self {
        self.is_frozen = true;
        self
    }

    /// Keeps it [frozen](Self::frozen), and its elements in this type, whatever its precision: also integers, f64 and floats of
    /// 8 bits, which are kept as they are, byte for byte ([`ParamStore::write_bytes`](crate::ParamStore::write_bytes)).
    /// [Example](Self#example).
    #[must_use]
    pub fn stored_as(mut self, dtype: Dtype) -> Self {
        self.stored_as = Some(dtype);
        self.frozen()
    }

    /// Keeps a copy of its f32 parameters in 16 bits beside them, rounded to the nearest: the `compute` plane. Every update writes
    /// it in the same pass, and [`view_half`](crate::ParamStore::view_half) shows it, so that a forward pass reads 2 bytes for
    /// each parameter in place of 4; a step writes 2 more. Not for tensors of rows, frozen ones, and parameters that are kept in 16
    /// bits themselves; rows of such a tensor cannot be updated alone. [Example](Self#example).
    #[must_use]
    pub fn compute(mut self, kind: Half) -> Self {
        self.compute = Some(kind);
        self
    }

    /// Keeps it in exactly this, whatever its group is kept in and however small it is. A tensor of rows stays in f32.
    /// [Example](Self#example).
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = Some(precision);
        self
    }
}

/// Everything that `create` fixes.
///
/// # Example
///
/// ```
/// use paramstore::precision::Half;
/// use paramstore::{Optimizer, Options, ParamGroup, Precision, Schema, TensorSpec};
///
/// let schema = Schema::new()
///     .seed(42)
///     .group(ParamGroup::new("matrices", Optimizer::from_name("adamw")?))
///     .group(ParamGroup::new("rest", Optimizer::from_name("lion")?))
///     .precision(Precision::COMPACT)                 // of all groups
///     .group_precision("rest", Precision::F32)       // but this one
///     .compute(Half::Bf16)                           // copies of what is f32, for the forward pass
///     .gradient_plane(true)                          // for accumulation and clipping
///     .block_bytes(1 << 20)
///     .row_log_bytes(1 << 20)
///     .tensor(TensorSpec::new("w", &[256, 256]))
///     .tensor(TensorSpec::new("b", &[256]).group("rest"));
/// let plan = schema.plan(&Options::new().memory_budget(64 << 20))?;
/// assert_eq!((plan.tensors, plan.params), (2, 256 * 257));
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schema {
    groups: Vec<ParamGroup>,
    tensors: Vec<TensorSpec>,
    seed: u64,
    block_bytes: Option<u64>,
    row_log_bytes: Option<u64>,
    gradient_plane: bool,
    precision: Precision,
    group_precision: Vec<(String, Precision)>,
    compute: Option<Half>,
}

impl Schema {
    /// An empty schema. [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a parameter group. [Example](Self#example).
    #[must_use]
    pub fn group(mut self, group: ParamGroup) -> Self {
        self.groups.push(group);
        self
    }

    /// Adds a tensor. [Example](Self#example).
    #[must_use]
    pub fn tensor(mut self, tensor: TensorSpec) -> Self {
        self.tensors.push(tensor);
        self
    }

    /// The seed of initial values (default 0). [Example](Self#example).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Bytes of a block's parameter plane: a power of two from 4 KiB to 256 MiB. Without it, 4 MiB or less, so that
    /// the memory budget of `create` holds sixteen blocks. Results do not depend on it. [Example](Self#example).
    #[must_use]
    pub fn block_bytes(mut self, bytes: u64) -> Self {
        self.block_bytes = Some(bytes);
        self
    }

    /// Bytes of the log of rows, a multiple of 4 KiB from 64 KiB to 32 GiB. Without it, as much as the tensors of rows take,
    /// from 16 MiB to 8 GiB. The larger it is, the fewer times the blocks of rows are rewritten. Results do not depend on it.
    /// [Example](Self#example).
    #[must_use]
    pub fn row_log_bytes(mut self, bytes: u64) -> Self {
        self.row_log_bytes = Some(bytes);
        self
    }

    /// Reserves a `grad` plane (4 bytes per parameter on disk), which gradient accumulation, clipping by global norm
    /// and refusing of non-finite gradients need. [Example](Self#example).
    #[must_use]
    pub fn gradient_plane(mut self, reserve: bool) -> Self {
        self.gradient_plane = reserve;
        self
    }

    /// In how many bits the tensors of all groups are kept, but for those that stay in f32 by the rule of [`Precision`].
    /// [Example](Self#example).
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Keeps copies in 16 bits ([`TensorSpec::compute`]) of all tensors that are trained in f32 as a whole, but for those that
    /// stay in f32 by the rule of [`Precision`]: small ones, vectors, embeddings. [Example](Self#example).
    #[must_use]
    pub fn compute(mut self, kind: Half) -> Self {
        self.compute = Some(kind);
        self
    }

    /// As [`precision`](Self::precision), for the tensors of one group. Of two for a group the later one holds.
    /// [Example](Self#example).
    #[must_use]
    pub fn group_precision(mut self, group: impl Into<String>, precision: Precision) -> Self {
        self.group_precision.push((group.into(), precision));
        self
    }

    pub(crate) fn group_records(&self) -> Vec<GroupRecord> {
        self.groups.iter().map(ParamGroup::to_record).collect()
    }

    /// Checks names and settings, and turns the schema into a request for places.
    pub(crate) fn request(&self, budget_bytes: u64) -> Result<Request> {
        if self.groups.is_empty() {
            return Err(Error::invalid("schema", "no parameter group", "at least one"));
        }
        let mut names = std::collections::HashSet::new();
        for group in &self.groups {
            let name = group.name();
            if name.is_empty() || name.len() > 1024 || !names.insert(name) {
                return Err(Error::invalid(
                    "group name",
                    format!("{name:?}"),
                    "distinct names of 1 to 1,024 bytes",
                ));
            }
            group.optimizer.validate()?;
        }
        if let Some((name, _)) = self.group_precision.iter().find(|(name, _)| !names.contains(name.as_str()))
        {
            return Err(Error::Unknown { kind: "parameter group", name: name.clone() });
        }
        let tensors =
            self.tensors.iter().map(|tensor| self.tensor_request(tensor)).collect::<Result<Vec<_>>>()?;
        let planes = tensors.iter().map(|t| 1 + t.state.len() + usize::from(t.is_compensated)).max();
        let planes = planes.unwrap_or(1);
        let planes = to_u64(planes) + u64::from(self.gradient_plane);
        let total = tensors.iter().map(|t| t.shape.iter().copied().fold(1, u64::saturating_mul));
        let total = total.fold(0, u64::saturating_add);
        let block_elements = match self.block_bytes {
            Some(bytes) if bytes.is_multiple_of(4) => bytes / 4,
            Some(bytes) => {
                return Err(Error::invalid("block_bytes", bytes, "a power of two from 4 KiB to 256 MiB"));
            }
            None => default_block_elements(total, planes, budget_bytes),
        };
        let row_block_elements = self.block_bytes.map_or(ROW_BLOCK_ELEMENTS, |_| block_elements);
        if let Some(bytes) = self.row_log_bytes
            && (!(64 << 10..=32 << 30).contains(&bytes) || bytes % 4096 != 0)
        {
            return Err(Error::invalid("row_log_bytes", bytes, "a multiple of 4 KiB from 64 KiB to 32 GiB"));
        }
        let groups = u32::try_from(self.groups.len())
            .map_err(|_| Error::invalid("schema", self.groups.len(), "fewer groups"))?;
        Ok(Request {
            tensors,
            groups,
            seed: self.seed,
            block_elements,
            row_block_elements,
            row_log_bytes: self.row_log_bytes,
            gradient_plane: self.gradient_plane,
        })
    }

    fn tensor_request(&self, tensor: &TensorSpec) -> Result<TensorRequest> {
        let group = match &tensor.group {
            None => 0,
            Some(name) => self
                .groups
                .iter()
                .position(|group| group.name == *name)
                .ok_or_else(|| Error::Unknown { kind: "parameter group", name: name.clone() })?,
        };
        check_init(&tensor.name, tensor.init)?;
        if tensor.is_frozen {
            check_frozen(tensor)?;
        }
        let optimizer = self.groups.get(group).map(|group| group.optimizer).filter(|_| !tensor.is_frozen);
        if let Some(optimizer) = optimizer {
            check_rule(tensor, &optimizer)?;
        }
        let state = optimizer.map(|optimizer| optimizer.state_planes()).unwrap_or_default();
        let precision = self.precision_of(tensor, group);
        if precision.params.is_q8() || !precision.params.is_trainable() {
            let what = format!("type of the parameters of tensor {:?}", tensor.name);
            return Err(Error::invalid(what, precision.params.name(), "f32, bf16 or f16"));
        }
        if precision.compensated && precision.params == Dtype::F32 {
            let what = format!("compensation of tensor {:?}", tensor.name);
            return Err(Error::invalid(
                what,
                "f32 parameters",
                "parameters in bf16 or f16, which are rounded",
            ));
        }
        Ok(TensorRequest {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            group: u32::try_from(group).unwrap_or(u32::MAX),
            init: tensor.init,
            dtype: tensor.stored_as.unwrap_or(precision.params),
            state: state
                .iter()
                .map(|plane| StateRequest {
                    name: plane.name.to_owned(),
                    fill: plane.fill,
                    per_row: plane.per_row,
                    dtype: precision.moments.dtype(plane.is_never_negative()),
                })
                .collect(),
            rows: tensor.rows,
            is_frozen: tensor.is_frozen,
            compute: self.compute_of(tensor, precision)?,
            is_compensated: precision.compensated && !tensor.is_frozen,
        })
    }

    /// The type of a tensor's copy in 16 bits: its own choice, or the schema's by the rule.
    fn compute_of(&self, tensor: &TensorSpec, precision: Precision) -> Result<Option<Dtype>> {
        let fits = precision.params == Dtype::F32 && !tensor.is_frozen && tensor.rows.is_none();
        if tensor.compute.is_some() && !fits {
            let what = format!("copy in 16 bits of tensor {:?}", tensor.name);
            let got = format!("{} parameters, or rows, or a frozen tensor", precision.params.name());
            return Err(Error::invalid(what, got, "a tensor that is trained in f32 as a whole"));
        }
        let is_large = || Precision::BF16.of(&tensor.name, &tensor.shape) != Precision::F32;
        let kind = tensor.compute.or_else(|| self.compute.filter(|_| fits && is_large()));
        Ok(kind.map(|kind| match kind {
            Half::Bf16 => Dtype::Bf16,
            Half::F16 => Dtype::F16,
        }))
    }
}

/// Refuses what a frozen tensor cannot be.
fn check_frozen(tensor: &TensorSpec) -> Result<()> {
    let what = || format!("frozen tensor {:?}", tensor.name);
    if tensor.rows.is_some() {
        return Err(Error::invalid(what(), "kept by rows", "a tensor that is not of rows"));
    }
    let Some(dtype) = tensor.stored_as else { return Ok(()) };
    if dtype.is_q8() {
        return Err(Error::invalid(what(), dtype.name(), "a type whose elements do not share scales"));
    }
    if !dtype.is_trainable() && tensor.init != Init::Zeros {
        let got = format!("initial values other than zeros in {}", dtype.name());
        return Err(Error::invalid(what(), got, "zeros, or f32, bf16 or f16"));
    }
    Ok(())
}

/// Refuses an optimizer that has no rule for a tensor that is to be kept as it says.
fn check_rule(tensor: &TensorSpec, optimizer: &Optimizer) -> Result<()> {
    let what = format!("optimizer of tensor {:?}", tensor.name);
    match tensor.rows.map(|rows| rows.mode) {
        Some(RowMode::Lazy) => optimizer.prepare_rows(TensorClock::default(), what).map(|_| ()),
        Some(RowMode::CatchUp) => optimizer.catch_up(0, what).map(|_| ()),
        None if optimizer.state_planes().iter().any(|plane| plane.per_row) => {
            let got = format!("{}, which keeps state by rows", optimizer.name());
            Err(Error::invalid(what, got, "a tensor of rows (`TensorSpec::rows`), or another optimizer"))
        }
        None => Ok(()),
    }
}

impl Schema {
    /// What a dense tensor of this name and shape would be kept in, in a group or in the first one.
    pub(crate) fn precision_for(&self, name: &str, shape: &[u64], group: Option<&str>) -> Precision {
        let at = self.groups.iter().position(|known| Some(known.name()) == group).unwrap_or(0);
        self.precision_of(&TensorSpec::new(name, shape), at)
    }

    /// The optimizer of a group, or of the first one.
    pub(crate) fn optimizer_for(&self, group: Option<&str>) -> Result<Optimizer> {
        let found = self.groups.iter().find(|known| group.is_none_or(|name| known.name() == name));
        let unknown = || Error::Unknown { kind: "parameter group", name: group.unwrap_or("").to_owned() };
        found.map(|group| group.optimizer).ok_or_else(unknown)
    }

    /// What a tensor is kept in: its own precision, or that of its group by the rule. A tensor of rows that says nothing stays
    /// in f32.
    fn precision_of(&self, tensor: &TensorSpec, group: usize) -> Precision {
        let name = self.groups.get(group).map(ParamGroup::name);
        let of_group = self.group_precision.iter().rev().find(|(group, _)| Some(group.as_str()) == name);
        let of_group = of_group.map_or(self.precision, |(_, precision)| *precision);
        let by_rule =
            || if tensor.rows.is_some() { Precision::F32 } else { of_group.of(&tensor.name, &tensor.shape) };
        tensor.precision.unwrap_or_else(by_rule)
    }
}

fn check_init(tensor: &str, init: Init) -> Result<()> {
    let sound = match init {
        Init::Zeros => true,
        Init::Constant(value) => value.is_finite(),
        Init::Normal { mean, std } => mean.is_finite() && std.is_finite() && std >= 0.0,
        Init::Uniform { low, high } => low.is_finite() && high.is_finite() && low <= high,
    };
    if sound {
        return Ok(());
    }
    let what = format!("initial values of tensor {tensor:?}");
    Err(Error::invalid(what, format!("{init:?}"), "finite values, a deviation of 0 or more, low up to high"))
}
