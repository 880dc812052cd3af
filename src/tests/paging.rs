//! Same bits for any budget, thread count, block size, path and instruction set; the budget is a number that is kept.

use super::{bits, create, gradient, memory, one_step, open, options, schema};
use crate::{Error, InstructionSet, IoPath, NonFinitePolicy, Options, ParamStore, StepOptions};

const STEPS: u64 = 4;

fn run(block_bytes: u64, options: &Options) -> (Vec<u32>, ParamStore) {
    let mut store = create(&memory(), &schema(block_bytes), options).unwrap();
    for _ in 0..STEPS {
        one_step(&mut store).unwrap();
        if store.step() == 2 {
            store.commit(b"").unwrap();
        }
    }
    (bits(&store).unwrap(), store)
}

#[test]
fn bits_do_not_depend_on_budget_threads_blocks_path_or_instruction_set() {
    let (reference, _) = run(64 << 10, &Options::new().memory_budget(64 << 20));
    for block_bytes in [4096, 8192, 32 << 10] {
        let smallest = 12 * block_bytes;
        for budget in [smallest, 20 * block_bytes, 16 << 20] {
            for threads in [1, 2, 4, 8] {
                let path = if threads % 2 == 0 { IoPath::Direct } else { IoPath::Mapped };
                let options = Options::new().memory_budget(budget).threads(threads).io_threads(threads);
                let (got, store) = run(block_bytes, &options.io_path(path));
                assert_eq!(got, reference, "blocks {block_bytes}, budget {budget}, threads {threads}");
                assert!(store.stats().held_bytes <= budget);
            }
        }
    }
    for threads in [3, 64] {
        let options = Options::new().memory_budget(12 * 4096).threads(threads).io_threads(threads);
        assert_eq!(run(4096, &options).0, reference, "{threads} threads");
    }
    for set in InstructionSet::available() {
        let (got, _) = run(4096, &options().instruction_set(set));
        assert_eq!(got, reference, "{}", set.name());
    }
}

#[test]
fn a_budget_below_three_blocks_is_refused_with_the_number_that_is_needed() {
    let error = create(&memory(), &schema(8192), &Options::new().memory_budget(40_000)).unwrap_err();
    let Error::Budget { needed, budget, .. } = error else { panic!("{error}") };
    assert_eq!((needed, budget), (3 * 4 * 8192, 40_000));
}

#[test]
fn a_state_that_fits_the_budget_is_read_once_and_written_by_commits_only() {
    let mut store = create(&memory(), &schema(4096), &Options::new().memory_budget(64 << 20)).unwrap();
    for _ in 0..3 {
        one_step(&mut store).unwrap();
    }
    assert_eq!((store.stats().bytes_read, store.stats().bytes_written), (0, 0));
    let before = store.stats();
    store.commit(b"").unwrap();
    let written = store.stats().since(&before).bytes_written;
    let state: u64 = store.tensors().map(|t| 4 * t.elements() * t.planes().count() as u64).sum();
    assert!(written >= state && written < state + 64 * 4096, "{written} of {state}");
    one_step(&mut store).unwrap();
    assert_eq!(store.stats().bytes_read, 0);
}

#[test]
fn a_view_shows_uncommitted_updates_and_is_in_place_where_blocks_stand_together() {
    let volume = memory();
    let mut store = create(&volume, &schema(4096), &options()).unwrap();
    assert!(!store.view("big").unwrap().is_zero_copy(), "never written");
    one_step(&mut store).unwrap();
    let mut expected = vec![0.0; 9000];
    store.read_into("big", &mut expected).unwrap();
    assert_eq!(&*store.view("big").unwrap(), &expected[..]);
    store.commit(b"").unwrap();
    drop(store);
    let store = open(&volume, &options()).unwrap();
    let view = store.view("big").unwrap();
    assert!(view.is_zero_copy());
    assert_eq!(&*view, &expected[..]);
    let part = store.view_range("big", 1500..1700).unwrap();
    assert!(part.is_zero_copy());
    assert_eq!(&*part, &expected[1500..1700]);
    let small = store.view("bias").unwrap();
    assert_eq!((small.len(), small.is_zero_copy()), (37, true));
}

#[test]
fn views_of_what_is_in_memory_read_nothing_and_as_many_as_one_likes_can_be_held() {
    let mut store = create(&memory(), &schema(4096), &options().memory_budget(200 * 4096)).unwrap();
    one_step(&mut store).unwrap();
    store.commit(b"").unwrap();
    let mut expected = vec![0.0; 9000];
    store.read_into("big", &mut expected).unwrap();
    let before = store.stats();
    let mut views = vec![store.view("big").unwrap(), store.view("big").unwrap()];
    assert_eq!(store.stats().since(&before).bytes_read, 0);
    views.extend((2..40).map(|_| store.view("big").unwrap()));
    assert!(views.iter().all(|view| view[..] == expected[..]));
    let zero_copy: Vec<bool> = views.iter().map(crate::View::is_zero_copy).collect();
    assert!(!zero_copy[0] && zero_copy[39], "{zero_copy:?}");
}

#[test]
fn a_gathered_view_larger_than_the_budget_is_refused_and_can_be_read_by_range() {
    let budget = 12 * 4096;
    let store = create(&memory(), &schema(4096), &Options::new().memory_budget(budget)).unwrap();
    let error = store.view("big").unwrap_err();
    assert!(matches!(error, Error::Budget { .. }), "{error}");
    let mut whole = vec![0.0; 9000];
    store.read_into("big", &mut whole).unwrap();
    let part = store.view_range("big", 8000..9000).unwrap();
    assert_eq!(&*part, &whole[8000..]);
}

