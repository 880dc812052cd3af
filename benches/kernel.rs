//! Every update rule on every instruction set of this CPU, in the cache and beyond it.
//!
//! Throughput is in elements; an element moves 4 bytes for the gradient and 8 for the parameter and for each state
//! plane. One core, one run of elements. `pass` is what memory gives: the same bytes in the same places with an addition in place
//! of a rule, by its number of state planes. Before a kernel is timed, its results are compared bit for bit with the portable
//! ones, and those with a step computed by hand where the rule is AdamW.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use paramstore::InstructionSet;
use paramstore::optim::{Optimizer, TensorClock};
use paramstore::precision::{Book, Half, Lane, Rounding};

/// The planes of AdamW with this many elements, 256 KiB in all, fit the second-level cache.
const IN_CACHE: usize = 1 << 14;

/// One plane of this many elements takes 64 MiB.
const BEYOND_CACHE: usize = 1 << 24;

/// What is timed: each rule for whole tensors with its defaults, and SGD with momentum too.
fn optimizers() -> Vec<(&'static str, Optimizer)> {
    let mut all: Vec<_> = Optimizer::NAMES
        .iter()
        .map(|&name| (name, Optimizer::from_name(name).expect("a listed name is known")))
        .filter(|(_, optimizer)| optimizer.state_planes().iter().all(|plane| !plane.per_row))
        .collect();
    let mut momentum = all[0].1;
    momentum.set("momentum", "0.9").expect("SGD has momentum");
    all.insert(1, ("sgd_momentum", momentum));
    all
}

/// A parameter, its gradient and its planes.
struct Tensor {
    clock: TensorClock,
    param: Vec<f32>,
    grad: Vec<f32>,
    planes: Vec<Vec<f32>>,
}

impl Tensor {
    fn new(optimizer: &Optimizer, len: usize) -> Self {
        // Values of both signs and of several sizes, none of them subnormal.
        let noise = |i: usize, seed: u32| {
            let bits =
                u32::try_from(i & 0xffff).expect("16 bits").wrapping_add(seed).wrapping_mul(2_654_435_761);
            (f32::from(u16::try_from(bits >> 16).expect("16 bits")) - 32_767.5) / 16_384.0
        };
        Self {
            clock: TensorClock::default(),
            param: (0..len).map(|i| noise(i, 1)).collect(),
            grad: (0..len).map(|i| noise(i, 77_777)).collect(),
            planes: optimizer.state_planes().iter().map(|plane| vec![plane.fill; len]).collect(),
        }
    }

    fn step(&mut self, optimizer: &Optimizer, isa: InstructionSet) {
        let mut state: Vec<&mut [f32]> = self.planes.iter_mut().map(Vec::as_mut_slice).collect();
        optimizer
            .update(isa, &mut self.clock, &mut self.param, &self.grad, &mut state)
            .expect("the planes are those of the rule");
    }

    fn bits(&self) -> Vec<u32> {
        self.param.iter().chain(self.planes.iter().flatten()).map(|x| x.to_bits()).collect()
    }
}

/// Compares three steps on an instruction set with the portable ones, on a length that leaves a tail.
fn check(optimizer: &Optimizer, isa: InstructionSet) {
    let len = 1_003;
    let (mut portable, mut other) = (Tensor::new(optimizer, len), Tensor::new(optimizer, len));
    let start = portable.param.clone();
    for _ in 0..3 {
        portable.step(optimizer, InstructionSet::portable());
        other.step(optimizer, isa);
    }
    assert_eq!(portable.bits(), other.bits(), "{} on {}", optimizer.name(), isa.name());
    assert!(
        portable.param.iter().all(|x| x.is_finite()),
        "{} left a value that is not finite",
        optimizer.name()
    );
    assert_ne!(portable.param, start, "{} moved nothing", optimizer.name());
}

/// Compares the first step of AdamW with its closed form: the move is `lr * g / (|g| + eps)`.
fn check_adamw(isa: InstructionSet) {
    let optimizer = Optimizer::from_name("adamw").expect("AdamW is known");
    let mut tensor = Tensor::new(&optimizer, 1_003);
    let start = tensor.param.clone();
    tensor.step(&optimizer, isa);
    for ((&got, &p), &g) in tensor.param.iter().zip(&start).zip(&tensor.grad) {
        let (p, g) = (f64::from(p), f64::from(g));
        let want = p * (1.0 - 1e-3 * 1e-2) - 1e-3 * g / (g.abs() + 1e-8);
        assert!((f64::from(got) - want).abs() < 1e-6, "AdamW on {}: got {got}, expected {want}", isa.name());
    }
}

/// A group of benchmarks over so many elements.
fn group<'a>(c: &'a mut Criterion, place: &str, len: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(place);
    group.throughput(Throughput::Elements(len as u64));
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1)).sample_size(10);
    group
}

