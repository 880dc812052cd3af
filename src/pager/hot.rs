//! The frames that are near, as plain memory: for those who measure.

use super::{Key, Pager};
use crate::error::Result;
use crate::format::directory::Directory;
use crate::format::elements::as_f32_mut;
use crate::layout::block_place;

impl Pager {
    /// Waits until nothing is on its way between disk and memory.
    pub(crate) fn quiesce(&mut self) -> Result<()> {
        self.wait_idle()
    }

    /// Every plane of a block that is near, in block order; scratch planes are left out. Whoever has the slices must
    /// leave every bit as it was: no frame becomes dirty by this.
    pub(crate) fn hot_planes(&mut self) -> Result<Vec<(Key, &mut [f32])>> {
        self.wait_idle()?;
        let Self { frames, directory, .. } = self;
        let near = frames.ready_mut().filter_map(|(key, buffer)| {
            let bytes = plane_bytes(directory, key)?;
            Some((key, as_f32_mut(buffer.get_mut(..bytes)?)))
        });
        let mut planes: Vec<_> = near.collect();
        planes.sort_unstable_by_key(|(key, _)| *key);
        Ok(planes)
    }
}

/// Bytes of a block's plane without padding; `None` for the scratch plane.
fn plane_bytes(directory: &Directory, key: Key) -> Option<usize> {
    let after = directory.extents.partition_point(|extent| extent.first_block <= key.block.0);
    let extent = directory.extents.get(after.checked_sub(1)?)?;
    let place = block_place(extent, key.block, key.plane).filter(|_| key.plane < extent.planes.len())?;
    Some(place.bytes)
}
