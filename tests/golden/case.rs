//! One golden file: what goes into a rule, what has to come out, and how the two are compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use paramstore::optim::Optimizer;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value};

use super::sparse::Batches;

/// Why a file cannot be used or a result is wrong, for a person.
pub(crate) type Outcome<T> = Result<T, String>;

/// A tensor of a case: its start and its gradients.
pub(crate) struct Tensor {
    /// What stands before the names of its arrays: `""` or `w0.`, `w1.`, ..
    pub(crate) prefix: String,
    /// Its shape; the arrays are flat.
    pub(crate) shape: Vec<usize>,
    /// The initial parameters.
    pub(crate) param: Vec<f32>,
    /// The gradients of each step of the period; several micro-batches in a case of the kind `accumulate`.
    gradients: Vec<Vec<Vec<f32>>>,
}

impl Tensor {
    /// Returns the gradient of step `t` (from 1), as one micro-batch or several.
    pub(crate) fn gradients(&self, t: u64) -> &[Vec<f32>] {
        let period = self.gradients.len() as u64;
        &self.gradients[usize::try_from((t - 1) % period).expect("a period fits")]
    }
}

/// What a quantity has to be at a checkpoint.
struct Expected {
    torch: Vec<f32>,
    exact: Vec<f64>,
    unit: Vec<i16>,
    crc32: Option<u32>,
}

/// One golden file of a rule.
pub(crate) struct Case {
    /// The file's name without its ending.
    pub(crate) file: String,
    /// `optimizer`, `clip`, `accumulate` or `sparse`.
    pub(crate) kind: String,
    /// The rule with its hyperparameters; a scheduled rate comes from [`Case::lr`].
    pub(crate) optimizer: Optimizer,
    /// How many steps there are.
    pub(crate) steps: u64,
    /// The steps after which results are known.
    pub(crate) checkpoints: Vec<u64>,
    /// The tensors of the case.
    pub(crate) tensors: Vec<Tensor>,
    /// The lengths that the (only) tensor stands for: element `i` of the longer one is element `i mod len`.
    pub(crate) sizes: Vec<usize>,
    /// The names of the states that have results.
    pub(crate) states: Vec<String>,
    /// The bound of global-norm clipping.
    pub(crate) max_norm: Option<f64>,
    /// What a case of the kind `sparse` has instead of gradients of whole tensors.
    pub(crate) batches: Option<Batches>,
    rates: Option<Vec<f64>>,
    tolerance_torch: BTreeMap<String, f64>,
    tolerance_exact: BTreeMap<String, f64>,
    expected: BTreeMap<String, Expected>,
    classes: Vec<String>,
}

/// What a file holds.
pub(crate) enum Contents {
    /// A case of a rule.
    Case(Box<Case>),
    /// No case of a rule, but of numbers in few bits: see `narrow`.
    Numbers,
    /// Something that this library does not claim to do, by name.
    Unsupported(String),
}

/// Returns the folder of the golden files that belong to the repository.
pub(crate) fn own_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

/// Returns the folder to test against: `PARAMSTORE_GOLDEN_DIR` if it is set, else the repository's own.
pub(crate) fn folder() -> PathBuf {
    env::var_os("PARAMSTORE_GOLDEN_DIR").map_or_else(own_folder, PathBuf::from)
}

/// Lists the golden files of a folder; an empty one is an error.
pub(crate) fn files(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(|error| format!("cannot list {}: {error}", dir.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| format!("cannot list {}: {error}", dir.display()))?.path();
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() { Err(format!("no safetensors file in {}", dir.display())) } else { Ok(files) }
}

/// The kind of a golden file.
pub(crate) fn kind(bytes: &[u8]) -> Outcome<String> {
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|error| format!("no safetensors file: {error}"))?;
    let meta = Meta(header.metadata().as_ref().ok_or("no metadata")?);
    meta.word("kind").map(str::to_owned)
}

/// Reads one golden file.
pub(crate) fn load(path: &Path) -> Outcome<Contents> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read it: {error}"))?;
    let (_, header) =
        SafeTensors::read_metadata(&bytes).map_err(|error| format!("no safetensors file: {error}"))?;
    let meta = Meta(header.metadata().as_ref().ok_or("no metadata")?);
    let format = meta.word("format")?;
    if format != "optimizer-golden/1" {
        return Err(format!("the format is {format:?}, not optimizer-golden/1"));
    }
    let kind = meta.word("kind")?;
    match kind {
        "quantise8" | "bf16_round" | "bf16_stochastic" => {
            return Ok(Contents::Numbers);
        }
        "optimizer" | "clip" | "accumulate" | "sparse" => {}
        _ => return Err(format!("the kind {kind:?} is unknown")),
    }
    let name = meta.word("optimizer")?;
    if matches!(name, "Adafactor" | "Muon") {
        return Ok(Contents::Unsupported(name.to_owned()));
    }
    let tensors =
        SafeTensors::deserialize(&bytes).map_err(|error| format!("no safetensors file: {error}"))?;
    let file = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Case::parse(file, kind, &meta, &Arrays(&tensors)).map(|case| Contents::Case(Box::new(case)))
}

