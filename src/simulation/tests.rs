//! Bounded campaigns for every run of the tests; longer ones are the business of `paramstore-xtask crash`.

use std::sync::Arc;
use std::time::Instant;

use super::operation::{Fault, Operation};
use super::plane::Plane;
use super::*;
use crate::param_store::ParamStore;

/// Runs a campaign on both processors; a broken promise fails the test, with its story.
fn keeps_its_promises(campaign: Campaign) -> Summary {
    let (summary, broken) = Campaign { threads: 2, ..campaign }.run(|_, _| {}).unwrap();
    if let Some(Broken { run, store, failure }) = broken {
        panic!("seed {}, run {run}, store {store:?}:\n{}", campaign.seed, failure.story);
    }
    summary
}

/// Explores a script at every point, for the stores with these numbers.
fn explore_every_point(stores: [usize; 2], script: &[Operation], then: &[Operation]) -> Summary {
    explore_points(stores, script, then, 1)
}

/// As `explore_every_point`, cut at every so many points.
fn explore_points(stores: [usize; 2], script: &[Operation], then: &[Operation], every: usize) -> Summary {
    let start = Instant::now();
    let mut total = Summary::default();
    std::thread::scope(|scope| {
        let explore = |number: usize| {
            let profile = Profile::new(number).unwrap();
            let mut explorer = Explorer::new(&profile, None);
            let pool = build_threads(1).unwrap();
            let mut rng = Rng::new(1, number as u64);
            let result = on_threads(Some(&pool), || explorer.every_point(script, then, every, &mut rng));
            if let Err(broken) = result {
                panic!("store {:?}:\n{}", profile.name, broken.failure(&profile).story);
            }
            explorer.summary
        };
        for thread in stores.map(|number| scope.spawn(move || explore(number))) {
            total.add(&thread.join().unwrap());
        }
    });
    println!("{total:?} in {:?}", start.elapsed());
    total
}

const ALL: u8 = 0xff;

/// A step of all tensors, two of them by way of the `grad` plane.
const STEP: Operation = Operation::Step { tensors: ALL, staged: 0b10, salt: 1 };

/// Both kinds of commit: of everything, and of nothing but the generation.
const COMMITS: [Operation; 6] = [
    STEP,
    Operation::Commit { user: 2 },
    STEP,
    Operation::Commit { user: 3 },
    Operation::Commit { user: 0 },
    STEP,
];

#[test]
fn every_loss_of_power_in_a_short_life_leaves_a_promised_generation() {
    let then = [Operation::Step { tensors: 0b1, staged: 0, salt: 2 }];
    let small = explore_every_point([0, 1], &COMMITS, &then);
    let large = explore_every_point([2, 3], &COMMITS[..4], &then);
    for summary in [small, large] {
        assert!(summary.schedules > 1000, "{summary:?}");
        assert!(
            summary.older > 100 && summary.newer > 20 && summary.settled > 20 && summary.without_store > 100
        );
    }
}

#[test]
fn every_loss_of_power_after_a_killed_program_leaves_a_promised_generation() {
    // The second program finds in the page cache what the disk does not have, and builds on it.
    let fault = |fault, after| Operation::Fault { fault, after };
    for script in [
        [STEP, Operation::Commit { user: 1 }, fault(Fault::LostSync, 9), Operation::Commit { user: 2 }, STEP],
        [fault(Fault::Kill, 49), STEP, Operation::Commit { user: 1 }, STEP, Operation::Reopen],
    ] {
        explore_every_point([0, 1], &script, &[]);
    }
}

#[test]
fn every_loss_of_power_around_a_checkpoint_leaves_a_whole_one_or_none() {
    let commit = Operation::Commit { user: 1 };
    let [keep, back, prune] =
        [Operation::Keep { name: 0 }, Operation::RollbackTo { name: 0 }, Operation::Prune { name: 0 }];
    // What comes after finds the name free, or taken by a whole one; and goes back to that.
    let then = [keep, Operation::Step { tensors: 0b1, staged: 0, salt: 2 }, back];
    for script in [&[STEP, commit, keep, STEP, commit, back][..], &[STEP, commit, keep, prune]] {
        let summary = explore_points([0, 1], script, &then, 3);
        assert!(summary.schedules > 1000, "{summary:?}");
    }
}

#[test]
fn every_loss_of_power_in_a_repair_leaves_the_newest_generation_or_the_one_before() {
    let commit = |user| Operation::Commit { user };
    let drop = Operation::DropNewest;
    for script in
        [[STEP, commit(1), STEP, commit(2), drop, STEP], [STEP, commit(1), drop, STEP, commit(2), drop]]
    {
        let summary = explore_points([0, 1], &script, &[STEP, drop], 3);
        assert!(summary.schedules > 1000, "{summary:?}");
    }
}

