//! Recording what a step uses, and following the record in the next step for as long as it fits.

use std::collections::VecDeque;

use super::Key;
use super::plan::{Access, Plan, ToRead};
use crate::format::directory::Directory;

/// Accesses that may be overtaken by later ones: threads that read beside each other come in any order.
const OUT_OF_ORDER: usize = 16;
/// Plans in a row that were given up before a step has to repeat itself to get another one.
const PATIENCE: u32 = 3;

/// What is known about the order of uses.
#[derive(Default)]
pub(super) struct Follower {
    /// The accesses of this step so far; `None` between steps.
    recording: Option<Vec<Access>>,
    /// Accesses that a record may hold; a longer step is not recorded.
    room: usize,
    is_too_long: bool,
    /// The accesses of the plan, or of the last step where there is none.
    last: Vec<Access>,
    plan: Option<Plan>,
    /// The accesses that are still expected in this step, by their number in `last`; `false` once they have come.
    expected: VecDeque<(usize, bool)>,
    /// Whether all goes as the plan says so far.
    is_followed: bool,
    /// Plans in a row that were given up.
    given_up: u32,
    /// The position up to which blocks were read ahead.
    ahead: u64,
}

impl Follower {
    fn followed(&self) -> Option<&Plan> {
        self.plan.as_ref().filter(|_| self.is_followed)
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followed().is_some()
    }

    /// The plan, followed or not.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The position of a key's next use, where a plan is followed.
    pub(super) fn due(&self, key: Key) -> Option<u64> {
        self.followed().map(|plan| plan.due(key))
    }

    /// Whether a key is known not to be used any more in this step.
    pub(super) fn is_done(&self, key: Key) -> bool {
        self.recording.is_some() && self.followed().is_some_and(|plan| plan.is_done(key))
    }

    /// Begins a step: records it, and follows the plan from its beginning. True if there is a plan. Record and plan
    /// take at most `bytes_max` each.
    pub(super) fn begin(&mut self, bytes_max: u64) -> bool {
        self.recording = Some(Vec::new());
        self.room = usize::try_from(bytes_max).unwrap_or(usize::MAX) / (2 * size_of::<Access>());
        self.is_too_long = false;
        let Some(plan) = &mut self.plan else { return false };
        plan.begin();
        self.ahead = self.ahead.max(plan.start());
        self.expected = (0..self.last.len()).map(|at| (at, true)).collect();
        self.is_followed = true;
        true
    }

    /// Takes note of what the caller is going to use. False if the plan did not expect it and is given up for the rest
    /// of the step.
    pub(super) fn enter(&mut self, access: &Access) -> bool {
        let Some(recording) = &mut self.recording else { return true };
        if recording.len() < self.room {
            recording.push(access.clone());
        } else {
            self.is_too_long = true;
        }
        if !self.is_followed || self.meets(access) {
            return true;
        }
        self.give_up();
        false
    }

    fn meets(&mut self, access: &Access) -> bool {
        let last = &self.last;
        let fits = |&&mut (at, open): &&mut (usize, bool)| open && last.get(at) == Some(access);
        let Some((_, open)) = self.expected.iter_mut().take(OUT_OF_ORDER).find(fits) else { return false };
        *open = false;
        while self.expected.front().is_some_and(|&(_, open)| !open) {
            self.expected.pop_front();
        }
        true
    }

    /// Takes note that a lease has a key.
    pub(super) fn note(&mut self, key: Key) {
        if let Some(plan) = self.plan.as_mut().filter(|_| self.is_followed && self.recording.is_some()) {
            plan.note(key);
        }
    }

    /// Stops following; the next step begins anew.
    pub(super) fn give_up(&mut self) {
        self.is_followed = false;
    }

    /// Ends a step that has finished: keeps the plan if the step went by it, or makes a new one from the record.
    pub(super) fn end(&mut self, directory: &Directory, bytes_max: u64) {
        let Some(mut recording) = self.recording.take() else { return };
        if self.is_followed && self.expected.is_empty() {
            self.given_up = 0;
            return;
        }
        if self.is_too_long {
            recording = Vec::new();
        }
        let repeats = recording == self.last;
        self.given_up = if self.plan.is_some() { self.given_up + 1 } else { self.given_up };
        let worth_it = !recording.is_empty() && (repeats || self.given_up < PATIENCE);
        self.plan = if worth_it { Plan::new(&recording, directory, bytes_max) } else { None };
        self.is_followed = self.plan.is_some();
        self.ahead = self.plan.as_ref().map_or(0, Plan::end);
        self.last = recording;
    }

    /// Forgets the record of a step that will not finish.
    pub(super) fn abandon(&mut self) {
        self.recording = None;
        self.is_followed = false;
    }

