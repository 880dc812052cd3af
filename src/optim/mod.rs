//! RULE. Which planes an optimizer keeps, which scalars a step has, and which kernel runs.
//!
//! The rules follow PyTorch 2.x in their hyperparameters, defaults, state names and order of operations, so that a run
//! can move between the two. Lion, which PyTorch does not have, follows its paper. All scalars of a step are computed
//! in f64 from a u64 step count and rounded once to f32.
//!
//! ```
//! use paramstore::InstructionSet;
//! use paramstore::optim::{AdamW, Optimizer, TensorClock};
//!
//! let optimizer = Optimizer::AdamW(AdamW { lr: 0.1, ..AdamW::default() });
//! let (mut param, grad) = ([1.0_f32, -2.0], [0.5_f32, 0.25]);
//! let (mut exp_avg, mut exp_avg_sq) = ([0.0_f32; 2], [0.0_f32; 2]);
//! let mut clock = TensorClock::default();
//! let state: &mut [&mut [f32]] = &mut [&mut exp_avg, &mut exp_avg_sq];
//! optimizer.update(InstructionSet::detect(), &mut clock, &mut param, &grad, state)?;
//! assert_eq!(clock.steps, 1);
//! assert!((param[0] - 0.899).abs() < 1e-6 && (param[1] + 2.098).abs() < 1e-6);
//! # Ok::<(), paramstore::Error>(())
//! ```

mod adadelta;
mod adagrad;
mod adam;
mod adamax;
mod adamw;
mod catch_up;
mod idle;
mod lion;
mod nadam;
mod power;
mod prepared;
mod radam;
mod rmsprop;
mod rowwise_adagrad;
mod settings;
mod sgd;
mod sparse_adam;

#[cfg(test)]
mod tests;

pub use adadelta::Adadelta;
pub use adagrad::Adagrad;
pub use adam::Adam;
pub use adamax::Adamax;
pub use adamw::AdamW;
pub(crate) use catch_up::CatchUp;
pub use lion::Lion;
pub use nadam::NAdam;
pub(crate) use prepared::Prepared;
pub use radam::RAdam;
pub use rmsprop::RmsProp;
pub use rowwise_adagrad::RowwiseAdagrad;
pub use settings::Setting;
pub use sgd::Sgd;
pub use sparse_adam::SparseAdam;

use idle::Idle;

use crate::error::{Error, Result};
use crate::kernel::narrow::{Lane, Rounding};
use crate::kernel::{InstructionSet, body};
use settings::Settings;

/// An update rule with its hyperparameters.
///
/// # Example
///
/// ```
/// use paramstore::Optimizer;
/// use paramstore::optim::Setting;
///
/// let mut optimizer = Optimizer::from_name("adamw")?; // one of `Optimizer::NAMES`
/// optimizer.set("betas", "0.9,0.95")?;
/// optimizer.set("amsgrad", "on")?;
/// optimizer.set_lr(3e-4);
/// optimizer.validate()?;
/// assert_eq!((optimizer.name(), optimizer.lr()), ("adamw", 3e-4));
/// assert!(optimizer.settings().contains(&("beta2", Setting::Number(0.95))));
/// let planes: Vec<_> = optimizer.state_planes().iter().map(|plane| plane.name).collect();
/// assert_eq!(planes, ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]);
///
/// // As a file keeps it, and back.
/// let settings = optimizer.settings().into_iter().map(|(key, value)| (key.to_owned(), value.into()));
/// let again = Optimizer::from_settings(optimizer.name(), &settings.collect::<Vec<_>>())?;
/// assert_eq!(again, optimizer);
/// # Ok::<(), paramstore::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Optimizer {
    /// Stochastic gradient descent, with or without momentum.
    Sgd(Sgd),
    /// Adagrad.
    Adagrad(Adagrad),
    /// Adadelta.
    Adadelta(Adadelta),
    /// RMSprop.
    RmsProp(RmsProp),
    /// Adam with coupled weight decay.
    Adam(Adam),
    /// Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Adamax.
    Adamax(Adamax),
    /// NAdam.
    NAdam(NAdam),
    /// RAdam.
    RAdam(RAdam),
    /// Lion.
    Lion(Lion),
    /// SparseAdam, Adam for rows.
    SparseAdam(SparseAdam),
    /// Adagrad with one sum a row.
    RowwiseAdagrad(RowwiseAdagrad),
}

/// A plane that an optimizer keeps beside the parameters, with one f32 per element or row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StatePlane {
    /// PyTorch's name of it, e.g. `exp_avg`.
    pub name: &'static str,
    /// The value of every element before the first step.
    pub fill: f32,
    /// Whether it has one value for each row, and not for each element.
    pub per_row: bool,
}

