//! Products of matrices, by candle. The number of threads does not change a bit of them: it divides rows and columns, never
//! a sum. The kind of CPU can, since its instruction set decides how sums are grouped.

use anyhow::Result;
use candle_core::{Device, Tensor};

/// A matrix by rows: its elements, and the length of a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// Row after row.
    pub(crate) elements: &'a [f32],
    /// Elements of a row.
    pub(crate) width: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix from its elements.
    pub(crate) fn new(elements: &'a [f32], width: usize) -> Self {
        Self { elements, width }
    }

    fn tensor(self) -> Result<Tensor> {
        let shape = (self.elements.len() / self.width.max(1), self.width);
        Ok(Tensor::from_slice(self.elements, shape, &Device::Cpu)?)
    }
}

fn elements(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// The scalar products of all rows of `a` with all rows of `b`.
pub(crate) fn with_rows(a: Matrix<'_>, b: Matrix<'_>) -> Result<Vec<f32>> {
    elements(&a.tensor()?.matmul(&b.tensor()?.t()?)?)
}

/// For weights `w` with a row for each row of `q` and a column for each row of `c`: the sums `w c` and `transposed(w) q`.
pub(crate) fn both_sums(w: Matrix<'_>, q: Matrix<'_>, c: Matrix<'_>) -> Result<(Vec<f32>, Vec<f32>)> {
    let w = w.tensor()?;
    Ok((elements(&w.matmul(&c.tensor()?)?)?, elements(&w.t()?.matmul(&q.tensor()?)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_sums_over_rows_and_columns() {
        let (q, c) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        let (q, c) = (Matrix::new(&q, 2), Matrix::new(&c, 2));
        assert_eq!(with_rows(q, c).unwrap(), [1.0, 2.0, 3.0, 3.0, 4.0, 7.0]);
        let w = [1.0, 0.0, 2.0, 0.0, 1.0, 0.0];
        let (by_c, by_q) = both_sums(Matrix::new(&w, 3), q, c).unwrap();
        assert_eq!(by_c, [3.0, 2.0, 0.0, 1.0]);
        assert_eq!(by_q, [1.0, 2.0, 3.0, 4.0, 2.0, 4.0]);
    }
}
