//! PLACE. Which element of which tensor stands in which block of which segment. Pure: counts and ranges.

mod pieces;
mod placement;
mod records;
mod rows;

pub(crate) use pieces::{
    BlockPlace, Occupants, Piece, block_elements, block_of_slot, block_place, describe_block, pieces,
    plane_of_block,
};
pub(crate) use placement::{
    COMPENSATION_PLANE, COMPUTE_PLANE, GRAD_PLANE, PARAM_PLANE, Request, RowRequest, StateRequest,
    TensorRequest, default_block_elements, place,
};
pub(crate) use records::{RowTable, row_tables};
pub(crate) use rows::{Named, Rows, Touched};

#[cfg(test)]
pub(crate) use pieces::tests as pieces_tests;
