//! What stands where a run keeps its store.

use std::path::Path;

use anyhow::{Context, Result};
use paramstore::{Error, Options, ParamStore};

/// What a directory holds.
#[derive(Debug)]
pub enum Held {
    /// No store, or the remains of a creation that was interrupted.
    Nothing,
    /// A store, with the user record of its last commit; empty if it was created and never committed.
    Record(Vec<u8>),
}

/// Looks into a directory without taking a store's lock.
///
/// # Errors
/// Of the store, but for a directory that is none.
pub fn peek(path: &Path) -> Result<Held> {
    if !path.try_exists().with_context(|| format!("cannot look for {}", path.display()))? {
        return Ok(Held::Nothing);
    }
    match ParamStore::open_read_only(path, &Options::new()) {
        Ok(store) => Ok(Held::Record(store.user_record().to_vec())),
        // If there is something else, `create` says so.
        Err(Error::NotAStore { .. }) => Ok(Held::Nothing),
        Err(error) => Err(error.into()),
    }
}
