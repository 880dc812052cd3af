//! How much memory this process may still take: the machine's available memory, or what is left in its cgroup.

use std::fs;

/// Memory available to this process in bytes; 1 GiB where the operating system does not say.
pub(crate) fn available_memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = cgroup_paths(&groups).into_iter().filter_map(|(limit, usage)| {
        let limit = fs::read_to_string(limit).ok()?.trim().parse::<u64>().ok()?;
        let usage = fs::read_to_string(usage).ok()?.trim().parse::<u64>().ok()?;
        Some(limit.saturating_sub(usage))
    });
    limit.chain(machine).min().unwrap_or(1 << 30)
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Files with the limit and the use of memory of every group that this process is in, both cgroup versions.
fn cgroup_paths(groups: &str) -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if controllers.is_empty() {
            let mut at = path.trim_end_matches('/');
            loop {
                let folder = format!("/sys/fs/cgroup{at}");
                paths.push((format!("{folder}/memory.max"), format!("{folder}/memory.current")));
                let Some((parent, _)) = at.rsplit_once('/') else { break };
                at = parent;
            }
        } else if controllers.split(',').any(|c| c == "memory") {
            let folder = format!("/sys/fs/cgroup/memory{}", path.trim_end_matches('/'));
            paths
                .push((format!("{folder}/memory.limit_in_bytes"), format!("{folder}/memory.usage_in_bytes")));
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let text = "MemTotal:       24676592 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(meminfo_available(text), Some(23_000_000 << 10));
        assert_eq!(meminfo_available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn limits_of_all_groups_above_a_process_count() {
        let paths = cgroup_paths("0::/user/job\n4:memory,cpu:/box\n3:cpuset:/box\n");
        let limits: Vec<_> = paths.iter().map(|(limit, _)| limit.as_str()).collect();
        let expected = [
            "/sys/fs/cgroup/user/job/memory.max",
            "/sys/fs/cgroup/user/memory.max",
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/box/memory.limit_in_bytes",
        ];
        assert_eq!(limits, expected);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_memory_bytes() > 0);
    }
}
