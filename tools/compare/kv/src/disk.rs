//! What reached the disk, and what lies on it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Outcome;

/// Bytes so far: of this process by the kernel's account, and of the whole disk below a folder.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) process_read: u64,
    pub(crate) process_written: u64,
    pub(crate) disk_read: u64,
    pub(crate) disk_written: u64,
}

impl Traffic {
    pub(crate) fn now(folder: &Path) -> Outcome<Self> {
        const SECTOR: u64 = 512;
        let io = fs::read_to_string("/proc/self/io")?;
        let device = fs::metadata(folder)?.dev();
        let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
        let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
        let sectors: Vec<u64> = stat.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let disk = |at: usize| sectors.get(at).copied().unwrap_or(0) * SECTOR;
        Ok(Self {
            process_read: field(&io, "read_bytes:"),
            process_written: field(&io, "write_bytes:"),
            disk_read: disk(2),
            disk_written: disk(6),
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            process_read: self.process_read - before.process_read,
            process_written: self.process_written - before.process_written,
            disk_read: self.disk_read - before.disk_read,
            disk_written: self.disk_written - before.disk_written,
        }
    }
}

pub(crate) fn peak_rss_bytes() -> u64 {
    1024 * field(&fs::read_to_string("/proc/self/status").unwrap_or_default(), "VmHWM:")
}

/// Bytes allocated to the files of a folder.
pub(crate) fn allocated(folder: &Path) -> Outcome<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        sum += entry?.metadata()?.blocks() * 512;
    }
    Ok(sum)
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}
