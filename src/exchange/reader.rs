//! Foreign files read from front to end, a few windows ahead.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::source::{SourceFile, Sources};
use crate::error::{Error, Result};
use crate::storage::{Buffer, Queue, SECTOR_BYTES};
use crate::units::{to_u64, to_usize};

/// Bytes that are read at once where there is memory for it.
const WINDOW_BYTES_MAX: u64 = 4 << 20;

/// Windows that are read at a time.
const DEPTH: u64 = 4;

/// A stretch of a file that is read at once.
#[derive(Debug, Clone, Copy)]
struct Window {
    file: usize,
    start: u64,
    len: usize,
}

struct Arrived {
    number: usize,
    buffer: Buffer,
    result: Result<()>,
}

/// Reads ranges of files in the order in which they were announced, with direct I/O and ahead.
pub(super) struct Reader {
    files: Vec<Arc<SourceFile>>,
    windows: Vec<Window>,
    queue: Queue<Arrived>,
    arrived: BTreeMap<usize, Arrived>,
    spare: Vec<Buffer>,
    submitted: usize,
    /// The window that is being used, and its bytes.
    current: Option<(usize, Buffer)>,
}

impl Reader {
    /// A reader of these ranges (file, offset, bytes), ascending in each file, with buffers of so many bytes in all.
    pub(super) fn new(sources: &Sources, ranges: &[(usize, u64, u64)], memory_bytes: u64) -> Result<Self> {
        let share = memory_bytes / (DEPTH + 1);
        let window = (share - share % SECTOR_BYTES).clamp(SECTOR_BYTES, WINDOW_BYTES_MAX);
        let mut windows = Vec::<Window>::new();
        for &(file, offset, bytes) in ranges.iter().filter(|range| range.2 > 0) {
            let file_bytes = sources.files.get(file).map_or(0, |file| file.len_bytes);
            let first = offset / window;
            for number in first..offset.saturating_add(bytes).div_ceil(window) {
                let start = number * window;
                let is_known = windows.last().is_some_and(|last| (last.file, last.start) == (file, start));
                if !is_known && start < file_bytes {
                    windows.push(Window { file, start, len: to_usize(window.min(file_bytes - start)) });
                }
            }
        }
        let count = to_usize(DEPTH + 1).min(windows.len());
        let spare = (0..count).map(|_| Buffer::new(to_usize(window))).collect::<Result<_>>()?;
        Ok(Self {
            files: sources.files.clone(),
            windows,
            queue: Queue::new(count.saturating_sub(1).max(1))?,
            arrived: BTreeMap::new(),
            spare,
            submitted: 0,
            current: None,
        })
    }

    /// The bytes of a file from `offset` on, as many as are in memory, and at most `len`.
    pub(super) fn chunk(&mut self, file: usize, offset: u64, len: u64) -> Result<&[u8]> {
        while !self.has(file, offset) {
            self.advance(file, offset)?;
        }
        let Some((number, buffer)) = &self.current else { return Ok(&[]) };
        let Some(window) = self.windows.get(*number) else { return Ok(&[]) };
        let from = to_usize(offset - window.start);
        let to = window.len.min(from.saturating_add(to_usize(len)));
        Ok(buffer.get(from..to).unwrap_or_default())
    }

    /// Fills `out` from `offset` on.
    pub(super) fn read(&mut self, file: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < out.len() {
            let left = to_u64(out.len() - done);
            let chunk = self.chunk(file, offset + to_u64(done), left)?;
            let len = chunk.len();
            if let Some(target) = out.get_mut(done..done + len) {
                target.copy_from_slice(chunk);
            }
            done += len;
        }
        Ok(())
    }

    fn has(&self, file: usize, offset: u64) -> bool {
        let window = self.current.as_ref().and_then(|(number, _)| self.windows.get(*number));
        window.is_some_and(|w| w.file == file && offset >= w.start && offset - w.start < to_u64(w.len))
    }

    /// Goes to the next window; what was announced comes in order, so that the wanted one is there sooner or later.
    fn advance(&mut self, file: usize, offset: u64) -> Result<()> {
        let next = self.current.as_ref().map_or(0, |(number, _)| number + 1);
        if let Some((_, buffer)) = self.current.take() {
            self.spare.push(buffer);
        }
        self.read_ahead();
        while !self.arrived.contains_key(&next) {
            let Some(arrived) = self.queue.recv() else {
                let path = self.files.get(file).map_or(std::path::Path::new(""), |file| file.cached.path());
                let expected = "a place that was announced, in ascending order";
                return Err(Error::invalid(format!("place in {}", path.display()), offset, expected));
            };
            self.arrived.insert(arrived.number, arrived);
        }
        if let Some(Arrived { number, buffer, result }) = self.arrived.remove(&next) {
            self.current = Some((number, buffer));
            result?;
        }
        Ok(())
    }

    fn read_ahead(&mut self) {
        while let Some(&window) = self.windows.get(self.submitted)
            && let Some(file) = self.files.get(window.file).map(Arc::clone)
            && let Some(mut buffer) = self.spare.pop()
        {
            let number = self.submitted;
            self.queue.submit(move || {
                let result = read_window(&file, window, &mut buffer);
                Arrived { number, buffer, result }
            });
            self.submitted += 1;
        }
    }
}

/// Whole sectors past the page cache, what is left at the end of the file through it.
fn read_window(file: &SourceFile, window: Window, buffer: &mut [u8]) -> Result<()> {
    let whole = window.len - window.len % to_usize(SECTOR_BYTES);
    let (front, rest) = buffer.split_at_mut(whole.min(buffer.len()));
    file.direct.read_at(front, window.start)?;
    let rest = rest.get_mut(..window.len - whole).unwrap_or_default();
    file.cached.read_at(rest, window.start + to_u64(whole))
}
