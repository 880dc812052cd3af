//! Foreign files that are open for reading, and the tensors in them.

use std::path::Path;
use std::sync::Arc;

use super::{ForeignTensor, check_apart, gguf, index, npy, npz, safetensors};
use crate::error::{Error, Result};
use crate::storage::{Caching, RealVolume, Segment, Volume};
use crate::units::to_usize;

/// A file, through the page cache for its header and past it for its values.
pub(super) struct SourceFile {
    pub(super) cached: Arc<dyn Segment>,
    pub(super) direct: Arc<dyn Segment>,
    pub(super) len_bytes: u64,
}

/// All files of an import, and their tensors file by file, ascending by place.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) files: Vec<Arc<SourceFile>>,
    pub(super) tensors: Vec<ForeignTensor>,
}

impl Sources {
    /// Adds what a path holds: a file, an index with its shards, or a directory with one of them.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
        if let Ok(volume) = RealVolume::open_dir(path) {
            return self.add_directory(&volume);
        }
        // Its name as it was given: shards stand beside the link, if it is one.
        let (volume, name) = RealVolume::open_dir_for(path)?;
        if path.extension().is_some_and(|extension| extension == "json") {
            return self.add_index(&volume, &name);
        }
        self.add_file(&volume, &name)
    }

    fn add_directory(&mut self, volume: &RealVolume) -> Result<()> {
        let names = volume.list()?;
        let has = |name: &String| names.contains(name);
        let mut found = false;
        for stem in ["model", "optimizer"] {
            let (file, index) = (format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json"));
            if has(&index) {
                self.add_index(volume, &index)?;
            } else if has(&file) {
                self.add_file(volume, &file)?;
            } else {
                continue;
            }
            found = true;
        }
        if found {
            return Ok(());
        }
        let expected = "a directory with model.safetensors or model.safetensors.index.json, or a file in it";
        Err(Error::invalid("source of an import", volume.path().display(), expected))
    }

    /// Adds a file of a directory that the user named. Links in it are his own, as in the cache of Hugging Face, whose models
    /// consist of them: what they lead to is read. Which files those are, an index says by plain names only.
    fn add_file(&mut self, volume: &RealVolume, name: &str) -> Result<()> {
        let open = |caching| volume.open_followed(name, caching);
        self.add_opened(open(Caching::Cached)?, open(Caching::Direct)?)
    }

    /// Adds a file by the format that its first bytes tell.
    pub(super) fn add_opened(&mut self, cached: Arc<dyn Segment>, direct: Arc<dyn Segment>) -> Result<()> {
        let file = self.files.len();
        let len_bytes = cached.len_bytes()?;
        let mut tensors = read_header(&*cached)?;
        for tensor in &mut tensors {
            tensor.file = file;
        }
        tensors.sort_by_key(|tensor| (tensor.offset, tensor.bytes_there()));
        check_apart(&tensors)?;
        self.tensors.append(&mut tensors);
        self.files.push(Arc::new(SourceFile { cached, direct, len_bytes }));
        Ok(())
    }

    fn add_index(&mut self, volume: &RealVolume, name: &str) -> Result<()> {
        let file = volume.open_followed(name, Caching::Cached)?;
        for (shard, names) in index::read(&*file)? {
            let first = self.tensors.len();
            self.add_file(volume, &shard)?;
            let of_shard = self.tensors.get(first..).unwrap_or_default();
            index::check_shard(file.path(), &shard, &names, of_shard)?;
        }
        Ok(())
    }
}

/// The tensors of a file, in the order of its header.
pub(crate) fn read_header(file: &dyn Segment) -> Result<Vec<ForeignTensor>> {
    let len = file.len_bytes()?.min(6);
    let magic = read_bytes(file, 0, len, "first bytes")?;
    match magic.as_slice() {
        magic if magic == npy::MAGIC => npy::read(file),
        [b'G', b'G', b'U', b'F', ..] => gguf::read(file),
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => npz::read(file),
        _ => safetensors::read(file),
    }
}

/// Bytes of a header, which has to lie in the file: nothing is allocated before that is known.
pub(super) fn read_bytes(file: &dyn Segment, offset: u64, len: u64, what: &str) -> Result<Vec<u8>> {
    let file_bytes = file.len_bytes()?;
    if offset.checked_add(len).is_none_or(|end| end > file_bytes) {
        let got = format!("a file of {file_bytes} bytes");
        return Err(Error::foreign(file.path(), what, (offset, len), got, "all of these bytes"));
    }
    let mut bytes = vec![0; to_usize(len)];
    file.read_at(&mut bytes, offset)?;
    Ok(bytes)
}