/// Parameters, moments, scales and copies are of one generation.
#[test]
fn every_loss_of_power_in_a_short_life_in_few_bits_leaves_a_promised_generation() {
    let then = [Operation::Step { tensors: 0b1011, staged: 0b10, salt: 2 }];
    let summary = explore_points([Profile::F32, Profile::F32 + 1], &COMMITS[..4], &then, 5);
    assert!(summary.schedules > 1000 && summary.older > 100 && summary.newer > 10, "{summary:?}");
}

/// What is compared is every bit, of scales that read as the same floats too.
#[test]
fn a_bit_of_a_plane_in_few_bits_or_of_a_copy_is_told_from_its_opposite() {
    let profile = Profile::new(Profile::F32).unwrap();
    let volume = Arc::new(crate::storage::MemoryVolume::new(profile::PATH));
    let store = ParamStore::create_in(volume, &profile.schema, &profile.options).unwrap();
    let mut seen = Vec::new();
    for (tensor, plane) in store.tensors().flat_map(|info| info.planes().map(move |plane| (info, plane))) {
        let name = tensor.name();
        let same = |plane_is: &Plane| plane_is.difference(&store, name, plane).unwrap();
        let mut held = Plane::of(&store, name, plane).unwrap();
        assert_eq!(same(&held), None, "{plane} of {name}");
        match &mut held {
            Plane::F32(values) => values[0] = f32::from_bits(values[0].to_bits() ^ 1),
            Plane::Half(_, bits) => bits[0] ^= 1,
            Plane::Q8(_, codes, _) => codes[0] ^= 1,
        }
        assert!(same(&held).is_some(), "{plane} of {name}");
        if let Plane::Q8(_, codes, scales) = &mut held {
            codes[0] ^= 1;
            let last = scales.last_mut().unwrap();
            *last = f32::from_bits(last.to_bits() ^ 1);
            assert!(same(&held).unwrap().contains("scale"), "{plane} of {name}");
        }
        let form = (plane, std::mem::discriminant(&held));
        if !seen.contains(&form) {
            seen.push(form);
        }
    }
    let forms = |name: &str| seen.iter().filter(|(plane, _)| *plane == name).count();
    assert_eq!(["param", "exp_avg", "exp_avg_sq", "momentum_buffer", "compute"].map(forms), [2, 2, 2, 2, 1]);
}

/// A step on a few rows, and nothing else.
const ROWS: Operation = Operation::Rows { tensors: ALL, salt: 1 };

#[test]
fn every_loss_of_power_where_rows_go_to_the_log_leaves_a_promised_generation() {
    let script = [ROWS, Operation::Commit { user: 1 }, ROWS, Operation::Commit { user: 1 }, ROWS];
    let summary = explore_every_point([4, 5], &script, &[ROWS]);
    assert!(summary.schedules > 1000 && summary.older > 100 && summary.newer > 20, "{summary:?}");
}

/// Steps on many rows, so that the log is folded and goes round.
#[test]
fn losses_of_power_where_the_log_goes_round_leave_a_promised_generation() {
    let many = Operation::Rows { tensors: ALL, salt: 3 };
    let [keep, back] = [Operation::Keep { name: 0 }, Operation::RollbackTo { name: 0 }];
    let mut script = vec![keep];
    for turn in 0..9 {
        script.extend([many, Operation::Commit { user: 1 }]);
        script.extend([keep].iter().filter(|_| turn == 5));
    }
    script.extend([back, many]);
    for number in 4..Profile::F32 {
        let profile = Profile::new(number).unwrap();
        let mut explorer = Explorer::new(&profile, None);
        let mut rng = Rng::new(3, number as u64);
        let pool = build_threads(1).unwrap();
        let result = on_threads(Some(&pool), || explorer.cuts_of(&script, &mut rng));
        if let Err(broken) = result {
            panic!("store {:?}:\n{}", profile.name, broken.failure(&profile).story);
        }
    }
}

/// Where a commit wrote to the log of rows and to no block, the barrier for segments is that of the log.
#[test]
fn a_log_that_was_not_made_durable_is_missed() {
    let script = [ROWS, Operation::Commit { user: 1 }, ROWS, Operation::Commit { user: 1 }];
    let profile = Profile::new(4).unwrap();
    let explore = |left_out| {
        let mut explorer = Explorer::new(&profile, left_out);
        explorer.every_point(&script, &[], 1, &mut Rng::new(1, 1))
    };
    let run = Explorer::new(&profile, None).record(&script).map_err(|broken| broken.violation).unwrap();
    let disk = super::schedule::disk_after(&run, &run.events(), usize::MAX);
    let committed: Vec<_> = run.events().split_off(run.starts()[1]);
    let lines: Vec<_> = committed.iter().map(|event| event.describe(|file| disk.name_of(file))).collect();
    let names = |name: &str| lines.iter().filter(|line| line.contains(name)).count();
    assert!(names("row_log.") > 2 && names("record.") == 0 && names("param.") == 0, "{lines:?}");
    assert!(explore(None).is_ok());
    let barrier = crate::store::barriers::ALL.iter().find(|barrier| barrier.0 == "commit: segment");
    let broken = explore(barrier.copied()).err().unwrap();
    println!("{}", broken.failure(&profile).story);
}

