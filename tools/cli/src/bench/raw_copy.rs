//! The limit of a cold sweep: the same bytes of the same files, moved past the page cache by threads that do nothing
//! else.
//!
//! After a commit the bytes go from the committed home of every block to the other one, as the next step's do; no
//! generation names them there. While something is uncommitted, the other home may hold blocks that the step wrote
//! behind: then each piece is read there and written back as it was, as the step too reads and writes one home. Nothing
//! else may be on its way meanwhile (`ParamStore::wait_idle`): a piece written back over a newer block would destroy it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use paramstore::ParamStore;
use paramstore::inspect::BlockRun;

use super::scratch::Stop;
use crate::failure::Failure;
use crate::terminal;

/// Linux's flag for direct I/O: the generic value, and that of ARM.
const O_DIRECT: i32 =
    match (cfg!(target_os = "linux"), cfg!(any(target_arch = "aarch64", target_arch = "arm"))) {
        (true, false) => 0o40_000,
        (true, true) => 0o200_000,
        (false, _) => 0,
    };
/// Direct transfers begin and end at multiples of this.
const SECTOR_BYTES: u64 = 4096;
/// All buffers together.
pub(super) const BUFFER_BYTES: usize = 32 << 20;
const HUGE_PAGE_BYTES: usize = 2 << 20;
const QUEUE_DEPTHS: [usize; 3] = [2, 4, 8];
const PIECE_BYTES: [usize; 4] = [1 << 20, 2 << 20, 4 << 20, 8 << 20];
/// The search tries every setting this often, for at most this long, and believes the best time of each.
const TRIES: usize = 2;
const TRY_TIME: Duration = Duration::from_millis(250);

/// How many pieces are under way at once, and how large they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) queue_depth: usize,
    pub(super) piece_bytes: usize,
}

/// Where the copied bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// From the committed home into the other one: nothing was written since the last commit.
    OtherHome,
    /// Read from the home that is not committed, and written back there.
    InPlace,
}

/// Both homes of one segment.
struct Segment {
    homes: [File; 2],
    path: PathBuf,
}

/// A stretch of a segment's bytes whose blocks have the same committed home.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    segment: usize,
    committed: usize,
    bytes: Range<u64>,
}

/// A part of a run that is moved at once.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Piece {
    segment: usize,
    from: usize,
    to: usize,
    offset: u64,
    len: usize,
}

pub(super) struct RawCopy {
    segments: Vec<Segment>,
    runs: Vec<Run>,
    buffers: Buffers,
    setting: Setting,
    stop: Stop,
}

/// What a pass over some pieces did.
struct Moved {
    bytes: u64,
    seconds: f64,
}

impl RawCopy {
    /// Looks where every block stands, and finds the best setting. Everything is committed and nothing on its way.
    pub(super) fn new(store: &ParamStore, stop: &Stop) -> Result<Self, Failure> {
        let buffers = Buffers::new()?;
        let setting = Setting { queue_depth: 4, piece_bytes: 4 << 20 };
        let mut copy = Self { segments: Vec::new(), runs: Vec::new(), buffers, setting, stop: stop.clone() };
        copy.look(store)?;
        copy.search()?;
        Ok(copy)
    }

    pub(super) fn setting(&self) -> Setting {
        self.setting
    }