impl Case {
    fn parse(file: String, kind: &str, meta: &Meta<'_>, arrays: &Arrays<'_>) -> Outcome<Self> {
        let optimizer = optimizer(meta.word("optimizer")?, &meta.json("hyper")?)?;
        let shapes: BTreeMap<String, Vec<usize>> = meta.json("shapes")?;
        let prefixes: Vec<String> = meta.json("prefixes")?;
        let period: u64 = if kind == "sparse" { 0 } else { meta.json("grad_period")? };
        let micro_batches: Option<u64> = meta.optional("micro_batches")?;
        if micro_batches.is_some() != (kind == "accumulate") {
            return Err("micro_batches belongs to the kind accumulate".to_owned());
        }
        let tensors = tensors(&prefixes, &shapes, (period, micro_batches), arrays)?;
        let batches = if kind == "sparse" { Some(batches(meta.json("steps")?, arrays)?) } else { None };
        let states: Vec<String> = meta.json("states")?;
        let checkpoints: Vec<u64> = meta.json("checkpoints")?;
        let strict: Option<BTreeMap<String, String>> = meta.optional("strict_crc32")?;
        let mut expected = BTreeMap::new();
        for t in &checkpoints {
            let mut names: Vec<String> = Vec::new();
            for prefix in &prefixes {
                names.push(format!("{prefix}param_{t}"));
                names.extend(states.iter().map(|state| format!("{prefix}{state}_{t}")));
            }
            if kind == "clip" {
                names.push(format!("total_norm_{t}"));
            }
            for name in names {
                let crc32 = match strict.as_ref().map(|strict| strict.get(&name)) {
                    None => None,
                    Some(None) => return Err(format!("strict_crc32 does not cover {name}")),
                    Some(Some(hex)) => Some(u32::from_str_radix(hex, 16).map_err(|error| error.to_string())?),
                };
                let value = Expected {
                    torch: arrays.f32(&name)?,
                    exact: arrays.f64(&format!("{name}_f64"))?,
                    unit: arrays.i16(&format!("{name}_unit"))?,
                    crc32,
                };
                if value.exact.len() != value.torch.len() || value.unit.len() != value.torch.len() {
                    return Err(format!("the arrays of {name} differ in length"));
                }
                expected.insert(name, value);
            }
        }
        let element_classes: Vec<String> = meta.optional("element_classes")?.unwrap_or_default();
        let classes = if element_classes.is_empty() { Vec::new() } else { arrays.u8("element_class")? };
        Ok(Self {
            file,
            kind: kind.to_owned(),
            optimizer,
            steps: meta.json("steps")?,
            checkpoints,
            tensors,
            sizes: if batches.is_some() { Vec::new() } else { meta.json("sizes")? },
            states,
            max_norm: meta.optional("max_norm")?,
            batches,
            rates: meta.optional("lr_per_step")?,
            tolerance_torch: meta.json("tolerance_units_torch")?,
            tolerance_exact: meta.json("tolerance_units_f64")?,
            expected,
            classes: classes.iter().map(|&class| element_classes[usize::from(class)].clone()).collect(),
        })
    }

    /// Returns the rule with the learning rate of step `t` (from 1).
    pub(crate) fn optimizer_at(&self, t: u64) -> Optimizer {
        let mut optimizer = self.optimizer;
        if let Some(rates) = &self.rates {
            optimizer.set_lr(rates[usize::try_from(t - 1).expect("a step fits")]);
        }
        optimizer
    }

    /// Returns the parameters and the planes of the rule, each with its name and what it begins with.
    pub(crate) fn planes(&self) -> Vec<(&'static str, f32)> {
        let state = self.optimizer.state_planes();
        std::iter::once(("param", 0.0)).chain(state.iter().map(|plane| (plane.name, plane.fill))).collect()
    }

    /// Says whether the rule keeps state for rows, which only tensors of rows have.
    pub(crate) fn is_by_rows(&self) -> bool {
        self.optimizer.state_planes().iter().any(|plane| plane.per_row)
    }

    /// Says whether the file has exact checksums.
    pub(crate) fn is_strict(&self) -> bool {
        self.expected.values().any(|expected| expected.crc32.is_some())
    }

