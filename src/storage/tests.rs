//! The I/O queue with real threads. Here and not in `queue.rs`, which the models compile a second time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::queue::Queue;

#[test]
fn one_thread_completes_jobs_in_order_and_then_reports_nothing_in_flight() {
    let queue = Queue::new(1).unwrap();
    for number in 0..100 {
        queue.submit(move || number);
    }
    let received: Vec<i32> = std::iter::from_fn(|| queue.recv()).collect();
    assert_eq!(received, (0..100).collect::<Vec<_>>());
    assert_eq!(queue.in_flight(), 0);
    assert_eq!(queue.try_recv(), None);
}

#[test]
fn jobs_submitted_first_begin_before_the_others_and_in_their_own_order() {
    let queue = Queue::new(1).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    queue.submit(move || {
        gate.recv().unwrap();
        "gate"
    });
    queue.submit(|| "write 1");
    queue.submit(|| "write 2");
    queue.submit_first(|| "read 1");
    queue.submit_first(|| "read 2");
    go.send(()).unwrap();
    let received: Vec<&str> = std::iter::from_fn(|| queue.recv()).collect();
    // The thread may have taken nothing yet when the reads came, so the gate stands anywhere before the writes.
    let without_gate: Vec<&str> = received.iter().copied().filter(|&name| name != "gate").collect();
    assert_eq!(without_gate, ["read 1", "read 2", "write 1", "write 2"]);
}

#[test]
fn try_recv_returns_at_once_while_a_job_runs() {
    let queue = Queue::new(2).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    queue.submit(move || gate.recv().unwrap());
    assert_eq!(queue.try_recv(), None);
    assert_eq!(queue.in_flight(), 1);
    go.send(()).unwrap();
    assert_eq!(queue.recv(), Some(()));
}

#[test]
fn jobs_run_at_the_same_time_on_several_threads() {
    let queue = Queue::new(2).unwrap();
    let barrier = Arc::new(std::sync::Barrier::new(2));
    for _ in 0..2 {
        let barrier = Arc::clone(&barrier);
        queue.submit(move || barrier.wait().is_leader());
    }
    let leaders = std::iter::from_fn(|| queue.recv()).filter(|&is_leader| is_leader).count();
    assert_eq!(leaders, 1);
}

#[test]
fn panic_of_a_job_surfaces_in_recv_once_and_the_queue_goes_on() {
    let queue: Queue<u32> = Queue::new(1).unwrap();
    queue.submit(|| resume_unwind(Box::new("disk on fire")));
    queue.submit(|| 7);
    let panic = catch_unwind(AssertUnwindSafe(|| queue.recv())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"disk on fire"));
    assert_eq!(queue.recv(), Some(7));
    assert_eq!(queue.recv(), None);
}

#[test]
fn several_receivers_all_return_when_the_last_completion_is_taken() {
    let queue = Queue::new(1).unwrap();
    let (go, gate) = mpsc::channel::<()>();
    queue.submit(move || gate.recv().unwrap());
    thread::scope(|scope| {
        let receivers: Vec<_> = (0..3).map(|_| scope.spawn(|| queue.recv())).collect();
        go.send(()).unwrap();
        let received = receivers.into_iter().filter_map(|receiver| receiver.join().unwrap()).count();
        assert_eq!(received, 1);
    });
}

#[test]
fn dropping_waits_for_the_running_job_and_discards_what_has_not_begun() {
    let began = Arc::new(AtomicUsize::new(0));
    let (started, has_started) = mpsc::channel::<()>();
    let (go, gate) = mpsc::channel::<()>();
    let queue = Queue::new(1).unwrap();
    let counter = Arc::clone(&began);
    queue.submit(move || {
        started.send(()).unwrap();
        gate.recv().unwrap();
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let counter = Arc::clone(&began);
    queue.submit(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    has_started.recv().unwrap();
    let shared = Arc::clone(&queue.shared);
    let dropper = thread::spawn(move || drop(queue));
    while !shared.lock().is_closing {
        thread::yield_now();
    }
    go.send(()).unwrap();
    dropper.join().unwrap();
    assert_eq!(began.load(Ordering::SeqCst), 1);
}

#[test]
fn busy_time_grows_while_a_job_runs_and_stands_still_afterwards() {
    let queue = Queue::new(2).unwrap();
    assert_eq!(queue.busy_time(), Duration::ZERO);
    let (go, gate) = mpsc::channel::<()>();
    let (started, has_started) = mpsc::channel::<()>();
    queue.submit(move || {
        started.send(()).unwrap();
        gate.recv().unwrap();
    });
    has_started.recv().unwrap();
    let early = queue.busy_time();
    while queue.busy_time() == early {
        thread::yield_now();
    }
    go.send(()).unwrap();
    assert_eq!(queue.recv(), Some(()));
    assert_eq!(queue.busy_time(), queue.busy_time());
}

#[test]
fn queue_without_threads_runs_each_job_in_the_thread_that_waits_for_it_and_no_earlier() {
    let queue = Queue::new(0).unwrap();
    let here = thread::current().id();
    for name in ["write 1", "write 2"] {
        queue.submit(move || (name, thread::current().id()));
    }
    queue.submit_first(|| ("read", thread::current().id()));
    assert_eq!((queue.try_recv(), queue.in_flight(), queue.busy_time()), (None, 3, Duration::ZERO));
    let received: Vec<_> = std::iter::from_fn(|| queue.recv()).collect();
    assert_eq!(received, [("read", here), ("write 1", here), ("write 2", here)]);
    assert_eq!((queue.recv(), queue.in_flight()), (None, 0));
}

#[test]
fn threads_carry_the_name_of_the_library() {
    let queue = Queue::new(1).unwrap();
    queue.submit(|| thread::current().name().map(str::to_owned));
    assert_eq!(queue.recv().flatten().as_deref(), Some("paramstore-io-0"));
}
