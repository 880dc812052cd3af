//! Operations on tensors of rows.

use super::model::{Model, first_difference, gradient};
use super::promise::{Trouble, violation};
use super::rng::Rng;
use super::runner::Runner;
use crate::error::Result;
use crate::param_store::ParamStore;
use crate::step::Step;

/// Most ids of one call: a few of these fill the log.
const IDS_MAX: usize = 90;

impl Model {
    fn rows(&self, tensor: usize) -> usize {
        self.elements(tensor) / self.width(tensor).unwrap_or(1).max(1)
    }

    /// Ids that a step and a salt choose: few or many, some of them twice, low ones more often.
    fn ids(&self, tensor: usize, (step, salt): (u64, u8)) -> Vec<u64> {
        let mut rng = Rng::new(step * 256 + u64::from(salt), tensor as u64);
        let most = [0, 3, IDS_MAX / 3, IDS_MAX][usize::from(salt & 3)];
        let len = if most == 0 { 0 } else { 1 + rng.below(most) };
        let rows = self.rows(tensor);
        let mut id = || {
            let skewed = 1 + rng.below(rows);
            rng.below(skewed) as u64
        };
        (0..len).map(|_| id()).collect()
    }

    /// Applies gradients to rows that a step and a salt choose, in a step of a store and here.
    pub(super) fn apply_rows(&mut self, step: &mut Step<'_>, tensor: usize, choice: (u64, u8)) -> Result<()> {
        let ids = self.ids(tensor, choice);
        let len = ids.len() * self.width(tensor).unwrap_or(0);
        let gradients = gradient(tensor, len, choice.0, choice.1 & 63);
        step.apply_rows(self.name(tensor), &ids, &gradients)?;
        self.update_rows(tensor, &ids, &gradients)
    }
}

impl Runner<'_> {
    pub(super) fn step_on_rows(&mut self, store: &mut ParamStore, tensors: u8, salt: u8) -> Result<()> {
        let mut model = self.model.clone();
        let now = model.step;
        let mut step = store.begin_step()?;
        for (bit, &tensor) in self.profile.tables.iter().enumerate() {
            if tensors >> (bit % 8) & 1 == 1 {
                model.apply_rows(&mut step, tensor, (now, salt))?;
            }
        }
        step.finish()?;
        model.step += 1;
        self.model = model;
        Ok(())
    }

    /// Compares rows, in any order and some of them twice.
    pub(super) fn gather(&self, store: &ParamStore, tensor: usize, salt: u8) -> Result<(), Trouble> {
        let ids = self.model.ids(tensor, (self.model.step + 1000, salt | 2));
        let width = self.model.width(tensor).unwrap_or(0);
        let mut found = vec![f32::NAN; ids.len() * width];
        store.gather_rows(self.model.name(tensor), &ids, &mut found)?;
        let params = self.model.params(tensor);
        let row = |id: &u64| {
            let start = usize::try_from(*id).unwrap_or(0) * width;
            params.get(start..start + width).unwrap_or_default()
        };
        let expected: Vec<_> = ids.iter().flat_map(row).copied().collect();
        match first_difference(&found, &expected) {
            Some(at) => {
                let (name, id) = (self.model.name(tensor), ids.get(at / width.max(1)));
                Err(violation(format!("row {id:?} of {name:?}, gathered, element {}", at % width.max(1))))
            }
            None => Ok(()),
        }
    }

    /// Sets a range that begins and ends within rows.
    pub(super) fn write_rows(&mut self, store: &mut ParamStore, tensor: u8, salt: u8) -> Result<()> {
        let Some(tensor) = self.profile.table(tensor) else { return Ok(()) };
        let elements = self.model.elements(tensor);
        let mut rng = Rng::new(self.model.step, u64::from(salt));
        let start = rng.below(elements);
        let len = 1 + rng.below((elements - start).min(700));
        let values = gradient(tensor, len, 78, salt & 63);
        store.write_range(self.model.name(tensor), start as u64, &values)?;
        self.model.write_range(tensor, start, &values);
        Ok(())
    }
}
