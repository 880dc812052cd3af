//! What a simulated program does with its store.

use super::rng::Rng;

/// One thing that a program does, or that happens to it without a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// An optimizer step; bits say which of the active tensors take part, and which of these by way of the `grad` plane.
    Step { tensors: u8, staged: u8, salt: u8 },
    /// An optimizer step on rows of tensors of rows, and of no others.
    Rows { tensors: u8, salt: u8 },
    /// Rows of such a tensor, compared.
    Gather { tensor: u8, salt: u8 },
    /// Values for a range of such a tensor, from elsewhere.
    WriteRows { tensor: u8, salt: u8 },
    /// Values for a tensor from elsewhere.
    Write { tensor: u8, salt: u8 },
    /// Another learning rate for a group.
    Rate { group: u8, rate: u8 },
    /// A commit; 0 keeps the user record that was committed last, others are records of several lengths.
    Commit { user: u8 },
    /// Back to the last commit.
    Rollback,
    /// A step that is dropped half way, and the way back.
    Abandon,
    /// A view of a tensor, compared.
    View { tensor: u8 },
    /// A reader beside the writer, compared.
    Read,
    /// A reader that stays until the next commit is done, and still sees its generation then.
    Hold,
    /// The last commit is kept under one of a few names.
    Keep { name: u8 },
    /// Back to a checkpoint, if there is one of this name.
    RollbackTo { name: u8 },
    /// A checkpoint, or what is left of one, is removed.
    Prune { name: u8 },
    /// A repair that goes back by one generation, if the one before is whole.
    DropNewest,
    /// The program closes the store and opens it again.
    Reopen,
    /// Something fails after so many operations on files.
    Fault { fault: Fault, after: u8 },
}

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// One operation on a file, with an error.
    Once,
    /// The program dies; the page cache lives on.
    Kill,
    /// A sync, after which the pages count as clean all the same.
    LostSync,
}

impl Operation {
    fn random(rng: &mut Rng) -> Self {
        match rng.below(42) {
            0..13 => Self::Step {
                tensors: rng.byte() | 1 << rng.below(3),
                staged: rng.byte() & rng.byte(),
                salt: rng.byte() & 3,
            },
            13..21 => Self::Commit { user: rng.byte() & 3 },
            21 => Self::Write { tensor: rng.byte(), salt: rng.byte() & 3 },
            22 => Self::Rate { group: rng.byte(), rate: rng.byte() & 3 },
            23 => Self::Rollback,
            24 => Self::Abandon,
            25 => Self::View { tensor: rng.byte() },
            26 => Self::Read,
            27 => Self::Hold,
            28 => Self::Reopen,
            29 => Self::Fault { fault: Fault::Once, after: rng.byte() },
            30 => Self::Fault { fault: Fault::LostSync, after: rng.byte() & 7 },
            32..36 => Self::Keep { name: rng.byte() & 1 },
            36 => Self::RollbackTo { name: rng.byte() & 1 },
            37..39 => Self::Prune { name: rng.byte() & 1 },
            39 => Self::Fault { fault: Fault::Kill, after: rng.byte() },
            40 => Self::DropNewest,
            _ => Self::Fault { fault: Fault::Kill, after: rng.byte() & 127 },
        }
    }

    /// A few operations on a store with tensors of rows.
    pub(super) fn rows_script(rng: &mut Rng, len: usize) -> Vec<Self> {
        let one = |rng: &mut Rng| match rng.below(20) {
            0..6 => Self::Rows { tensors: rng.byte() | 1 << rng.below(2), salt: rng.byte() },
            6..10 => Self::Commit { user: rng.byte() & 3 },
            10 => Self::Gather { tensor: rng.byte(), salt: rng.byte() },
            11 => Self::WriteRows { tensor: rng.byte(), salt: rng.byte() },
            _ => Self::random(rng),
        };
        (0..len).map(|_| one(rng)).collect()
    }

    /// A few operations.
    pub(super) fn script(rng: &mut Rng, len: usize) -> Vec<Self> {
        (0..len).map(|_| Self::random(rng)).collect()
    }
}

/// Names of checkpoints.
pub(super) const NAMES: [&str; 2] = ["a", "b"];

/// The name with this number.
pub(super) fn name_of(number: u8) -> &'static str {
    NAMES[usize::from(number & 1)]
}

/// The bytes that a commit saves for the caller: none, some, more than a sector, more than a page.
pub(super) fn user_record(user: u8, generation: u64) -> Vec<u8> {
    let len = [0_u64, 8, 700, 5000][usize::from(user & 3)];
    (0..len).map(|at| (at.wrapping_mul(37).wrapping_add(generation * 101)).to_le_bytes()[0]).collect()
}
