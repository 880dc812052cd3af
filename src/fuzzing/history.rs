//! Histories against a model in plain memory: whatever the blocks, the budget, the threads and the path, the store holds
//! the model's bits, before and after commits, reopening and rollbacks, and a reader keeps those that it opened with.

#![allow(clippy::unwrap_used, reason = "what fails here is a finding")]

use std::sync::Arc;
use std::time::Duration;

use super::Input;
use crate::error::{Error, Result};
use crate::optim::{
    Adadelta, Adagrad, Adam, AdamW, Adamax, Lion, NAdam, Optimizer, RAdam, RmsProp, Sgd, SparseAdam,
    TensorClock,
};
use crate::storage::MemoryVolume;
use crate::{InstructionSet, IoPath, Options, ParamGroup, ParamStore, Schema, TensorSpec};

/// Most operations of one history.
const OPERATIONS_MAX: usize = 16;
/// Most readers at a time.
const READERS_MAX: usize = 2;

fn optimizers() -> Vec<Optimizer> {
    vec![
        Optimizer::Sgd(Sgd { momentum: 0.9, dampening: 0.3, weight_decay: 0.01, ..Sgd::default() }),
        Optimizer::Sgd(Sgd { maximize: true, ..Sgd::default() }),
        Optimizer::Adagrad(Adagrad { initial_accumulator_value: 0.1, ..Adagrad::default() }),
        Optimizer::Adadelta(Adadelta::default()),
        Optimizer::RmsProp(RmsProp { centered: true, momentum: 0.5, ..RmsProp::default() }),
        Optimizer::Adam(Adam { amsgrad: true, ..Adam::default() }),
        Optimizer::AdamW(AdamW::default()),
        Optimizer::Adamax(Adamax::default()),
        Optimizer::NAdam(NAdam::default()),
        Optimizer::RAdam(RAdam::default()),
        Optimizer::Lion(Lion::default()),
        Optimizer::SparseAdam(SparseAdam::default()),
    ]
}

/// What is done to a store; numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// One step: which tensors take part, in parts or whole, through the `grad` plane or at once.
    Step {
        tensors: u8,
        parts: bool,
        accumulate: u8,
    },
    /// Values for a range of a tensor from elsewhere.
    Write {
        tensor: usize,
        start: u64,
        len: u64,
    },
    Commit,
    Reopen,
    Rollback,
    /// A step that is dropped half way, then rolled back.
    Abandon,
    View {
        tensor: usize,
    },
    /// One more reader of the committed generation.
    Read,
    /// The oldest reader ends.
    EndRead,
}

/// A store and the way in which it is used.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Elements and optimizer of each tensor.
    tensors: Vec<(u64, usize)>,
    block_bytes: u64,
    budget_blocks: u64,
    threads: usize,
    io_threads: usize,
    path: IoPath,
}

/// Reads a setup and operations from any bytes.
pub(super) fn parse(bytes: &[u8]) -> (Setup, Vec<Operation>) {
    let mut input = Input(bytes);
    let tensors = (0..=input.below(5)).map(|_| tensor(&mut input)).collect();
    let setup = Setup {
        tensors,
        block_bytes: 4096 << input.below(3),
        budget_blocks: 15 + input.below(45),
        threads: 1 + usize::from(input.u8() % 4),
        io_threads: 1 + usize::from(input.u8() % 3),
        path: [IoPath::Auto, IoPath::Direct, IoPath::Mapped][usize::from(input.u8() % 3)],
    };
    let mut operations = Vec::new();
    while operations.len() < OPERATIONS_MAX && !input.is_empty() {
        operations.push(operation(&mut input));
    }
    (setup, operations)
}

fn tensor(input: &mut Input<'_>) -> (u64, usize) {
    let elements = match input.u8() % 3 {
        0 => 1 + input.below(39),
        1 => 900 + input.below(200),
        _ => 1 + input.below(5999),
    };
    (elements, usize::from(input.u8()) % optimizers().len())
}

fn operation(input: &mut Input<'_>) -> Operation {
    match input.u8() % 18 {
        0..=5 => Operation::Step { tensors: input.u8(), parts: input.u8() & 1 == 1, accumulate: input.u8() },
        6 => Operation::Write {
            tensor: usize::from(input.u8()),
            start: input.below(6000),
            len: 1 + input.below(3000),
        },
        7 | 8 => Operation::Commit,
        9 => Operation::Reopen,
        10 => Operation::Rollback,
        11 => Operation::Abandon,
        12 | 13 => Operation::View { tensor: usize::from(input.u8()) },
        14 | 15 => Operation::Read,
        _ => Operation::EndRead,
    }
}

