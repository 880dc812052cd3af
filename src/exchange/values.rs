//! Elements on their way from a file: as bytes, and as f32.

use std::collections::VecDeque;

use super::reader::Reader;
use super::source::{Sources, read_bytes};
use super::stream::Stream;
use super::{ForeignDtype, ForeignTensor, not_storable};
use crate::error::{Error, Result};
use crate::format::directory::Dtype;
use crate::format::elements::{as_f32, as_f64, as_u16};
use crate::kernel::InstructionSet;
use crate::precision::{Half, widen};
use crate::storage::Buffer;
use crate::units::{to_u64, to_usize};

/// Bytes of the widest element.
const SIZE_MAX: u64 = 8;

/// Memory for some elements of any type.
pub(super) struct Piece {
    memory: Buffer,
    floats: Vec<f32>,
    elements: usize,
}

impl Piece {
    /// Memory for so many elements, at least one, if it is within the budget.
    pub(super) fn new(elements: u64, budget: u64) -> Result<Self> {
        let needed = elements.saturating_mul(SIZE_MAX + 4);
        if needed > budget {
            let what = format!("an import into blocks of {elements} elements, for pieces of values,");
            return Err(Error::Budget { what, needed: needed.saturating_mul(8), budget: budget * 8 });
        }
        let elements = to_usize(elements.max(1));
        let memory = Buffer::new(elements * to_usize(SIZE_MAX))?;
        Ok(Self { memory, floats: Vec::with_capacity(elements), elements })
    }
}

/// Files that are read at the same time.
const FILES_MAX: usize = 4;

/// The values of tensors, piece by piece: those of one file one after the other, those of several files in turn.
pub(super) struct Flow<'s> {
    /// The tensors of each file, with the numbers that the caller knows them by.
    files: VecDeque<VecDeque<(usize, &'s ForeignTensor)>>,
    sources: &'s Sources,
    reader_bytes: u64,
    piece: Piece,
}

impl<'s> Flow<'s> {
    /// The tensors at these places of the sources, ascending; `reader_bytes` are for what is read ahead.
    pub(super) fn new(
        sources: &'s Sources,
        places: impl Iterator<Item = usize>,
        reader_bytes: u64,
        piece: Piece,
    ) -> Self {
        let mut files = VecDeque::<VecDeque<(usize, &ForeignTensor)>>::new();
        for (number, at) in places.enumerate() {
            let Some(tensor) = sources.tensors.get(at) else { continue };
            match files.back_mut().filter(|of| of.back().is_some_and(|last| last.1.file == tensor.file)) {
                Some(of_file) => of_file.push_back((number, tensor)),
                None => files.push_back([(number, tensor)].into()),
            }
        }
        Self { files, sources, reader_bytes, piece }
    }

