//! The npz format: a zip archive of npy files, stored or deflated.
//!
//! Read by hand, since what is wanted of an archive is where its entries stand: the list at its end, and of each entry the
//! local header. Sizes are held against the file, entries must not share bytes, and nothing is unpacked but the values that
//! are wanted.

use std::sync::Arc;

use miniz_oxide::DataFormat;
use miniz_oxide::inflate::stream::{InflateState, inflate};

use super::npy::{self, Array};
use super::source::read_bytes;
use super::{ForeignTensor, Packed};
use crate::error::{Error, Result};
use crate::format::checksum::crc32;
use crate::storage::Segment;
use crate::units::{to_u64, to_usize};

/// Bytes of the record at the end, without its comment.
const END_BYTES: u64 = 22;
/// Bytes of a comment, at most.
const COMMENT_BYTES_MAX: u64 = 0xffff;
/// Bytes of the pointer to the record of 64 bits.
const LOCATOR_BYTES: u64 = 20;
/// Bytes of an entry of the list, without what varies.
const ENTRY_BYTES: usize = 46;
/// Bytes of a local header, without what varies.
const LOCAL_BYTES: u64 = 30;
/// The longest list that is read.
const LIST_BYTES_MAX: u64 = 64 << 20;
/// No deflated byte stands for more than this many (258 for two bits, rounded up).
const RATIO_MAX: u64 = 1040;

/// A little-endian number at a place, 0 behind the end.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let bytes = bytes.get(at..at.saturating_add(len)).unwrap_or_default();
    bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

struct Archive<'f> {
    file: &'f dyn Segment,
    len: u64,
}

/// An entry of the list.
struct Entry {
    name: String,
    method: u64,
    crc: u32,
    compressed: u64,
    bytes: u64,
    local: u64,
}

/// The arrays of an archive, named as their entries without `.npy`.
pub(super) fn read(file: &dyn Segment) -> Result<Vec<ForeignTensor>> {
    let archive = Archive { file, len: file.len_bytes()? };
    let (list_at, list_len, count) = archive.end()?;
    if list_len > LIST_BYTES_MAX || count > list_len / to_u64(ENTRY_BYTES) {
        let got = format!("{count} entries in {list_len} bytes");
        return Err(archive.wrong("list of entries", (list_at, list_len), got, "a list of at most 64 MiB"));
    }
    let list = read_bytes(file, list_at, list_len, "list of entries")?;
    let mut rest = list.as_slice();
    let mut tensors = Vec::new();
    for _ in 0..count {
        let entry = archive.entry(&mut rest, list_at + list_len)?;
        tensors.push(archive.tensor(entry, list_at)?);
    }
    let mut names: Vec<_> = tensors.iter().map(|tensor| &tensor.name).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair.first() == pair.last()) {
        let got = format!("{pair:?}");
        return Err(archive.wrong("list of entries", (list_at, list_len), got, "distinct names"));
    }
    Ok(tensors)
}

