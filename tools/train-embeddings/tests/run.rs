//! Runs of the program: killed and started again, with other threads and budgets, contradicted, and as the README says.

#[path = "run/bench.rs"]
mod bench;
#[path = "run/readme.rs"]
mod readme;
#[path = "run/resume.rs"]
mod resume;
#[path = "run/tasks.rs"]
mod tasks;