/// Adds the gradients to the parameters and to so many other planes.
fn pass(grad: &[f32], [param, a, b, c]: &mut [Vec<f32>; 4], states: usize) {
    let planes = param.iter_mut().zip(grad);
    match states {
        0 => planes.for_each(|(p, g)| *p += g),
        1 => planes.zip(a).for_each(|((p, g), a)| (*p, *a) = (*p + g, *a + g)),
        2 => planes.zip(a).zip(b).for_each(|(((p, g), a), b)| (*p, *a, *b) = (*p + g, *a + g, *b + g)),
        _ => planes.zip(a).zip(b).zip(c).for_each(|((((p, g), a), b), c)| {
            (*p, *a, *b, *c) = (*p + g, *a + g, *b + g, *c + g);
        }),
    }
}

fn kernels(c: &mut Criterion) {
    for isa in InstructionSet::available() {
        check_adamw(isa);
        for (_, optimizer) in optimizers() {
            check(&optimizer, isa);
        }
    }
    for (place, len) in [("in_cache", IN_CACHE), ("beyond_cache", BEYOND_CACHE)] {
        let mut group = group(c, place, len);
        let (grad, mut planes) = (vec![1.0_f32; len], [(); 4].map(|()| vec![0.0_f32; len]));
        for states in 0..planes.len() {
            group.bench_function(BenchmarkId::new("pass", states), |bencher| {
                bencher.iter(|| {
                    pass(black_box(&grad), &mut planes, states);
                    black_box(&mut planes);
                });
            });
        }
        for (name, optimizer) in optimizers() {
            for isa in InstructionSet::available() {
                let mut tensor = Tensor::new(&optimizer, len);
                group.bench_function(BenchmarkId::new(name, isa.name()), |bencher| {
                    bencher.iter(|| {
                        tensor.step(&optimizer, isa);
                        black_box(&mut tensor.param);
                    });
                });
            }
        }
        group.finish();
    }
}

/// A parameter in bf16 and moments in 8 bits: what the state `compact` is, or `compact-kahan`.
struct Compact {
    clock: TensorClock,
    param: Vec<u16>,
    /// What rounding the parameters lost, if that is kept.
    lost: Option<Vec<u16>>,
    grad: Vec<f32>,
    planes: [(Book, Vec<u8>, Vec<f32>); 2],
}

impl Compact {
    fn new(len: usize, is_compensated: bool) -> Self {
        let adamw = Optimizer::from_name("adamw").expect("AdamW is known");
        let f32 = Tensor::new(&adamw, len);
        let mut param = vec![0; len];
        paramstore::precision::round(
            InstructionSet::portable(),
            Half::Bf16,
            Rounding::Nearest,
            &f32.param,
            &mut param,
        );
        let plane = |book, zero| (book, vec![zero; len], vec![0.0; len.div_ceil(256)]);
        let planes = [plane(Book::Signed, 127), plane(Book::Unsigned, 0)];
        let lost = is_compensated.then(|| vec![0; len]);
        Self { clock: TensorClock::default(), param, lost, grad: f32.grad, planes }
    }

    fn step(&mut self, isa: InstructionSet) {
        let adamw = Optimizer::from_name("adamw").expect("AdamW is known");
        let [first, second] = &mut self.planes;
        let mut lanes = [
            match &mut self.lost {
                Some(lost) => Lane::Compensated(Half::Bf16, &mut self.param, lost),
                None => Lane::Half(Half::Bf16, &mut self.param),
            },
            Lane::Q8(first.0, &mut first.1, &mut first.2),
            Lane::Q8(second.0, &mut second.1, &mut second.2),
        ];
        let rounding = Rounding::Stochastic { key: self.clock.steps, first: 0 };
        adamw
            .update_lanes(isa, &mut self.clock, &mut lanes, &self.grad, rounding)
            .expect("the lanes are those of the rule");
    }

    fn bits(&self) -> Vec<u32> {
        let planes = self.planes.iter().flat_map(|(_, codes, scales)| {
            codes.iter().map(|&code| u32::from(code)).chain(scales.iter().map(|x| x.to_bits()))
        });
        let halves = self.param.iter().chain(self.lost.iter().flatten());
        halves.map(|&bits| u32::from(bits)).chain(planes).collect()
    }
}

/// AdamW in the states `compact` and `compact-kahan`: widened, updated and rounded in one pass.
fn narrow(c: &mut Criterion) {
    for (isa, is_compensated) in
        InstructionSet::available().into_iter().flat_map(|isa| [(isa, false), (isa, true)])
    {
        let [mut portable, mut other] = [(); 2].map(|()| Compact::new(1_003, is_compensated));
        for _ in 0..3 {
            portable.step(InstructionSet::portable());
            other.step(isa);
        }
        assert_eq!(portable.bits(), other.bits(), "compact on {}", isa.name());
    }
    for (place, len) in [("in_cache", IN_CACHE), ("beyond_cache", BEYOND_CACHE)] {
        let mut group = group(c, place, len);
        for (name, is_compensated) in [("adamw_compact", false), ("adamw_compact_kahan", true)] {
            for isa in InstructionSet::available() {
                let mut compact = Compact::new(len, is_compensated);
                group.bench_function(BenchmarkId::new(name, isa.name()), |bencher| {
                    bencher.iter(|| {
                        compact.step(isa);
                        black_box(&mut compact.param);
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, kernels, narrow);
criterion_main!(benches);
