//! Creating and opening, and what opening found.

use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::{ParamStore, TensorInfo};
use crate::error::{Error, Result};
use crate::format::Uuid;
use crate::format::directory::Directory;
use crate::format::record::Record;
use crate::kernel::InstructionSet;
use crate::layout::{COMPENSATION_PLANE, COMPUTE_PLANE, place, row_tables};
use crate::options::Options;
use crate::pager::{Pager, Settings};
use crate::rows::Rows;
use crate::schema::{ParamGroup, Schema};
use crate::storage::{RealVolume, Volume};
use crate::store::{BlockStore, Creation, Generation, SlotState};
use crate::telemetry::Telemetry;
use crate::units::to_usize;
use crate::update::{Background, Engine};

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
    /// Whether one of the two superblocks, or what it names, is damaged. The next commits replace both.
    pub damaged: bool,
    /// Whether what is damaged is the newer generation, so that an older one is in force: the commit that wrote it was
    /// cut off, or the disk lost it. Also true where nothing is left that tells which of the two is damaged.
    pub fell_back: bool,
    /// What each superblock slot holds, as a sentence.
    pub slots: [String; 2],
}

impl ParamStore {
    /// Makes a new store in the directory `path`, which must not exist, be empty, or hold what an interrupted `create`
    /// left, and opens it for writing. When this returns, the store is durable.
    ///
    /// Everything is allocated now, both homes of every block, so that training cannot run out of disk; no data is
    /// written. See [`Options::sparse`] for the other way.
    ///
    /// ```
    /// use paramstore::{Error, Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    ///
    /// # let dir = tempfile::tempdir().expect("a temporary directory");
    /// # let path = dir.path().join("model.store");
    /// let schema = Schema::new()
    ///     .group(ParamGroup::new("all", Optimizer::from_name("adamw")?))
    ///     .tensor(TensorSpec::new("norm.weight", &[64]).init(Init::Constant(1.0)));
    /// let options = Options::new().memory_budget(4 << 20);
    /// let store = ParamStore::create(&path, &schema, &options)?;
    /// assert_eq!(store.view("norm.weight")?[..], [1.0; 64]);
    ///
    /// let again = ParamStore::create(&path, &schema, &options);
    /// assert!(matches!(again, Err(Error::AlreadyExists { .. })));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
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
        // What opening would refuse is refused before anything is made.
        options.checked_io_threads()?;
        options.threads.map(check_threads).transpose()?;
        crate::rows::check_budget(&directory, options.budget_bytes())?;
        let record = Record::first(schema.group_records(), row_tables(&directory).len());
        let creation = Creation { directory, record, uuid: new_uuid(), sparse: options.sparse };
        crate::store::create(&volume, &creation)?;
        Self::open_in(volume, options)
    }

    /// Opens a store for writing, at its last committed generation. Takes milliseconds at any size: nothing is
    /// copied and no data is read.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// store.commit(b"batch 7")?;
    /// drop(store);
    ///
    /// use paramstore::{Error, ParamStore};
    /// let store = ParamStore::open(&path, &options)?;
    /// assert_eq!(store.user_record(), b"batch 7");
    /// let second = ParamStore::open(&path, &options); // there is one writer at a time
    /// assert!(matches!(second, Err(Error::Locked { .. })));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Locked`] beside another writer, [`Error::NotAStore`], [`Error::Unsupported`], [`Error::Damaged`] if no
    /// generation is whole, [`Error::Budget`] if the budget does not hold three blocks, [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::open_in(Arc::new(RealVolume::open_dir(path.as_ref())?), options)
    }

    /// As [`open`](Self::open), in a volume of any kind.
    pub(crate) fn open_in(volume: Arc<dyn Volume>, options: &Options) -> Result<Self> {
        if options.generation != Generation::Newest {
            let expected = "the newest; a store is only written on from there, see `paramstore repair`";
            return Err(Error::invalid("generation to open for writing", "the previous one", expected));
        }
        Self::assemble(BlockStore::open_writer(volume, options.pin_wait)?, options)
    }

    /// Opens the committed generation for reading, or by [`Options::generation`] the one before it. Needs no lock, never
    /// writes, works beside a writer and on a read-only file system; the generation stays readable until this is dropped.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let reader = paramstore::ParamStore::open_read_only(&path, &options)?; // beside the writer
    /// store.write("w", &[1.0; 6])?;
    /// store.commit(b"")?;
    /// assert_eq!(reader.view("w")?[..], [0.0; 6]); // what was committed when it was opened
    /// let reader = paramstore::ParamStore::open_read_only(&path, &options)?;
    /// assert_eq!(reader.view("w")?[..], [1.0; 6]);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`open`](Self::open), except for the lock; for the previous generation also [`Error::Invalid`] if there is none,
    /// and [`Error::Locked`] if a writer has begun to replace it.
    pub fn open_read_only(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        Self::open_read_only_in(Arc::new(RealVolume::open_dir(path.as_ref())?), options)
    }

    /// As [`open_read_only`](Self::open_read_only), in a volume of any kind.
    pub(crate) fn open_read_only_in(volume: Arc<dyn Volume>, options: &Options) -> Result<Self> {
        Self::assemble(BlockStore::open_reader(volume, options.generation)?, options)
    }

    fn assemble(store: BlockStore, options: &Options) -> Result<Self> {
        let directory = Arc::clone(store.directory());
        let groups = store.record().groups.iter().map(ParamGroup::from_record).collect::<Result<Vec<_>>>()?;
        check_planes(&directory, &groups, store.path())?;
        let names =
            directory.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        let budget_bytes = options.budget_bytes();
        crate::rows::check_budget(&directory, budget_bytes)?;
        let for_rows = crate::rows::budget_share(&directory, budget_bytes);
        let settings = Settings {
            budget_bytes: budget_bytes - for_rows,
            io_threads: options.checked_io_threads()?,
            path: options.io_path,
        };
        let (path, recovery) = (store.path().to_owned(), recovery(&store));
        let (user_record, step) = (store.record().user.clone(), store.superblock().step);
        let pager = Arc::new(Pager::new(store, settings)?);
        let engine = Engine {
            tables: Rows::open(&pager, for_rows, !options.in_place)?.map(Arc::new),
            pager,
            threads: options.threads.map(build_threads).transpose()?.map(Arc::new),
            isa: options.instruction_set.unwrap_or_else(InstructionSet::detect),
        };
        let background = Background::new(engine.clone());
        let mixed = false;
        let has_onlookers = {
            let state = engine.pager.lock();
            !options.is_silent && state.store().is_writer() && state.store().volume().has_onlookers()
        };
        let telemetry = Telemetry::new(has_onlookers, budget_bytes, engine.pager.lock().stats()).into();
        Ok(Self {
            engine,
            background,
            path,
            directory,
            names,
            groups,
            user_record,
            recovery,
            step,
            budget_bytes,
            batches: std::sync::Mutex::default(),
            telemetry,
            mixed,
        })
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

fn check_threads(threads: usize) -> Result<()> {
    if (1..=1024).contains(&threads) {
        return Ok(());
    }
    Err(Error::invalid("threads", threads, "1 to 1024"))
}

pub(crate) fn build_threads(threads: usize) -> Result<rayon::ThreadPool> {
    check_threads(threads)?;
    let name = |i| format!("paramstore-{i}");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
    pool.map_err(|e| Error::io("start threads for", "the store", std::io::Error::other(e)))
}

/// The planes of a store must be those that its optimizers keep.
pub(super) fn check_planes(directory: &Directory, groups: &[ParamGroup], path: &Path) -> Result<()> {
    for tensor in &directory.tensors {
        let info = TensorInfo::new(tensor, directory, groups);
        let group = groups.get(to_usize(tensor.group.into())).filter(|_| !info.is_frozen());
        let expected = group.map(|group| group.optimizer().state_planes()).unwrap_or_default();
        let extent = directory.extents.get(to_usize(tensor.extent.into()));
        let copy = extent.and_then(|extent| directory.copy_plane(extent)).map(|_| COMPUTE_PLANE);
        let lost = extent.and_then(|extent| directory.compensation_plane(extent)).map(|_| COMPENSATION_PLANE);
        if !info.planes().skip(1).eq(expected.iter().map(|plane| plane.name).chain(copy).chain(lost)) {
            let got = info.planes().skip(1).collect::<Vec<_>>().join(", ");
            let expected = expected.iter().map(|plane| plane.name).collect::<Vec<_>>().join(", ");
            let what = format!("state planes of tensor {:?}", tensor.name);
            return Err(Error::damaged(path.join(crate::format::META_FILE), what, (0, 0), got, expected));
        }
        for (at, plane) in expected.iter().enumerate() {
            let (width, row) = (info.width(at + 1), info.width(0));
            if width != if plane.per_row { Some(1) } else { row } {
                let what = format!("state plane {} of tensor {:?}", plane.name, tensor.name);
                let of = |width: Option<usize>| width.map_or("of no rows".into(), |w| format!("{w} a row"));
                let expected = if plane.per_row { "1 a row".to_owned() } else { of(row) };
                let meta = path.join(crate::format::META_FILE);
                return Err(Error::damaged(meta, what, (0, 0), of(width), expected));
            }
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
        SlotState::Damaged { why, .. } => format!("damaged: {why}"),
    };
    Recovery {
        generation: superblock.generation,
        step: superblock.step,
        lost_steps: found.last_step.map_or(0, |last| last - superblock.step),
        damaged: found.is_damaged(),
        fell_back: found.fell_back,
        slots: [sentence(&found.slots[0]), sentence(&found.slots[1])],
    }
}
