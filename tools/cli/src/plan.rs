//! `paramstore plan`.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use paramstore::inspect::{DiskSpeed, Plan, available_memory_bytes, free_bytes, measure_disk};
use paramstore::optim::TensorClock;
use paramstore::precision::{Book, Half, Lane, Rounding};
use paramstore::{Dtype, Init, InstructionSet, Moments, Optimizer, Precision};
use serde_json::{Value, json};

use crate::arguments::PlanArguments;
use crate::failure::Failure;
use crate::human::{bytes, counted, grouped, seconds, speed};
use crate::inspect;
use crate::{Verdict, terminal};

/// Bytes of each of the two files of the measurement.
const MEASURE_BYTES: u64 = 128 << 20;
/// Most time for each part of the measurement.
const MEASURE_LIMIT: Duration = Duration::from_millis(1500);
/// Elements that each thread updates to measure the update rule: beyond caches, together with the state.
const KERNEL_ELEMENTS: usize = 1 << 20;
/// What vendors state for a solid-state disk of 1 TB for consumers: bytes that it takes until it is worn out.
const ENDURANCE_BYTES: f64 = 600e12;
const DAY_S: f64 = 86_400.0;

/// What was measured, and what follows for a step.
struct Measured {
    disk: DiskSpeed,
    /// Parameters that the processors update per second when everything is in memory.
    params_per_s: f64,
    step_s: f64,
    forward_s: f64,
    gradients_s: f64,
    bytes_per_day: f64,
}

struct Fit {
    free_bytes: u64,
    available_bytes: u64,
    disk: bool,
    memory: bool,
}

pub(crate) fn run(arguments: &PlanArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let schema = arguments.schema.schema(&arguments.settings, Init::Zeros, 0)?;
    let plan = schema.plan(&arguments.schema.options())?;
    let free = free_bytes(&arguments.dir)?;
    let available = available_memory_bytes();
    let fit = Fit {
        free_bytes: free,
        available_bytes: available,
        disk: plan.bytes_on_disk <= free,
        memory: plan.budget_bytes >= plan.budget_min_bytes && plan.budget_bytes <= available,
    };
    let measured = if arguments.no_measure { None } else { Some(measure(arguments, &plan)?) };
    if arguments.json {
        terminal::json(out, &to_json(arguments, &plan, &fit, measured.as_ref())?)?;
    } else {
        to_text(arguments, &plan, &fit, measured.as_ref(), out)?;
    }
    Ok(Verdict::Sound)
}

#[expect(clippy::cast_precision_loss, reason = "estimates for people")]
fn measure(arguments: &PlanArguments, plan: &Plan) -> Result<Measured, Failure> {
    let optimizer = arguments.schema.optimizer(&arguments.settings)?;
    let params_per_s = update_rate(&optimizer, arguments.schema.state())?;
    let disk = measure_disk(&arguments.dir, MEASURE_BYTES, MEASURE_LIMIT)?;
    let moved_s = plan.update_bytes() as f64 / disk.step_bytes_per_s;
    let step_s = moved_s.max(swept_params(plan) as f64 / params_per_s);
    let gradients_s = gradient_bytes(arguments, plan) as f64 / disk.step_bytes_per_s;
    Ok(Measured {
        forward_s: plan.forward_bytes() as f64 / disk.read_bytes_per_s,
        bytes_per_day: written_per_step(arguments, plan) as f64 / (step_s + gradients_s) * DAY_S,
        disk,
        params_per_s,
        step_s,
        gradients_s,
    })
}

/// Parameters that every step updates; of tensors of rows it takes some rows.
fn swept_params(plan: &Plan) -> u64 {
    plan.params - plan.rows.iter().map(|table| table.params).sum::<u64>()
}

/// Bytes that gradients which wait in the gradient plane for the whole step write and read, where they are not hot.
fn gradient_bytes(arguments: &PlanArguments, plan: &Plan) -> u64 {
    if !arguments.schema.has_gradient_plane() {
        return 0;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate, between 0 and the bytes of the gradients"
    )]
    let cold = (plan.disk.scratch as f64 * (1.0 - plan.hot_fraction())).round() as u64;
    cold
}

