//! Threads under a model checker (shuttle): it runs a program again and again, each time with another order of what the
//! threads do, and tells of a deadlock, a lost wake-up or a broken promise with the order that led to it.
//!
//! The code is the library's own. `queue.rs` and `wait.rs` are compiled here once more, with shuttle's locks in the
//! place of the standard library's; the store runs on a volume that lets another thread go on before each operation.

#[path = "../../storage/queue.rs"]
#[expect(dead_code, reason = "the models do not ask for times")]
mod queue;
#[path = "../../pager/wait.rs"]
#[expect(dead_code, reason = "the model has no background thread")]
mod wait;

mod pins;
mod pool;
mod waiting;

/// What `queue.rs` and `wait.rs` find where the library has the standard library's.
mod sync {
    pub(super) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};
    pub(super) use shuttle::thread;
    pub(super) use std::sync::PoisonError;
}

mod stats {
    pub(super) use crate::pager::elapsed_ns;
}

use waiting::{Pager, State};

/// Runs a program in `rounds` orders chosen at random, and in as many that change threads at few places.
fn explore(rounds: usize, program: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(program.clone(), rounds);
    shuttle::check_pct(program, rounds, 3);
}
