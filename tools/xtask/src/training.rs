//! The training that is interrupted: the same bits whenever it is done, from any commit on.

use std::path::{Path, PathBuf};

use paramstore::optim::{Adagrad, AdamW, NAdam, SparseAdam};
use paramstore::precision::Half;
use paramstore::{
    Init, IoPath, Optimizer, Options, ParamGroup, ParamStore, Precision, Result, Schema, StepOptions,
    TensorSpec,
};

use crate::rng::Rng;

/// Steps after which a store is finished, and a new one begun.
pub(crate) const TOTAL: u64 = 24;
/// Steps from one commit to the next.
pub(crate) const STRIDE: u64 = 3;

const BLOCK_BYTES: u64 = 16 << 10;
const BUDGET_BYTES: u64 = 24 * BLOCK_BYTES;
/// Names and elements of the tensors: some of several blocks, two that share one.
const TENSORS: [(&str, u16); 5] =
    [("wte", 20_000), ("attn", 30_000), ("gain", 300), ("bias", 700), ("head", 12_000)];

/// Of these, in a compact store, the ones that are f32 with a copy in 16 bits; the others are bf16 with moments in 8 bits.
const COPIED: [(&str, Half); 2] = [("bias", Half::F16), ("head", Half::Bf16)];

/// Names, rows, width and group of the tensors of rows, of which each step touches up to so many rows.
const TABLES: [(&str, u16, u16, &str); 2] = [("words", 1500, 24, "sparse"), ("counts", 3000, 5, "counts")];
const IDS_MAX: u64 = 40;
/// The tensor beside them, and its elements.
const BESIDE: (&str, u16) = ("head", 3000);

/// Stores from this number on are all compact.
pub(crate) const COMPACT_FROM: u64 = 1_000_000;

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Tensors of which every step touches everything.
    Dense,
    /// Tensors of rows, with a log that goes round, and one that is none.
    Rows,
    /// Those of `Dense` in few bits, or with copies in 16 bits.
    Compact,
}

impl Kind {
    /// That of store number `number`: they take turns, up to where all are compact.
    fn of(number: u64) -> Self {
        match number % 3 {
            _ if number >= COMPACT_FROM => Self::Compact,
            0 => Self::Dense,
            1 => Self::Rows,
            _ => Self::Compact,
        }
    }
}

/// How store number `number` is opened: the numbers take turns at the paths to the disk, and all bits are the same.
pub(crate) fn options(number: u64) -> Options {
    let path = if number.is_multiple_of(2) { IoPath::Auto } else { IoPath::Mapped };
    Options::new().memory_budget(BUDGET_BYTES).threads(2).io_path(path).sparse(number % 4 >= 2)
}

fn schema(kind: Kind) -> Schema {
    match kind {
        Kind::Dense => dense(|_, spec| spec),
        Kind::Rows => rows(),
        Kind::Compact => {
            let copied = |name: &str| COPIED.iter().find(|(copied, _)| *copied == name);
            dense(|name, spec| match copied(name) {
                Some((_, kind)) => spec.compute(*kind),
                None => spec.precision(Precision::COMPACT),
            })
        }
    }
}

fn rows() -> Schema {
    let sparse = SparseAdam { lr: 0.01, ..SparseAdam::default() };
    let schema = Schema::new()
        .block_bytes(BLOCK_BYTES)
        .row_log_bytes(64 << 10)
        .group(ParamGroup::new("decay", Optimizer::AdamW(AdamW::default())))
        .group(ParamGroup::new("sparse", Optimizer::SparseAdam(sparse)))
        .group(ParamGroup::new("counts", Optimizer::Adagrad(Adagrad::default())));
    let normal = Init::Normal { mean: 0.0, std: 0.5 };
    let schema = TABLES.iter().fold(schema, |schema, &(name, rows, width, group)| {
        let shape = [u64::from(rows), u64::from(width)];
        schema.tensor(TensorSpec::new(name, &shape).group(group).init(normal).rows())
    });
    schema.tensor(TensorSpec::new(BESIDE.0, &[u64::from(BESIDE.1)]).init(normal))
}