    /// Hands on all elements: the number of a tensor among the places, the number of the first element, and values. An archive's
    /// checksum is compared behind the last one of a tensor.
    pub(super) fn run(mut self, mut take: impl FnMut(usize, u64, Values<'_>) -> Result<()>) -> Result<()> {
        let at_once = self.files.len().clamp(1, FILES_MAX);
        let bytes = self.reader_bytes / to_u64(at_once);
        let mut lanes = VecDeque::new();
        loop {
            while lanes.len() < at_once
                && let Some(tensors) = self.files.pop_front()
            {
                lanes.push_back(Lane::new(self.sources, tensors, bytes)?);
            }
            let Some(mut lane) = lanes.pop_front() else { return Ok(()) };
            if lane.step(&mut self.piece, &mut take)? {
                lanes.push_back(lane);
            }
        }
    }
}

/// A file that is being read.
struct Lane<'s> {
    reader: Reader,
    tensors: VecDeque<(usize, &'s ForeignTensor)>,
    /// The first tensor, once it is begun, and its next element.
    stream: Option<Stream<'s>>,
    from: u64,
}

impl<'s> Lane<'s> {
    fn new(
        sources: &Sources,
        tensors: VecDeque<(usize, &'s ForeignTensor)>,
        reader_bytes: u64,
    ) -> Result<Self> {
        let ranges: Vec<_> = tensors.iter().map(|(_, t)| (t.file, t.offset, t.bytes_there())).collect();
        Ok(Self { reader: Reader::new(sources, &ranges, reader_bytes)?, tensors, stream: None, from: 0 })
    }

    /// Hands on the next piece. False if it was the last one.
    fn step(
        &mut self,
        piece: &mut Piece,
        take: &mut impl FnMut(usize, u64, Values<'_>) -> Result<()>,
    ) -> Result<bool> {
        let Some(&(number, tensor)) = self.tensors.front() else { return Ok(false) };
        let size = tensor.dtype.bytes().ok_or_else(|| not_storable(tensor))?;
        let stream = match &mut self.stream {
            Some(begun) => begun,
            None => self.stream.insert(Stream::new(tensor, &mut self.reader)?),
        };
        let len = to_u64(piece.elements).min(tensor.elements() - self.from);
        if len > 0 {
            let bytes = piece.memory.get_mut(..to_usize(len * size)).unwrap_or_default();
            stream.read(&mut self.reader, bytes)?;
            take(number, self.from, Values { dtype: &tensor.dtype, bytes, floats: &mut piece.floats })?;
            self.from += len;
        }
        if self.from == tensor.elements() {
            stream.finish()?;
            (self.stream, self.from) = (None, 0);
            self.tensors.pop_front();
        }
        Ok(!self.tensors.is_empty())
    }
}

/// Some elements of a tensor.
pub(super) struct Values<'p> {
    pub(super) dtype: &'p ForeignDtype,
    /// As they stand in the file.
    pub(super) bytes: &'p [u8],
    floats: &'p mut Vec<f32>,
}

impl Values<'_> {
    /// As f32.
    pub(super) fn floats(&mut self) -> Result<&[f32]> {
        let size = to_usize(self.dtype.bytes().unwrap_or(1));
        self.floats.resize(self.bytes.len() / size, 0.0);
        to_f32(self.dtype, self.bytes, self.floats)?;
        Ok(self.floats)
    }
}

/// Floats of any type as f32: exact, but for f64, which is rounded to the nearest.
pub(super) fn to_f32(dtype: &ForeignDtype, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let isa = InstructionSet::detect();
    match dtype {
        ForeignDtype::Plain(Dtype::F32) => out.copy_from_slice(as_f32(bytes)),
        ForeignDtype::Plain(Dtype::Bf16) => widen(isa, Half::Bf16, as_u16(bytes), out),
        ForeignDtype::Plain(Dtype::F16) => widen(isa, Half::F16, as_u16(bytes), out),
        ForeignDtype::Plain(Dtype::F64) => {
            for (out, &value) in out.iter_mut().zip(as_f64(bytes)) {
                #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
                let value = value as f32;
                *out = value;
            }
        }
        other => return Err(Error::invalid("elements as floats", other.name(), "f64, f32, bf16 or f16")),
    }
    Ok(())
}

/// The bytes of a tensor of one element.
fn scalar(sources: &Sources, tensor: &ForeignTensor) -> Result<Vec<u8>> {
    if tensor.elements() != 1 || tensor.dtype.bytes().is_none() {
        let got = format!("shape {:?}", tensor.shape);
        return Err(Error::invalid(format!("tensor {:?}", tensor.name), got, "one element"));
    }
    if tensor.packed.is_none()
        && let Some(file) = sources.files.get(tensor.file)
    {
        return read_bytes(&*file.cached, tensor.offset, tensor.bytes, "scalar");
    }
    let mut reader = Reader::new(sources, &[(tensor.file, tensor.offset, tensor.bytes_there())], 0)?;
    let mut bytes = vec![0; to_usize(tensor.bytes)];
    let mut stream = Stream::new(tensor, &mut reader)?;
    stream.read(&mut reader, &mut bytes)?;
    stream.finish()?;
    Ok(bytes)
}

/// A tensor of one element that counts something; PyTorch keeps such counts as f32.
pub(super) fn scalar_count(sources: &Sources, tensor: &ForeignTensor) -> Result<u64> {
    let bytes = scalar(sources, tensor)?;
    let expected = "a whole number of at least 0";
    let wrong =
        |got: String| Err(Error::invalid(format!("tensor {:?}", tensor.name), got, expected.to_owned()));
    let mut wide = [0; 8];
    for (wide, byte) in wide.iter_mut().zip(&bytes) {
        *wide = *byte;
    }
    let unsigned = u64::from_le_bytes(wide);
    let bits = 8 * to_u64(bytes.len());
    match &tensor.dtype {
        ForeignDtype::Plain(Dtype::U64 | Dtype::U32 | Dtype::U16 | Dtype::U8) => Ok(unsigned),
        ForeignDtype::Plain(Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8) => {
            if unsigned >> (bits - 1) == 0 { Ok(unsigned) } else { wrong("a negative number".to_owned()) }
        }
        ForeignDtype::Plain(Dtype::F64) => {
            whole(f64::from_bits(unsigned)).map_or_else(|x| wrong(x.to_string()), Ok)
        }
        _ => {
            let value = f64::from(scalar_float(sources, tensor)?);
            whole(value).map_or_else(|x| wrong(x.to_string()), Ok)
        }
    }
}

/// A float that is a count, as one.
fn whole(value: f64) -> std::result::Result<u64, f64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: below 2^53")]
    let count = value as u64;
    if value.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&value) {
        Ok(count)
    } else {
        Err(value)
    }
}

