//! What a store is to hold, as options of `create` and `plan`.

use clap::Args;
use paramstore::precision::Half;
use paramstore::{
    Dtype, Init, Moments, Optimizer, Options, ParamGroup, Precision, RowMode, Schema, TensorSpec,
};

use crate::failure::Failure;
use crate::hyperparameters::Hyperparameters;
use crate::quantity;

#[derive(Debug, Args)]
pub(crate) struct SchemaArguments {
    /// Update rule, which decides what state is kept per parameter
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Optimizer::NAMES))]
    optimizer: String,
    /// Number of parameters, as one tensor named `param`
    #[arg(long, value_name = "N", value_parser = quantity::count, conflicts_with_all = ["tensor", "rows"])]
    #[arg(required_unless_present_any = ["tensor", "rows"])]
    params: Option<u64>,
    /// A tensor, e.g. wte:f32:50257x768, bias:f32:[768] or scale:f32:[]; give it once for each tensor. Of type f32 it is kept
    /// as --state says, of type bf16 or f16 its parameters are so in any case, of an integer type or f64 it is frozen
    #[arg(long, value_name = "NAME:DTYPE:SHAPE", value_parser = tensor)]
    tensor: Vec<(String, Dtype, Vec<u64>)>,
    /// Bits of parameters and moments: bf16 halves the bytes, compact (bf16 and 8 bits) makes them a third; with -kahan parameters
    /// are rounded to the nearest in place of stochastically, and 2 bytes more keep what that lost; tensors below 4,096
    /// elements or two dimensions, and embeddings, stay in f32
    #[arg(long, value_name = "STATE", default_value = "f32")]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(Precision::NAMES))]
    state: String,
    /// Keep a copy of f32 parameters in 16 bits beside them, written with every update: a forward pass then reads half the bytes;
    /// small tensors, vectors and embeddings have none
    #[arg(long, value_name = "KIND", value_parser = ["bf16", "f16"])]
    compute: Option<String>,
    /// A tensor kept by rows, such as a table of embeddings, e.g. words:f32:1Mx64; once for each
    #[arg(long, value_name = "NAME:DTYPE:ROWSxWIDTH", value_parser = tensor)]
    rows: Vec<(String, Dtype, Vec<u64>)>,
    /// What becomes of a row in steps that do not name it: nothing, or what a dense run would do
    #[arg(long, value_name = "MODE", value_parser = ["lazy", "catch-up"], requires = "rows", default_value = "lazy")]
    row_mode: String,
    /// Find rows by hashed ids, and update a row from its Nth sighting on
    #[arg(long, value_name = "N", requires = "rows", value_parser = clap::value_parser!(u32).range(1..))]
    hashed_ids: Option<u32>,
    /// Bytes of the log of rows [default: as much as the tables, 16MiB to 8GiB]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes, requires = "rows")]
    row_log: Option<u64>,
    /// Bytes of a block's parameters, a power of two from 4KiB to 256MiB [default: 4MiB or less, by size and memory]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    block_bytes: Option<u64>,
    /// Reserve a plane for gradients, for accumulation, clipping by global norm, and refusing of NaN
    #[arg(long)]
    gradient_plane: bool,
    /// Memory that training will have [default: half of what is available]
    #[arg(long, value_name = "BYTES", value_parser = quantity::bytes)]
    memory: Option<u64>,
}

impl SchemaArguments {
    pub(crate) fn schema(
        &self,
        settings: &Hyperparameters,
        init: Init,
        seed: u64,
    ) -> Result<Schema, Failure> {
        let mut schema = Schema::new().seed(seed).gradient_plane(self.gradient_plane);
        schema = schema.group(ParamGroup::new("default", self.optimizer(settings)?));
        let state = state(&self.state);
        schema = schema.precision(state);
        if let Some(kind) = &self.compute {
            schema = schema.compute(if kind == "f16" { Half::F16 } else { Half::Bf16 });
        }
        if let Some(params) = self.params {
            // It stands for matrices.
            schema = schema.tensor(TensorSpec::new("param", &[params]).init(init).precision(state));
        }
        for (name, dtype, shape) in &self.tensor {
            let mut tensor = TensorSpec::new(name, shape).init(init);
            if !dtype.is_trainable() {
                tensor = TensorSpec::new(name, shape).stored_as(*dtype);
            } else if *dtype != Dtype::F32 {
                let mut own = Precision::new(*dtype, state.moments);
                own.compensated = state.compensated;
                tensor = tensor.precision(own);
            }
            schema = schema.tensor(tensor);
        }
        let mode = if self.row_mode == RowMode::CatchUp.name() { RowMode::CatchUp } else { RowMode::Lazy };
        for (name, dtype, shape) in &self.rows {
            let spec = TensorSpec::new(name, shape).init(init).row_mode(mode);
            // Others than f32 are refused by the store, with what it can do.
            let spec = spec.precision(Precision::new(*dtype, Moments::F32));
            schema = schema.tensor(match self.hashed_ids {
                Some(admission) => spec.hashed_ids(admission),
                None => spec,
            });
        }
        if let Some(bytes) = self.row_log {
            schema = schema.row_log_bytes(bytes);
        }
        Ok(match self.block_bytes {
            Some(bytes) => schema.block_bytes(bytes),
            None => schema,
        })
    }

    pub(crate) fn optimizer(&self, settings: &Hyperparameters) -> Result<Optimizer, Failure> {
        settings.optimizer(&self.optimizer)
    }

