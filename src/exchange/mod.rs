//! EXCHANGE. Files of other programs: a store is made from them ([`Import`]), tensors of a store get values from them
//! ([`Transfer`]), or they are made from a store ([`Export`]).
//!
//! Read are safetensors (one file, or an index and its shards), npy, npz and GGUF; written are safetensors and npy. A foreign
//! file is never mapped and never believed: every count in it is held against the file's length before memory is taken for
//! it, and what does not fit is [`Error::Foreign`] with place, found and expected. Values stream
//! through buffers of a fixed size, so that a model takes no more memory than a tensor does.
//!
//! ```
//! use paramstore::exchange::{Export, Import};
//! use paramstore::{Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
//!
//! # let keep = tempfile::tempdir()?;
//! # let path = |name| keep.path().join(name);
//! let options = Options::new().memory_budget(16 << 20);
//! let group = || ParamGroup::new("all", Optimizer::from_name("adamw").expect("AdamW is known"));
//! let schema = Schema::new().group(group()).tensor(TensorSpec::new("w", &[2, 3]));
//! let mut store = ParamStore::create(path("a"), &schema, &options)?;
//! store.write("w", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])?;
//! Export::new().to_file(&store, path("w.safetensors"), |_| {})?;
//!
//! Import::new(group()).source(path("w.safetensors")).memory_budget(32 << 20).run(path("b"), |_| {})?;
//! let copy = ParamStore::open_read_only(path("b"), &options)?;
//! assert_eq!(copy.view("w")?[..], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod content;
mod export;
mod gguf;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod hostile;
mod import;
mod index;
mod npy;
mod npz;
mod reader;
mod safetensors;
mod sink;
mod source;
mod split;
mod state;
mod stream;
mod transfer;
mod values;

use std::path::Path;
use std::sync::Arc;

pub use export::{Export, ExportReport};
pub use import::{Import, ImportPlan, ImportReport, PlannedTensor};
pub use transfer::{Left, Matched, Transfer, TransferReport};

use crate::error::{Error, Result};
use crate::format::directory::Dtype;

/// The type of a foreign tensor's elements.
///
/// # Example
///
/// ```
/// use paramstore::Dtype;
/// use paramstore::exchange::ForeignDtype;
///
/// let plain = ForeignDtype::Plain(Dtype::Bf16);
/// assert_eq!((plain.name(), plain.bytes(), plain.stored()), ("BF16", Some(2), Some(Dtype::Bf16)));
/// let quantised = ForeignDtype::Other("Q4_K".to_owned());
/// assert_eq!((quantised.name(), quantised.bytes(), quantised.stored()), ("Q4_K", None, None));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignDtype {
    /// Plain numbers, which a store keeps as they are.
    Plain(Dtype),
    /// What a store cannot hold, by the name that its format gives it: quantised blocks, complex numbers, objects, big-endian
    /// numbers.
    Other(String),
}

impl ForeignDtype {
    /// The type that safetensors, or another format that names types so, calls by this name.
    fn of_name(name: &str) -> Self {
        let known = NAMES.iter().find(|known| known.1 == name);
        known.map_or_else(|| Self::Other(name.to_owned()), |known| Self::Plain(known.0))
    }

    /// Bytes of an element; `None` for a type that a store cannot hold. [Example](Self#example).
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.stored()?.element_bytes()
    }

    /// The name as safetensors writes it, e.g. `BF16`. [Example](Self#example).
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Plain(dtype) => foreign_name(*dtype),
            Self::Other(name) => name,
        }
    }

    /// Whether it is one of the floats that become f32.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self, Self::Plain(Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16))
    }

    /// The type in which a store keeps such elements as they are. [Example](Self#example).
    #[must_use]
    pub fn stored(&self) -> Option<Dtype> {
        match self {
            Self::Plain(dtype) => Some(*dtype),
            Self::Other(_) => None,
        }
    }
}

/// The types that other programs have too, and what safetensors calls them.
const NAMES: [(Dtype, &str); 15] = [
    (Dtype::F64, "F64"),
    (Dtype::F32, "F32"),
    (Dtype::F16, "F16"),
    (Dtype::Bf16, "BF16"),
    (Dtype::I64, "I64"),
    (Dtype::I32, "I32"),
    (Dtype::I16, "I16"),
    (Dtype::I8, "I8"),
    (Dtype::U64, "U64"),
    (Dtype::U32, "U32"),
    (Dtype::U16, "U16"),
    (Dtype::U8, "U8"),
    (Dtype::Bool, "BOOL"),
    (Dtype::F8E4M3, "F8_E4M3"),
    (Dtype::F8E5M2, "F8_E5M2"),
];