    /// Bytes that a copy reads; it writes as many.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes.end - run.bytes.start).sum()
    }

    /// Looks where every block stands now: after each commit.
    pub(super) fn look(&mut self, store: &ParamStore) -> Result<(), Failure> {
        let mut stretches: BTreeMap<(String, usize), Vec<Range<u64>>> = BTreeMap::new();
        for item in store.blocks() {
            let BlockRun::Written(block) = item? else { continue };
            let stem = block.file.rsplit_once('.').map_or(block.file.as_str(), |(stem, _)| stem);
            let stretch = stretches.entry((stem.to_owned(), usize::from(block.home & 1))).or_default();
            let end = block.offset + block.bytes.next_multiple_of(SECTOR_BYTES);
            match stretch.last_mut() {
                Some(last) if last.end == block.offset => last.end = end,
                _ => stretch.push(block.offset..end),
            }
        }
        self.runs.clear();
        for ((stem, committed), stretch) in stretches {
            let segment = self.segment(&store.path().join(stem))?;
            self.runs.extend(stretch.into_iter().map(|bytes| Run { segment, committed, bytes }));
        }
        Ok(())
    }

    /// The segment whose files are `stem.0` and `stem.1`, opened at its first use.
    fn segment(&mut self, stem: &Path) -> Result<usize, Failure> {
        if let Some(at) = self.segments.iter().position(|segment| segment.path == stem) {
            return Ok(at);
        }
        let home = |home: u8| open_direct(Path::new(&format!("{}.{home}", stem.display())));
        let homes = [home(0)?, home(1)?];
        if self.segments.is_empty() && homes.iter().any(|(_, is_direct)| !is_direct) {
            terminal::warn("this file system has no direct I/O: the raw copy goes through the page cache");
        }
        let homes = homes.map(|(file, _)| file);
        self.segments.push(Segment { homes, path: stem.to_owned() });
        Ok(self.segments.len() - 1)
    }

    /// Tries every setting on the next part of the files, in turns, and keeps the fastest.
    fn search(&mut self) -> Result<(), Failure> {
        let settings = settings();
        let mut rates = vec![0.0_f64; settings.len()];
        let mut position = 0;
        for _ in 0..TRIES {
            for (setting, rate) in settings.iter().zip(&mut rates) {
                let mut pieces = cut(&self.runs, Target::OtherHome, setting.piece_bytes);
                // Each try goes on where the last one ended: none finds what another has left in a cache.
                let first = pieces.iter().scan(0, |sum, piece| {
                    *sum += piece.len as u64;
                    Some(*sum)
                });
                let first = first.take_while(|&end| end <= position).count() % pieces.len().max(1);
                pieces.rotate_left(first);
                let moved = self.pass(&pieces, *setting, Some(Instant::now() + TRY_TIME))?;
                position = (position + moved.bytes) % self.bytes().max(1);
                #[expect(clippy::cast_precision_loss, reason = "a speed")]
                let speed = moved.bytes as f64 / moved.seconds.max(1e-9);
                *rate = rate.max(speed);
                self.sync()?;
            }
        }
        let best = settings.iter().zip(&rates).max_by(|a, b| a.1.total_cmp(b.1));
        self.setting = best.map_or(self.setting, |(setting, _)| *setting);
        Ok(())
    }

    /// Copies everything once, durably if `sync`, and returns the seconds that it took.
    pub(super) fn run(&mut self, target: Target, sync: bool) -> Result<f64, Failure> {
        let pieces = cut(&self.runs, target, self.setting.piece_bytes);
        let start = Instant::now();
        self.pass(&pieces, self.setting, None)?;
        if sync {
            self.sync()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    /// Makes everything durable that was written into any home.
    fn sync(&self) -> Result<(), Failure> {
        let written: BTreeSet<_> = self.runs.iter().map(|run| (run.segment, 1 - run.committed)).collect();
        for (segment, home) in written {
            let Some(segment) = self.segments.get(segment) else { continue };
            let Some(file) = segment.homes.get(home) else { continue };
            let what = || format!("make {}.{home} durable", segment.path.display());
            file.sync_data().map_err(|source| Failure::Transfer { what: what(), source })?;
        }
        Ok(())
    }

    /// Moves pieces until all are done or the deadline has passed.
    fn pass(
        &mut self,
        pieces: &[Piece],
        setting: Setting,
        deadline: Option<Instant>,
    ) -> Result<Moved, Failure> {
        let (segments, stop, next) = (&self.segments, &self.stop, AtomicUsize::new(0));
        let start = Instant::now();
        let work = |memory: &mut [u8]| -> Result<u64, Failure> {
            let mut bytes = 0;
            while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    break;
                }
                stop.check()?;
                bytes += move_piece(segments, piece, memory)?;
            }
            Ok(bytes)
        };
        let outcomes: Vec<_> = thread::scope(|scope| {
            let memory = self.buffers.get().chunks_exact_mut(setting.piece_bytes);
            let threads: Vec<_> =
                memory.take(setting.queue_depth).map(|memory| scope.spawn(|| work(memory))).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect()
        });
        let seconds = start.elapsed().as_secs_f64();
        Ok(Moved { bytes: outcomes.into_iter().sum::<Result<u64, _>>()?, seconds })
    }
}

fn move_piece(segments: &[Segment], piece: &Piece, memory: &mut [u8]) -> Result<u64, Failure> {
    let Some(segment) = segments.get(piece.segment) else { return Ok(0) };
    let (Some(from), Some(to)) = (segment.homes.get(piece.from), segment.homes.get(piece.to)) else {
        return Ok(0);
    };
    let memory = memory.get_mut(..piece.len).unwrap_or_default();
    let failed = |action: &str, home: usize| {
        let what = format!("{action} {}.{home} at byte {}", segment.path.display(), piece.offset);
        move |source| Failure::Transfer { what, source }
    };
    from.read_exact_at(memory, piece.offset).map_err(failed("read", piece.from))?;
    to.write_all_at(memory, piece.offset).map_err(failed("write", piece.to))?;
    Ok(memory.len() as u64)
}

