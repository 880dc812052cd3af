//! A store becomes files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::content::{Content, Item};
use super::safetensors;
use super::sink::{Finished, Target};
use super::{npy, split};
use crate::error::{Error, Result};
use crate::format::directory::Dtype;
use crate::param_store::ParamStore;
use crate::storage::{Barrier, RealVolume, Volume};
use crate::units::to_u64;

const DIRECTORY_NAMED: Barrier = Barrier("export: the directory's name");

/// How a store becomes files.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::Dtype;
/// use paramstore::exchange::{Export, list};
///
/// store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// let export = Export::new()
///     .select(|name| name.starts_with('w'))
///     .dtype(Dtype::Bf16)              // parameters; state stays in f32
///     .with_state(true)                // `momentum_buffer.w` and so on
///     .shard_bytes(1 << 30)
///     .memory_budget(8 << 20)
///     .force(true);                    // in place of what is there
/// let all = export.bytes(&store)?;
/// let to = dir.path().join("exported");
/// let report = export.to_directory(&store, &to, |done| assert!(done <= all))?;
/// assert_eq!(report.bytes, all);
/// let model = list(to.join("model.safetensors"))?;
/// assert_eq!((model[0].name.as_str(), model[0].dtype.name(), model[0].bytes), ("w", "BF16", 12));
/// # Ok::<(), paramstore::Error>(())
/// ```
pub struct Export<'a> {
    select: Box<dyn Fn(&str) -> bool + 'a>,
    dtype: Option<Dtype>,
    with_state: bool,
    shard_bytes: u64,
    force: bool,
    memory_bytes: u64,
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("dtype", &self.dtype).finish_non_exhaustive()
    }
}

impl Default for Export<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// What an export did.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ExportReport {
    /// The files, the index last if there is one.
    pub files: Vec<PathBuf>,
    /// Tensors in them, state counted.
    pub tensors: u64,
    /// Bytes of elements written.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
}

impl<'a> Export<'a> {
    /// All tensors, in the types that the store keeps them in, without state; shards of 5 GB; 32 MiB of buffers.
    /// [Example](Self#example).
    #[must_use]
    pub fn new() -> Self {
        Self {
            select: Box::new(|_| true),
            dtype: None,
            with_state: false,
            shard_bytes: 5_000_000_000,
            force: false,
            memory_bytes: 32 << 20,
        }
    }

    /// Chooses tensors by name. [Example](Self#example).
    #[must_use]
    pub fn select(mut self, select: impl Fn(&str) -> bool + 'a) -> Self {
        self.select = Box::new(select);
        self
    }

    /// Rounds floats to this type, f32, bf16 or f16; state stays in f32. [Example](Self#example).
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Writes optimizer state too, by PyTorch's names: `exp_avg.NAME` and so on in f32, `step.NAME` for the updates so far,
    /// `step` for the store's, and `mu_product.NAME` of NAdam. A directory gets it in files of its own (`optimizer*`), so that
    /// nobody who loads a model stumbles over it. [Example](Self#example).
    #[must_use]
    pub fn with_state(mut self, with_state: bool) -> Self {
        self.with_state = with_state;
        self
    }