impl Archive<'_> {
    fn wrong(&self, what: &str, range: (u64, u64), got: String, expected: &str) -> Error {
        Error::foreign(self.file.path(), format!("{what} of a zip archive"), range, got, expected)
    }

    /// Where the list of entries stands, its length, and how many entries it has.
    fn end(&self) -> Result<(u64, u64, u64)> {
        let tail_len = self.len.min(END_BYTES + COMMENT_BYTES_MAX);
        let tail_at = self.len - tail_len;
        let tail = read_bytes(self.file, tail_at, tail_len, "end of a zip archive")?;
        let is_end = |at: &usize| {
            let comment = to_usize(number(&tail, at + 20, 2));
            tail.get(*at..).is_some_and(|rest| rest.starts_with(b"PK\x05\x06"))
                && at + to_usize(END_BYTES) + comment == tail.len()
        };
        let Some(at) = (0..tail.len().saturating_sub(to_usize(END_BYTES) - 1)).rev().find(is_end) else {
            let got = "no record of the end".to_owned();
            return Err(self.wrong("end", (tail_at, tail_len), got, "an archive that is all there"));
        };
        let end = tail.get(at..).unwrap_or_default();
        let (mut count, mut len, mut list) = (number(end, 10, 2), number(end, 12, 4), number(end, 16, 4));
        let end_at = tail_at + to_u64(at);
        let mut limit = end_at;
        if count == 0xffff || len == 0xffff_ffff || list == 0xffff_ffff {
            let before = end_at.checked_sub(LOCATOR_BYTES);
            let locator = match before {
                Some(before) => read_bytes(self.file, before, LOCATOR_BYTES, "end of a zip archive")?,
                None => Vec::new(),
            };
            let wide_at = number(&locator, 8, 8);
            let wide = read_bytes(self.file, wide_at, 56, "end of a zip archive")?;
            if !locator.starts_with(b"PK\x06\x07") || !wide.starts_with(b"PK\x06\x06") {
                let got = "no record of 64 bits".to_owned();
                return Err(self.wrong("end", (end_at, END_BYTES), got, "one, as sizes say"));
            }
            (count, len, list) = (number(&wide, 32, 8), number(&wide, 40, 8), number(&wide, 48, 8));
            limit = wide_at;
        }
        if list.checked_add(len).is_none_or(|end| end > limit) {
            let got = format!("a list of {len} bytes at byte {list}");
            return Err(self.wrong("end", (end_at, END_BYTES), got, "one in front of it"));
        }
        Ok((list, len, count))
    }

    /// Takes an entry from the front of the list, which ends at a byte of the file.
    fn entry(&self, rest: &mut &[u8], list_end: u64) -> Result<Entry> {
        let at = list_end - to_u64(rest.len());
        let wrong =
            |got: String, expected: &str| self.wrong("entry", (at, to_u64(ENTRY_BYTES)), got, expected);
        let lens = [28, 30, 32].map(|at| to_usize(number(rest, at, 2)));
        let whole = ENTRY_BYTES + lens.iter().sum::<usize>();
        let Some((entry, later)) = rest.split_at_checked(whole).filter(|_| rest.starts_with(b"PK\x01\x02"))
        else {
            return Err(wrong("something else".to_owned(), "an entry of the list"));
        };
        *rest = later;
        let name = entry.get(ENTRY_BYTES..ENTRY_BYTES + lens[0]).unwrap_or_default();
        let name = std::str::from_utf8(name).ok().and_then(|name| name.strip_suffix(".npy"));
        let Some(name) = name else {
            return Err(wrong("an entry that is no npy file".to_owned(), "names in UTF-8 that end in .npy"));
        };
        if number(entry, 8, 2) & 1 != 0 {
            return Err(wrong(format!("{name:?} encrypted"), "entries that are not"));
        }
        let mut wide = entry.get(ENTRY_BYTES + lens[0]..ENTRY_BYTES + lens[0] + lens[1]).unwrap_or_default();
        // Fields of 64 bits stand in an extra field of their own, those that are needed and in this order.
        while number(wide, 0, 2) != 1 && wide.len() >= 4 {
            wide = wide.get(4 + to_usize(number(wide, 2, 2))..).unwrap_or_default();
        }
        let mut wide = wide.get(4..).unwrap_or_default();
        let mut field = |at: usize| match number(entry, at, 4) {
            0xffff_ffff => {
                let value = number(wide, 0, 8);
                wide = wide.get(8..).unwrap_or_default();
                value
            }
            value => value,
        };
        let (bytes, compressed, local) = (field(24), field(20), field(42));
        let crc = u32::try_from(number(entry, 16, 4)).unwrap_or(0);
        Ok(Entry { name: name.to_owned(), method: number(entry, 10, 2), crc, compressed, bytes, local })
    }

    /// The array of an entry. All entries stand in front of the list.
    fn tensor(&self, entry: Entry, list_at: u64) -> Result<ForeignTensor> {
        let Entry { name, method, crc, compressed, bytes, local } = entry;
        let range = (local, compressed);
        let wrong =
            |got: String, expected: &str| self.wrong(&format!("entry {name:?}"), range, got, expected);
        let header = read_bytes(self.file, local, LOCAL_BYTES, "local header of a zip archive")?;
        let offset = local + LOCAL_BYTES + number(&header, 26, 2) + number(&header, 28, 2);
        let is_inside = offset.checked_add(compressed).is_some_and(|end| end <= list_at);
        if !header.starts_with(b"PK\x03\x04") || !is_inside {
            let got = format!("{compressed} bytes at byte {offset}");
            return Err(wrong(got, "a local header and bytes in front of the list"));
        }
        let compressed = match method {
            0 if compressed == bytes => None,
            8 if bytes / RATIO_MAX <= compressed => Some(compressed),
            0 | 8 => {
                let got = format!("{compressed} bytes for {bytes}");
                return Err(wrong(got, "a size that its compression can have"));
            }
            _ => return Err(wrong(format!("method {method}"), "stored or deflated entries")),
        };
        let want = bytes.min(npy::FRONT_BYTES_MAX);
        let front = match compressed {
            None => read_bytes(self.file, offset, want, "entry of a zip archive")?,
            Some(compressed) => self.unpacked(&name, (offset, compressed), want)?,
        };
        let Array { dtype, shape, start, bytes } = npy::array(self.file, offset, &front, bytes)?;
        let header_crc = crc32(front.get(..to_usize(start)).unwrap_or_default());
        let packed = Some(Packed { compressed, header: start, header_crc, crc });
        let offset = if compressed.is_some() { offset } else { offset + start };
        let path = Arc::from(self.file.path());
        Ok(ForeignTensor { name, dtype, shape, path, offset, bytes, file: 0, packed })
    }

    /// The first bytes of a deflated entry.
    fn unpacked(&self, name: &str, (offset, compressed): (u64, u64), len: u64) -> Result<Vec<u8>> {
        // Blocks that are stored add 5 bytes to each 64 KiB; a code has at most 15 bits for a byte.
        let input = compressed.min(2 * len + 4096);
        let input = read_bytes(self.file, offset, input, "entry of a zip archive")?;
        let mut out = vec![0; to_usize(len)];
        let mut state = InflateState::new_boxed(DataFormat::Raw);
        let done = unpack(&mut state, &input, &mut out);
        match done {
            Some((_, written)) if written == out.len() => Ok(out),
            _ => {
                let (what, range) = (format!("entry {name:?}"), (offset, compressed));
                Err(self.wrong(&what, range, "bytes that do not unpack".to_owned(), "a deflated npy file"))
            }
        }
    }
}

/// Unpacks as far as input or output reach: bytes taken and bytes made; `None` for what is not deflated.
pub(super) fn unpack(state: &mut InflateState, input: &[u8], out: &mut [u8]) -> Option<(usize, usize)> {
    let (mut taken, mut made) = (0, 0);
    while made < out.len() {
        let from = input.get(taken..).unwrap_or_default();
        let to = out.get_mut(made..).unwrap_or_default();
        let result = inflate(state, from, to, miniz_oxide::MZFlush::None);
        taken += result.bytes_consumed;
        made += result.bytes_written;
        match result.status {
            Ok(_) if result.bytes_consumed + result.bytes_written > 0 => {}
            Ok(_) | Err(miniz_oxide::MZError::Buf) => break,
            Err(_) => return None,
        }
    }
    Some((taken, made))
}