#[test]
fn written_values_are_read_back_and_survive_a_commit() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    let values = gradient("values", 9000, 1);
    store.write("big", &values).unwrap();
    store.write_range("big", 4000, &[5.0; 300]).unwrap();
    let mut expected = values;
    expected[4000..4300].fill(5.0);
    assert_eq!(&*store.view("big").unwrap(), &expected[..]);
    store.commit(b"").unwrap();
    assert_eq!(&*store.view("big").unwrap(), &expected[..]);
    assert!(matches!(store.write("big", &[0.0]), Err(Error::Invalid { .. })));
    assert!(matches!(store.write_range("big", 9000, &[0.0]), Err(Error::Invalid { .. })));
}

/// One step in which all gradients are known first.
fn clipped_step(store: &mut ParamStore, options: StepOptions, spoil: Option<f32>) -> crate::Result<f64> {
    let tensors: Vec<_> = store.tensors().map(|t| (t.name().to_owned(), t.elements())).collect();
    let now = store.step();
    let mut step = store.begin_step_with(options)?;
    for (name, elements) in &tensors {
        let mut gradient = gradient(name, *elements, now);
        if let (Some(value), "middle") = (spoil, name.as_str()) {
            gradient[1234] = value;
        }
        step.apply(name, &gradient)?;
    }
    Ok(step.finish()?.grad_norm.unwrap())
}

#[test]
fn clipping_gives_the_same_bits_for_any_block_size_and_number_of_threads() {
    let mut results = Vec::new();
    for (block_bytes, threads) in [(4096, 1), (8192, 3), (64 << 10, 8)] {
        let options = Options::new().memory_budget(40 * block_bytes).threads(threads);
        let mut store = create(&memory(), &schema(block_bytes), &options).unwrap();
        let clip = StepOptions::new().max_norm(1.5).loss_scale(4.0);
        let norms: Vec<_> = (0..3).map(|_| clipped_step(&mut store, clip, None).unwrap().to_bits()).collect();
        results.push((norms, bits(&store).unwrap()));
    }
    assert!(results.iter().all(|result| *result == results[0]));
    let norm = f64::from_bits(results[0].0[0]);
    let sum: f64 = [("big", 9000), ("bias", 37), ("middle", 3000), ("scale", 1)]
        .iter()
        .flat_map(|(name, n)| gradient(name, *n, 0))
        .map(|g| (f64::from(g) / 4.0).powi(2))
        .sum();
    assert!((norm / sum.sqrt() - 1.0).abs() < 1e-12, "{norm} against {}", sum.sqrt());
}

#[test]
fn a_step_with_non_finite_gradients_is_refused_before_anything_changes() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    one_step(&mut store).unwrap();
    let before = bits(&store).unwrap();
    let refuse = StepOptions::new().non_finite(NonFinitePolicy::Refuse);
    let error = clipped_step(&mut store, refuse, Some(f32::NAN)).unwrap_err();
    let Error::NonFinite { count, tensor } = &error else { panic!("{error}") };
    assert_eq!((*count, tensor.as_str()), (1, "middle"));
    assert_eq!((bits(&store).unwrap(), store.step()), (before, 1));
    clipped_step(&mut store, refuse, None).unwrap();
    assert_eq!(store.step(), 2);
}

#[test]
fn non_finite_gradients_propagate_and_are_counted_by_default() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    let mut step = store.begin_step().unwrap();
    step.apply("bias", &[f32::INFINITY; 37]).unwrap();
    let report = step.finish().unwrap();
    assert_eq!((report.non_finite, report.grad_norm), (37, None));
    assert!(store.view("bias").unwrap().iter().all(|p| p.is_infinite()));
}

#[test]
fn gradients_that_do_not_fit_are_refused_by_name() {
    let mut store = create(&memory(), &schema(4096), &options()).unwrap();
    let mut step = store.begin_step().unwrap();
    assert!(matches!(step.apply("nobody", &[]), Err(Error::Unknown { .. })));
    assert!(matches!(step.apply("bias", &[0.0; 36]), Err(Error::Invalid { .. })));
    step.apply_range("big", 0, &[0.5; 4000]).unwrap();
    assert!(matches!(step.apply_range("big", 3999, &[0.5; 2]), Err(Error::Invalid { .. })));
    let gap = step.finish().unwrap_err();
    assert!(gap.to_string().contains("gap at element 4000"), "{gap}");
    assert!(matches!(store.begin_step().map(|_| ()), Err(Error::Mixed { .. })));
}

#[test]
fn a_gradient_in_parts_or_made_on_the_spot_gives_the_bits_of_the_whole() {
    let whole = gradient("big", 9000, 3);
    let run = |way: &dyn Fn(&mut crate::Step<'_>)| {
        let mut store = create(&memory(), &schema(4096), &options()).unwrap();
        let mut step = store.begin_step().unwrap();
        way(&mut step);
        step.finish().unwrap();
        bits(&store).unwrap()
    };
    let reference = run(&|step| step.apply("big", &whole).unwrap());
    let parts = run(&|step| {
        for start in [5000, 0, 7001] {
            let end = [(5000, 7001), (0, 5000), (7001, 9000)].iter().find(|r| r.0 == start).unwrap().1;
            step.apply_range("big", start as u64, &whole[start..end]).unwrap();
        }
    });
    let made = run(&|step| {
        let fill = |range: std::ops::Range<u64>, out: &mut [f32]| {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            out.copy_from_slice(&whole[range]);
        };
        step.apply_with("big", fill).unwrap();
    });
    assert!(reference == parts && reference == made);
}