fn dense(kept: impl Fn(&str, TensorSpec) -> TensorSpec) -> Schema {
    let adamw = AdamW { lr: 0.01, ..AdamW::default() };
    let schema = Schema::new()
        .block_bytes(BLOCK_BYTES)
        .gradient_plane(true)
        .group(ParamGroup::new("decay", Optimizer::AdamW(adamw)))
        .group(ParamGroup::new("nadam", Optimizer::NAdam(NAdam::default())));
    TENSORS.iter().fold(schema, |schema, &(name, elements)| {
        let group = if name == "head" || name == "gain" { "nadam" } else { "decay" };
        let init = Init::Normal { mean: 0.0, std: 0.5 };
        schema.tensor(kept(name, TensorSpec::new(name, &[u64::from(elements)]).group(group).init(init)))
    })
}

/// What a training program keeps beside its parameters: where it is, and the state of its random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    step: u64,
    rng: Rng,
}

impl Cursor {
    const START: Self = Self { step: 0, rng: Rng(2024) };

    fn encode(self) -> Vec<u8> {
        [self.step.to_le_bytes(), self.rng.0.to_le_bytes()].concat()
    }

    /// The cursor in a record; `None` for a record of another make. A new store has an empty one.
    fn decode(record: &[u8]) -> Option<Self> {
        if record.is_empty() {
            return Some(Self::START);
        }
        let (step, rng) = record.split_first_chunk::<8>()?;
        let rng = <[u8; 8]>::try_from(rng).ok()?;
        Some(Self { step: u64::from_le_bytes(*step), rng: Rng(u64::from_le_bytes(rng)) })
    }
}

/// A training under way in this process.
pub(crate) struct Training {
    store: ParamStore,
    cursor: Cursor,
    number: u64,
}

impl Training {
    /// Goes on with store `number` in this directory, or begins it; says before a create that it creates.
    ///
    /// # Errors
    /// Those of `open` and `create`; a sentence where the record does not go with the step.
    pub(crate) fn start(dir: &Path, number: u64, mut creates: impl FnMut()) -> Result<Self, String> {
        let path = store_path(dir, number);
        let store = match ParamStore::open(&path, &options(number)) {
            Err(error) if is_no_store(&error) => {
                creates();
                ParamStore::create(&path, &schema(Kind::of(number)), &options(number))
            }
            other => other,
        };
        let store = store.map_err(|error| error.to_string())?;
        let cursor = Self::cursor(&store)?;
        Ok(Self { store, cursor, number })
    }

    fn cursor(store: &ParamStore) -> Result<Cursor, String> {
        match Cursor::decode(store.user_record()) {
            Some(cursor) if cursor.step == store.step() => Ok(cursor),
            _ => Err(format!("the user record of step {} is {:?}", store.step(), store.user_record())),
        }
    }

    /// Goes back to a checkpoint, and goes on from there.
    ///
    /// # Errors
    /// Those of the store; a sentence where the record does not go with the step.
    pub(crate) fn roll_back_to(&mut self, name: &str) -> Result<(), String> {
        self.store.roll_back_to(name).map_err(|error| error.to_string())?;
        self.cursor = Self::cursor(&self.store)?;
        Ok(())
    }

    pub(crate) fn store_mut(&mut self) -> &mut ParamStore {
        &mut self.store
    }

    pub(crate) fn step(&self) -> u64 {
        self.cursor.step
    }

    /// One step. Gradients come from the parameters and from the random numbers of the cursor; every fourth step of a store
    /// without rows clips.
    pub(crate) fn take_step(&mut self) -> Result<()> {
        let mut rng = self.cursor.rng;
        match Kind::of(self.number) {
            Kind::Dense | Kind::Compact => self.take_dense_step(&mut rng)?,
            Kind::Rows => self.take_step_of_rows(&mut rng)?,
        }
        self.cursor = Cursor { step: self.cursor.step + 1, rng };
        Ok(())
    }

    fn take_dense_step(&mut self, rng: &mut Rng) -> Result<()> {
        let mut gradients = Vec::new();
        for tensor in TENSORS {
            gradients.push((tensor.0, self.gradient(tensor, rng)?));
        }
        let clips = self.cursor.step % 4 == 3;
        let options = if clips { StepOptions::new().max_norm(0.75) } else { StepOptions::new() };
        let mut step = self.store.begin_step_with(options)?;
        for (name, values) in &gradients {
            step.apply(name, values)?;
        }
        step.finish().map(drop)
    }