/// A tensor in plain memory.
#[derive(Clone)]
struct Plain {
    optimizer: Optimizer,
    clock: TensorClock,
    param: Vec<f32>,
    state: Vec<Vec<f32>>,
}

#[derive(Clone)]
struct Model {
    tensors: Vec<Plain>,
    step: u64,
}

fn name(tensor: usize) -> String {
    format!("t{tensor}")
}

fn gradient(tensor: usize, element: u64, step: u64) -> f32 {
    let x = element.wrapping_mul(2_654_435_761).wrapping_add(step * 97 + tensor as u64 * 31) % 4001;
    f32::from(u16::try_from(x).unwrap()) / 2000.0 - 1.0
}

fn gradients(tensor: usize, elements: u64, step: u64) -> Vec<f32> {
    (0..elements).map(|element| gradient(tensor, element, step)).collect()
}

impl Setup {
    fn options(&self) -> Options {
        Options::new()
            .memory_budget(self.budget_blocks * self.block_bytes)
            .threads(self.threads)
            .io_threads(self.io_threads)
            .io_path(self.path)
            .reader_wait(Duration::ZERO)
    }

    fn schema(&self) -> Schema {
        let mut schema = Schema::new().block_bytes(self.block_bytes).gradient_plane(true);
        for (i, optimizer) in optimizers().into_iter().enumerate() {
            schema = schema.group(ParamGroup::new(format!("g{i}"), optimizer));
        }
        for (i, (elements, group)) in self.tensors.iter().enumerate() {
            schema = schema.tensor(TensorSpec::new(name(i), &[*elements]).group(format!("g{group}")));
        }
        schema
    }

    fn model(&self) -> Model {
        let plain = |&(elements, group): &(u64, usize)| {
            let optimizer = optimizers()[group];
            let len = usize::try_from(elements).unwrap();
            let state = optimizer.state_planes().iter().map(|plane| vec![plane.fill; len]).collect();
            Plain { optimizer, clock: TensorClock::default(), param: vec![0.0; len], state }
        };
        Model { tensors: self.tensors.iter().map(plain).collect(), step: 0 }
    }
}

impl Model {
    fn update(&mut self, tensor: usize, gradient: &[f32]) {
        let plain = &mut self.tensors[tensor];
        let mut state: Vec<&mut [f32]> = plain.state.iter_mut().map(Vec::as_mut_slice).collect();
        let isa = InstructionSet::portable();
        plain.optimizer.update(isa, &mut plain.clock, &mut plain.param, gradient, &mut state).unwrap();
    }

    fn step(&mut self, tensors: u8, accumulate: u8) {
        for tensor in (0..self.tensors.len()).filter(|tensor| tensors >> tensor & 1 == 1) {
            let elements = self.tensors[tensor].param.len() as u64;
            let mut gradient = gradients(tensor, elements, self.step);
            if accumulate >> tensor & 1 == 1 {
                // Two micro-batches, each scaled by a half.
                let other = gradients(tensor, elements, self.step + 1000);
                gradient.iter_mut().zip(other).for_each(|(a, b)| *a = 0.5 * *a + 0.5 * b);
            }
            self.update(tensor, &gradient);
        }
        self.step += 1;
    }

    fn check(&self, store: &ParamStore) -> Result<()> {
        assert_eq!(store.step(), self.step);
        let same = |what: &str, got: &[f32], want: &[f32]| {
            let place = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
            assert!(place.is_none(), "{what}: element {place:?}");
        };
        for (tensor, plain) in self.tensors.iter().enumerate() {
            let mut got = vec![0.0; plain.param.len()];
            store.read_into(&name(tensor), &mut got)?;
            same(&name(tensor), &got, &plain.param);
            assert_eq!(store.tensor_clock(&name(tensor))?, plain.clock);
            for (plane, want) in plain.optimizer.state_planes().iter().zip(&plain.state) {
                store.read_plane_into(&name(tensor), plane.name, &mut got)?;
                same(plane.name, &got, want);
            }
        }
        Ok(())
    }
}

fn step(store: &mut ParamStore, tensors: u8, parts: bool, accumulate: u8) -> Result<()> {
    let all: Vec<u64> = store.tensors().map(|t| t.elements()).collect();
    let now = store.step();
    let mut step = store.begin_step()?;
    for (tensor, elements) in all.into_iter().enumerate().filter(|(tensor, _)| tensors >> tensor & 1 == 1) {
        let gradient = gradients(tensor, elements, now);
        let cut = if parts { gradient.len() * 2 / 3 } else { 0 };
        if accumulate >> tensor & 1 == 1 {
            step.accumulate_range(&name(tensor), cut as u64, &gradient[cut..], 0.5)?;
            step.accumulate_range(&name(tensor), 0, &gradient[..cut], 0.5)?;
            step.accumulate(&name(tensor), &gradients(tensor, elements, now + 1000), 0.5)?;
        } else {
            step.apply_range(&name(tensor), cut as u64, &gradient[cut..])?;
            step.apply_range(&name(tensor), 0, &gradient[..cut])?;
        }
    }
    step.finish().map(|_| ())
}