    /// The next key to read ahead, if a plan is followed; [`advance`](Self::advance) goes on to the one after it.
    pub(super) fn next_ahead(&mut self) -> Option<Key> {
        let plan = self.plan.as_ref().filter(|_| self.is_followed)?;
        loop {
            match plan.to_read(self.ahead) {
                ToRead::Block(key) => return Some(key),
                ToRead::Nothing => self.ahead += 1,
                ToRead::Unknown => return None,
            }
        }
    }

    pub(super) fn advance(&mut self) {
        self.ahead += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::pieces_tests::directory;

    fn access(tensor: usize) -> Access {
        Access { tensor, range: 0..2048, planes: 0..2, blank: false, copy: None }
    }

    /// One step over whole tensors of two blocks; whether the plan was followed to its end.
    fn step(follower: &mut Follower, directory: &Directory, tensors: &[usize]) -> bool {
        let planned = follower.begin(1 << 20);
        for &tensor in tensors {
            follower.enter(&access(tensor));
            let keys: Vec<_> = access(tensor).keys(directory).collect();
            for key in keys {
                follower.note(key);
            }
        }
        let followed = planned && follower.is_followed();
        follower.end(directory, 1 << 20);
        followed
    }

    #[test]
    fn a_step_that_repeats_itself_is_followed_from_the_second_time_on() {
        let (directory, mut follower) = (directory(&[2048, 2048, 2048]), Follower::default());
        assert!(!step(&mut follower, &directory, &[0, 1, 2, 0]));
        for _ in 0..3 {
            assert!(step(&mut follower, &directory, &[0, 1, 2, 0]));
        }
    }

    #[test]
    fn what_comes_a_little_out_of_order_is_still_as_planned() {
        let (directory, mut follower) = (directory(&[2048, 2048, 2048]), Follower::default());
        step(&mut follower, &directory, &[0, 1, 2]);
        assert!(step(&mut follower, &directory, &[1, 0, 2]));
        assert!(step(&mut follower, &directory, &[2, 1, 0]));
    }

    #[test]
    fn another_step_than_the_planned_one_is_the_next_plan() {
        let (directory, mut follower) = (directory(&[2048, 2048, 2048]), Follower::default());
        step(&mut follower, &directory, &[0, 1]);
        assert!(!step(&mut follower, &directory, &[0, 2]), "something else");
        assert!(step(&mut follower, &directory, &[0, 2]));
        step(&mut follower, &directory, &[0]);
        assert!(step(&mut follower, &directory, &[0]), "less than planned makes a new plan too");
    }

    #[test]
    fn steps_that_never_repeat_stop_being_planned_until_one_does() {
        let (directory, mut follower) = (directory(&[2048; 8]), Follower::default());
        for tensor in 0..8 {
            step(&mut follower, &directory, &[tensor]);
        }
        assert!(follower.plan().is_none());
        step(&mut follower, &directory, &[7]);
        assert!(step(&mut follower, &directory, &[7]));
    }

    #[test]
    fn keys_are_named_ahead_in_order_across_the_end_of_a_step() {
        let (directory, mut follower) = (directory(&[2048, 2048]), Follower::default());
        step(&mut follower, &directory, &[0, 1]);
        let ahead = |follower: &mut Follower| {
            let key = follower.next_ahead();
            follower.advance();
            key
        };
        // Before the next step begins, its first blocks are known.
        let first: Vec<_> = access(0).keys(&directory).collect();
        assert_eq!(ahead(&mut follower), Some(first[0]));
        follower.begin(1 << 20);
        assert_eq!(ahead(&mut follower), Some(first[1]));
        follower.enter(&access(1));
        let rest: Vec<_> = std::iter::from_fn(|| ahead(&mut follower)).take(16).collect();
        let this_step = rest.iter().take_while(|&&key| key != first[0]).count();
        assert_eq!(this_step, 6, "two of the first tensor, four of the second: {rest:?}");
        follower.enter(&access(5));
        assert_eq!(follower.next_ahead(), None, "given up");
    }

    #[test]
    fn a_step_too_long_for_its_share_of_the_budget_has_no_plan() {
        let (directory, mut follower) = (directory(&[2048]), Follower::default());
        follower.begin(1 << 20);
        follower.enter(&access(0));
        follower.end(&directory, 99);
        assert!(follower.plan().is_none());
        assert!(!follower.begin(1000));
        for _ in 0..100 {
            follower.enter(&access(0));
        }
        follower.end(&directory, 1 << 20);
        assert!(follower.plan().is_none(), "more accesses than a record may hold");
        assert!(follower.last.is_empty());
    }
}