fn written_per_step(arguments: &PlanArguments, plan: &Plan) -> u64 {
    plan.update_bytes() + gradient_bytes(arguments, plan)
}

/// A plane in memory, in the form in which a store keeps it.
enum Plane {
    F32(Vec<f32>),
    Half(Half, Vec<u16>),
    Q8(Book, Vec<u8>, Vec<f32>),
    Compensated(Half, Vec<u16>, Vec<u16>),
}

impl Plane {
    fn lane(&mut self) -> Lane<'_> {
        match self {
            Self::F32(values) => Lane::F32(values),
            Self::Half(kind, bits) => Lane::Half(*kind, bits),
            Self::Q8(book, codes, scales) => Lane::Q8(*book, codes, scales),
            Self::Compensated(kind, bits, lost) => Lane::Compensated(*kind, bits, lost),
        }
    }

    /// The parameters, all of them a half, and the moments before the first step.
    fn of(optimizer: &Optimizer, state: Precision) -> Vec<Self> {
        const N: usize = KERNEL_ELEMENTS;
        let half = |kind, bits| {
            if state.compensated {
                Self::Compensated(kind, vec![bits; N], vec![0; N])
            } else {
                Self::Half(kind, vec![bits; N])
            }
        };
        let param = match state.params {
            Dtype::Bf16 => half(Half::Bf16, 0x3f00),
            Dtype::F16 => half(Half::F16, 0x3800),
            _ => Self::F32(vec![0.5; N]),
        };
        let scales = || vec![0.0; N / 256];
        let moments = optimizer.state_planes().into_iter().map(|plane| match state.moments {
            _ if plane.per_row => Self::F32(vec![plane.fill]),
            Moments::Bf16 => Self::Half(Half::Bf16, vec![0; N]),
            Moments::F16 => Self::Half(Half::F16, vec![0; N]),
            Moments::Q8 if plane.is_never_negative() => Self::Q8(Book::Unsigned, vec![0; N], scales()),
            Moments::Q8 => Self::Q8(Book::Signed, vec![127; N], scales()),
            _ => Self::F32(vec![plane.fill; N]),
        });
        std::iter::once(param).chain(moments).collect()
    }
}

/// Parameters per second that all processors update, with everything in memory.
fn update_rate(optimizer: &Optimizer, state: Precision) -> Result<f64, Failure> {
    const TIME: Duration = Duration::from_millis(300);
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let work = || -> Result<f64, paramstore::Error> {
        let grad = vec![1e-3_f32; KERNEL_ELEMENTS];
        let mut planes = Plane::of(optimizer, state);
        let mut clock = TensorClock::default();
        let isa = InstructionSet::detect();
        let mut sweep = || {
            let mut lanes: Vec<_> = planes.iter_mut().map(Plane::lane).collect();
            let rounding = Rounding::Stochastic { key: clock.steps, first: 0 };
            optimizer.update_lanes(isa, &mut clock, &mut lanes, &grad, rounding)
        };
        sweep()?;
        let start = Instant::now();
        let mut sweeps = 0.0;
        while start.elapsed() < TIME {
            sweep()?;
            sweeps += 1.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a speed for people")]
        Ok(sweeps * KERNEL_ELEMENTS as f64 / start.elapsed().as_secs_f64())
    };
    let rates = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Ok(0.0))).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(rates.iter().sum::<f64>().max(1.0))
}

