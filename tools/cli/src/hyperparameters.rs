//! Settings of optimizers as options.

use clap::Args;
use paramstore::Optimizer;

use crate::failure::Failure;

/// Every hyperparameter by PyTorch's name of it; those that the optimizer does not have are refused.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Hyperparameters (defaults as in PyTorch)")]
pub(crate) struct Hyperparameters {
    /// Learning rate
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<String>,
    /// Decay rates of both moments
    #[arg(long, value_name = "X,Y")]
    betas: Option<String>,
    /// Decay rate of the first moment
    #[arg(long, value_name = "X")]
    beta1: Option<String>,
    /// Decay rate of the second moment
    #[arg(long, value_name = "X")]
    beta2: Option<String>,
    /// Term that keeps divisors away from zero
    #[arg(long, value_name = "X")]
    eps: Option<String>,
    /// Weight decay
    #[arg(long, value_name = "X")]
    weight_decay: Option<String>,
    /// Momentum factor (sgd, rmsprop)
    #[arg(long, value_name = "X")]
    momentum: Option<String>,
    /// What of a gradient does not enter the momentum (sgd)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    dampening: Option<String>,
    /// Smoothing constant (rmsprop)
    #[arg(long, value_name = "X")]
    alpha: Option<String>,
    /// Smoothing constant (adadelta)
    #[arg(long, value_name = "X")]
    rho: Option<String>,
    /// Decay of the learning rate with each step (adagrad)
    #[arg(long, value_name = "X")]
    lr_decay: Option<String>,
    /// First value of the sum of squares (adagrad)
    #[arg(long, value_name = "X")]
    initial_accumulator_value: Option<String>,
    /// Decay of the momentum (nadam)
    #[arg(long, value_name = "X")]
    momentum_decay: Option<String>,
    /// Use Nesterov momentum (sgd)
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    nesterov: Option<String>,
    /// Keep the maximum of the second moment (adam, adamw)
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    amsgrad: Option<String>,
    /// Centre the second moment (rmsprop)
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    centered: Option<String>,
    /// Decouple the weight decay from the gradient (nadam, radam)
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    decoupled_weight_decay: Option<String>,
    /// Go up the gradient
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    maximize: Option<String>,
    /// Any hyperparameter by name, e.g. weight_decay=0.1
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Hyperparameters {
    fn named(&self) -> [(&'static str, &Option<String>); 18] {
        [
            ("lr", &self.lr),
            ("betas", &self.betas),
            ("beta1", &self.beta1),
            ("beta2", &self.beta2),
            ("eps", &self.eps),
            ("weight_decay", &self.weight_decay),
            ("momentum", &self.momentum),
            ("dampening", &self.dampening),
            ("alpha", &self.alpha),
            ("rho", &self.rho),
            ("lr_decay", &self.lr_decay),
            ("initial_accumulator_value", &self.initial_accumulator_value),
            ("momentum_decay", &self.momentum_decay),
            ("nesterov", &self.nesterov),
            ("amsgrad", &self.amsgrad),
            ("centered", &self.centered),
            ("decoupled_weight_decay", &self.decoupled_weight_decay),
            ("maximize", &self.maximize),
        ]
    }

    /// The optimizer of this name with these settings.
    pub(crate) fn optimizer(&self, name: &str) -> Result<Optimizer, Failure> {
        let mut optimizer = Optimizer::from_name(name)?;
        for (key, value) in self.named() {
            if let Some(value) = value {
                optimizer.set(key, value)?;
            }
        }
        for setting in &self.set {
            let Some((key, value)) = setting.split_once('=') else {
                return Err(Failure::Usage(format!("--set {setting}: expected KEY=VALUE, e.g. lr=1e-3")));
            };
            optimizer.set(key.trim(), value.trim())?;
        }
        optimizer.validate()?;
        Ok(optimizer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_of_every_optimizer_has_an_option() {
        let hyperparameters = Hyperparameters::default();
        let options: Vec<_> = hyperparameters.named().iter().map(|(key, _)| *key).collect();
        for name in Optimizer::NAMES {
            for (key, _) in Optimizer::from_name(name).unwrap().settings() {
                assert!(options.contains(&key), "{key} of {name}");
            }
        }
    }
}
