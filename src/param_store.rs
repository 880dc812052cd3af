//! The store as its user sees it: tensors by name, steps, commits.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::format::directory::{Directory, Tensor};
use crate::format::record::{MAX_USER_BYTES, Record};
use crate::kernel::InstructionSet;
use crate::layout::{GRAD_PLANE, PARAM_PLANE, pieces, place};
use crate::optim::Optimizer;
use crate::options::{Options, StepOptions};
use crate::pager::{Key, Pager, Settings, Stats, View, elapsed_ns, read_ahead};
use crate::schema::{ParamGroup, Schema};
use crate::step::Step;
use crate::storage::{RealVolume, Volume};
use crate::store::{BlockStore, Creation, SlotState};
use crate::units::{to_u64, to_usize};

/// A store of parameters and optimizer state, open in this process.
///
/// There is one writer at a time; readers ([`open_read_only`](Self::open_read_only)) see the committed generation
/// and keep it as long as they are open.
pub struct ParamStore {
    pager: Mutex<Pager>,
    path: PathBuf,
    directory: Arc<Directory>,
    names: HashMap<String, usize>,
    groups: Vec<ParamGroup>,
    user_record: Vec<u8>,
    recovery: Recovery,
    step: u64,
    /// Something failed or was dropped between two steps.
    mixed: bool,
    threads: Option<rayon::ThreadPool>,
    isa: InstructionSet,
}

/// What `open` found and chose.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The committed generation in force.
    pub generation: u64,
    /// The step it belongs to.
    pub step: u64,
    /// Steps that had finished after the last commit and are gone. After a power cut this can be fewer than there
    /// were, since the note of them is not made durable.
    pub lost_steps: u64,
    /// Whether the newest superblock or what it names was damaged, so that an older generation is in force.
    pub fell_back: bool,
    /// What each superblock slot holds, as a sentence.
    pub slots: [String; 2],
}

/// What a commit did.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CommitReport {
    /// The generation that is durable now.
    pub generation: u64,
    /// Bytes of hot blocks and metadata that the commit itself wrote; blocks written behind before are not counted.
    pub bytes_written: u64,
    /// Points at which everything before had to be durable: 2, or 1 if nothing but the step and generation changed.
    pub barriers: u32,
    /// Seconds that it took.
    pub seconds: f64,
}

/// A tensor of an open store.
#[derive(Debug, Clone, Copy)]
pub struct TensorInfo<'a> {
    tensor: &'a Tensor,
    directory: &'a Directory,
    groups: &'a [ParamGroup],
}

impl<'a> TensorInfo<'a> {
    /// The name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.tensor.name
    }

    /// The dimensions, slowest first; none for a scalar.
    #[must_use]
    pub fn shape(&self) -> &'a [u64] {
        &self.tensor.shape
    }

    /// The number of elements.
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensor.elements().unwrap_or(0)
    }

    /// Its parameter group.
    #[must_use]
    pub fn group(&self) -> &'a str {
        self.groups.get(to_usize(self.tensor.group.into())).map_or("", ParamGroup::name)
    }

    /// Names of its planes: `param`, then the optimizer's state.
    pub fn planes(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let directory = self.directory;
        let extent = directory.extents.get(to_usize(self.tensor.extent.into()));
        extent
            .into_iter()
            .flat_map(|extent| &extent.planes)
            .filter_map(move |plane| directory.planes.get(usize::from(plane.plane)).map(|p| p.name.as_str()))
    }
}

impl std::fmt::Debug for ParamStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParamStore").field("path", &self.path).field("step", &self.step).finish_non_exhaustive()
    }
}