/// A tensor of one element that is a float.
pub(super) fn scalar_float(sources: &Sources, tensor: &ForeignTensor) -> Result<f32> {
    let bytes = scalar(sources, tensor)?;
    let mut memory = Buffer::new(to_usize(SIZE_MAX))?;
    let mut value = [0.0];
    if let Some(memory) = memory.get_mut(..bytes.len()) {
        memory.copy_from_slice(&bytes);
        to_f32(&tensor.dtype, memory, &mut value)?;
    }
    Ok(value[0])
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_in_turn_each_in_order_and_at_most_four_at_a_time() {
        let keep = tempfile::tempdir().unwrap();
        let mut sources = Sources::default();
        for file in 0_u8..6 {
            let elements = 100_usize;
            let json = format!(
                r#"{{"t{file}":{{"dtype":"U8","shape":[{elements}],"data_offsets":[0,{elements}]}}}}"#
            );
            let mut bytes = to_u64(json.len()).to_le_bytes().to_vec();
            bytes.extend_from_slice(json.as_bytes());
            bytes.resize(bytes.len() + elements, file);
            let path = keep.path().join(format!("{file}.safetensors"));
            std::fs::write(&path, bytes).unwrap();
            sources.add(&path).unwrap();
        }
        let flow = Flow::new(&sources, 0..6, 1 << 20, Piece::new(40, 1 << 20).unwrap());
        let mut order = Vec::new();
        flow.run(|number, from, values| {
            assert!(values.bytes.iter().all(|&byte| usize::from(byte) == number));
            order.push((number, from));
            Ok(())
        })
        .unwrap();
        let mut expected: Vec<_> =
            [0, 40, 80].into_iter().flat_map(|at| (0..4).map(move |n| (n, at))).collect();
        // A file takes the place of one that has ended.
        expected.extend([0, 40, 80].into_iter().flat_map(|at| (4..6).map(move |n| (n, at))));
        let ascending =
            |number| order.iter().filter(|got| got.0 == number).map(|got| got.1).collect::<Vec<_>>();
        assert!((0..6).all(|number| ascending(number) == [0, 40, 80]), "{order:?}");
        assert_eq!(order[..8], expected[..8], "{order:?}");
        assert_eq!(order.len(), expected.len());
    }
}