fn to_json(
    arguments: &PlanArguments,
    plan: &Plan,
    fit: &Fit,
    measured: Option<&Measured>,
) -> Result<Value, Failure> {
    let blocks = plan.blocks.iter().map(
        |size| json!({ "elements": size.elements, "param_bytes": size.param_bytes, "blocks": size.blocks }),
    );
    Ok(json!({
        "params": plan.params,
        "tensors": plan.tensors,
        "optimizer": arguments.schema.optimizer(&arguments.settings)?.name(),
        "bytes_on_disk": plan.bytes_on_disk,
        "disk": inspect::json::disk(&plan.disk),
        "planes": plan.planes.iter().map(inspect::json::plane).collect::<Vec<_>>(),
        "block_sizes": blocks.collect::<Vec<_>>(),
        "memory": {
            "bytes": plan.budget_bytes + plan.metadata_memory_bytes,
            "budget_bytes": plan.budget_bytes,
            "budget_min_bytes": plan.budget_min_bytes,
            "metadata_bytes": plan.metadata_memory_bytes,
            "available_bytes": fit.available_bytes,
        },
        "step": {
            "hot_fraction": plan.hot_fraction(),
            "bytes_read": plan.update_bytes(),
            "bytes_written": plan.update_bytes(),
            "forward_bytes_read": plan.forward_bytes(),
            "gradient_bytes_read": gradient_bytes(arguments, plan),
            "gradient_bytes_written": gradient_bytes(arguments, plan),
            "commit_bytes_written": plan.hot_bytes,
        },
        "row_tensors": plan.rows.iter().map(|table| json!({
            "tensor": table.tensor,
            "rows": table.rows,
            "memory_rows": table.memory_rows,
            "record_bytes": table.record_bytes,
            "page_bytes": table.page_bytes,
        })).collect::<Vec<_>>(),
        "measured": measured.map(|measured| json!({
            "dir": arguments.dir.display().to_string(),
            "direct_io": measured.disk.is_direct,
            "read_bytes_per_s": measured.disk.read_bytes_per_s,
            "step_bytes_per_s_each_way": measured.disk.step_bytes_per_s,
            "bytes_written": measured.disk.bytes_written,
            "seconds": measured.disk.seconds,
            "update_params_per_s": measured.params_per_s,
        })),
        "seconds_per_step": measured.map(|measured| measured.step_s + measured.gradients_s),
        "seconds_per_forward": measured.map(|measured| measured.forward_s),
        "bytes_written_per_day": measured.map(|measured| measured.bytes_per_day),
        "free_bytes": fit.free_bytes,
        "fits": fit.disk && fit.memory,
        "fits_disk": fit.disk,
        "fits_memory": fit.memory,
    }))
}

fn to_text(
    arguments: &PlanArguments,
    plan: &Plan,
    fit: &Fit,
    measured: Option<&Measured>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let optimizer = arguments.schema.optimizer(&arguments.settings)?.name();
    let (params, tensors) = (counted(plan.params, "parameter"), counted(plan.tensors, "tensor"));
    writeln!(out, "{params} in {tensors}, {optimizer}")?;
    writeln!(out, "\nplanes")?;
    inspect::text::planes(&plan.planes, out)?;
    writeln!(out, "\ndisk")?;
    inspect::text::disk(&plan.disk, out)?;
    fit_text(arguments, plan, fit, out)?;
    step_text(arguments, plan, out)?;
    match measured {
        Some(measured) => Ok(measured_text(arguments, plan, measured, out)?),
        None => Ok(()),
    }
}

fn fit_text(arguments: &PlanArguments, plan: &Plan, fit: &Fit, out: &mut dyn Write) -> io::Result<()> {
    let dir = std::path::absolute(&arguments.dir)?;
    let (dir, free) = (dir.display(), bytes(fit.free_bytes));
    if fit.disk {
        writeln!(out, "  fits: {free} free in {dir}")?;
    } else {
        let missing = bytes(plan.bytes_on_disk - fit.free_bytes);
        writeln!(
            out,
            "  does not fit: {free} free in {dir}, {missing} missing (--sparse allocates as it is written)"
        )?;
    }
    writeln!(out, "\nmemory")?;
    writeln!(out, "  {} budget, at least {}", bytes(plan.budget_bytes), bytes(plan.budget_min_bytes))?;
    writeln!(
        out,
        "  {} more at most for the block table and the directory",
        bytes(plan.metadata_memory_bytes)
    )?;
    let available = bytes(fit.available_bytes);
    let verdict = if fit.memory {
        format!("fits: {available} available")
    } else if plan.budget_bytes < plan.budget_min_bytes {
        "does not fit: give more --memory or smaller --block-bytes".to_owned()
    } else {
        format!("does not fit: {available} available")
    };
    writeln!(out, "  {verdict}")
}

