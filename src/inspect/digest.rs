//! A hash of what a store means, whatever its blocks, homes and generations.

use std::fmt;
use std::ops::Range;

use crate::error::Result;
use crate::pager::Run;
use crate::param_store::{ParamStore, TensorInfo};
use crate::units::{to_u64, to_usize};

/// What the first bytes of the hash say it is, so that a later definition gives other digests.
const DOMAIN: &[u8] = b"paramstore digest 1\n";
/// Bytes of values that are hashed as one chunk. Stretches of one value need not be hashed again and again.
const CHUNK_BYTES: usize = 1 << 20;
/// Hashes of equal chunks that are put together before they are hashed themselves.
const REPEATS: usize = 256;

/// A hash of the logical content of a store: 256 bits of BLAKE3.
///
/// It covers, for every tensor, name, dtype, shape and clock (updates made, NAdam's product of momenta) and the values
/// of every plane in element order, and the store's step. It does not depend on homes, block size, generations, how
/// tensors are packed or in which order they stand, budgets, settings of groups, or the user record. A block that was
/// never written counts with its initial values; scratch planes do not count. Rows that catch up count with the values that are read,
/// which do depend on the settings of their group; when rows were last used, and how often ids were seen, does not count. Values of planes in few bits count as the f32
/// that they stand for.
///
/// The hash of a plane is the BLAKE3 hash of the BLAKE3 hashes of its consecutive chunks of 1 MiB. That of a tensor is
/// over its description and, for each plane, the plane's name and hash. The total is over the step and, sorted by
/// name, the hashes of the tensors. Never-written stretches of one value cost next to nothing; random initial values
/// have to be computed to be hashed.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Digest {
    /// The hash of everything.
    pub bytes: [u8; 32],
    /// The hash of each tensor, in the schema's order.
    pub tensors: Vec<TensorDigest>,
}

/// The hash of one tensor: of its name, dtype, shape, clock and planes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorDigest {
    /// The tensor.
    pub name: String,
    /// The hash.
    pub bytes: [u8; 32],
}

fn hex(bytes: &[u8; 32], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for Digest {
    /// Writes 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.bytes, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl fmt::Display for TensorDigest {
    /// Writes 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.bytes, f)
    }
}

impl fmt::Debug for TensorDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TensorDigest({:?}, {self})", self.name)
    }
}

/// Elements between two calls of a progress function.
const PROGRESS_ELEMENTS: u64 = 1 << 26;

impl ParamStore {
    /// Hashes the logical content, with every update made so far, committed or not. Reads every written block, a few
    /// at a time, under the memory budget. See [`Digest`] for what counts.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let before = store.digest()?;
    /// store.commit(b"")?;
    /// assert_eq!(store.digest()?, before); // generations do not count
    /// store.write("w", &[1.0; 6])?;
    /// assert_ne!(store.digest()?.bytes, before.bytes); // values do
    /// println!("{}", store.digest()?);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// Disk errors and damage.
    pub fn digest(&self) -> Result<Digest> {
        self.digest_with(|_| {})
    }

    /// As [`digest`](Self::digest), and tells `progress` again and again how many bytes of values have been hashed.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let mut hashed = 0;
    /// let digest = store.digest_with(|bytes| hashed = bytes)?;
    /// assert_eq!(hashed, 2 * 6 * 4); // parameters and momentum
    /// assert_eq!(digest.tensors[0].name, "w");
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`digest`](Self::digest).
    pub fn digest_with(&self, mut progress: impl FnMut(u64)) -> Result<Digest> {
        let mut done = 0;
        let mut tensors = Vec::new();
        for (index, info) in self.tensors().enumerate() {
            tensors.push(self.tensor_digest(index, &info, &mut done, &mut progress)?);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(&self.step().to_le_bytes());
        hasher.update(&to_u64(tensors.len()).to_le_bytes());
        let mut sorted: Vec<_> = tensors.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        for tensor in sorted {
            hasher.update(&tensor.bytes);
        }
        Ok(Digest { bytes: *hasher.finalize().as_bytes(), tensors })
    }

    fn tensor_digest(
        &self,
        index: usize,
        info: &TensorInfo<'_>,
        done: &mut u64,
        progress: &mut impl FnMut(u64),
    ) -> Result<TensorDigest> {
        self.background().settle(index);
        let mut hasher = blake3::Hasher::new();
        let clock = self.pager().lock().store_mut().tensor_entry(index)?;
        text(&mut hasher, info.name());
        text(&mut hasher, info.dtype().name());
        hasher.update(&to_u64(info.shape().len()).to_le_bytes());
        for dim in info.shape() {
            hasher.update(&dim.to_le_bytes());
        }
        hasher.update(&clock.steps.to_le_bytes());
        hasher.update(&clock.mu_product.to_bits().to_le_bytes());
        for (plane, name) in info.planes().enumerate() {
            text(&mut hasher, name);
            let mut chunks = Chunks::new();
            let (mut start, elements) = (0, self.plane_elements(index, plane));
            while start < elements {
                let end = elements.min(start + PROGRESS_ELEMENTS);
                let end = self.digest_part(index, plane, start..end, |run| *done += chunks.take(run))?;
                progress(*done);
                start = end;
            }
            hasher.update(chunks.finish().as_bytes());
        }
        Ok(TensorDigest { name: info.name().to_owned(), bytes: *hasher.finalize().as_bytes() })
    }
}

