//! Random histories against a model in plain memory: whatever the blocks, the budget, the threads and the path, the
//! store holds the model's bits, before and after commits, reopening and rollbacks.

use proptest::prelude::*;

use super::{create, memory, open};
use crate::optim::{
    Adadelta, Adagrad, Adam, AdamW, Adamax, Lion, NAdam, Optimizer, RAdam, RmsProp, Sgd, TensorClock,
};
use crate::storage::MemoryVolume;
use crate::{InstructionSet, IoPath, Options, ParamGroup, ParamStore, Schema, TensorSpec};

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
    ]
}

#[derive(Debug, Clone)]
enum Operation {
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
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (any::<u8>(), any::<bool>(), any::<u8>())
            .prop_map(|(tensors, parts, accumulate)| Operation::Step { tensors, parts, accumulate }),
        1 => (0..5_usize, 0..6000_u64, 1..3000_u64)
            .prop_map(|(tensor, start, len)| Operation::Write { tensor, start, len }),
        2 => Just(Operation::Commit),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::Rollback),
        1 => Just(Operation::Abandon),
        2 => (0..5_usize).prop_map(|tensor| Operation::View { tensor }),
    ]
}

#[derive(Debug, Clone)]
struct Setup {
    tensors: Vec<(u64, usize)>,
    block_bytes: u64,
    budget_blocks: u64,
    threads: usize,
    io_threads: usize,
    path: IoPath,
}

fn setup() -> impl Strategy<Value = Setup> {
    let tensor = (prop_oneof![1..40_u64, 900..1100_u64, 1..6000_u64], 0..optimizers().len());
    let tensors = prop::collection::vec(tensor, 1..=5);
    let path = prop_oneof![Just(IoPath::Auto), Just(IoPath::Direct), Just(IoPath::Mapped)];
    (tensors, 12..15_u32, 15..60_u64, 1..5_usize, 1..4_usize, path).prop_map(
        |(tensors, power, budget_blocks, threads, io_threads, path)| Setup {
            tensors,
            block_bytes: 1 << power,
            budget_blocks,
            threads,
            io_threads,
            path,
        },
    )
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

    fn check(&self, store: &ParamStore) {
        assert_eq!(store.step(), self.step);
        let same = |what: &str, got: &[f32], want: &[f32]| {
            let place = got.iter().zip(want).position(|(a, b)| a.to_bits() != b.to_bits());
            assert!(place.is_none(), "{what}: element {place:?}");
        };
        for (tensor, plain) in self.tensors.iter().enumerate() {
            let mut got = vec![0.0; plain.param.len()];
            store.read_into(&name(tensor), &mut got).unwrap();
            same(&name(tensor), &got, &plain.param);
            assert_eq!(store.tensor_clock(&name(tensor)).unwrap(), plain.clock);
            for (plane, want) in plain.optimizer.state_planes().iter().zip(&plain.state) {
                store.read_plane_into(&name(tensor), plane.name, &mut got).unwrap();
                same(plane.name, &got, want);
            }
        }
    }
}

fn step(store: &mut ParamStore, tensors: u8, parts: bool, accumulate: u8) {
    let all: Vec<u64> = store.tensors().map(|t| t.elements()).collect();
    let now = store.step();
    let mut step = store.begin_step().unwrap();
    for (tensor, elements) in all.into_iter().enumerate().filter(|(tensor, _)| tensors >> tensor & 1 == 1) {
        let gradient = gradients(tensor, elements, now);
        let cut = if parts { gradient.len() * 2 / 3 } else { 0 };
        if accumulate >> tensor & 1 == 1 {
            step.accumulate_range(&name(tensor), cut as u64, &gradient[cut..], 0.5).unwrap();
            step.accumulate_range(&name(tensor), 0, &gradient[..cut], 0.5).unwrap();
            step.accumulate(&name(tensor), &gradients(tensor, elements, now + 1000), 0.5).unwrap();
        } else {
            step.apply_range(&name(tensor), cut as u64, &gradient[cut..]).unwrap();
            step.apply_range(&name(tensor), 0, &gradient[..cut]).unwrap();
        }
    }
    step.finish().unwrap();
}

fn replay(setup: &Setup, operations: &[Operation]) {
    let volume: MemoryVolume = memory();
    let mut store = Some(create(&volume, &setup.schema(), &setup.options()).unwrap());
    let mut model = setup.model();
    let mut committed = model.clone();
    for operation in operations {
        let open_store = store.as_mut().unwrap();
        match *operation {
            Operation::Step { tensors, parts, accumulate } => {
                step(open_store, tensors, parts, accumulate);
                model.step(tensors, accumulate);
            }
            Operation::Write { tensor, start, len } => {
                let tensor = tensor % model.tensors.len();
                let param = &mut model.tensors[tensor].param;
                let start = start % param.len() as u64;
                let len = len.min(param.len() as u64 - start);
                let values = gradients(tensor, len, 77);
                open_store.write_range(&name(tensor), start, &values).unwrap();
                let start = usize::try_from(start).unwrap();
                param[start..start + values.len()].copy_from_slice(&values);
            }
            Operation::Commit => {
                open_store.commit(&model.step.to_le_bytes()).unwrap();
                committed = model.clone();
            }
            Operation::Reopen => {
                drop(store.take());
                let reopened = open(&volume, &setup.options()).unwrap();
                assert_eq!(reopened.recovery().lost_steps, model.step - committed.step);
                model = committed.clone();
                store = Some(reopened);
            }
            Operation::Rollback => {
                assert_eq!(open_store.rollback().unwrap(), model.step - committed.step);
                model = committed.clone();
            }
            Operation::Abandon => {
                let elements = open_store.tensors().next().unwrap().elements();
                let mut abandoned = open_store.begin_step().unwrap();
                abandoned.apply("t0", &gradients(0, elements, 5)).unwrap();
                drop(abandoned);
                open_store.rollback().unwrap();
                model = committed.clone();
            }
            Operation::View { tensor } => {
                let tensor = tensor % model.tensors.len();
                if let Ok(view) = open_store.view(&name(tensor)) {
                    let want = model.tensors[tensor].param.iter().map(|x| x.to_bits());
                    assert!(view.iter().map(|x| x.to_bits()).eq(want), "view of {tensor}");
                }
            }
        }
        let open_store = store.as_ref().unwrap();
        model.check(open_store);
        let stats = open_store.stats();
        assert!(stats.held_bytes <= open_store.memory_budget(), "{stats:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_history_gives_the_bits_of_the_model(
        setup in setup(),
        operations in prop::collection::vec(operation(), 1..14),
    ) {
        replay(&setup, &operations);
    }
}
