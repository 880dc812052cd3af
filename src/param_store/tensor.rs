//! A tensor of an open store.

use crate::format::directory::{Directory, Dtype, Init, Tensor};
use crate::format::records::{Records, RowMode};
use crate::schema::ParamGroup;
use crate::units::to_usize;

/// A tensor of an open store.
///
/// # Example
///
/// ```
#[doc = include_str!("../examples/store.txt")]
/// use paramstore::{Dtype, Init};
///
/// let w = store.tensor("w").expect("the store has it");
/// assert_eq!((w.name(), w.shape(), w.elements()), ("w", &[2, 3][..], 6));
/// assert_eq!((w.group(), w.init()), ("all", Init::Zeros));
/// assert_eq!((w.dtype(), w.plane_dtype("momentum_buffer")), (Dtype::F32, Some(Dtype::F32)));
/// assert!(w.planes().any(|plane| plane == "momentum_buffer"));
/// assert!(!w.is_frozen() && !w.is_rows() && w.row_mode().is_none());
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TensorInfo<'a> {
    tensor: &'a Tensor,
    directory: &'a Directory,
    groups: &'a [ParamGroup],
}

impl<'a> TensorInfo<'a> {
    pub(super) fn new(tensor: &'a Tensor, directory: &'a Directory, groups: &'a [ParamGroup]) -> Self {
        Self { tensor, directory, groups }
    }

    /// The name. [Example](Self#example).
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.tensor.name
    }

    /// The dimensions, slowest first; none for a scalar. [Example](Self#example).
    #[must_use]
    pub fn shape(&self) -> &'a [u64] {
        &self.tensor.shape
    }

    /// The type of its parameters on disk. [Example](Self#example).
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    /// The type of one of its planes on disk; `None` for a plane that it does not have. [Example](Self#example).
    #[must_use]
    pub fn plane_dtype(&self, plane: &str) -> Option<Dtype> {
        let extent = self.directory.extents.get(to_usize(self.tensor.extent.into()))?;
        let at = self.planes().position(|name| name == plane)?;
        Some(if extent.records.is_some() { Dtype::F32 } else { extent.dtype(at) })
    }

    /// The number of elements. [Example](Self#example).
    #[must_use]
    pub fn elements(&self) -> u64 {
        self.tensor.elements().unwrap_or(0)
    }

    /// Its parameter group. [Example](Self#example).
    #[must_use]
    pub fn group(&self) -> &'a str {
        self.groups.get(to_usize(self.tensor.group.into())).map_or("", ParamGroup::name)
    }

    /// Names of its planes: `param`, then the optimizer's state, then `compute` or `compensation` if it has one; of a frozen
    /// tensor `frozen` alone. [Example](Self#example).
    pub fn planes(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let directory = self.directory;
        let extent = directory.extents.get(to_usize(self.tensor.extent.into()));
        let of_records = extent.and_then(|extent| extent.records.as_ref());
        let own = extent.filter(|_| of_records.is_none()).into_iter().flat_map(|extent| &extent.planes);
        let of_records = of_records.into_iter().flat_map(|records| &records.planes);
        let indices = own.map(|plane| plane.plane).chain(of_records.map(|plane| plane.plane));
        indices.filter_map(move |plane| directory.planes.get(usize::from(plane)).map(|p| p.name.as_str()))
    }

    /// What its parameters are before anybody writes them. [Example](Self#example).
    #[must_use]
    pub fn init(&self) -> Init {
        self.tensor.init
    }

    /// Whether it is never updated; see [`TensorSpec::frozen`](crate::TensorSpec::frozen). [Example](Self#example).
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        let extent = self.directory.extents.get(to_usize(self.tensor.extent.into()));
        extent.is_some_and(|extent| self.directory.is_frozen(extent))
    }

    /// Whether it is kept by rows; see [`TensorSpec::rows`](crate::TensorSpec::rows). [Example](Self#example).
    #[must_use]
    pub fn is_rows(&self) -> bool {
        self.records().is_some()
    }

    /// What becomes of its rows in steps that do not name them; `None` for a tensor that is not of rows.
    /// [Example](Self#example).
    #[must_use]
    pub fn row_mode(&self) -> Option<RowMode> {
        self.records().map(|records| records.mode)
    }

    /// Elements of a plane in each row, for a tensor of rows.
    pub(super) fn width(&self, plane: usize) -> Option<usize> {
        self.records().map(|records| records.within(plane).len())
    }

    fn records(&self) -> Option<&'a Records> {
        let extent = self.directory.extents.get(to_usize(self.tensor.extent.into()));
        extent.and_then(|extent| extent.records.as_ref())
    }
}