impl StatePlane {
    /// Whether no rule makes a value of it negative: averages, sums and maxima of squares or magnitudes.
    ///
    /// ```
    /// let planes = paramstore::Optimizer::from_name("adam")?.state_planes();
    /// assert!(!planes[0].is_never_negative()); // exp_avg
    /// assert!(planes[1].is_never_negative());  // exp_avg_sq
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    #[must_use]
    pub fn is_never_negative(&self) -> bool {
        const SQUARES: [&str; 7] =
            ["exp_avg_sq", "max_exp_avg_sq", "exp_inf", "sum", "square_avg", "acc_delta", "row_sum"];
        SQUARES.contains(&self.name)
    }
}

/// What an optimizer keeps per tensor beside its planes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorClock {
    /// Steps that the tensor has taken.
    pub steps: u64,
    /// NAdam's product of momenta so far, kept in f32 as PyTorch does; other rules leave it alone.
    pub mu_product: f32,
}

impl Default for TensorClock {
    /// The clock of a tensor before its first step.
    fn default() -> Self {
        Self { steps: 0, mu_product: 1.0 }
    }
}

impl TensorClock {
    /// Returns the clock after one more step.
    const fn next(self) -> Self {
        Self { steps: self.steps.saturating_add(1), ..self }
    }
}

/// What each rule provides; [`Optimizer`] delegates to it.
trait UpdateRule: Settings {
    /// Lists the state planes in their fixed order.
    fn state_planes(&self) -> Vec<StatePlane>;

    /// Computes the scalars of the next step, and the clock after it.
    fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock);

    /// As [`prepare`](Self::prepare), for a step on some rows only; `None` if the rule has no such form with these
    /// hyperparameters.
    fn prepare_rows(&self, _clock: TensorClock) -> Option<(Prepared, TensorClock)> {
        None
    }

    /// What steps without a gradient come to; `None` if there is no short form of it with these hyperparameters.
    fn idle(&self) -> Option<Idle> {
        None
    }
}

/// Evaluates an expression for the rule in an optimizer.
macro_rules! delegate {
    ($optimizer:expr, $rule:ident => $value:expr) => {
        match $optimizer {
            Optimizer::Sgd($rule) => $value,
            Optimizer::Adagrad($rule) => $value,
            Optimizer::Adadelta($rule) => $value,
            Optimizer::RmsProp($rule) => $value,
            Optimizer::Adam($rule) => $value,
            Optimizer::AdamW($rule) => $value,
            Optimizer::Adamax($rule) => $value,
            Optimizer::NAdam($rule) => $value,
            Optimizer::RAdam($rule) => $value,
            Optimizer::Lion($rule) => $value,
            Optimizer::SparseAdam($rule) => $value,
            Optimizer::RowwiseAdagrad($rule) => $value,
        }
    };
}

impl Optimizer {
    /// The names of all optimizers.
    pub const NAMES: [&'static str; 12] = [
        "sgd",
        "adagrad",
        "adadelta",
        "rmsprop",
        "adam",
        "adamw",
        "adamax",
        "nadam",
        "radam",
        "lion",
        "sparseadam",
        "rowwiseadagrad",
    ];

