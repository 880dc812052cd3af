//! The model's tensors in a parameter store. The only file that knows the store.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var, backprop::GradStore};
use paramstore::exchange::Transfer;
use paramstore::{
    Init, Optimizer, Options, ParamGroup, ParamStore, Precision, Schema, TensorInfo, TensorSpec,
};
use training::people::{grouped, note};
use training::tensors::with_slice;

use crate::bert::Tensors;
use crate::shape::{Kind, TensorDef};

/// Groups of the optimizer: name, weight decay, and what the learning rate is multiplied by.
const GROUPS: [(Kind, &str, &str, f64); 3] = [
    (Kind::Matrix, "matrices", "0.01", 1.0),
    (Kind::Vector, "vectors", "0", 1.0),
    (Kind::Head, "head", "0", 10.0),
];

/// A model under training.
pub(crate) struct Tuned {
    store: ParamStore,
    defs: Vec<TensorDef>,
}

/// The model at one step: its tensors, and those of them that are trained.
pub(crate) struct Values {
    pub(crate) tensors: Tensors,
    trained: Vec<(String, Var)>,
}

fn dims(def: &TensorDef) -> Vec<u64> {
    def.dims.iter().map(|&n| n as u64).collect()
}

impl Tuned {
    /// Makes a new store, with values of a file if there is one.
    pub(crate) fn create(
        path: &Path,
        defs: Vec<TensorDef>,
        (state, seed, memory): (&str, u64, u64),
        file: Option<&Path>,
    ) -> Result<Self> {
        let mut schema = Schema::new().seed(seed).block_bytes(1 << 18);
        schema = schema.precision(Precision::from_name(state).context("an unknown --state")?);
        for (_, name, decay, _) in GROUPS {
            let mut optimizer = Optimizer::from_name("adamw")?;
            optimizer.set("weight_decay", decay)?;
            schema = schema.group(ParamGroup::new(name, optimizer));
        }
        for def in &defs {
            let (mean, std) = def.start;
            let init = if std > 0.0 { Init::Normal { mean, std } } else { Init::Constant(mean) };
            let spec = TensorSpec::new(&def.name, &dims(def)).init(init);
            let group = GROUPS.iter().find(|(kind, ..)| *kind == def.kind);
            schema = schema.tensor(match group {
                Some((_, name, ..)) => spec.group(*name),
                None => spec.group(GROUPS[0].1).frozen(),
            });
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let store = ParamStore::create(path, &schema, &Options::new().memory_budget(memory))?;
        let mut tuned = Self { store, defs };
        if let Some(file) = file {
            tuned.load(file)?;
        }
        Ok(tuned)
    }

    /// Takes the values of a file; all but the classifier's have to be there.
    fn load(&mut self, file: &Path) -> Result<()> {
        let bare = |name: &str| Some(name.strip_prefix("bert.").unwrap_or(name).to_owned());
        let report = Transfer::new().source(file).rename(bare).run(&mut self.store, |_| {})?;
        let head = |name: &str| self.defs.iter().any(|def| def.name == name && def.kind == Kind::Head);
        let lacking: Vec<_> =
            report.new.iter().map(|(name, _)| name.as_str()).filter(|name| !head(name)).collect();
        ensure!(
            lacking.is_empty(),
            "{} has no tensor of the name and shape of {}",
            file.display(),
            lacking.join(", ")
        );
        let params: u64 = report.matched.iter().map(|matched| matched.elements).sum();
        let left: Vec<_> = report.left.iter().map(|left| left.source.as_str()).collect();
        note(&format!(
            "Start      {} tensors from {}, {} parameters; not used: {}",
            report.matched.len(),
            file.display(),
            grouped(params),
            left.join(", ")
        ));
        Ok(())
    }

    /// Parameters, and those that are trained.
    pub(crate) fn params(&self) -> (u64, u64) {
        let trained = self.store.tensors().filter(|info| !info.is_frozen()).map(|info| info.elements()).sum();
        (self.store.params(), trained)
    }

    /// Bytes of parameters and optimizer state of what is trained.
    pub(crate) fn state_bytes(&self) -> u64 {
        let of_plane = |info: &TensorInfo<'_>, plane| {
            info.plane_dtype(plane).and_then(|dtype| dtype.bytes_of(info.elements()))
        };
        let trained = self.store.tensors().filter(|info| !info.is_frozen());
        trained.map(|info| info.planes().filter_map(|plane| of_plane(&info, plane)).sum::<u64>()).sum()
    }

    fn read(&self, def: &TensorDef) -> Result<Tensor> {
        let mut values = vec![0f32; def.dims.iter().product()];
        self.store.read_into(&def.name, &mut values)?;
        Ok(Tensor::from_vec(values, def.dims.clone(), &Device::Cpu)?)
    }

    /// Reads the model: what is frozen from `before`, if that is given.
    pub(crate) fn values(&self, before: Option<Values>) -> Result<Values> {
        let mut tensors = before.map_or_else(Tensors::new, |before| before.tensors);
        let mut trained = Vec::new();
        for def in &self.defs {
            if def.kind == Kind::Frozen {
                if !tensors.contains_key(&def.name) {
                    tensors.insert(def.name.clone(), self.read(def)?);
                }
                continue;
            }
            let var = Var::from_tensor(&self.read(def)?)?;
            tensors.insert(def.name.clone(), var.as_tensor().clone());
            trained.push((def.name.clone(), var));
        }
        Ok(Values { tensors, trained })
    }

    /// Takes one step.
    pub(crate) fn step(&mut self, lr: f64, values: &Values, grads: &GradStore) -> Result<()> {
        for (_, name, _, times) in GROUPS {
            self.store.group_mut(name)?.set_lr(lr * times)?;
        }
        let mut step = self.store.begin_step()?;
        for (name, var) in &values.trained {
            let grad = grads.get(var).with_context(|| format!("{name} received no gradient"))?;
            with_slice(grad, |grad| step.apply(name, grad))??;
        }
        let report = step.finish()?;
        ensure!(
            report.non_finite == 0,
            "step {} met {} gradients that are NaN or infinite: try a smaller --lr",
            report.step,
            report.non_finite
        );
        Ok(())
    }

    /// Makes everything durable, and returns the digest of all of it.
    pub(crate) fn commit(&mut self) -> Result<String> {
        self.store.commit(&[])?;
        Ok(self.store.digest()?.to_string())
    }
}