impl ParamStore {
    /// Shows a range of a tensor's elements, of a tensor of rows whole rows, and returns where it ends.
    fn digest_part(
        &self,
        tensor: usize,
        plane: usize,
        range: Range<u64>,
        mut take: impl FnMut(&Run<'_>),
    ) -> Result<u64> {
        let Some((_, layout)) = self.table_of(tensor) else {
            self.pager().for_each_run(tensor, plane, range.clone(), |run| take(&run))?;
            return Ok(range.end);
        };
        let width = to_u64(layout.within(plane).len()).max(1);
        let rows = range.start / width..range.end.div_ceil(width);
        self.for_each_run_of_rows(tensor, plane, rows.clone(), take)?;
        Ok(rows.end * width)
    }
}

fn text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&to_u64(text.len()).to_le_bytes());
    hasher.update(text.as_bytes());
}

/// The hash of a plane, from its values in order.
struct Chunks {
    plane: blake3::Hasher,
    chunk: blake3::Hasher,
    /// Bytes that the chunk has.
    filled: usize,
    /// The last value that filled whole chunks: its bits, and the hash of such a chunk many times over.
    constant: Option<(u32, Vec<u8>)>,
}

impl Chunks {
    fn new() -> Self {
        Self { plane: blake3::Hasher::new(), chunk: blake3::Hasher::new(), filled: 0, constant: None }
    }

    /// Takes the next values and returns their length in bytes.
    fn take(&mut self, run: &Run<'_>) -> u64 {
        match *run {
            Run::Bytes(bytes) => {
                self.bytes(bytes);
                to_u64(bytes.len())
            }
            Run::Constant { value, elements } => {
                self.constant(value, elements);
                4 * elements
            }
        }
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.filled));
            self.chunk.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == CHUNK_BYTES {
                self.end_chunk();
            }
        }
    }

    fn end_chunk(&mut self) {
        self.plane.update(self.chunk.finalize().as_bytes());
        self.chunk.reset();
        self.filled = 0;
    }

    fn constant(&mut self, value: f32, elements: u64) {
        let mut left = elements.saturating_mul(4);
        let part: Vec<u8> = value.to_le_bytes().repeat(CHUNK_BYTES / 4 / 64);
        while left > 0 {
            if self.filled == 0 && left >= to_u64(CHUNK_BYTES) {
                let whole = left / to_u64(CHUNK_BYTES);
                self.repeat(value, whole, &part);
                left -= whole * to_u64(CHUNK_BYTES);
            } else {
                let now = to_usize(left).min(part.len()).min(CHUNK_BYTES - self.filled);
                self.bytes(part.get(..now).unwrap_or_default());
                left -= to_u64(now);
            }
        }
    }

    /// Takes whole chunks of one value.
    fn repeat(&mut self, value: f32, chunks: u64, part: &[u8]) {
        let bits = value.to_bits();
        if self.constant.as_ref().is_none_or(|(known, _)| *known != bits) {
            let mut chunk = blake3::Hasher::new();
            for _ in 0..CHUNK_BYTES / part.len() {
                chunk.update(part);
            }
            self.constant = Some((bits, chunk.finalize().as_bytes().repeat(REPEATS)));
        }
        let hashes = self.constant.as_ref().map_or(&[][..], |(_, hashes)| hashes);
        let mut left = chunks;
        while left > 0 {
            let now = to_usize(left).min(REPEATS);
            self.plane.update(hashes.get(..32 * now).unwrap_or_default());
            left -= to_u64(now);
        }
    }

    fn finish(mut self) -> blake3::Hash {
        if self.filled > 0 {
            self.end_chunk();
        }
        self.plane.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_runs(runs: &[Run<'_>]) -> blake3::Hash {
        let mut chunks = Chunks::new();
        for run in runs {
            chunks.take(run);
        }
        chunks.finish()
    }

    #[test]
    fn stretches_of_one_value_hash_as_their_bytes() {
        for (value, elements) in
            [(0.0, 5), (-1.5, (CHUNK_BYTES / 4) + 3), (f32::NAN, CHUNK_BYTES), (0.25, 700 * CHUNK_BYTES / 4)]
        {
            let bytes = value.to_le_bytes().repeat(elements);
            let by_bytes = of_runs(&[Run::Bytes(&bytes)]);
            let whole = [Run::Constant { value, elements: to_u64(elements) }];
            assert_eq!(of_runs(&whole), by_bytes, "{value}, {elements}");
            let halves = [
                Run::Constant { value, elements: to_u64(elements / 3) },
                Run::Bytes(&bytes[4 * (elements / 3)..4 * (elements / 2)]),
                Run::Constant { value, elements: to_u64(elements - elements / 2) },
            ];
            assert_eq!(of_runs(&halves), by_bytes, "{value}, {elements} in parts");
        }
    }

    #[test]
    fn one_value_after_another_does_not_hash_as_the_first() {
        let n = to_u64(CHUNK_BYTES / 4);
        let run = |value| Run::Constant { value, elements: n };
        assert_ne!(of_runs(&[run(1.0), run(2.0)]), of_runs(&[run(1.0), run(1.0)]));
        assert_ne!(of_runs(&[run(0.0)]), of_runs(&[run(-0.0)]));
    }
}