/// What safetensors calls a type of the store; for codes that share scales, what they are widened to.
fn foreign_name(dtype: Dtype) -> &'static str {
    NAMES.iter().find(|known| known.0 == dtype).map_or("F32", |known| known.1)
}

/// A tensor of a foreign file, and where its elements stand.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ForeignTensor {
    /// Its name there.
    pub name: String,
    /// The type of its elements.
    pub dtype: ForeignDtype,
    /// The dimensions, slowest first; none for a scalar.
    pub shape: Vec<u64>,
    /// The file.
    pub path: Arc<Path>,
    /// Where its elements begin in the file, in bytes; of a compressed one, where the compressed bytes do.
    pub offset: u64,
    /// Bytes of its elements, uncompressed.
    pub bytes: u64,
    /// The number of its file among those that are open.
    pub(crate) file: usize,
    /// How an archive has packed it.
    pub(crate) packed: Option<Packed>,
}

/// An entry of an archive that holds a tensor behind a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packed {
    /// Its bytes if it is compressed; `None` if it stands there as it is.
    pub(crate) compressed: Option<u64>,
    /// Bytes of the header in front of the elements, uncompressed.
    pub(crate) header: u64,
    /// The checksum of the header.
    pub(crate) header_crc: u32,
    /// The checksum of header and elements.
    pub(crate) crc: u32,
}

impl ForeignTensor {
    /// The number of elements; saturates.
    ///
    /// ```
    #[doc = include_str!("../examples/store.txt")]
    /// use paramstore::exchange::{Export, list};
    ///
    /// let file = dir.path().join("model.safetensors");
    /// Export::new().to_file(&store, &file, |_| {})?;
    /// let w = &list(&file)?[0];
    /// assert_eq!((w.elements(), w.bytes), (6, 24));
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d))
    }

    /// Bytes that it takes in its file.
    fn bytes_there(&self) -> u64 {
        self.packed.and_then(|packed| packed.compressed).unwrap_or(self.bytes)
    }
}

/// The tensors of files: what an import of them would see, in the order in which they stand.
///
/// A path is a file in one of the formats, told by its first bytes; an index (`*.index.json`) whose shards stand beside it;
/// or a directory that holds `model.safetensors` or its index, and perhaps `optimizer.safetensors`, such as a snapshot in
/// the cache of Hugging Face (`models--*/snapshots/*`). The path, and files of the directory, may be links to regular files; what
/// an index names are plain names of files beside it, never paths.
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::exchange::{Export, list};
///
/// let directory = dir.path().join("exported");
/// Export::new().with_state(true).to_directory(&store, &directory, |_| {})?;
/// let names: Vec<_> = list(&directory)?.into_iter().map(|tensor| tensor.name).collect();
/// assert!(names.iter().any(|name| name == "w"));
/// assert!(matches!(list(path.join("nothing")), Err(paramstore::Error::Io { .. })));
/// # Ok::<(), paramstore::Error>(())
/// ```
///
/// # Errors
/// [`Error::Foreign`] for a file that is not what its format asks for, [`Error::Io`].
pub fn list(path: impl AsRef<Path>) -> Result<Vec<ForeignTensor>> {
    let mut sources = source::Sources::default();
    sources.add(path.as_ref())?;
    Ok(sources.tensors)
}

/// Elements times bytes, if they fit 64 bits.
fn byte_len(shape: &[u64], bits: u64) -> Option<u64> {
    let elements = shape.iter().try_fold(1_u64, |n, &d| n.checked_mul(d))?;
    let bits = elements.checked_mul(bits)?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// A tensor that a store cannot hold.
fn not_storable(tensor: &ForeignTensor) -> Error {
    let what = format!("type of tensor {:?} of {}", tensor.name, tensor.path.display());
    Error::invalid(
        what,
        tensor.dtype.name(),
        "plain numbers, little-endian and in C order; or leave the tensor out",
    )
}

/// Refuses tensors that share bytes; they are sorted by place.
fn check_apart(tensors: &[ForeignTensor]) -> Result<()> {
    for (before, tensor) in tensors.iter().zip(tensors.iter().skip(1)) {
        let end = before.offset.saturating_add(before.bytes_there());
        if tensor.offset < end && tensor.bytes_there() > 0 {
            let (what, range) = (format!("tensor {:?}", tensor.name), (tensor.offset, tensor.bytes_there()));
            let got = format!("bytes of tensor {:?}", before.name);
            let expected = format!("a place from byte {end} on");
            return Err(Error::foreign(&*tensor.path, what, range, got, expected));
        }
    }
    Ok(())
}
