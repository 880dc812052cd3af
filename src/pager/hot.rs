//! The frames that are near, as plain memory: for those who measure.

use super::wait::{Attempt, Stall, Waiter};
use super::{Key, Pager};
use crate::error::Result;
use crate::format::elements::as_f32_mut;

impl Pager {
    /// Waits until nothing is on its way between disk and memory.
    pub(crate) fn wait_idle(&self) -> Result<()> {
        self.until(Waiter::Caller, |_, stuck| {
            Ok(if stuck { Attempt::Done(()) } else { Attempt::Wait(Stall::Write) })
        })
    }

    /// Shows `work` every plane of every block that is near, in block order; scratch planes are left out. It must
    /// leave every bit as it was: no frame becomes dirty by this.
    pub(crate) fn with_hot_planes<T>(&self, work: impl FnOnce(Vec<(Key, &mut [f32])>) -> T) -> Result<T> {
        self.wait_idle()?;
        let mut state = self.lock();
        let keys: Vec<_> = state.frames.keys().filter(|&key| !state.is_scratch(key)).collect();
        let bytes = keys.into_iter().map(|key| Ok((key, state.place(key)?.bytes)));
        let bytes = bytes.collect::<Result<std::collections::HashMap<_, _>>>()?;
        let near = state.frames.ready_mut().filter_map(|(key, buffer)| {
            let plane = buffer.get_mut(..*bytes.get(&key)?)?;
            Some((key, as_f32_mut(plane)))
        });
        let mut planes: Vec<_> = near.collect();
        planes.sort_unstable_by_key(|(key, _)| *key);
        Ok(work(planes))
    }
}