    /// Returns the optimizer's name, one of [`NAMES`](Self::NAMES). [Example](Self#example).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sgd(_) => "sgd",
            Self::Adagrad(_) => "adagrad",
            Self::Adadelta(_) => "adadelta",
            Self::RmsProp(_) => "rmsprop",
            Self::Adam(_) => "adam",
            Self::AdamW(_) => "adamw",
            Self::Adamax(_) => "adamax",
            Self::NAdam(_) => "nadam",
            Self::RAdam(_) => "radam",
            Self::Lion(_) => "lion",
            Self::SparseAdam(_) => "sparseadam",
            Self::RowwiseAdagrad(_) => "rowwiseadagrad",
        }
    }

    /// Returns the optimizer of this name with its default hyperparameters. [Example](Self#example).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the name is not one of [`NAMES`](Self::NAMES).
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "sgd" => Self::Sgd(Sgd::default()),
            "adagrad" => Self::Adagrad(Adagrad::default()),
            "adadelta" => Self::Adadelta(Adadelta::default()),
            "rmsprop" => Self::RmsProp(RmsProp::default()),
            "adam" => Self::Adam(Adam::default()),
            "adamw" => Self::AdamW(AdamW::default()),
            "adamax" => Self::Adamax(Adamax::default()),
            "nadam" => Self::NAdam(NAdam::default()),
            "radam" => Self::RAdam(RAdam::default()),
            "lion" => Self::Lion(Lion::default()),
            "sparseadam" => Self::SparseAdam(SparseAdam::default()),
            "rowwiseadagrad" => Self::RowwiseAdagrad(RowwiseAdagrad::default()),
            _ => {
                let expected = format!("one of {}", Self::NAMES.join(", "));
                return Err(Error::invalid("optimizer", format_args!("{name:?}"), expected));
            }
        })
    }

    /// Sets a hyperparameter by PyTorch's name of it, from text.
    ///
    /// `betas` takes both betas (`0.9,0.95`); `beta1` and `beta2` take one. A switch takes `on`, `true`, `1`, `off`,
    /// `false` or `0`. What depends on several hyperparameters is left to [`validate`](Self::validate).
    /// [Example](Self#example).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the rule has no such hyperparameter (the message names those that exist), or the value is
    /// not a number of its range; the optimizer is then unchanged.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let name = self.name();
        let mut changed = *self;
        delegate!(&mut changed, rule => settings::set(name, &mut rule.fields(), key, value))?;
        *self = changed;
        Ok(())
    }

    /// Lists every hyperparameter in force, in a fixed order; betas are `beta1` and `beta2`. [Example](Self#example).
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, Setting)> {
        let mut copy = *self;
        delegate!(&mut copy, rule => settings::read(&rule.fields()))
    }

    /// Makes the optimizer that [`settings`](Self::settings) listed, exactly; a switch is 0 or 1. [Example](Self#example).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the name is unknown, a setting is unknown, missing or given twice, or the optimizer is
    /// not a valid one.
    pub fn from_settings(name: &str, settings: &[(String, f64)]) -> Result<Self> {
        let mut optimizer = Self::from_name(name)?;
        delegate!(&mut optimizer, rule => settings::write(name, &mut rule.fields(), settings))?;
        optimizer.validate()?;
        Ok(optimizer)
    }

    /// Checks every hyperparameter against PyTorch's range, and that they go together. [Example](Self#example).
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the first one that does not fit.
    pub fn validate(&self) -> Result<()> {
        let name = self.name();
        let mut copy = *self;
        delegate!(&mut copy, rule => {
            settings::check(name, &rule.fields())?;
            rule.check_together()
        })
    }

    /// Returns the learning rate. [Example](Self#example).
    #[must_use]
    pub const fn lr(&self) -> f64 {
        delegate!(self, rule => rule.lr)
    }

    /// Sets the learning rate, e.g. from a schedule before each step; [`validate`](Self::validate) checks it.
    /// [Example](Self#example).
    pub const fn set_lr(&mut self, lr: f64) {
        delegate!(self, rule => rule.lr = lr);
    }

    /// Lists the planes that the optimizer keeps per element with these hyperparameters, in the order in which
    /// [`update`](Self::update) takes them. The list is empty for SGD without momentum. [Example](Self#example).
    #[must_use]
    pub fn state_planes(&self) -> Vec<StatePlane> {
        delegate!(self, rule => rule.state_planes())
    }

    /// Computes the scalars of a tensor's next step, and its clock after the step.
    pub(crate) fn prepare(&self, clock: TensorClock) -> (Prepared, TensorClock) {
        delegate!(self, rule => rule.prepare(clock))
    }

    /// Computes the scalars of a tensor's next step on some of its rows, and its clock after the step. The other rows
    /// keep every bit, moments included: this is PyTorch's rule for sparse gradients, not what a gradient of zeros
    /// would do to them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] about `what` if the rule has no such form with these hyperparameters.
    pub(crate) fn prepare_rows(
        &self,
        clock: TensorClock,
        what: impl Into<String>,
    ) -> Result<(Prepared, TensorClock)> {
        const EXPECTED: &str = "an optimizer with a rule for rows: sgd, adagrad, rowwiseadagrad, adadelta, rmsprop, adam, \
                                adamw or sparseadam, and no weight decay but that of adamw";
        delegate!(self, rule => rule.prepare_rows(clock))
            .ok_or_else(|| Error::invalid(what, self.for_rows(), EXPECTED))
    }

    /// What steps without a gradient come to, if that has a short form.
    fn idle(&self) -> Option<Idle> {
        delegate!(self, rule => rule.idle())
    }

    /// Names the optimizer, and its weight decay, where it is not one for rows.
    fn for_rows(&self) -> String {
        let decay = self.settings().into_iter().find(|&(key, _)| key == "weight_decay");
        match decay.map(|(_, value)| f64::from(value)) {
            Some(decay) if decay != 0.0 => format!("{} with weight_decay {decay}", self.name()),
            _ => self.name().to_owned(),
        }
    }

    /// Takes one step on a tensor in plain memory.
    ///
    /// The state planes are those of [`state_planes`](Self::state_planes), in that order, filled with their `fill`
    /// before the first step. NaN and infinite gradients follow IEEE 754, as in PyTorch.
    ///
    /// ```
    /// use paramstore::InstructionSet;
    /// use paramstore::optim::{Optimizer, Sgd, TensorClock};
    ///
    /// let rule = Optimizer::Sgd(Sgd { lr: 0.5, momentum: 0.5, ..Sgd::default() });
    /// let (isa, mut clock) = (InstructionSet::detect(), TensorClock::default());
    /// let (mut param, mut momentum) = ([0.0], [0.0]);
    /// rule.update(isa, &mut clock, &mut param, &[1.0], &mut [&mut momentum])?;
    /// rule.update(isa, &mut clock, &mut param, &[1.0], &mut [&mut momentum])?;
    /// assert_eq!((clock.steps, momentum[0], param[0]), (2, 1.5, -1.25));
    /// assert!(rule.update(isa, &mut clock, &mut param, &[1.0], &mut []).is_err()); // a plane is missing
    /// # Ok::<(), paramstore::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the number of planes or a length does not fit; nothing is then changed. The
    /// hyperparameters are not checked; see [`validate`](Self::validate).
    pub fn update(
        &self,
        isa: InstructionSet,
        clock: &mut TensorClock,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [&mut [f32]],
    ) -> Result<()> {
        self.check_lengths(param.len(), grad.len(), state.iter().map(|plane| plane.len()))?;
        let (prepared, next) = self.prepare(*clock);
        let _non_finite = prepared.run(isa, param, grad, state);
        *clock = next;
        Ok(())
    }

    /// As [`update`](Self::update), on planes in any form: `lanes` are the parameters, then the state planes. The rule
    /// sees f32, this step's moments unrounded; then the parameters are rounded by `rounding` and the state to the nearest, as
    /// are parameters in a [compensated](Lane::Compensated) lane. [Example](Lane#example).
    ///
    /// # Errors
    ///
    /// As [`update`](Self::update).
    pub fn update_lanes(
        &self,
        isa: InstructionSet,
        clock: &mut TensorClock,
        lanes: &mut [Lane<'_>],
        grad: &[f32],
        rounding: Rounding,
    ) -> Result<()> {
        let len = lanes.first().map_or(0, Lane::len);
        self.check_lengths(len, grad.len(), lanes.iter().skip(1).map(Lane::len))?;
        let (prepared, next) = self.prepare(*clock);
        let _non_finite = prepared.run_lanes(isa, lanes, grad, rounding);
        *clock = next;
        Ok(())
    }

    /// Refuses a gradient and state planes that do not fit `len` parameters.
    fn check_lengths(
        &self,
        len: usize,
        grad: usize,
        state: impl ExactSizeIterator<Item = usize>,
    ) -> Result<()> {
        let planes = self.state_planes();
        if grad != len {
            return Err(Error::invalid("length of the gradient", grad, format!("{len}, as the parameters")));
        }
        if state.len() != planes.len() {
            let names = planes.iter().map(|plane| plane.name).collect::<Vec<_>>().join(", ");
            let expected = format!("{} for {} ({names})", planes.len(), self.name());
            return Err(Error::invalid("number of state planes", state.len(), expected));
        }
        for (plane, got) in planes.iter().zip(state) {
            let (len, of) = if plane.per_row { (1, "one for the row") } else { (len, "as the parameters") };
            if got != len {
                let what = format!("length of the state plane {}", plane.name);
                return Err(Error::invalid(what, got, format!("{len}, {of}")));
            }
        }
        Ok(())
    }
}

