//! Checks everything that a generation has in the log of rows.

use std::sync::Arc;
use std::time::Instant;

use super::log::{Log, Mark};
use crate::error::{Damage, Error, Result};
use crate::store::BlockStore;

/// How far a check of the log has come: batches before this are done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogPlace(Mark);

/// What a check of the log came to.
pub(crate) struct LogCheck {
    /// Where to go on; `None` at the end, or where damage hides what follows.
    pub(crate) next: Option<LogPlace>,
    pub(crate) bytes_read: u64,
    /// Damage, with the tensor that it is in where that is known.
    pub(crate) found: Vec<(Option<usize>, Damage)>,
    /// Whether damage hides what follows.
    pub(crate) is_cut_off: bool,
}

/// Reads and checks batches of the committed generation from a place on, until a moment has come.
pub(crate) fn check_log(
    store: &mut BlockStore,
    from: Option<LogPlace>,
    until: Instant,
) -> Result<Option<LogCheck>> {
    let Some(rows) = store.record().rows.clone() else { return Ok(None) };
    let mut check = LogCheck { next: None, bytes_read: 0, found: Vec::new(), is_cut_off: false };
    let tensors = store.directory().tensors.len();
    let opened = Log::open(store, &rows).and_then(|log| match log {
        Some(mut log) => log.check(tensors, from.map(|place| place.0), until, &mut check).map(Some),
        None => Ok(None),
    });
    match opened {
        Ok(next) => check.next = next.flatten().map(LogPlace),
        Err(Error::Damaged(damage)) => {
            check.found.push((None, *damage));
            check.is_cut_off = true;
        }
        Err(error) => return Err(error),
    }
    Ok(Some(check))
}

/// Shows each batch that the committed generation has in the log of rows, checked, by its offset in the log and its bytes.
///
/// # Errors
/// The first that is damaged, and those of `take`.
pub(crate) fn each_batch(
    store: &mut BlockStore,
    take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let Some(rows) = store.record().rows.clone() else { return Ok(()) };
    let directory = Arc::clone(store.directory());
    Log::open(store, &rows)?.map_or(Ok(()), |mut log| log.each_batch(&directory, take))
}