/// A new random identity, from the keys that the operating system gives to the standard library's hash maps.
fn new_uuid() -> Uuid {
    let mut bytes = [0; 16];
    for half in bytes.chunks_mut(8) {
        let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
        hasher.write_u32(std::process::id());
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    // The version and variant bits of a random UUID (RFC 9562, version 4).
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Uuid(bytes)
}

/// Opening and creating.
impl ParamStore {
    /// Makes a new store in the directory `path`, which must not exist, be empty, or hold what an interrupted `create`
    /// left, and opens it for writing. When this returns, the store is durable.
    ///
    /// Everything is allocated now, both homes of every block, so that training cannot run out of disk; no data is
    /// written. See [`Options::sparse`] for the other way.
    ///
    /// # Errors
    /// [`Error::NoSpace`] with what is needed and free, [`Error::AlreadyExists`], [`Error::Invalid`] for a schema that
    /// cannot be, [`Error::Io`].
    pub fn create(path: impl AsRef<Path>, schema: &Schema, options: &Options) -> Result<Self> {
        let (volume, _) = RealVolume::create_dir(path.as_ref())?;
        Self::create_in(Arc::new(volume), schema, options)
    }

    /// As [`create`](Self::create), in a volume of any kind.
    pub(crate) fn create_in(volume: Arc<dyn Volume>, schema: &Schema, options: &Options) -> Result<Self> {
        let request = schema.request(options.budget_bytes())?;
        let directory = place(&request)?;
        let record = Record { groups: schema.group_records(), user: Vec::new() };
        let creation = Creation { directory, record, uuid: new_uuid(), sparse: options.sparse };
        crate::store::create(&volume, &creation)?;
        Self::open_in(volume, options)
    }

    /// Opens a store for writing, at its last committed generation. Takes milliseconds at any size: nothing is
    /// copied and no data is read.
    ///
    /// # Errors
    /// [`Error::Locked`] beside another writer, [`Error::NotAStore`], [`Error::Unsupported`], [`Error::Damaged`] if no
    /// generation is whole, [`Error::Budget`] if the budget does not hold three blocks, [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::open_in(Arc::new(RealVolume::open_dir(path.as_ref())?), options)
    }

    /// As [`open`](Self::open), in a volume of any kind.
    pub(crate) fn open_in(volume: Arc<dyn Volume>, options: &Options) -> Result<Self> {
        Self::assemble(BlockStore::open_writer(volume, options.pin_wait)?, options)
    }

    /// Opens the committed generation for reading. Needs no lock, never writes, works beside a writer and on a
    /// read-only file system; the generation stays readable until this is dropped.
    ///
    /// # Errors
    /// As [`open`](Self::open), except for the lock.
    pub fn open_read_only(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::open_read_only_in(Arc::new(RealVolume::open_dir(path.as_ref())?), options)
    }

    /// As [`open_read_only`](Self::open_read_only), in a volume of any kind.
    pub(crate) fn open_read_only_in(volume: Arc<dyn Volume>, options: &Options) -> Result<Self> {
        Self::assemble(BlockStore::open_reader(volume)?, options)
    }

    fn assemble(store: BlockStore, options: &Options) -> Result<Self> {
        let directory = Arc::clone(store.directory());
        let groups = store.record().groups.iter().map(ParamGroup::from_record).collect::<Result<Vec<_>>>()?;
        check_planes(&directory, &groups, store.path())?;
        let names = directory.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        let settings = Settings {
            budget_bytes: options.budget_bytes(),
            io_threads: options.checked_io_threads()?,
            path: options.io_path,
        };
        let threads = options.threads.map(build_threads).transpose()?;
        Ok(Self {
            path: store.path().to_owned(),
            recovery: recovery(&store),
            user_record: store.record().user.clone(),
            step: store.superblock().step,
            directory,
            names,
            groups,
            mixed: false,
            threads,
            isa: options.instruction_set.unwrap_or_else(InstructionSet::detect),
            pager: Mutex::new(Pager::new(store, settings)?),
        })
    }
}

