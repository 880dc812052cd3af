//! What a store is, in one look that costs the same at any size.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::usage::{DiskUse, PlaneUse, plane_uses};
use crate::error::Result;
use crate::format::directory::Tensor;
use crate::format::page::TableShape;
use crate::format::superblock::{RO_COMPAT_KEPT, RO_COMPAT_SPARSE, Superblock};
use crate::format::{META_FILE, is_note_file, is_store_file, superblock};
use crate::optim::Optimizer;
use crate::options::Options;
use crate::param_store::{ParamStore, Recovery};
use crate::rows::RowUse;
use crate::schema::ParamGroup;
use crate::units::{to_u64, to_usize};

/// What a store is: everything that can be said without reading its blocks.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::inspect::{Role, Summary};
///
/// store.begin_step()?.finish()?; // and no commit
/// drop(store);
/// let summary = Summary::of(&path, &options)?;
/// assert_eq!((summary.params, summary.step, summary.lost_steps()), (6, 0, 1));
/// assert_eq!(summary.groups[0].optimizer.name(), "sgd");
/// let momentum = &summary.planes[1];
/// assert_eq!((momentum.name.as_str(), momentum.role.name()), ("momentum_buffer", Role::State.name()));
/// assert_eq!(momentum.dtype_names(), "f32");
/// assert_eq!(summary.disk.total(), summary.bytes_on_disk); // every byte has its place
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Summary {
    /// The store's directory.
    pub path: PathBuf,
    /// The version of the format it is written in.
    pub format_version: u32,
    /// Its identity, as 36 characters.
    pub uuid: String,
    /// The committed generation.
    pub generation: u64,
    /// The step of that generation.
    pub step: u64,
    /// Seconds since 1970 when it was created.
    pub created_unix_s: u64,
    /// The program that wrote the generation.
    pub writer_version: String,
    /// Optional features of the format that it uses, by name.
    pub features: Vec<String>,
    /// Number of parameters.
    pub params: u64,
    /// Number of tensors.
    pub tensors: u64,
    /// The parameter groups.
    pub groups: Vec<GroupSummary>,
    /// The planes, the parameters first.
    pub planes: Vec<PlaneUse>,
    /// Where every byte goes.
    pub disk: DiskUse,
    /// The sum of the lengths of all files; equal to `disk.total()`.
    pub bytes_on_disk: u64,
    /// Bytes that the file system has really allocated for them: fewer for a sparse store.
    pub bytes_allocated: u64,
    /// Block sizes in use, small ones first.
    pub blocks: Vec<BlockSize>,
    /// What each tensor of rows takes, in the schema's order.
    pub rows: Vec<RowUse>,
    /// The block table.
    pub table: TableSummary,
    /// Bytes of the user record of the generation.
    pub user_record_bytes: u64,
    /// What opening found.
    pub recovery: Recovery,
    /// The process that has the store open for writing, where the operating system tells.
    pub writer_process: Option<u32>,
    /// Steps that the writer has finished since the commit. Without a writer they are lost.
    pub uncommitted_steps: u64,
}

impl Summary {
    /// Steps that had finished after the last commit and are gone; 0 while a writer is at work. [Example](Self#example).
    #[must_use]
    pub fn lost_steps(&self) -> u64 {
        if self.writer_process.is_some() { 0 } else { self.uncommitted_steps }
    }
}

/// A parameter group with every setting in force.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GroupSummary {
    /// The name.
    pub name: String,
    /// The update rule and its settings.
    pub optimizer: Optimizer,
    /// Tensors in it.
    pub tensors: u64,
    /// Parameters in it.
    pub params: u64,
}

/// How many blocks there are of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockSize {
    /// Elements of a whole block.
    pub elements: u64,
    /// Bytes of the parameter plane of a whole block.
    pub param_bytes: u64,
    /// How many blocks, the shorter last ones of each tensor included. Every plane has this many.
    pub blocks: u64,
}

/// The block table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableSummary {
    /// Entries: one for each tensor, one for each plane of each block.
    pub entries: u64,
    /// Pages of 4 KiB in each home.
    pub pages: u64,
    /// Levels of the tree, the leaves included.
    pub levels: u64,
}

impl Summary {
    /// Opens a store for reading and summarises it; needs no lock and works beside a writer. [Example](Self#example).
    ///
    /// # Errors
    /// As [`ParamStore::open_read_only`].
    pub fn of(path: impl AsRef<Path>, options: &Options) -> Result<Self> {
        ParamStore::open_read_only(path, options)?.summary()
    }
}

