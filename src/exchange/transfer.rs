//! Values of files for tensors that a store has already: transfer learning.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::ForeignTensor;
use super::source::Sources;
use super::values::{Flow, Piece};
use crate::error::{Error, Result};
use crate::format::directory::{Dtype, Init};
use crate::param_store::ParamStore;
use crate::units::to_u64;

/// A choice of a name in the store, by the name in a file.
type Rename<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

/// How tensors of a store get values from files.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::exchange::{Export, Transfer};
///
/// # let file = dir.path().join("pretrained.safetensors");
/// # store.write("w", &[1.0; 6])?;
/// # Export::new().to_file(&store, &file, |_| {})?;
/// # store.write("w", &[0.0; 6])?;
/// let transfer = Transfer::new()
///     .source(&file)
///     .rename(|name| Some(name.to_owned())) // `None` leaves it out
///     .memory_budget(1 << 20);
/// let plan = transfer.plan(&store)?;        // reads headers only
/// assert_eq!((plan.matched.len(), plan.new.len(), plan.left.len()), (1, 0, 0));
/// transfer.run(&mut store, |done| assert!(done <= plan.bytes))?;
/// store.commit(b"")?;                       // durable from here on
/// assert_eq!(store.view("w")?[..], [1.0; 6]);
/// # Ok::<(), paramstore::Error>(())
/// ```
pub struct Transfer<'a> {
    sources: Vec<PathBuf>,
    rename: Rename<'a>,
    memory_bytes: u64,
}

impl std::fmt::Debug for Transfer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfer").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Default for Transfer<'_> {
    fn default() -> Self {
        Self { sources: Vec::new(), rename: Box::new(|name| Some(name.to_owned())), memory_bytes: 64 << 20 }
    }
}

/// A tensor of a store that gets its values from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Matched {
    /// Its name in the store.
    pub name: String,
    /// Its name in the file.
    pub source: String,
    /// Its elements.
    pub elements: u64,
}

/// A tensor of a file that is not used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    /// Its name in the file.
    pub source: String,
    /// Why, as a phrase.
    pub why: String,
}

/// What matches, what is new, what is left.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct TransferReport {
    /// Tensors of the store that get values, in the order of the files.
    pub matched: Vec<Matched>,
    /// Tensors of the store that do not, and keep what they have: at first, their initial values, which are named.
    pub new: Vec<(String, Init)>,
    /// Tensors of the files that nobody takes.
    pub left: Vec<Left>,
    /// Bytes that are read.
    pub bytes: u64,
}

/// A plan with what it takes to carry it out: places of the source's tensor, and the store's names.
struct Prepared {
    report: TransferReport,
    sources: Sources,
    parts: Vec<(usize, String, Dtype)>,
}

impl<'a> Transfer<'a> {
    /// From no file yet. [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what [`list`](super::list) takes: a file, an index of shards, or a directory. [Example](Self#example).
    #[must_use]
    pub fn source(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(path.into());
        self
    }

    /// Chooses tensors and names them: gets a name in a file, and gives the name in the store, or `None` to leave it out.
    /// [Example](Self#example).
    #[must_use]
    pub fn rename(mut self, rename: impl Fn(&str) -> Option<String> + 'a) -> Self {
        self.rename = Box::new(rename);
        self
    }