/// Looking.
impl ParamStore {
    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Optimizer steps finished, committed or not.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The committed generation.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.pager().store().superblock().generation
    }

    /// The committed step.
    #[must_use]
    pub fn committed_step(&self) -> u64 {
        self.pager().store().superblock().step
    }

    /// The bytes that the last commit saved for the caller: schedule, RNG, data cursor.
    #[must_use]
    pub fn user_record(&self) -> &[u8] {
        &self.user_record
    }

    /// The memory budget in force, in bytes.
    #[must_use]
    pub fn memory_budget(&self) -> u64 {
        self.pager().budget_bytes()
    }

    /// The instruction set in force.
    #[must_use]
    pub fn instruction_set(&self) -> InstructionSet {
        self.isa
    }

    /// The number of parameters.
    #[must_use]
    pub fn params(&self) -> u64 {
        self.directory.tensors.iter().filter_map(Tensor::elements).sum()
    }

    /// All tensors, in the schema's order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        let info = |tensor| TensorInfo { tensor, directory: &self.directory, groups: &self.groups };
        self.directory.tensors.iter().map(info)
    }

    /// A tensor by name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.names.get(name).and_then(|&i| self.tensors().nth(i))
    }

    /// All parameter groups.
    #[must_use]
    pub fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    /// A parameter group, to change its settings: they are read at every step and saved by every commit.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn group_mut(&mut self, name: &str) -> Result<&mut ParamGroup> {
        let found = self.groups.iter_mut().find(|group| group.name() == name);
        found.ok_or_else(|| Error::Unknown { kind: "parameter group", name: name.to_owned() })
    }

    /// Counters since the store was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.pager().stats()
    }

    /// A tensor's parameters, with every update made so far, committed or not. See [`View`] for what it costs.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Budget`] if a gathered view does not fit the budget; disk errors.
    pub fn view(&self, name: &str) -> Result<View<'_>> {
        let tensor = self.tensor_index(name)?;
        self.pager().view(tensor, 0, 0..self.elements(tensor))
    }

    /// A range of a tensor's elements as [`view`](Self::view) gives the whole.
    ///
    /// # Errors
    /// As [`view`](Self::view); [`Error::Invalid`] for a range that leaves the tensor.
    pub fn view_range(&self, name: &str, range: Range<u64>) -> Result<View<'_>> {
        let len = to_usize(range.end.saturating_sub(range.start));
        let (tensor, range) = self.checked_range(name, range.start, len)?;
        self.pager().view(tensor, 0, range)
    }

    /// Copies a tensor's parameters, with every update made so far, into `out`, which has its length. Needs no more
    /// of the budget than a few blocks.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for another length, disk errors.
    pub fn read_into(&self, name: &str, out: &mut [f32]) -> Result<()> {
        self.read_plane_into(name, PARAM_PLANE, out)
    }

    /// As [`read_into`](Self::read_into), for the elements from `start` on.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into).
    pub fn read_range_into(&self, name: &str, start: u64, out: &mut [f32]) -> Result<()> {
        let (tensor, range) = self.checked_range(name, start, out.len())?;
        self.pager().read_into(tensor, 0, range, out)
    }

    /// As [`read_into`](Self::read_into), for any plane of the tensor, e.g. `exp_avg`.
    ///
    /// # Errors
    /// As [`read_into`](Self::read_into); [`Error::Unknown`] for a plane that the tensor does not have.
    pub fn read_plane_into(&self, name: &str, plane: &str, out: &mut [f32]) -> Result<()> {
        let tensor = self.tensor_index(name)?;
        let elements = self.elements(tensor);
        if to_u64(out.len()) != elements {
            let (got, expected) = (format!("{} elements", out.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("memory for tensor {name:?}"), got, expected));
        }
        let plane = self.plane_index(tensor, plane)?;
        self.pager().read_into(tensor, plane, 0..elements, out)
    }

    /// Updates made to a tensor so far, as committed or finished in this process.
    ///
    /// # Errors
    /// [`Error::Unknown`], disk errors.
    pub fn tensor_steps(&self, name: &str) -> Result<u64> {
        let tensor = self.tensor_index(name)?;
        Ok(self.pager().store_mut().tensor_entry(tensor)?.steps)
    }

    /// Says which tensors' parameters will be read soon: reads begin now, as far as memory is free, and nothing
    /// waits. Unknown names and disk errors are left to the read itself.
    pub fn prefetch(&self, names: &[&str]) {
        self.prefetch_planes(names, |_| 1);
    }

    /// As [`prefetch`](Self::prefetch), for tensors that will be updated: the moments too.
    pub fn prefetch_update(&self, names: &[&str]) {
        self.prefetch_planes(names, |tensor| self.state_planes(tensor) + 1);
    }

    fn prefetch_planes(&self, names: &[&str], planes: impl Fn(usize) -> usize) {
        let mut pager = self.pager();
        for tensor in names.iter().filter_map(|name| self.names.get(*name).copied()) {
            let range = 0..self.elements(tensor);
            let mut ahead = read_ahead(&self.directory, tensor, range.clone(), 0..planes(tensor));
            let first = pieces(&self.directory, tensor, range).next();
            if first.is_none_or(|first| ahead.advance(&mut pager, &first).is_err()) {
                return;
            }
        }
    }
}

