//! The frames that are near, as plain memory: for those who measure.

use super::wait::{Attempt, Stall, Waiter};
use super::{Key, Pager, State};
use crate::error::Result;
use crate::format::elements::as_f32_mut;
use crate::layout::block_elements;
use crate::units::to_usize;

/// A plane of a block in memory.
pub(crate) struct HotPlane<'a> {
    pub(crate) key: Key,
    pub(crate) elements: usize,
    /// Its bytes, whatever they mean.
    pub(crate) words: &'a mut [f32],
}

impl State {
    /// Elements of a block.
    fn elements(&self, key: Key) -> usize {
        let after = self.directory.extents.partition_point(|extent| extent.first_block <= key.block.0);
        let extent = after.checked_sub(1).and_then(|at| self.directory.extents.get(at));
        to_usize(extent.and_then(|extent| block_elements(extent, key.block)).unwrap_or(0))
    }
}

impl Pager {
    /// Waits until nothing is on its way between disk and memory.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        self.until(Waiter::Caller, |_, stuck| {
            Ok(if stuck { Attempt::Done(()) } else { Attempt::Wait(Stall::Write) })
        })
    }

    /// Shows `work` the bytes of every plane of every block that is near, as words of 32 bits, in block order; scratch planes
    /// are left out. It must leave every bit as it was: no frame becomes dirty by this.
    pub(crate) fn with_hot_planes<T>(&self, work: impl FnOnce(Vec<HotPlane<'_>>) -> T) -> Result<T> {
        self.wait_idle()?;
        let mut state = self.lock();
        let keys: Vec<_> = state.frames.keys().filter(|&key| !state.is_scratch(key)).collect();
        let sizes = keys.into_iter().map(|key| Ok((key, (state.place(key)?.bytes, state.elements(key)))));
        let sizes = sizes.collect::<Result<std::collections::HashMap<_, _>>>()?;
        let near = state.frames.ready_mut().filter_map(|(key, buffer)| {
            let &(bytes, elements) = sizes.get(&key)?;
            Some(HotPlane { key, elements, words: as_f32_mut(buffer.get_mut(..bytes / 4 * 4)?) })
        });
        let mut planes: Vec<_> = near.collect();
        planes.sort_unstable_by_key(|plane| plane.key);
        Ok(work(planes))
    }
}