    pub(crate) fn state(&self) -> Precision {
        state(&self.state)
    }

    pub(crate) fn options(&self) -> Options {
        let options = Options::new();
        match self.memory {
            Some(bytes) => options.memory_budget(bytes),
            None => options,
        }
    }

    pub(crate) fn has_gradient_plane(&self) -> bool {
        self.gradient_plane
    }
}

/// The precision of a name that the command line knows.
pub(crate) fn state(name: &str) -> Precision {
    Precision::from_name(name).unwrap_or_default()
}

/// Forms of parameters that the command line knows.
pub(crate) const PARAMS: [&str; 5] = ["f32", "bf16", "f16", "bf16-kahan", "f16-kahan"];

/// The type of parameters in one of these forms, and whether they are compensated.
pub(crate) fn params(form: &str) -> (Dtype, bool) {
    let (name, compensated) = form.strip_suffix("-kahan").map_or((form, false), |name| (name, true));
    (Dtype::from_name(name).unwrap_or(Dtype::F32), compensated)
}

/// `NAME:DTYPE:SHAPE`; the name may hold colons.
fn tensor(text: &str) -> Result<(String, Dtype, Vec<u64>), String> {
    let expected = "expected NAME:DTYPE:SHAPE, e.g. wte:f32:50257x768";
    let mut parts = text.rsplitn(3, ':');
    let (Some(shape), Some(dtype), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(expected.to_owned());
    };
    let known =
        Dtype::from_name(dtype).filter(|known| matches!(known, Dtype::F32 | Dtype::Bf16 | Dtype::F16));
    let Some(known) = known else {
        return Err(format!("unknown dtype {dtype:?}, expected f32, bf16 or f16"));
    };
    if name.is_empty() {
        return Err(format!("no name; {expected}"));
    }
    Ok((name.to_owned(), known, self::shape(shape)?))
}

/// `1000x64`, `1000,64` or `[1000,64]`; `[]` for a scalar.
fn shape(text: &str) -> Result<Vec<u64>, String> {
    let wrong = || format!("unknown shape {text:?}, expected 1000x64, [1000,64] or [] for a scalar");
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None if text.is_empty() => return Err(wrong()),
        None => text,
    };
    if inner.trim().is_empty() {
        return Ok(Vec::new());
    }
    inner.split(['x', ',']).map(|dim| quantity::count(dim).map_err(|_| wrong())).collect()
}

/// `zeros`, `constant:X`, `normal:STD` or `uniform:LOW:HIGH`.
pub(crate) fn init(text: &str) -> Result<Init, String> {
    let wrong = || "expected zeros, constant:X, normal:STD or uniform:LOW:HIGH".to_owned();
    let number = |text: &str| text.trim().parse::<f32>().ok().filter(|x| x.is_finite()).ok_or_else(wrong);
    let parts: Vec<_> = text.split(':').collect();
    match parts[..] {
        ["zeros"] => Ok(Init::Zeros),
        ["constant", value] => Ok(Init::Constant(number(value)?)),
        ["normal", std] => match number(std)? {
            std if std >= 0.0 => Ok(Init::Normal { mean: 0.0, std }),
            _ => Err("expected a standard deviation of at least 0".to_owned()),
        },
        ["uniform", low, high] => match (number(low)?, number(high)?) {
            (low, high) if low <= high => Ok(Init::Uniform { low, high }),
            _ => Err("expected LOW of at most HIGH".to_owned()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_from_the_right_so_that_names_may_hold_colons() {
        assert_eq!(tensor("a:f32:1000x64"), Ok(("a".into(), Dtype::F32, vec![1000, 64])));
        assert_eq!(tensor("a:b:f32:[2, 3,4]"), Ok(("a:b".into(), Dtype::F32, vec![2, 3, 4])));
        assert_eq!(tensor("s:f32:[]"), Ok(("s".into(), Dtype::F32, vec![])));
        assert_eq!(tensor("big:bf16:1Bx2"), Ok(("big".into(), Dtype::Bf16, vec![1_000_000_000, 2])));
    }

    #[test]
    fn forms_of_parameters_are_types_compensated_or_not() {
        let expected = [
            (Dtype::F32, false),
            (Dtype::Bf16, false),
            (Dtype::F16, false),
            (Dtype::Bf16, true),
            (Dtype::F16, true),
        ];
        assert_eq!(PARAMS.map(params), expected);
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        for text in [
            "",
            "a",
            "a:f32",
            "a:f64:3",
            "a:q8-signed:3",
            ":f32:3",
            "a:f32:",
            "a:f32:3x",
            "a:f32:[3",
            "a:f32:-1",
            "a:f32:3y4",
        ] {
            assert!(tensor(text).is_err(), "{text}");
        }
    }

    #[test]
    fn initial_values_are_read_with_their_numbers() {
        assert_eq!(init("zeros"), Ok(Init::Zeros));
        assert_eq!(init("constant:-1.5"), Ok(Init::Constant(-1.5)));
        assert_eq!(init("normal:0.02"), Ok(Init::Normal { mean: 0.0, std: 0.02 }));
        assert_eq!(init("uniform:-1:1"), Ok(Init::Uniform { low: -1.0, high: 1.0 }));
        for text in ["", "normal", "normal:-1", "normal:nan", "uniform:1:0", "constant:inf", "ones"] {
            assert!(init(text).is_err(), "{text}");
        }
    }
}
