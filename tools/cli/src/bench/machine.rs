//! What a figure was measured on.

use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::human;

/// Processors that this process may use.
pub(super) fn processors() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Model of the processor, how many of them, and the kernel; `unknown` where the system does not say.
pub(super) fn describe() -> Value {
    json!({ "cpu": cpu(), "cores": processors(), "kernel": kernel() })
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| format!("unknown ({})", std::env::consts::ARCH), |(_, name)| name.trim().to_owned())
}

fn kernel() -> String {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}"));
    let text = read("ostype").and_then(|kind| Ok(format!("{} {}", kind.trim(), read("osrelease")?.trim())));
    text.unwrap_or_else(|_| format!("unknown ({})", std::env::consts::OS))
}

/// The most memory that this process has had resident at once, in bytes; 0 where the system does not say.
pub(super) fn peak_rss_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Now, in UTC.
pub(super) fn date() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    human::date(since.map_or(0, |time| time.as_secs()))
}