    /// Bytes of memory for values on their way, beside the store's budget (default 64 MiB). [Example](Self#example).
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Says what would match. Reads headers only. [Example](Self#example).
    ///
    /// # Errors
    /// As [`run`](Self::run), as far as headers tell.
    pub fn plan(&self, store: &ParamStore) -> Result<TransferReport> {
        Ok(self.prepare(store)?.report)
    }

    /// Writes the values of files into the tensors of the store that have their names and shapes; the rest of the store, its
    /// moments and clocks stay as they are. Parameters in fewer bits get the nearest values. `progress` gets the bytes done of
    /// [`TransferReport::bytes`], again and again. Nothing is durable before a [commit](ParamStore::commit).
    /// [Example](Self#example).
    ///
    /// # Errors
    /// [`Error::Foreign`] for a file that is not what its format asks for; [`Error::Invalid`] for two tensors of the files that
    /// want the same name; as [`ParamStore::write_range`].
    pub fn run(&self, store: &mut ParamStore, mut progress: impl FnMut(u64)) -> Result<TransferReport> {
        let Prepared { report, sources, parts } = self.prepare(store)?;
        // Elements of all types, as bytes and as f32.
        let part = (self.memory_bytes / 4 / 12).clamp(256, 1 << 20) / 256 * 256;
        let piece = Piece::new(part, self.memory_bytes)?;
        let flow = Flow::new(&sources, parts.iter().map(|part| part.0), self.memory_bytes / 2, piece);
        let mut done = 0;
        flow.run(|number, from, mut values| {
            let Some((_, name, dtype)) = parts.get(number) else { return Ok(()) };
            let is_of_rows = store.tensor(name).is_some_and(|info| info.is_rows());
            if values.dtype.stored() == Some(*dtype) && !is_of_rows {
                store.write_bytes(name, from, values.bytes)?;
            } else {
                store.write_range(name, from, values.floats()?)?;
            }
            done += to_u64(values.bytes.len());
            progress(done);
            Ok(())
        })?;
        Ok(report)
    }

    fn prepare(&self, store: &ParamStore) -> Result<Prepared> {
        let mut sources = Sources::default();
        for path in &self.sources {
            sources.add(path)?;
        }
        let mut report = TransferReport::default();
        let mut parts = Vec::new();
        let mut taken = HashMap::new();
        for (at, tensor) in sources.tensors.iter().enumerate() {
            let name = (self.rename)(&tensor.name);
            match name
                .as_deref()
                .map_or(Err("its name is left out".to_owned()), |name| fits(store, name, tensor))
            {
                Err(why) => report.left.push(Left { source: tensor.name.clone(), why }),
                Ok(dtype) => {
                    let name = name.unwrap_or_default();
                    if let Some(other) = taken.insert(name.clone(), tensor.name.clone()) {
                        let got = format!("{:?} and {other:?}", tensor.name);
                        return Err(Error::invalid(
                            format!("values of tensor {name:?}"),
                            got,
                            "one tensor of the files",
                        ));
                    }
                    report.bytes += tensor.bytes;
                    let (source, elements) = (tensor.name.clone(), tensor.elements());
                    report.matched.push(Matched { name: name.clone(), source, elements });
                    parts.push((at, name, dtype));
                }
            }
        }
        let matched: HashSet<_> = taken.keys().map(String::as_str).collect();
        let new = store.tensors().filter(|info| !matched.contains(info.name()));
        report.new = new.map(|info| (info.name().to_owned(), info.init())).collect();
        Ok(Prepared { report, sources, parts })
    }
}

/// The type in which a tensor of the store takes the values, or why it does not.
fn fits(store: &ParamStore, name: &str, tensor: &ForeignTensor) -> std::result::Result<Dtype, String> {
    let Some(info) = store.tensor(name) else { return Err(format!("the store has no tensor {name:?}")) };
    if info.shape() != tensor.shape {
        return Err(format!("its shape is {:?}, that of {name:?} is {:?}", tensor.shape, info.shape()));
    }
    let Some(stored) = tensor.dtype.stored() else {
        return Err(format!("a store cannot hold its type, {}", tensor.dtype.name()));
    };
    let is_float = stored.is_trainable() || stored == Dtype::F64;
    if stored == info.dtype() || (is_float && info.dtype().is_trainable()) {
        return Ok(info.dtype());
    }
    Err(format!("its type is {}, that of {name:?} is {}", tensor.dtype.name(), info.dtype().name()))
}