    fn take_step_of_rows(&mut self, rng: &mut Rng) -> Result<()> {
        let mut updates = Vec::new();
        for (name, rows, width, _) in TABLES {
            let count = 1 + rng.below(IDS_MAX);
            // Low ids more often, some of them twice.
            let mut id = || {
                let skewed = 1 + rng.below(rows.into());
                rng.below(skewed)
            };
            let ids: Vec<_> = (0..count).map(|_| id()).collect();
            let mut values = vec![0.0; ids.len() * usize::from(width)];
            self.store.gather_rows(name, &ids, &mut values)?;
            disturb(&mut values, rng);
            updates.push((name, ids, values));
        }
        let beside = self.gradient(BESIDE, rng)?;
        let mut step = self.store.begin_step()?;
        for (name, ids, values) in &updates {
            step.apply_rows(name, ids, values)?;
        }
        step.apply(BESIDE.0, &beside)?;
        step.finish().map(drop)
    }

    fn gradient(&self, (name, elements): (&str, u16), rng: &mut Rng) -> Result<Vec<f32>> {
        let mut values = vec![0.0; usize::from(elements)];
        self.store.read_into(name, &mut values)?;
        disturb(&mut values, rng);
        Ok(values)
    }

    /// Makes everything durable, the cursor too.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.store.commit(&self.cursor.encode()).map(|_| ())
    }

    /// Whether this store has all its steps.
    pub(crate) fn is_finished(&self) -> bool {
        self.cursor.step >= TOTAL
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }
}

/// Makes gradients of parameters.
fn disturb(values: &mut [f32], rng: &mut Rng) {
    for value in values {
        // 16 bits, exact in f32.
        let noise = u16::try_from(rng.next() >> 48).unwrap_or_default();
        *value = *value * 0.25 + (f32::from(noise) / 32768.0 - 1.0);
    }
}

/// Where store `number` is.
pub(crate) fn store_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("store-{number}"))
}

/// Whether there is nothing yet at the place that was to be opened.
pub(crate) fn is_no_store(error: &paramstore::Error) -> bool {
    match error {
        paramstore::Error::NotAStore { .. } => true,
        paramstore::Error::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Digest (of every plane, copies in 16 bits too) and user record of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    digest: String,
    record: Vec<u8>,
}

impl Content {
    pub(crate) fn of(store: &ParamStore) -> Result<Self> {
        Ok(Self { digest: store.digest()?.to_string(), record: store.user_record().to_vec() })
    }
}

/// What each commit holds in trainings that nobody interrupts and that keep nothing, one of each kind, in order: element
/// `n` is that of step `n * STRIDE`.
pub(crate) struct Reference([(Kind, Vec<Content>); 3]);

impl Reference {
    /// Trains in an empty directory.
    ///
    /// # Errors
    /// Those of the store, as sentences.
    pub(crate) fn new(dir: &Path) -> Result<Self, String> {
        let of = |number| contents(dir, number).map(|contents| (Kind::of(number), contents));
        Ok(Self([of(0)?, of(1)?, of(2)?]))
    }

    /// What store number `number` holds at a step, if that is one of a commit.
    pub(crate) fn at(&self, number: u64, step: u64) -> Option<&Content> {
        let (_, contents) = self.0.iter().find(|(kind, _)| *kind == Kind::of(number))?;
        contents.get(usize::try_from(step / STRIDE).ok()?).filter(|_| step.is_multiple_of(STRIDE))
    }
}

fn contents(dir: &Path, number: u64) -> Result<Vec<Content>, String> {
    let text = |error: paramstore::Error| error.to_string();
    let mut training = Training::start(dir, number, || {})?;
    let mut contents = vec![Content::of(&training.store).map_err(text)?];
    while !training.is_finished() {
        for _ in 0..STRIDE {
            training.take_step().map_err(text)?;
        }
        training.commit().map_err(text)?;
        contents.push(Content::of(&training.store).map_err(text)?);
    }
    Ok(contents)
}