/// A store, its model, and the readers of it.
struct Run<'a> {
    setup: &'a Setup,
    volume: MemoryVolume,
    store: Option<ParamStore>,
    model: Model,
    committed: Model,
    readers: Vec<(ParamStore, Model)>,
}

/// Makes the store, does the operations, and compares after each.
pub(crate) fn replay(setup: &Setup, operations: &[Operation]) {
    let volume = MemoryVolume::new("store");
    let store = ParamStore::create_in(Arc::new(volume.clone()), &setup.schema(), &setup.options());
    let (model, store) = (setup.model(), Some(store.unwrap()));
    let mut run = Run { setup, volume, store, committed: model.clone(), model, readers: Vec::new() };
    for operation in operations {
        match run.act(operation).and_then(|()| run.check()) {
            Ok(()) => {}
            // The homes of a generation that is being read, asked for by a write or by a read that has to make room: what
            // was begun is undone when the readers have ended.
            Err(Error::Pinned { generation, .. }) => {
                let mut pinned = run.readers.iter().map(|(reader, _)| reader.generation());
                assert!(pinned.any(|pinned| pinned == generation), "nobody reads generation {generation}");
                run.readers.clear();
                run.store.as_mut().unwrap().rollback().unwrap();
                run.model = run.committed.clone();
                run.check().unwrap();
            }
            Err(error) => panic!("{operation:?}: {error}"),
        }
    }
}

impl Run<'_> {
    fn act(&mut self, operation: &Operation) -> Result<()> {
        let store = self.store.as_mut().unwrap();
        match *operation {
            Operation::Step { tensors, parts, accumulate } => {
                step(store, tensors, parts, accumulate)?;
                self.model.step(tensors, accumulate);
            }
            Operation::Write { tensor, start, len } => {
                let tensor = tensor % self.model.tensors.len();
                let param = &mut self.model.tensors[tensor].param;
                let start = start % param.len() as u64;
                let len = len.min(param.len() as u64 - start);
                let values = gradients(tensor, len, 77);
                store.write_range(&name(tensor), start, &values)?;
                let start = usize::try_from(start).unwrap();
                param[start..start + values.len()].copy_from_slice(&values);
            }
            Operation::Commit => {
                store.commit(&self.model.step.to_le_bytes())?;
                self.committed = self.model.clone();
            }
            Operation::Reopen => {
                drop(self.store.take());
                let reopened = ParamStore::open_in(Arc::new(self.volume.clone()), &self.setup.options())?;
                assert_eq!(reopened.recovery().lost_steps, self.model.step - self.committed.step);
                self.model = self.committed.clone();
                self.store = Some(reopened);
            }
            Operation::Rollback => {
                assert_eq!(store.rollback()?, self.model.step - self.committed.step);
                self.model = self.committed.clone();
            }
            Operation::Abandon => {
                let elements = store.tensors().next().unwrap().elements();
                let mut abandoned = store.begin_step()?;
                abandoned.apply("t0", &gradients(0, elements, 5))?;
                drop(abandoned);
                store.rollback()?;
                self.model = self.committed.clone();
            }
            Operation::View { tensor } => {
                let tensor = tensor % self.model.tensors.len();
                match store.view(&name(tensor)) {
                    Ok(view) => {
                        let want = self.model.tensors[tensor].param.iter().map(|x| x.to_bits());
                        assert!(view.iter().map(|x| x.to_bits()).eq(want), "view of {tensor}");
                    }
                    Err(Error::Budget { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Operation::Read if self.readers.len() < READERS_MAX => {
                let volume = Arc::new(self.volume.clone());
                let reader = ParamStore::open_read_only_in(volume, &self.setup.options())?;
                self.readers.push((reader, self.committed.clone()));
            }
            Operation::EndRead if !self.readers.is_empty() => drop(self.readers.remove(0)),
            Operation::Read | Operation::EndRead => {}
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let store = self.store.as_ref().unwrap();
        for (reader, model) in &self.readers {
            model.check(reader).unwrap();
        }
        self.model.check(store)?;
        let stats = store.stats();
        assert!(stats.held_bytes <= store.memory_budget(), "{stats:?}");
        Ok(())
    }
}
