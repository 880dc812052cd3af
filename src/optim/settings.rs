//! Hyperparameters by name: set from text, listed, restored, checked.

use crate::error::{Error, Result};

/// The hyperparameters of a rule, by name.
pub(super) trait Settings {
    /// Lists the hyperparameters in a fixed order, each with its place.
    fn fields(&mut self) -> Vec<Field<'_>>;

    /// Checks what depends on several hyperparameters at once.
    fn check_together(&self) -> Result<()> {
        Ok(())
    }
}

/// The value of a hyperparameter. [Example](super::Optimizer#example).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    /// A number.
    Number(f64),
    /// On or off.
    Switch(bool),
}

impl From<Setting> for f64 {
    /// As a store records it: a switch is 0 or 1.
    fn from(setting: Setting) -> Self {
        match setting {
            Setting::Number(value) => value,
            Setting::Switch(on) => Self::from(u8::from(on)),
        }
    }
}

/// One hyperparameter.
pub(super) struct Field<'a> {
    name: &'static str,
    slot: Slot<'a>,
}

enum Slot<'a> {
    Number(&'a mut f64, Range),
    Switch(&'a mut bool),
}

/// The values that a number may take; all of them are finite, in f32 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// Any.
    Finite,
    /// 0 and above.
    NonNegative,
    /// 0 to 1, without 1.
    Decay,
    /// 0 to 1.
    Unit,
}

impl Range {
    fn holds(self, x: f64) -> bool {
        super::round(x).is_finite()
            && match self {
                Self::Finite => true,
                Self::NonNegative => x >= 0.0,
                Self::Decay => (0.0..1.0).contains(&x),
                Self::Unit => (0.0..=1.0).contains(&x),
            }
    }

    const fn expected(self) -> &'static str {
        match self {
            Self::Finite => "a finite number",
            Self::NonNegative => "a finite number of at least 0",
            Self::Decay => "a number of at least 0 and below 1",
            Self::Unit => "a number from 0 to 1",
        }
    }
}

impl<'a> Field<'a> {
    pub(super) const fn number(name: &'static str, place: &'a mut f64, range: Range) -> Self {
        Self { name, slot: Slot::Number(place, range) }
    }

    pub(super) const fn switch(name: &'static str, place: &'a mut bool) -> Self {
        Self { name, slot: Slot::Switch(place) }
    }

    fn get(&self) -> Setting {
        match &self.slot {
            Slot::Number(place, _) => Setting::Number(**place),
            Slot::Switch(place) => Setting::Switch(**place),
        }
    }

    fn expected(&self) -> &'static str {
        match self.slot {
            Slot::Number(_, range) => range.expected(),
            Slot::Switch(_) => "on, true, 1, off, false or 0",
        }
    }

    /// Stores a value if it is of the hyperparameter's kind and range; says whether it was.
    fn put(&mut self, value: f64) -> bool {
        match &mut self.slot {
            Slot::Number(place, range) => {
                let fits = range.holds(value);
                if fits {
                    **place = value;
                }
                fits
            }
            Slot::Switch(place) => {
                **place = match value {
                    0.0 => false,
                    1.0 => true,
                    _ => return false,
                };
                true
            }
        }
    }

    fn put_text(&mut self, optimizer: &str, text: &str) -> Result<()> {
        let value = match (&self.slot, text.trim()) {
            (Slot::Switch(_), "on" | "true" | "1") => Some(1.0),
            (Slot::Switch(_), "off" | "false" | "0") => Some(0.0),
            (Slot::Switch(_), _) => None,
            (Slot::Number(..), text) => text.parse().ok(),
        };
        if value.is_some_and(|value| self.put(value)) {
            return Ok(());
        }
        Err(Error::invalid(
            format!("{} of {optimizer}", self.name),
            format_args!("{text:?}"),
            self.expected(),
        ))
    }
}

/// The hyperparameters that Adam and its kin begin with.
pub(super) fn of_moments<'a>(
    lr: &'a mut f64,
    beta1: &'a mut f64,
    beta2: &'a mut f64,
    eps: &'a mut f64,
    weight_decay: &'a mut f64,
) -> Vec<Field<'a>> {
    vec![
        Field::number("lr", lr, Range::NonNegative),
        Field::number("beta1", beta1, Range::Decay),
        Field::number("beta2", beta2, Range::Decay),
        Field::number("eps", eps, Range::NonNegative),
        Field::number("weight_decay", weight_decay, Range::NonNegative),
    ]
}

/// Sets the hyperparameter `key` (or both betas) from text.
pub(super) fn set(optimizer: &str, fields: &mut [Field<'_>], key: &str, value: &str) -> Result<()> {
    if key == "betas" && fields.iter().any(|field| field.name == "beta1") {
        let Some((beta1, beta2)) = value.split_once(',') else {
            let what = format!("betas of {optimizer}");
            return Err(Error::invalid(what, format_args!("{value:?}"), "two numbers, e.g. 0.9,0.999"));
        };
        set(optimizer, fields, "beta1", beta1)?;
        return set(optimizer, fields, "beta2", beta2);
    }
    match fields.iter_mut().find(|field| field.name == key) {
        Some(field) => field.put_text(optimizer, value),
        None => Err(unknown(optimizer, fields, key)),
    }
}

/// Lists all hyperparameters.
pub(super) fn read(fields: &[Field<'_>]) -> Vec<(&'static str, Setting)> {
    fields.iter().map(|field| (field.name, field.get())).collect()
}

/// Restores all hyperparameters from what [`read`] listed, as numbers and in any order.
pub(super) fn write(optimizer: &str, fields: &mut [Field<'_>], settings: &[(String, f64)]) -> Result<()> {
    for (key, _) in settings {
        if !fields.iter().any(|field| field.name == key) {
            return Err(unknown(optimizer, fields, key));
        }
    }
    for field in fields {
        let mut values = settings.iter().filter(|(key, _)| key == field.name).map(|&(_, value)| value);
        let what = || format!("{} of {optimizer}", field.name);
        let value = match (values.next(), values.next()) {
            (Some(value), None) => value,
            (None, _) => return Err(Error::invalid(what(), "nothing", field.expected())),
            (Some(_), Some(_)) => return Err(Error::invalid(what(), "two values", "one")),
        };
        if !field.put(value) {
            return Err(Error::invalid(format!("{} of {optimizer}", field.name), value, field.expected()));
        }
    }
    Ok(())
}

/// Checks every hyperparameter against its range.
pub(super) fn check(optimizer: &str, fields: &[Field<'_>]) -> Result<()> {
    for field in fields {
        if let Slot::Number(place, range) = &field.slot
            && !range.holds(**place)
        {
            return Err(Error::invalid(format!("{} of {optimizer}", field.name), **place, range.expected()));
        }
    }
    Ok(())
}

fn unknown(optimizer: &str, fields: &[Field<'_>], key: &str) -> Error {
    let mut names: Vec<_> = fields.iter().map(|field| field.name).collect();
    if names.contains(&"beta1") {
        names.push("betas");
    }
    let expected = format!("one of {}", names.join(", "));
    Error::invalid(format!("hyperparameter of {optimizer}"), format_args!("{key:?}"), expected)
}