/// Every setting whose buffers fit.
fn settings() -> Vec<Setting> {
    let pairs = QUEUE_DEPTHS.into_iter().flat_map(|depth| PIECE_BYTES.map(|bytes| (depth, bytes)));
    let settings = pairs.map(|(queue_depth, piece_bytes)| Setting { queue_depth, piece_bytes });
    settings.filter(|setting| setting.queue_depth * setting.piece_bytes <= BUFFER_BYTES).collect()
}

/// Cuts runs into pieces that begin at multiples of their size.
fn cut(runs: &[Run], target: Target, piece_bytes: usize) -> Vec<Piece> {
    let step = piece_bytes as u64;
    let mut pieces = Vec::new();
    for run in runs {
        let to = 1 - run.committed;
        let from = if target == Target::InPlace { to } else { run.committed };
        let mut offset = run.bytes.start;
        while offset < run.bytes.end {
            let end = (offset + 1).next_multiple_of(step).min(run.bytes.end);
            #[expect(clippy::cast_possible_truncation, reason = "at most one piece")]
            let len = (end - offset) as usize;
            pieces.push(Piece { segment: run.segment, from, to, offset, len });
            offset = end;
        }
    }
    pieces
}

/// Opens a file for reading and writing past the page cache, or through it where that cannot be had.
pub(super) fn open_direct(path: &Path) -> Result<(File, bool), Failure> {
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let opened = match open(O_DIRECT) {
        Ok(file) => Ok((file, O_DIRECT != 0)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(0).map(|file| (file, false)),
        Err(error) => Err(error),
    };
    opened.map_err(|source| Failure::Transfer { what: format!("open {}", path.display()), source })
}

/// Memory on huge pages, as the store's own, so that the disk gets large requests.
struct Buffers {
    map: MmapMut,
    start: usize,
}

impl Buffers {
    fn new() -> Result<Self, Failure> {
        let map = MmapMut::map_anon(BUFFER_BYTES + HUGE_PAGE_BYTES).map_err(|source| Failure::Transfer {
            what: format!("get {BUFFER_BYTES} bytes of memory for the raw copy"),
            source,
        })?;
        let start = map.as_ptr().addr().wrapping_neg() % HUGE_PAGE_BYTES;
        // A kernel without huge pages refuses the advice; the memory is as good.
        #[cfg(target_os = "linux")]
        let _advised = map.advise_range(memmap2::Advice::HugePage, start, BUFFER_BYTES);
        let mut buffers = Self { map, start };
        // Made present now, and not while something is timed.
        buffers.get().fill(1);
        Ok(buffers)
    }

    fn get(&mut self) -> &mut [u8] {
        self.map.get_mut(self.start..self.start + BUFFER_BYTES).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(committed: usize, bytes: Range<u64>) -> Run {
        Run { segment: 0, committed, bytes }
    }

    #[test]
    fn pieces_cover_every_byte_once_and_never_write_a_committed_home() {
        let runs = [run(0, 0..10_000_384), run(1, 12_582_912..20_971_520), run(0, 4096..8192)];
        for target in [Target::OtherHome, Target::InPlace] {
            for piece_bytes in PIECE_BYTES {
                let pieces = cut(&runs, target, piece_bytes);
                for run in &runs {
                    let mut at = run.bytes.start;
                    for piece in pieces
                        .iter()
                        .filter(|piece| piece.to == 1 - run.committed && run.bytes.contains(&piece.offset))
                    {
                        if piece.offset == at {
                            at += piece.len as u64;
                        }
                        let from = if target == Target::InPlace { piece.to } else { run.committed };
                        assert_eq!(piece.from, from);
                        assert!(piece.len > 0 && piece.len <= piece_bytes);
                    }
                    assert_eq!(at, run.bytes.end);
                }
                let bytes: u64 = pieces.iter().map(|piece| piece.len as u64).sum();
                assert_eq!(bytes, runs.iter().map(|run| run.bytes.end - run.bytes.start).sum::<u64>());
            }
        }
    }

    #[test]
    fn search_tries_all_settings_that_fit_the_buffers() {
        let settings = settings();
        assert_eq!(settings.len(), 11);
        assert!(settings.iter().all(|s| s.queue_depth * s.piece_bytes <= BUFFER_BYTES));
    }

    #[test]
    fn buffers_begin_at_a_huge_page() {
        let mut buffers = Buffers::new().unwrap();
        assert_eq!(buffers.get().len(), BUFFER_BYTES);
        assert_eq!(buffers.get().as_ptr().addr() % HUGE_PAGE_BYTES, 0);
    }
}
