//! A plane of a tensor in plain memory, in the form in which it is stored: numbers, codes and scales.

use std::borrow::Cow;

use super::model::first_difference;
use crate::error::Result;
use crate::format::directory::Dtype;
use crate::kernel::InstructionSet;
use crate::layout::pieces;
use crate::pager::{Key, Waiter};
use crate::param_store::ParamStore;
use crate::precision::{
    Book, Half, Lane, Rounding, dequantise, lane, quantise, round, round_compensated, widen,
};
use crate::units::to_usize;

/// What a plane holds, bit for bit.
#[derive(Clone)]
pub(super) enum Plane {
    F32(Vec<f32>),
    Half(Half, Vec<u16>),
    /// Codes, and a scale for each 256 of them.
    Q8(Book, Vec<u8>, Vec<f32>),
}

impl Plane {
    /// What a store holds now.
    pub(super) fn of(store: &ParamStore, tensor: &str, name: &str) -> Result<Self> {
        let info = store.tensor(tensor);
        let dtype = info.as_ref().and_then(|info| info.plane_dtype(name)).unwrap_or(Dtype::F32);
        if dtype != Dtype::F32 {
            return Self::stored(store, tensor, name);
        }
        let mut values = vec![0.0; to_usize(info.map_or(0, |info| info.elements()))];
        store.read_plane_into(tensor, name, &mut values)?;
        Ok(Self::F32(values))
    }

    /// The bits of a plane in few bits, from its blocks. What reads as the same floats can have another scale.
    fn stored(store: &ParamStore, tensor: &str, name: &str) -> Result<Self> {
        let tensor = store.tensor_index(tensor)?;
        let plane = store.plane_index(tensor, name)?;
        store.background().settle(tensor);
        let mut all: Option<Self> = None;
        for piece in pieces(&store.directory(), tensor, 0..store.elements(tensor)) {
            let mut lease = store.pager().lease(&[Key { block: piece.block, plane }], Waiter::Caller)?;
            if let Some(buffer) = lease.buffers().first_mut() {
                let elements = store.pager().block_elements(&piece);
                let lane = lane(store.pager().dtype(&piece, plane), buffer, elements);
                let part = Self::of_lane(&lane.part(piece.within.clone()));
                match &mut all {
                    None => all = Some(part),
                    Some(all) => all.append(part),
                }
            }
            lease.release(|_| false)?;
        }
        Ok(all.unwrap_or(Self::F32(Vec::new())))
    }

    fn of_lane(lane: &Lane<'_>) -> Self {
        match lane {
            Lane::F32(values) => Self::F32(values.to_vec()),
            // One plane by itself: what the other one has of a compensated lane is compared by itself.
            Lane::Half(kind, bits) | Lane::Compensated(kind, bits, _) => Self::Half(*kind, bits.to_vec()),
            Lane::Q8(book, codes, scales) => Self::Q8(*book, codes.to_vec(), scales.to_vec()),
        }
    }

    fn append(&mut self, next: Self) {
        match (self, next) {
            (Self::F32(all), Self::F32(next)) => all.extend(next),
            (Self::Half(_, all), Self::Half(_, next)) => all.extend(next),
            (Self::Q8(_, codes, scales), Self::Q8(_, more, of_more)) => {
                codes.extend(more);
                scales.extend(of_more);
            }
            _ => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Half(_, bits) => bits.len(),
            Self::Q8(_, codes, _) => codes.len(),
        }
    }

    /// The floats that it stands for.
    pub(super) fn values(&self) -> Cow<'_, [f32]> {
        let isa = InstructionSet::portable();
        let mut values = vec![0.0; self.len()];
        match self {
            Self::F32(values) => return Cow::Borrowed(values),
            Self::Half(kind, bits) => widen(isa, *kind, bits, &mut values),
            Self::Q8(book, codes, scales) => dequantise(isa, *book, codes, scales, &mut values),
        }
        Cow::Owned(values)
    }

    /// What an update sees.
    pub(super) fn lane(&mut self) -> Lane<'_> {
        match self {
            Self::F32(values) => Lane::F32(values),
            Self::Half(kind, bits) => Lane::Half(*kind, bits),
            Self::Q8(book, codes, scales) => Lane::Q8(*book, codes, scales),
        }
    }

    /// Some elements of an f32 plane; of another, none.
    pub(super) fn part(&mut self, start: usize, len: usize) -> Option<&mut [f32]> {
        if let Self::F32(values) = self { values.get_mut(start..start + len) } else { None }
    }

    /// Sets all of it, rounded to the nearest.
    pub(super) fn write(&mut self, values: &[f32]) {
        let isa = InstructionSet::portable();
        match self {
            Self::F32(all) => all.copy_from_slice(values),
            Self::Half(kind, bits) => round(isa, *kind, Rounding::Nearest, values, bits),
            Self::Q8(book, codes, scales) => quantise(isa, *book, values, codes, scales),
        }
    }

    /// Sets all of it, rounded to the nearest, and another plane to what that lost.
    pub(super) fn write_compensated(&mut self, lost: &mut Self, values: &[f32]) {
        if let (Self::Half(kind, bits), Self::Half(_, lost)) = (self, lost) {
            round_compensated(InstructionSet::portable(), *kind, values, bits, lost);
        }
    }

    /// Its values in 16 bits, rounded to the nearest.
    pub(super) fn rounded(&self, kind: Half) -> Self {
        let mut copy = Self::Half(kind, vec![0; self.len()]);
        copy.write(&self.values());
        copy
    }

    /// Its 16-bit floats as they are stored.
    pub(super) fn half_bits(&self) -> Option<&[u16]> {
        if let Self::Half(_, bits) = self { Some(bits) } else { None }
    }

    /// How a store's plane differs from this one, in words.
    pub(super) fn difference(&self, store: &ParamStore, tensor: &str, name: &str) -> Result<Option<String>> {
        let found = Self::of(store, tensor, name)?;
        if let Some(what) = self.other_bits(&found) {
            return Ok(Some(what));
        }
        if matches!(self, Self::F32(_)) {
            return Ok(None);
        }
        // Reading goes another way than leasing.
        let (mut read, expected) = (vec![0.0; self.len()], self.values());
        store.read_plane_into(tensor, name, &mut read)?;
        let at = first_difference(&read, &expected);
        Ok(at
            .map(|at| format!("element {at} is read as {:?}, expected {:?}", read.get(at), expected.get(at))))
    }

    fn other_bits(&self, found: &Self) -> Option<String> {
        fn first<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) -> Option<String> {
            if found.len() != expected.len() {
                return Some(format!("{} of {what}, expected {}", found.len(), expected.len()));
            }
            let at = found.iter().zip(expected).position(|(a, b)| a != b)?;
            Some(format!("{what} {at}: {:?}, expected {:?}", found.get(at), expected.get(at)))
        }
        let bits = |scales: &[f32]| scales.iter().map(|scale| scale.to_bits()).collect::<Vec<_>>();
        match (found, self) {
            (Self::F32(a), Self::F32(b)) => first_difference(a, b)
                .map(|at| format!("element {at}: {:?}, expected {:?}", a.get(at), b.get(at))),
            (Self::Half(kind, a), Self::Half(other, b)) if kind == other => first("element", a, b),
            (Self::Q8(book, a, of_a), Self::Q8(other, b, of_b)) if book == other => {
                first("code", a, b).or_else(|| first("the bits of scale", &bits(of_a), &bits(of_b)))
            }
            _ => Some("another type".to_owned()),
        }
    }
}