fn step_text(arguments: &PlanArguments, plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\neach step")?;
    for table in &plan.rows {
        let (name, page) = (&table.tensor, bytes(table.page_bytes));
        let (memory, rows) = (grouped(table.memory_rows), grouped(table.rows));
        writeln!(
            out,
            "  {name}: {memory} of {rows} rows have room in memory; each other row that is used reads {page}"
        )?;
        let record = bytes(table.record_bytes + 16);
        writeln!(
            out,
            "  {name}: a commit writes {record} for each row that changed, and blocks now and then"
        )?;
    }
    if plan.state_bytes == 0 {
        return Ok(());
    }
    let hot = 100.0 * plan.hot_fraction();
    let whose = if plan.rows.is_empty() { "" } else { " of all other tensors" };
    let hot_bytes = bytes(plan.hot_bytes);
    writeln!(out, "  {hot:.1} % of parameters and state{whose} stay in memory ({hot_bytes})")?;
    let moved = bytes(plan.update_bytes());
    writeln!(out, "  the update reads {moved} and writes {moved}")?;
    let gradients = gradient_bytes(arguments, plan);
    if gradients > 0 {
        let gradients = bytes(gradients);
        writeln!(out, "  gradients that wait for each other write {gradients} and read {gradients}")?;
    }
    writeln!(out, "  each forward pass in front of it reads {}", bytes(plan.forward_bytes()))?;
    writeln!(out, "  a commit writes what is in memory: {} at most", bytes(plan.hot_bytes))
}

fn measured_text(
    arguments: &PlanArguments,
    plan: &Plan,
    measured: &Measured,
    out: &mut dyn Write,
) -> io::Result<()> {
    let disk = &measured.disk;
    let dir = std::path::absolute(&arguments.dir)?;
    writeln!(out, "\nmeasured just now in {}; disks drift", dir.display())?;
    let how = if disk.is_direct { "direct I/O" } else { "through the page cache" };
    let (both, read) = (speed(disk.step_bytes_per_s), speed(disk.read_bytes_per_s));
    writeln!(out, "  disk: {both} read and {both} written at once, {read} read alone ({how})")?;
    let rate = millions(measured.params_per_s);
    writeln!(out, "  update rule: {rate} million parameters per second in memory")?;
    if plan.state_bytes == 0 {
        return writeln!(out, "  rows are read and written as they are used: see `paramstore bench rows`");
    }
    writeln!(out, "\npredicted")?;
    let step = measured.step_s + measured.gradients_s;
    let bound = if measured.step_s * measured.params_per_s > 1.01 * millions_of(swept_params(plan)) * 1e6 {
        "the disk is the limit"
    } else {
        "the processor is the limit"
    };
    writeln!(out, "  {} for the update of each step; {bound}", seconds(step))?;
    writeln!(out, "  {} for the reads of each forward pass", seconds(measured.forward_s))?;
    if written_per_step(arguments, plan) == 0 {
        return writeln!(out, "  nothing is written between commits");
    }
    writeln!(out, "  {:.1} TB written per day if it does nothing but update", measured.bytes_per_day / 1e12)?;
    let worn = seconds(ENDURANCE_BYTES / measured.bytes_per_day * DAY_S);
    writeln!(out, "  at that pace a disk rated for 600 TB written, as usual for 1 TB, lasts {worn}")
}

#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn millions_of(params: u64) -> f64 {
    params as f64 / 1e6
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive speed for people")]
fn millions(params_per_s: f64) -> String {
    grouped((params_per_s / 1e6).round() as u64)
}