#[test]
fn a_random_campaign_finds_every_promise_kept() {
    let start = Instant::now();
    let summary = keeps_its_promises(Campaign::new(5_000, 1));
    println!("{summary:?} in {:?}", start.elapsed());
    assert!(
        summary.older > 100 && summary.newer > 100 && summary.without_store > 100 && summary.again > 1000
    );
}

/// A long campaign once ended with a false alarm: a program was killed while it compared what it had opened with one of
/// two promised states of a generation, and only what differed from the other was told.
#[test]
fn a_program_killed_between_two_promised_states_of_a_generation_is_no_broken_promise() {
    let profile = Profile::new(0).unwrap();
    let commit = |user| Operation::Commit { user };
    let pool = build_threads(1).unwrap();
    on_threads(Some(&pool), || {
        for after in 0..200 {
            // The kill comes somewhere in the repair, or when its two possible outcomes are told apart.
            let kill = Operation::Fault { fault: Fault::Kill, after };
            let script =
                [STEP, commit(1), STEP, commit(2), kill, Operation::DropNewest, Operation::Reopen, STEP];
            let mut explorer = Explorer::new(&profile, None);
            if let Err(broken) = explorer.record(&script) {
                panic!("killed after {after}: {}", broken.failure(&profile).story);
            }
        }
    });
}

/// The test of the tests: a barrier that nobody would miss is no barrier, or no test.
#[test]
fn a_campaign_without_any_one_barrier_finds_a_broken_promise() {
    for name in barrier_names() {
        let campaign = Campaign { threads: 2, ..Campaign::new(40_000, 7) }.without(name).unwrap();
        let (summary, broken) = campaign.run(|_, _| {}).unwrap();
        let broken = broken.unwrap_or_else(|| panic!("nobody misses {name:?}: {summary:?}"));
        println!("{name}: after {} schedules: {}", summary.schedules, broken.failure.what);
        assert!(broken.failure.is_repeatable, "{}", broken.failure.story);
    }
}

#[test]
fn a_barrier_that_there_is_not_cannot_be_left_out() {
    assert!(matches!(Campaign::new(1, 1).without("none"), Err(Error::Unknown { .. })));
}

#[test]
fn every_sync_of_a_life_has_a_name_in_the_list_and_every_name_is_used() {
    let profile = Profile::new(0).unwrap();
    let mut script = vec![Operation::Fault { fault: Fault::Kill, after: 13 }];
    script.extend(COMMITS);
    script.extend([Operation::Keep { name: 0 }, Operation::Prune { name: 0 }, Operation::DropNewest]);
    let run = Explorer::new(&profile, None).record(&script).map_err(|broken| broken.violation).unwrap();
    let mut used: Vec<_> =
        run.events().iter().filter_map(crate::storage::sim::Event::barrier).map(|b| b.0).collect();
    used.sort_unstable();
    used.dedup();
    let mut names: Vec<_> = barrier_names().collect();
    names.sort_unstable();
    assert_eq!(used, names);
}

#[test]
fn the_same_seed_gives_the_same_events_and_the_same_summary() {
    for number in 0..Profile::COUNT {
        let profile = Profile::new(number).unwrap();
        for stream in 0..12 {
            let mut rng = Rng::new(5, stream);
            let explorer = Explorer::new(&profile, None);
            let script = explorer.script(&mut rng, 10);
            let events = || {
                let run = Explorer::new(&profile, None).record(&script);
                let run = run.map_err(|broken| broken.violation).unwrap();
                let disk = super::schedule::disk_after(&run, &run.events(), usize::MAX);
                run.events().iter().map(|event| event.describe(|file| disk.name_of(file))).collect::<Vec<_>>()
            };
            assert_eq!(events(), events(), "store {:?}, {script:?}", profile.name);
        }
    }
    let summary = || Campaign::new(300, 3).run(|_, _| {}).unwrap().0;
    assert_eq!(summary(), summary());
}

#[test]
fn a_broken_promise_is_told_as_a_short_story_that_can_be_repeated() {
    let campaign = Campaign::new(5_000, 2).without("commit: superblock").unwrap();
    let broken = campaign.run(|_, _| {}).unwrap().1.unwrap();
    let story = &broken.failure.story;
    assert!(
        story.contains("POWER CUT") && story.ends_with(&format!("BROKEN: {}", broken.failure.what)),
        "{story}"
    );
    assert!(story.lines().count() < 70, "{story}");
    let again = Campaign { first_run: broken.run, ..campaign }.run(|_, _| {}).unwrap().1.unwrap();
    assert_eq!((again.run, &again.failure.story), (broken.run, story));
}
