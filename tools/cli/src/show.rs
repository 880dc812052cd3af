//! `paramstore show`.

mod print;
mod slice;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use paramstore::inspect::Element;
use paramstore::{Dtype, ParamStore, TensorInfo};
use serde_json::{Value, json};

use crate::arguments::Generation;
use crate::failure::Failure;
use crate::source;
use crate::{Verdict, terminal};
use slice::Slice;

/// Print values of a tensor
///
/// Prints like NumPy: all of up to 1,000 values, else the first and last three along each dimension. Reads the values that it
/// prints and no others. A slice is one of Python: indices, which may count from the end, START:STOP:STEP, and `...`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  paramstore show run1 wte.weight
  paramstore show run1 wte.weight [0:3,:8]
  paramstore show run1 wte.weight [-1] --plane exp_avg_sq --all
  paramstore show run1 wte.weight [...,::100] --checkpoint best --json")]
pub(crate) struct ShowArguments {
    /// Directory of the store, also as STORE@CHECKPOINT or STORE@previous
    store: PathBuf,
    /// Name of the tensor
    tensor: String,
    /// Which values, e.g. [0:3,:8], with or without brackets [default: all]
    #[arg(value_parser = slice::parse, allow_hyphen_values = true)]
    slice: Option<Slice>,
    /// Which plane, e.g. exp_avg [default: the parameters]
    #[arg(long, value_name = "PLANE")]
    plane: Option<String>,
    /// A kept checkpoint in place of the last commit
    #[arg(long, value_name = "NAME")]
    checkpoint: Option<String>,
    /// Which of the two committed generations to look at
    #[arg(long, value_enum, default_value_t = Generation::Newest)]
    generation: Generation,
    /// Print all values, however many
    #[arg(long)]
    all: bool,
    /// Print JSON, with all values
    #[arg(long)]
    json: bool,
}

/// Values of one plane of one tensor, by place.
struct Values<'s> {
    store: &'s ParamStore,
    tensor: &'s str,
    plane: &'s str,
    dtype: Dtype,
}

impl Values<'_> {
    /// Some values that stand together.
    fn read(&self, start: u64, len: usize) -> Result<Vec<Element>, Failure> {
        let Some(size) = self.dtype.element_bytes().filter(|_| !self.dtype.is_trainable()) else {
            let mut values = vec![0.0; len];
            self.store.read_plane_range_into(self.tensor, self.plane, start, &mut values)?;
            return Ok(values.into_iter().map(|value| Element::Float(value.into())).collect());
        };
        let size = usize::try_from(size).unwrap_or(8);
        let mut bytes = vec![0; size * len];
        self.store.read_bytes(self.tensor, start, &mut bytes)?;
        Ok(bytes.chunks_exact(size).filter_map(|bytes| Element::decode(self.dtype, bytes)).collect())
    }

    /// Whether the values are f32 at most, which has fewer digits than f64.
    fn is_narrow(&self) -> bool {
        self.dtype != Dtype::F64
    }
}

pub(crate) fn run(arguments: &ShowArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let store = source::open(&arguments.store, arguments.checkpoint.as_deref(), arguments.generation, None)?;
    let info = store.tensor(&arguments.tensor).ok_or_else(|| unknown(&store, &arguments.tensor))?;
    let plane = match &arguments.plane {
        Some(plane) => info.planes().find(|name| name == plane).ok_or_else(|| no_plane(&info, plane))?,
        None => info.planes().next().unwrap_or("param"),
    };
    let dtype = info.plane_dtype(plane).unwrap_or(Dtype::F32);
    let values = Values { store: &store, tensor: info.name(), plane, dtype };
    let shape = plane_shape(&store, &info, plane);
    let whole = Slice::default();
    let axes = arguments.slice.as_ref().unwrap_or(&whole).of(&shape).map_err(Failure::Usage)?;
    let lengths: Vec<_> = axes.iter().filter(|axis| !axis.is_index).map(|axis| axis.count).collect();
    if arguments.json {
        let list = print::json(&values, &shape, &axes)?;
        let value = json!({
            "tensor": info.name(),
            "plane": plane,
            "dtype": dtype.name(),
            "shape": shape,
            "generation": store.generation(),
            "step": store.step(),
            "slice_shape": lengths,
            "values": list,
        });
        terminal::json(out, &value)?;
        return Ok(Verdict::Sound);
    }
    print::text(&values, &shape, &axes, arguments.all, out)?;
    let part = if lengths == shape { String::new() } else { format!(", {} of it", dims(&lengths)) };
    let step = store.step();
    writeln!(out, "{}, {plane}: {} {}{part}, step {step}", info.name(), dtype.name(), dims(&shape))?;
    Ok(Verdict::Sound)
}

/// Planes that are kept by rows have one element for each.
fn plane_shape(store: &ParamStore, info: &TensorInfo<'_>, plane: &str) -> Vec<u64> {
    let shape = info.shape().to_vec();
    let is_whole = || store.read_plane_range_into(info.name(), plane, info.elements(), &mut []).is_ok();
    match shape.first() {
        Some(&rows) if info.is_rows() && !is_whole() => vec![rows],
        _ => shape,
    }
}

fn dims(shape: &[u64]) -> String {
    if shape.is_empty() {
        return "scalar".to_owned();
    }
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

/// Says which tensors there are whose names are like this one.
fn unknown(store: &ParamStore, name: &str) -> Failure {
    let like: Vec<_> = store.tensors().map(|info| info.name()).filter(|other| other.contains(name)).collect();
    let like = match &like[..] {
        [] => format!("`paramstore inspect {} --tensors` lists all", store.path().display()),
        [first, rest @ ..] if rest.len() < 4 => {
            format!("did you mean {}?", [&[*first], rest].concat().join(", "))
        }
        [first, rest @ ..] => format!("did you mean {first}, or one of {} others?", rest.len()),
    };
    Failure::Usage(format!("no tensor is named {name:?}: {like}"))
}

fn no_plane(info: &TensorInfo<'_>, plane: &str) -> Failure {
    let planes: Vec<_> = info.planes().collect();
    Failure::Usage(format!("{} has no plane {plane:?}: expected {}", info.name(), planes.join(", ")))
}

/// A value as JSON: what it has no numbers for, as text.
fn to_json(element: Element, is_narrow: bool) -> Value {
    match element {
        Element::Float(value) if !value.is_finite() => value.to_string().into(),
        // The shortest text that is this f32, not the digits of the f64 that holds it.
        Element::Float(value) if is_narrow => {
            print::narrow(value).to_string().parse::<f64>().map_or(Value::Null, Value::from)
        }
        Element::Float(value) => value.into(),
        Element::Signed(value) => value.into(),
        Element::Unsigned(value) => value.into(),
        Element::Bool(value) => value.into(),
        _ => Value::Null,
    }
}