    /// Compares a quantity (`param`, a state, `total_norm`) after step `t` with all that the file says about it:
    /// PyTorch's values and the f64 recurrence within their tolerances, and the exact bits where they are known.
    ///
    /// A longer array repeats the values of the file.
    pub(crate) fn check(&self, prefix: &str, quantity: &str, t: u64, got: &[f32]) -> Outcome<()> {
        let name = format!("{prefix}{quantity}_{t}");
        let expected = self.expected.get(&name).ok_or_else(|| format!("{} has no {name}", self.file))?;
        let len = expected.torch.len();
        if got.len() < len {
            return Err(format!("{name} of {} has {} elements, expected {len}", self.file, got.len()));
        }
        let tolerance = |tolerances: &BTreeMap<String, f64>| {
            tolerances.get(quantity).copied().ok_or_else(|| format!("no tolerance for {quantity}"))
        };
        let (torch, exact) = (tolerance(&self.tolerance_torch)?, tolerance(&self.tolerance_exact)?);
        for (i, &x) in got.iter().enumerate() {
            let k = i % len;
            let (want, want64, unit) = (expected.torch[k], expected.exact[k], expected.unit[k]);
            let failed = if !within(x, f64::from(want), unit, torch) {
                format!("PyTorch's {want:e} within {torch} units of 2^{unit}")
            } else if !want64.is_nan() && !within(x, want64, unit, exact) {
                format!("the f64 recurrence's {want64:e} within {exact} units of 2^{unit}")
            } else if i >= len && canonical(x) != canonical(got[k]) {
                format!("the bits of element {k}, {:e}", got[k])
            } else {
                continue;
            };
            let class = self.classes.get(k).map_or(String::new(), |class| format!(" ({class})"));
            return Err(format!("{name}[{i}]{class} of {}: got {x:e}, expected {failed}", self.file));
        }
        match (expected.crc32, crc32(&got[..len])) {
            (Some(want), got) if want != got => {
                Err(format!("{name} of {}: got CRC-32 {got:08x}, expected {want:08x}", self.file))
            }
            _ => Ok(()),
        }
    }
}

/// Reads the start and the gradients of every tensor; `period` comes with the micro-batches of a step, if it has them.
fn tensors(
    prefixes: &[String],
    shapes: &BTreeMap<String, Vec<usize>>,
    (period, micro_batches): (u64, Option<u64>),
    arrays: &Arrays<'_>,
) -> Outcome<Vec<Tensor>> {
    let mut tensors = Vec::new();
    for prefix in prefixes {
        let shape = shapes.get(prefix).ok_or_else(|| format!("no shape for {prefix:?}"))?.clone();
        let gradient = |t| match micro_batches {
            None => Ok(vec![arrays.f32(&format!("{prefix}grad_{t}"))?]),
            Some(count) => (1..=count).map(|k| arrays.f32(&format!("{prefix}micro_grad_{t}_{k}"))).collect(),
        };
        let param = arrays.f32(&format!("{prefix}param_0"))?;
        if param.len() != shape.iter().product::<usize>() {
            return Err(format!("{prefix}param_0 has {} elements, its shape is {shape:?}", param.len()));
        }
        let gradients = (1..=period).map(gradient).collect::<Outcome<Vec<_>>>()?;
        tensors.push(Tensor { prefix: prefix.clone(), shape, param, gradients });
    }
    Ok(tensors)
}

/// Reads the gradients of rows of every step.
fn batches(steps: u64, arrays: &Arrays<'_>) -> Outcome<Batches> {
    let batch = |t| Ok((arrays.ids(&format!("row_ids_{t}"))?, arrays.f32(&format!("row_values_{t}"))?));
    let steps = (1..=steps).map(batch).collect::<Outcome<Vec<_>>>()?;
    Ok(Batches { steps, touched: arrays.ids("touched_rows")? })
}

/// Compares in units of 2^`unit`; NaN equals NaN, and the unit 32767 prescribes nothing.
#[expect(clippy::float_cmp, reason = "equal is equal, infinities too")]
pub(crate) fn within(got: f32, want: f64, unit: i16, tolerance: f64) -> bool {
    let got = f64::from(got);
    if unit == i16::MAX || got == want || (got.is_nan() && want.is_nan()) {
        return true;
    }
    (got - want).abs() <= tolerance * 2_f64.powi(i32::from(unit))
}

/// Returns an element's bits, one pattern for every NaN.
pub(crate) fn canonical(x: f32) -> u32 {
    if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }
}