/// Changing.
impl ParamStore {
    /// Begins an optimizer step with the defaults of [`StepOptions`].
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Mixed`] after a step that did not finish, [`Error::Poisoned`].
    pub fn begin_step(&mut self) -> Result<Step<'_>> {
        self.begin_step_with(StepOptions::new())
    }

    /// Begins an optimizer step.
    ///
    /// # Errors
    /// As [`begin_step`](Self::begin_step); [`Error::Invalid`] for options that need a `grad` plane the store lacks.
    pub fn begin_step_with(&mut self, options: StepOptions) -> Result<Step<'_>> {
        Step::begin(self, options)
    }

    /// Sets a tensor's parameters: for weights that come from elsewhere. Its state stays as it is.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Invalid`] for another length, [`Error::ReadOnly`], [`Error::Mixed`], disk errors.
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let elements = self.elements(self.tensor_index(name)?);
        if to_u64(values.len()) != elements {
            let (got, expected) = (format!("{} elements", values.len()), format!("{elements} elements"));
            return Err(Error::invalid(format!("values of tensor {name:?}"), got, expected));
        }
        self.write_range(name, 0, values)
    }

    /// As [`write`](Self::write), for the elements from `start` on.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_range(&mut self, name: &str, start: u64, values: &[f32]) -> Result<()> {
        self.check_can_change("write a tensor")?;
        let (tensor, range) = self.checked_range(name, start, values.len())?;
        let result = self.write_pieces(tensor, range, values);
        if result.is_err() {
            self.mark_mixed();
        }
        result
    }

    fn write_pieces(&mut self, tensor: usize, range: Range<u64>, mut values: &[f32]) -> Result<()> {
        let directory = self.directory();
        let pager = self.pager_mut();
        for piece in pieces(&directory, tensor, range) {
            let key = Key { block: piece.block, plane: 0 };
            let mut buffer = if piece.within == (0..pager.block_elements(&piece)) {
                pager.lease_blank(key)?
            } else {
                pager.lease(&[key])?.pop().ok_or_else(|| Error::invalid("lease", "nothing", "a frame"))?
            };
            let (now, later) = values.split_at(piece.within.len().min(values.len()));
            if let Some(bytes) = buffer.get_mut(4 * piece.within.start..4 * piece.within.end) {
                crate::format::elements::as_f32_mut(bytes).copy_from_slice(now);
            }
            values = later;
            pager.release(key, buffer, true)?;
        }
        Ok(())
    }

    /// Makes everything so far durable, together: parameters, moments, step, settings of the groups, and
    /// `user_record` (at most 1 MiB). When this returns, a crash at any later instant leaves at least this generation,
    /// bit for bit; a crash before leaves the one before.
    ///
    /// # Errors
    /// [`Error::Mixed`], [`Error::ReadOnly`], [`Error::Invalid`] for too long a record. After an I/O error the handle
    /// is poisoned: whether the disk holds this generation or the one before is found out by opening again.
    pub fn commit(&mut self, user_record: &[u8]) -> Result<CommitReport> {
        let start = Instant::now();
        self.check_can_change("commit")?;
        if to_u64(user_record.len()) > MAX_USER_BYTES {
            let got = format!("{} bytes", user_record.len());
            return Err(Error::invalid("user record", got, format!("at most {MAX_USER_BYTES} bytes")));
        }
        let record = Record {
            groups: self.groups.iter().map(ParamGroup::to_record).collect(),
            user: user_record.to_vec(),
        };
        let step = self.step;
        let pager = self.pager_mut();
        let before = pager.stats().bytes_written;
        pager.write_all()?;
        let written = pager.stats().bytes_written - before;
        let committed = pager.store_mut().commit(record, step)?;
        let stats = pager.stats_mut();
        stats.meta_bytes_written += committed.meta_bytes;
        stats.commits += 1;
        stats.commit_ns += elapsed_ns(start);
        user_record.clone_into(&mut self.user_record);
        Ok(CommitReport {
            generation: committed.generation,
            bytes_written: written + committed.meta_bytes,
            barriers: committed.barriers,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// Goes back to the last commit: everything since is forgotten, settings of groups included. Returns how many
    /// finished steps that were.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Poisoned`], disk errors.
    pub fn rollback(&mut self) -> Result<u64> {
        let pager = self.pager_mut();
        pager.roll_back()?;
        let record = pager.store().record().clone();
        let committed = pager.store().superblock().step;
        self.groups = record.groups.iter().map(ParamGroup::from_record).collect::<Result<Vec<_>>>()?;
        self.user_record = record.user;
        let lost = self.step - committed;
        self.step = committed;
        self.mixed = false;
        Ok(lost)
    }
}

/// For the rooms that conduct.
impl ParamStore {
    pub(crate) fn pager(&self) -> MutexGuard<'_, Pager> {
        self.pager.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pager_mut(&mut self) -> &mut Pager {
        self.pager.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an update needs at once: the pager to lease from, the threads and the instruction set to compute with.
    pub(crate) fn parts(&mut self) -> (&mut Pager, Option<&rayon::ThreadPool>, InstructionSet) {
        let pager = self.pager.get_mut().unwrap_or_else(PoisonError::into_inner);
        (pager, self.threads.as_ref(), self.isa)
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    pub(crate) fn check_can_change(&self, action: &'static str) -> Result<()> {
        let pager = self.pager();
        pager.store().check_writable(action)?;
        if self.mixed {
            return Err(Error::Mixed { step: self.step, committed_step: pager.store().superblock().step });
        }
        Ok(())
    }

    pub(crate) fn check_gradient_plane(&self, purpose: &str) -> Result<()> {
        if self.directory.planes.iter().any(|plane| plane.name == GRAD_PLANE) {
            return Ok(());
        }
        let expected = format!("a store created with `gradient_plane(true)`, as {purpose} needs");
        Err(Error::invalid("store", "no `grad` plane", expected))
    }

    pub(crate) fn mark_mixed(&mut self) {
        self.mixed = true;
    }

    /// Counts a finished step.
    pub(crate) fn advance(&mut self) -> u64 {
        self.step += 1;
        let step = self.step;
        self.pager_mut().store_mut().note_progress(step);
        step
    }

    pub(crate) fn tensor_index(&self, name: &str) -> Result<usize> {
        let index = self.names.get(name).copied();
        index.ok_or_else(|| Error::Unknown { kind: "tensor", name: name.to_owned() })
    }

    pub(crate) fn tensor_name(&self, tensor: usize) -> &str {
        self.directory.tensors.get(tensor).map_or("", |tensor| tensor.name.as_str())
    }

    pub(crate) fn elements(&self, tensor: usize) -> u64 {
        self.directory.tensors.get(tensor).and_then(Tensor::elements).unwrap_or(0)
    }

    /// State planes of a tensor; its scratch plane counts as the one after them.
    pub(crate) fn state_planes(&self, tensor: usize) -> usize {
        let extent = self.directory.tensors.get(tensor).map_or(0, |tensor| to_usize(tensor.extent.into()));
        self.directory.extents.get(extent).map_or(0, |extent| extent.planes.len() - 1)
    }

    pub(crate) fn plane_index(&self, tensor: usize, plane: &str) -> Result<usize> {
        let info = self.tensors().nth(tensor);
        let found = info.and_then(|info| info.planes().position(|name| name == plane));
        found.ok_or_else(|| Error::Unknown { kind: "plane of the tensor", name: plane.to_owned() })
    }

    pub(crate) fn optimizer_of(&self, tensor: usize) -> Result<&Optimizer> {
        let group = self.directory.tensors.get(tensor).and_then(|t| self.groups.get(to_usize(t.group.into())));
        let unknown = || Error::Unknown { kind: "parameter group", name: self.tensor_name(tensor).to_owned() };
        group.map(ParamGroup::optimizer).ok_or_else(unknown)
    }

    /// The range of `len` elements from `start` on, if it lies in the tensor.
    pub(crate) fn checked_range(&self, name: &str, start: u64, len: usize) -> Result<(usize, Range<u64>)> {
        let tensor = self.tensor_index(name)?;
        let elements = self.elements(tensor);
        match start.checked_add(to_u64(len)) {
            Some(end) if end <= elements => Ok((tensor, start..end)),
            _ => {
                let got = format!("{len} elements from {start} on");
                let what = format!("range of tensor {name:?}");
                Err(Error::invalid(what, got, format!("a range inside its {elements} elements")))
            }
        }
    }
}

fn build_threads(threads: usize) -> Result<rayon::ThreadPool> {
    if !(1..=1024).contains(&threads) {
        return Err(Error::invalid("threads", threads, "1 to 1024"));
    }
    let name = |i| format!("paramstore-{i}");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
    pool.map_err(|e| Error::io("start threads for", "the store", std::io::Error::other(e)))
}

/// The planes of a store must be those that its optimizers keep.
fn check_planes(directory: &Directory, groups: &[ParamGroup], path: &Path) -> Result<()> {
    for tensor in &directory.tensors {
        let group = groups.get(to_usize(tensor.group.into()));
        let expected = group.map(|group| group.optimizer().state_planes()).unwrap_or_default();
        let info = TensorInfo { tensor, directory, groups };
        if !info.planes().skip(1).eq(expected.iter().map(|plane| plane.name)) {
            let got = info.planes().skip(1).collect::<Vec<_>>().join(", ");
            let expected = expected.iter().map(|plane| plane.name).collect::<Vec<_>>().join(", ");
            let what = format!("state planes of tensor {:?}", tensor.name);
            return Err(Error::damaged(path.join(crate::format::META_FILE), what, (0, 0), got, expected));
        }
    }
    Ok(())
}

fn recovery(store: &BlockStore) -> Recovery {
    let superblock = store.superblock();
    let found = store.found();
    let sentence = |state: &SlotState| match state {
        SlotState::Valid(generation) => format!("generation {generation}"),
        SlotState::Empty => "never written".to_owned(),
        SlotState::Damaged(why) => format!("damaged: {why}"),
    };
    let damaged = |state: &SlotState| matches!(state, SlotState::Damaged(_));
    Recovery {
        generation: superblock.generation,
        step: superblock.step,
        lost_steps: found.last_step.map_or(0, |last| last - superblock.step),
        fell_back: found.slots.iter().any(damaged),
        slots: [sentence(&found.slots[0]), sentence(&found.slots[1])],
    }
}
