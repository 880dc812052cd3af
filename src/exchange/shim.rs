//! To be replaced by the methods of `ParamStore` itself.

use crate::error::Result;
use crate::format::directory::Dtype;
use crate::layout::pieces;
use crate::optim::TensorClock;
use crate::pager::{Key, Waiter};
use crate::param_store::ParamStore;
use crate::schema::TensorSpec;
use crate::units::{to_u64, to_usize};

impl ParamStore {
    pub(crate) fn write_bytes(&mut self, name: &str, start: u64, mut bytes: &[u8]) -> Result<()> {
        let tensor = self.tensor_index(name)?;
        let size = to_usize(self.tensor(name).and_then(|t| t.dtype().element_bytes()).unwrap_or(4));
        let range = start..start + to_u64(bytes.len() / size);
        let (directory, pager) = (self.directory(), self.pager());
        for piece in pieces(&directory, tensor, range) {
            let key = Key { block: piece.block, plane: 0 };
            let whole = piece.within == (0..pager.block_elements(&piece));
            let mut lease =
                if whole { pager.lease_blank(key)? } else { pager.lease(&[key], Waiter::Caller)? };
            let (now, later) = bytes.split_at((size * piece.within.len()).min(bytes.len()));
            let within = size * piece.within.start..size * piece.within.end;
            if let Some(target) = lease.buffers().first_mut().and_then(|buffer| buffer.get_mut(within)) {
                target.copy_from_slice(now);
            }
            bytes = later;
            lease.release(|_| true)?;
        }
        Ok(())
    }

    pub(crate) fn write_plane_range(
        &mut self,
        name: &str,
        plane: &str,
        start: u64,
        values: &[f32],
    ) -> Result<()> {
        let (tensor, range) = self.checked_range(name, start, values.len())?;
        let plane = self.plane_index(tensor, plane)?;
        self.write_plane(tensor, plane, range, values)
    }

    pub(crate) fn set_tensor_clock(&mut self, name: &str, clock: TensorClock) -> Result<()> {
        let tensor = self.tensor_index(name)?;
        let TensorClock { steps, mu_product } = clock;
        let entry = crate::format::page::TensorEntry { steps, mu_product };
        self.pager().lock().store_mut().set_tensor_entry(tensor, entry)
    }

    pub(crate) fn set_step(&mut self, step: u64) -> Result<()> {
        while self.step() < step {
            self.advance();
        }
        Ok(())
    }
}

impl TensorSpec {
    pub(crate) fn frozen(self) -> Self {
        self
    }

    pub(crate) fn stored_as(self, _: Dtype) -> Self {
        self
    }
}

impl Dtype {
    pub(crate) fn is_trainable(self) -> bool {
        true
    }

    pub(crate) fn element_bytes(self) -> Option<u64> {
        match self {
            Self::F32 => Some(4),
            Self::Bf16 | Self::F16 => Some(2),
            _ => None,
        }
    }
}