fn crc32(values: &[f32]) -> u32 {
    let bytes: Vec<u8> = values.iter().flat_map(|&x| canonical(x).to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}

/// Makes an optimizer from PyTorch's name and hyperparameters.
fn optimizer(name: &str, hyper: &Map<String, Value>) -> Outcome<Optimizer> {
    let mut optimizer = Optimizer::from_name(&name.to_lowercase()).map_err(|error| error.to_string())?;
    for (key, value) in hyper {
        let text = match value {
            Value::Array(betas) => betas.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
            other => other.to_string(),
        };
        if key == "decoupled_weight_decay" && matches!(name, "Adam" | "AdamW") {
            // PyTorch tells Adam from AdamW by this; here they are two optimizers.
            if value.as_bool() != Some(name == "AdamW") {
                return Err(format!("{name} with decoupled_weight_decay {text}"));
            }
            continue;
        }
        optimizer.set(key, &text).map_err(|error| error.to_string())?;
    }
    optimizer.validate().map_err(|error| error.to_string())?;
    Ok(optimizer)
}

/// The metadata of a file: words, or JSON in strings.
struct Meta<'a>(&'a std::collections::HashMap<String, String>);

impl Meta<'_> {
    fn word(&self, key: &str) -> Outcome<&str> {
        self.0.get(key).map(String::as_str).ok_or_else(|| format!("no {key} in the metadata"))
    }

    fn json<T: FromJson>(&self, key: &str) -> Outcome<T> {
        let text = self.word(key)?;
        let value = serde_json::from_str(text).map_err(|error| format!("{key}: {error}"))?;
        T::from_json(value).ok_or_else(|| format!("{key} is {text}"))
    }

    fn optional<T: FromJson>(&self, key: &str) -> Outcome<Option<T>> {
        if self.0.contains_key(key) { self.json(key).map(Some) } else { Ok(None) }
    }
}

/// A value that the metadata may hold.
trait FromJson: Sized {
    fn from_json(value: Value) -> Option<Self>;
}

impl FromJson for u64 {
    fn from_json(value: Value) -> Option<Self> {
        value.as_u64()
    }
}

impl FromJson for usize {
    fn from_json(value: Value) -> Option<Self> {
        Self::try_from(value.as_u64()?).ok()
    }
}

impl FromJson for f64 {
    fn from_json(value: Value) -> Option<Self> {
        value.as_f64()
    }
}

impl FromJson for String {
    fn from_json(value: Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl FromJson for Map<String, Value> {
    fn from_json(value: Value) -> Option<Self> {
        if let Value::Object(map) = value { Some(map) } else { None }
    }
}

impl<T: FromJson> FromJson for Vec<T> {
    fn from_json(value: Value) -> Option<Self> {
        if let Value::Array(items) = value { items.into_iter().map(T::from_json).collect() } else { None }
    }
}

impl<T: FromJson> FromJson for BTreeMap<String, T> {
    fn from_json(value: Value) -> Option<Self> {
        let Value::Object(map) = value else { return None };
        map.into_iter().map(|(key, value)| Some((key, T::from_json(value)?))).collect()
    }
}

/// The arrays of a file, decoded.
pub(crate) struct Arrays<'a>(pub(crate) &'a SafeTensors<'a>);

impl Arrays<'_> {
    fn bytes<const N: usize>(&self, name: &str, dtype: Dtype) -> Outcome<Vec<[u8; N]>> {
        let view = self.0.tensor(name).map_err(|error| format!("{name}: {error}"))?;
        if view.dtype() != dtype {
            return Err(format!("{name} is {:?}, expected {dtype:?}", view.dtype()));
        }
        Ok(view.data().as_chunks::<N>().0.to_vec())
    }

    pub(crate) fn f32(&self, name: &str) -> Outcome<Vec<f32>> {
        Ok(self.bytes(name, Dtype::F32)?.into_iter().map(f32::from_le_bytes).collect())
    }

    pub(crate) fn f64(&self, name: &str) -> Outcome<Vec<f64>> {
        Ok(self.bytes(name, Dtype::F64)?.into_iter().map(f64::from_le_bytes).collect())
    }

    fn ids(&self, name: &str) -> Outcome<Vec<u64>> {
        let ids = self.bytes(name, Dtype::I64)?.into_iter().map(i64::from_le_bytes);
        ids.map(|id| u64::try_from(id).map_err(|error| format!("{name}: {error}"))).collect()
    }

    fn i16(&self, name: &str) -> Outcome<Vec<i16>> {
        Ok(self.bytes(name, Dtype::I16)?.into_iter().map(i16::from_le_bytes).collect())
    }

    pub(crate) fn u16(&self, name: &str) -> Outcome<Vec<u16>> {
        Ok(self.bytes(name, Dtype::U16)?.into_iter().map(u16::from_le_bytes).collect())
    }

    pub(crate) fn u32(&self, name: &str) -> Outcome<Vec<u32>> {
        Ok(self.bytes(name, Dtype::U32)?.into_iter().map(u32::from_le_bytes).collect())
    }

    pub(crate) fn u8(&self, name: &str) -> Outcome<Vec<u8>> {
        Ok(self.bytes(name, Dtype::U8)?.into_iter().map(u8::from_le_bytes).collect())
    }
}