/// Rounds a scalar of a step to the dtype of the planes: the one rounding that it gets.
#[expect(clippy::cast_possible_truncation, reason = "rounding, or overflow to infinity, is what is wanted")]
const fn round(x: f64) -> f32 {
    x as f32
}

/// Returns a step count as f64: exact below 2^53, and where it is not, nothing computed from it notices.
#[expect(clippy::cast_precision_loss, reason = "2^53 steps are 285 years of 1,000,000 steps a second")]
const fn real(steps: u64) -> f64 {
    steps as f64
}

/// A plane that starts with zeros.
const fn zeros(name: &'static str) -> StatePlane {
    StatePlane { name, fill: 0.0, per_row: false }
}

/// Returns a weight decay as the kernels take it: 0 is none, and leaves every bit alone.
fn some_unless_zero(weight_decay: f64) -> Option<f32> {
    (weight_decay != 0.0).then_some(round(weight_decay))
}

/// Returns weight decay of one of both kinds.
fn decay(weight_decay: f64, lr: f64, decoupled: bool) -> body::Decay {
    if weight_decay == 0.0 {
        body::Decay::None
    } else if decoupled {
        body::Decay::Decoupled(round(1.0 - lr * weight_decay))
    } else {
        body::Decay::Coupled(round(weight_decay))
    }
}

/// Returns the average of gradients in which the past weighs `beta`.
const fn lerp(beta: f64) -> body::Lerp {
    body::Lerp::new(round(1.0 - beta))
}

/// Returns the average of squares in which the past weighs `beta`.
const fn squares(beta: f64) -> body::Squares {
    body::Squares { keep: round(beta), add: round(1.0 - beta) }
}