impl ParamStore {
    /// Says what the store is: its committed generation, groups, planes, and where every byte of disk goes. Takes
    /// milliseconds at any size.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// let summary = store.summary()?;
    /// assert_eq!((summary.params, summary.generation), (6, store.generation()));
    /// assert_eq!(summary.planes[0].value_bytes, 6 * 4);
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// Disk errors.
    pub fn summary(&self) -> Result<Summary> {
        let directory = self.directory();
        let mut pager = self.pager().lock();
        let store = pager.store_mut();
        let superblock = store.superblock().clone();
        let planes = plane_uses(&directory);
        let mut disk = DiskUse::of(&directory, &superblock, &planes)?;
        let (mut bytes_on_disk, mut bytes_allocated) = (0, 0);
        for file in store.files()? {
            bytes_on_disk += file.len_bytes;
            bytes_allocated += file.allocated_bytes;
            if !is_store_file(&file.name) && !is_note_file(&file.name) {
                disk.other_files += file.len_bytes;
            } else if file.plane.is_none() && file.name != META_FILE {
                disk.small_files += file.len_bytes;
            }
        }
        let committed_groups = store.record().groups.clone();
        let user_record_bytes = to_u64(store.record().user.len());
        // A reader has the writer's note of how far it is; the writer itself knows.
        let last_step = if store.is_writer() { Some(self.step()) } else { store.found().last_step };
        let uncommitted_steps = last_step.map_or(0, |last| last.saturating_sub(superblock.step));
        let writer_process = store.writer_process();
        drop(pager);
        let groups = committed_groups.iter().map(ParamGroup::from_record).collect::<Result<Vec<_>>>()?;
        Ok(Summary {
            path: self.path().to_owned(),
            format_version: crate::format::FORMAT_VERSION,
            uuid: superblock.uuid.to_string(),
            generation: superblock.generation,
            step: superblock.step,
            created_unix_s: superblock.created_unix_s,
            features: features(&superblock),
            params: self.params(),
            tensors: to_u64(directory.tensors.len()),
            groups: group_summaries(&groups, &directory.tensors),
            planes,
            disk,
            bytes_on_disk,
            bytes_allocated,
            blocks: block_sizes(&directory.extents),
            rows: self.row_uses(),
            table: table(superblock.table_slots),
            user_record_bytes,
            recovery: self.recovery().clone(),
            writer_process,
            uncommitted_steps,
            writer_version: superblock.writer,
        })
    }
}

fn features(superblock: &Superblock) -> Vec<String> {
    let mut names = Vec::new();
    if superblock.ro_compat & RO_COMPAT_SPARSE != 0 {
        names.push("sparse".to_owned());
    }
    if superblock.ro_compat & RO_COMPAT_KEPT != 0 {
        names.push("kept".to_owned());
    }
    if superblock.incompat & superblock::INCOMPAT_ROWS != 0 {
        names.push("rows".to_owned());
    }
    if superblock.incompat & superblock::INCOMPAT_NARROW != 0 {
        names.push("few bits".to_owned());
    }
    if superblock.incompat & superblock::INCOMPAT_FROZEN != 0 {
        names.push("frozen".to_owned());
    }
    if superblock.incompat & superblock::INCOMPAT_COMPUTE != 0 {
        names.push("compute".to_owned());
    }
    if superblock.incompat & superblock::INCOMPAT_COMPENSATION != 0 {
        names.push("compensation".to_owned());
    }
    let unknown =
        [("compat", superblock.compat), ("ro_compat", superblock.ro_compat & !superblock::KNOWN_RO_COMPAT)];
    names.extend(
        unknown.iter().filter(|(_, bits)| *bits != 0).map(|(kind, bits)| format!("{kind} {bits:#x}")),
    );
    names
}

fn group_summaries(groups: &[ParamGroup], tensors: &[Tensor]) -> Vec<GroupSummary> {
    let mut summaries: Vec<_> = groups
        .iter()
        .map(|group| GroupSummary {
            name: group.name().to_owned(),
            optimizer: *group.optimizer(),
            tensors: 0,
            params: 0,
        })
        .collect();
    for tensor in tensors {
        if let Some(group) = summaries.get_mut(to_usize(tensor.group.into())) {
            group.tensors += 1;
            group.params += tensor.elements().unwrap_or(0);
        }
    }
    summaries
}

/// Counts blocks by size.
pub(super) fn block_sizes(extents: &[crate::format::directory::Extent]) -> Vec<BlockSize> {
    let mut sizes = BTreeMap::new();
    for extent in extents {
        let dtype = extent.planes.first().map(|plane| plane.dtype);
        let bytes = dtype.and_then(|dtype| dtype.bytes_of(extent.block_elements)).unwrap_or(0);
        *sizes.entry((extent.block_elements, bytes)).or_insert(0) += extent.blocks();
    }
    let size = |((elements, param_bytes), blocks)| BlockSize { elements, param_bytes, blocks };
    sizes.into_iter().map(size).collect()
}

/// The shape of the table over a number of entries.
pub(super) fn table(entries: u64) -> TableSummary {
    let shape = TableShape::new(entries);
    let (pages, levels) = shape.map_or((0, 0), |shape| (shape.pages(), to_u64(shape.levels())));
    TableSummary { entries, pages, levels }
}
