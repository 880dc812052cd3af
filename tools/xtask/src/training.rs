//! The training that is interrupted: the same bits whenever it is done, from any commit on.

use std::path::{Path, PathBuf};

use paramstore::optim::{AdamW, NAdam};
use paramstore::{
    Init, IoPath, Optimizer, Options, ParamGroup, ParamStore, Result, Schema, StepOptions, TensorSpec,
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

/// How store number `number` is opened: the numbers take turns at the paths to the disk, and all bits are the same.
pub(crate) fn options(number: u64) -> Options {
    let path = if number.is_multiple_of(2) { IoPath::Auto } else { IoPath::Mapped };
    Options::new().memory_budget(BUDGET_BYTES).threads(2).io_path(path).sparse(number % 4 >= 2)
}

fn schema() -> Schema {
    let adamw = AdamW { lr: 0.01, ..AdamW::default() };
    let schema = Schema::new()
        .block_bytes(BLOCK_BYTES)
        .gradient_plane(true)
        .group(ParamGroup::new("decay", Optimizer::AdamW(adamw)))
        .group(ParamGroup::new("nadam", Optimizer::NAdam(NAdam::default())));
    TENSORS.iter().fold(schema, |schema, &(name, elements)| {
        let group = if name == "head" || name == "gain" { "nadam" } else { "decay" };
        let init = Init::Normal { mean: 0.0, std: 0.5 };
        schema.tensor(TensorSpec::new(name, &[u64::from(elements)]).group(group).init(init))
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
                ParamStore::create(&path, &schema(), &options(number))
            }
            other => other,
        };
        let store = store.map_err(|error| error.to_string())?;
        match Cursor::decode(store.user_record()) {
            Some(cursor) if cursor.step == store.step() => Ok(Self { store, cursor, number }),
            _ => Err(format!("the user record of step {} is {:?}", store.step(), store.user_record())),
        }
    }

    pub(crate) fn step(&self) -> u64 {
        self.cursor.step
    }

    /// One step. Gradients come from the parameters and from the random numbers of the cursor; every fourth step clips.
    pub(crate) fn take_step(&mut self) -> Result<()> {
        let mut rng = self.cursor.rng;
        let mut gradients = Vec::new();
        for (name, elements) in TENSORS {
            let mut values = vec![0.0; usize::from(elements)];
            self.store.read_into(name, &mut values)?;
            for value in &mut values {
                // 16 bits, exact in f32.
                let noise = u16::try_from(rng.next() >> 48).unwrap_or_default();
                *value = *value * 0.25 + (f32::from(noise) / 32768.0 - 1.0);
            }
            gradients.push((name, values));
        }
        let clips = self.cursor.step % 4 == 3;
        let options = if clips { StepOptions::new().max_norm(0.75) } else { StepOptions::new() };
        let mut step = self.store.begin_step_with(options)?;
        for (name, values) in &gradients {
            step.apply(name, values)?;
        }
        step.finish()?;
        self.cursor = Cursor { step: self.cursor.step + 1, rng };
        Ok(())
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

/// Digest and user record of a store.
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

/// What each commit holds in a training that nobody interrupts, in order: element `n` is that of step `n * STRIDE`.
pub(crate) fn reference(dir: &Path) -> Result<Vec<Content>, String> {
    let text = |error: paramstore::Error| error.to_string();
    let mut training = Training::start(dir, 0, || {})?;
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
