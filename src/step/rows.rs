//! Gradients of some rows of a matrix, as a lookup of embeddings has them.

use super::coverage::{Done, RowSet};
use super::{Step, Updated};
use crate::error::{Error, Result};
use crate::kernel::reduce::Preparation;
use crate::optim::{Prepared, TensorClock};
use crate::update::{RecordUpdate, RowUpdate};

impl Step<'_> {
    /// Updates some rows of a tensor `[rows, width]` with their gradients, by the rule for rows of its optimizer:
    /// `gradients` has the shape `[ids.len(), width]` and row `i` of it belongs to row `ids[i]` of the tensor. Every other
    /// row keeps parameters and state, bit for bit, and only blocks that hold a row named are read and written.
    ///
    /// Ids may come in any order and repeat. The gradients of a row that is named several times are summed in the order of
    /// their positions, each addition rounded to f32, and the row is updated once with the sum; a loss scale of the step
    /// divides the sum. [`StepReport::non_finite`](super::StepReport::non_finite) counts elements of these sums.
    ///
    /// The rules are those of PyTorch 2.x for sparse gradients (SGD without momentum, Adagrad,
    /// [`SparseAdam`](crate::optim::SparseAdam)), [row-wise Adagrad](crate::optim::RowwiseAdagrad), and those for dense
    /// gradients of SGD with momentum, Adadelta, RMSprop, Adam and AdamW, with the scalars of the tensor's clock. They are
    /// lazy: a row that is not named in a step neither moves nor decays, and momenta of it wait; unless the tensor's rows
    /// [catch up](crate::RowMode::CatchUp), by the rules for dense gradients. The clock counts one update for each step with
    /// a call, also one with no ids at all, as PyTorch does. Weight decay: AdamW's shrinks a row when it is named; a coupled
    /// one is refused, but for SGD whose rows catch up.
    ///
    /// A step may call this several times for a tensor, with other rows each time: a row comes in one call, which sums its
    /// gradients. The tensor is whole for [`finish`](Self::finish) after any call. The work is done when this returns.
    /// Beside the budget it takes 32 bytes of memory for each id, and as much for those of the three batches before.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// let mut step = store.begin_step()?;
    /// step.apply_rows("words", &[7, 3, 7], &[1.0, 1.0, 2.0, 2.0, 3.0, 3.0])?;
    /// step.apply_ids("users", &[], &[])?; // every tensor takes part in a step
    /// step.finish()?;
    /// let mut rows = [0.0; 2 * 2];
    /// store.gather_rows("words", &[3, 7], &mut rows)?;
    /// assert_eq!(rows, [-1.0, -1.0, -2.0, -2.0]); // row 7 got 1 + 3
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`] for the name; [`Error::Invalid`] for a tensor that has not two dimensions, an id that is no row
    /// of it, another length of the gradients, parameters or moments that are not f32, an optimizer (or momentum, or weight decay) without a rule for rows, a row
    /// or a tensor that was updated in this step already, and a step that needs all gradients first (clipping, refusing
    /// non-finite ones). Nothing was changed then, and the step can go on. I/O errors and [`Error::Damaged`] from the
    /// disk leave the step failed.
    pub fn apply_rows(&mut self, name: &str, ids: &[u64], gradients: &[f32]) -> Result<()> {
        self.store.check_hashed(name, false)?;
        self.apply_to_rows(name, ids, &[], gradients)
    }

    /// As [`apply_rows`](Self::apply_rows), for a tensor whose rows are found by hashed ids
    /// ([`TensorSpec::hashed_ids`](crate::TensorSpec::hashed_ids)): any `u64`. Ids that are hashed to the same row are as one
    /// id, whose gradients are summed. All ids of a step belong into one call, since any two may share a row.
    ///
    /// ```
    #[doc = include_str!("../examples/rows.txt")]
    /// for _ in 0..2 {
    ///     let mut step = store.begin_step()?;
    ///     step.apply_ids("users", &[u64::MAX], &[1.0, 1.0])?;
    ///     step.apply_rows("words", &[], &[])?;
    ///     step.finish()?;
    /// }
    /// let row = store.rows_of_ids("users", &[u64::MAX])?;
    /// let mut user = [0.0; 2];
    /// store.gather_rows("users", &row, &mut user)?;
    /// assert_eq!(user, [-0.5, -0.5]); // the first sighting was left out
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`apply_rows`](Self::apply_rows); [`Error::Invalid`] for a tensor without hashed ids.
    pub fn apply_ids(&mut self, name: &str, ids: &[u64], gradients: &[f32]) -> Result<()> {
        let rows = self.store.rows_of_ids(name, ids)?;
        self.apply_to_rows(name, &rows, ids, gradients)
    }

    /// Updates rows; `ids` are those that were hashed to them, or none.
    fn apply_to_rows(&mut self, name: &str, rows: &[u64], ids: &[u64], gradients: &[f32]) -> Result<()> {
        if self.options.needs_all_gradients() {
            return Err(Error::invalid(
                "apply_rows in this step",
                "clipping or refusing of non-finite gradients",
                "a step without them",
            ));
        }
        self.check_whole()?;
        let (tensor, rows) = self.store.checked_rows("gradients", (name, 0), rows, gradients.len())?;
        if self.staged.contains_key(&tensor) {
            return Err(self.twice(tensor));
        }
        self.store.check_trained(tensor, "update of rows")?;
        self.store.check_wide(tensor)?;
        let distinct = rows.distinct();
        let catch_up = self.store.catch_up(tensor)?;
        let rule = self.begin_rows(tensor, distinct, catch_up.is_some())?;
        // From here on the step has to finish, as with every update.
        self.store.mark_mixed();
        self.failed = true;
        self.store.background().wait_idle()?;
        let prepare = Preparation { divisor: self.divisor(), ..Preparation::default() };
        let planes = self.store.state_planes(tensor) + 1;
        let update = RowUpdate { tensor, rows: &rows, gradients, planes, rule, prepare };
        let engine = self.store.engine();
        self.non_finite += match self.store.table_of(tensor) {
            Some((tables, layout)) => {
                let updates = self.updated.get(&tensor).map_or(0, |update| update.clock_after.steps);
                let update_of = RecordUpdate { tables, layout, rows: distinct, ids, updates, catch_up };
                update.run_records(engine, update_of)?
            }
            None => update.run(engine)?,
        };
        if let Some(Updated { done: Done::Rows(seen), .. }) = self.updated.get_mut(&tensor) {
            seen.insert(distinct.to_vec());
        }
        self.failed = false;
        Ok(())
    }

    /// The tensor's scalars of this step, computed at its first update; `caught_up` is whether rows catch up before it.
    fn begin_rows(&mut self, tensor: usize, rows: &[u64], caught_up: bool) -> Result<Prepared> {
        if let Some(update) = self.updated.get(&tensor) {
            let Done::Rows(seen) = &update.done else { return Err(self.twice(tensor)) };
            if let Some(row) = seen.first_of(rows) {
                let what = format!("gradients of tensor {:?}", self.store.tensor_name(tensor));
                let got = format!("row {row} for a second time in this step");
                return Err(Error::invalid(
                    what,
                    got,
                    "one call with all gradients of a row, which sums them",
                ));
            }
            return Ok(update.rule);
        }
        let entry = self.store.pager().lock().store_mut().tensor_entry(tensor)?;
        let clock = TensorClock { steps: entry.steps, mu_product: entry.mu_product };
        let what = format!("row update of tensor {:?}", self.store.tensor_name(tensor));
        let optimizer = self.store.optimizer_of(tensor)?;
        let (rule, clock_after) =
            if caught_up { optimizer.prepare(clock) } else { optimizer.prepare_rows(clock, what)? };
        self.updated.insert(tensor, Updated { rule, clock_after, done: Done::Rows(RowSet::default()) });
        Ok(rule)
    }
}