    /// The size at which a directory's files are cut, in bytes of elements; a larger tensor has a file for itself.
    /// [Example](Self#example).
    #[must_use]
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = bytes;
        self
    }

    /// Takes the place of what is there. [Example](Self#example).
    #[must_use]
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Bytes of buffers on their way to the disk; beside them the store reads under its own budget. [Example](Self#example).
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// Bytes of elements that this would write: what `progress` counts up to. [Example](Self#example).
    ///
    /// # Errors
    /// As [`to_file`](Self::to_file), for the choices.
    pub fn bytes(&self, store: &ParamStore) -> Result<u64> {
        let content = self.content(store)?;
        Ok(content.model.iter().chain(&content.state).map(|item| item.bytes).sum())
    }

    /// Writes one safetensors file. It appears under its name when it is whole and durable; readable by its owner only, as a
    /// store's files are. `progress` gets the bytes done, again and again.
    ///
    /// An export that is killed leaves nothing, for its files have no names before they are whole; on file systems without
    /// such files (NFS, FUSE) it leaves `.NAME.PID.part`, which the next export to the same name removes.
    ///
    /// Works beside a writer of the store when `store` was opened for reading: what is exported is the generation that it
    /// shows.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::exchange::{Export, list};
    ///
    /// let file = dir.path().join("model.safetensors");
    /// let report = Export::new().to_file(&store, &file, |_bytes| {})?;
    /// assert_eq!((report.tensors, report.bytes), (1, 6 * 4));
    /// assert_eq!(list(&file)?[0].shape, [2, 3]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] without [`force`](Self::force), [`Error::Invalid`] for choices that fit no tensor, disk errors.
    pub fn to_file(
        &self,
        store: &ParamStore,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<ExportReport> {
        let start = Instant::now();
        let (mut target, name) = self.target_for(path.as_ref())?;
        let Content { mut model, mut state } = self.content(store)?;
        model.append(&mut state);
        let mut done = Done::new(&mut progress);
        let file = write_safetensors(&mut target, store, &name, &model, &mut done)?;
        finish(&target, vec![file], self.force, &done, start)
    }

    /// Writes a tensor's parameters as one npy file. NumPy has no bf16: parameters in it become f32, which changes no value, and a
    /// rounding to it is refused.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::exchange::{Export, list};
    ///
    /// let file = dir.path().join("w.npy");
    /// Export::new().to_npy(&store, "w", &file, |_bytes| {})?;
    /// assert_eq!(list(&file)?[0].shape, [2, 3]); // and `numpy.load` reads it
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`to_file`](Self::to_file); [`Error::Unknown`].
    pub fn to_npy(
        &self,
        store: &ParamStore,
        tensor: &str,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<ExportReport> {
        let start = Instant::now();
        let (mut target, name) = self.target_for(path.as_ref())?;
        let mut item = Item::param(store, store.tensor_index(tensor)?, self.dtype)?;
        if item.dtype == Dtype::Bf16 {
            if store.tensor(tensor).is_some_and(|info| info.dtype() != Dtype::Bf16) {
                return Err(Error::invalid("type of an npy file", "bf16", "f32 or f16: NumPy has no bf16"));
            }
            item.set_dtype(Dtype::F32);
        }
        let header = npy::header(item.dtype, &item.shape)?;
        let mut done = Done::new(&mut progress);
        let mut sink = target.begin(&name, to_u64(header.len()) + item.bytes)?;
        sink.write(&header)?;
        done.add(&item, store, &mut sink)?;
        let file = sink.finish()?;
        finish(&target, vec![file], self.force, &done, start)
    }

    /// Writes a directory in Hugging Face's form: `model.safetensors`, or shards and `model.safetensors.index.json` if it
    /// takes several. The directory may exist; files of another model in it are in the way. [Example](Self#example).
    ///
    /// # Errors
    /// As [`to_file`](Self::to_file).
    pub fn to_directory(
        &self,
        store: &ParamStore,
        path: impl AsRef<Path>,
        mut progress: impl FnMut(u64),
    ) -> Result<ExportReport> {
        let start = Instant::now();
        let content = self.content(store)?;
        let (volume, existed) = RealVolume::create_dir(path.as_ref())?;
        if !existed {
            volume.sync_parent(DIRECTORY_NAMED)?;
        }
        let mut target = Target::new(volume, self.memory_bytes, split::is_of_a_model)?;
        let in_the_way: Vec<_> =
            target.names()?.into_iter().filter(|name| split::is_of_a_model(name)).collect();
        if let (Some(name), false) = (in_the_way.first(), self.force) {
            return Err(Error::AlreadyExists { path: target.path().join(name) });
        }
        let mut done = Done::new(&mut progress);
        let mut files = Vec::new();
        for (stem, items) in [("model", &content.model), ("optimizer", &content.state)] {
            let result = self.write_shards(&mut target, store, stem, items, (&mut done, &mut files));
            if result.is_err() {
                target.discard(&files);
                result?;
            }
        }
        // The index first, so that an old one never stands beside new shards.
        for name in in_the_way.iter().rev() {
            target.remove(name)?;
        }
        finish(&target, files, true, &done, start)
    }

    fn write_shards(
        &self,
        target: &mut Target,
        store: &ParamStore,
        stem: &str,
        items: &[Item],
        (done, files): (&mut Done<'_>, &mut Vec<Finished>),
    ) -> Result<()> {
        let shards = split::shards(items, self.shard_bytes);
        for (at, shard) in shards.iter().enumerate() {
            let name = split::shard_name(stem, at, shards.len());
            files.push(write_safetensors(target, store, &name, shard, done)?);
            target.close(files)?;
        }
        if shards.len() > 1 {
            let index = split::index(stem, &shards);
            let name = split::index_name(stem);
            let mut sink = target.begin(&name, to_u64(index.len()))?;
            sink.write(&index)?;
            files.push(sink.finish()?);
        }
        Ok(())
    }

    /// The directory of a file that is to be made, and its name.
    fn target_for(&self, path: &Path) -> Result<(Target, String)> {
        let (volume, name) = RealVolume::open_dir_for(path)?;
        let target = Target::new(volume, self.memory_bytes, |known| known == name)?;
        if !self.force && target.names()?.contains(&name) {
            return Err(Error::AlreadyExists { path: path.to_owned() });
        }
        Ok((target, name))
    }

    fn content(&self, store: &ParamStore) -> Result<Content> {
        let content = Content::new(store, &self.select, self.dtype, self.with_state)?;
        if content.model.is_empty() {
            let expected = "at least one that is chosen";
            return Err(Error::invalid("tensors to export", "none", expected));
        }
        Ok(content)
    }
}

/// Counts what was written.
pub(super) struct Done<'p> {
    progress: &'p mut dyn FnMut(u64),
    bytes: u64,
    tensors: u64,
}

impl<'p> Done<'p> {
    fn new(progress: &'p mut dyn FnMut(u64)) -> Self {
        Self { progress, bytes: 0, tensors: 0 }
    }

    /// Writes an item's elements.
    fn add(&mut self, item: &Item, store: &ParamStore, sink: &mut super::sink::Sink<'_>) -> Result<()> {
        item.for_each_part(store, |bytes| {
            sink.write(bytes)?;
            self.bytes += to_u64(bytes.len());
            (self.progress)(self.bytes);
            Ok(())
        })?;
        self.tensors += 1;
        Ok(())
    }
}

fn write_safetensors(
    target: &mut Target,
    store: &ParamStore,
    name: &str,
    items: &[Item],
    done: &mut Done<'_>,
) -> Result<Finished> {
    let planned: Vec<_> = items.iter().map(Item::planned).collect();
    let metadata = [("format", "pt".to_owned()), ("step", store.step().to_string())];
    let header = safetensors::header(&planned, &metadata)?;
    let bytes = items.iter().fold(to_u64(header.len()), |sum, item| sum.saturating_add(item.bytes));
    let mut sink = target.begin(name, bytes)?;
    sink.write(&header)?;
    for item in items {
        done.add(item, store, &mut sink)?;
    }
    sink.finish()
}

fn finish(
    target: &Target,
    files: Vec<Finished>,
    replace: bool,
    done: &Done<'_>,
    start: Instant,
) -> Result<ExportReport> {
    let paths = files.iter().map(|file| target.path().join(&file.name)).collect();
    target.publish(files, replace)?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(ExportReport { files: paths, tensors: done.tensors, bytes: done.bytes, seconds })
}
