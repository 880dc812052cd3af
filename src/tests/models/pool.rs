//! The I/O queue.

use std::collections::BTreeSet;

use super::explore;
use super::queue::Queue;
use super::sync::{Arc, thread};

#[test]
fn every_job_is_received_once_whoever_submits_and_receives() {
    explore(2000, || {
        let queue = Arc::new(Queue::new(2).unwrap());
        let others: Vec<_> = (0..2)
            .map(|number| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    queue.submit(move || 2 * number);
                    queue.submit_first(move || 2 * number + 1);
                    std::iter::from_fn(|| queue.recv()).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut received: Vec<_> = others.into_iter().flat_map(|other| other.join().unwrap()).collect();
        received.extend(std::iter::from_fn(|| queue.recv()));
        assert_eq!(received.len(), 4);
        assert_eq!(received.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(queue.in_flight(), 0);
    });
}

#[test]
fn receivers_end_when_the_last_completion_is_taken_by_another() {
    explore(2000, || {
        let queue = Arc::new(Queue::new(1).unwrap());
        queue.submit(|| 7);
        let others: Vec<_> = (0..3)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || queue.recv())
            })
            .collect();
        let received = others.into_iter().filter_map(|other| other.join().unwrap()).count();
        assert_eq!(received, 1);
    });
}

#[test]
fn a_queue_that_is_dropped_ends_its_threads_whatever_they_do() {
    explore(2000, || {
        let queue = Queue::new(2).unwrap();
        for number in 0..3 {
            queue.submit(move || number);
        }
        if let Some(first) = queue.try_recv() {
            assert!(first < 3);
        }
        drop(queue);
    });
}
