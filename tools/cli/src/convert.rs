//! `paramstore convert`.

use std::io::Write;

use paramstore::convert::{Convert, PlaneError};
use paramstore::{Moments, Options, ParamStore, Precision};
use serde_json::json;

use crate::arguments::ConvertArguments;
use crate::failure::Failure;
use crate::human::{counted, grouped, percent};
use crate::{Verdict, terminal};

pub(crate) fn run(arguments: &ConvertArguments, out: &mut dyn Write) -> Result<Verdict, Failure> {
    let (params, compensated) = crate::schema::params(&arguments.params);
    let moments = Moments::from_name(&arguments.moments).unwrap_or_default();
    let mut precision = Precision::new(params, moments);
    (precision.everywhere, precision.compensated) = (arguments.everywhere, compensated);
    let source = ParamStore::open_read_only(&arguments.store, &Options::new())?;
    let elements = source.tensors().map(|tensor| tensor.elements() * tensor.planes().count() as u64).sum();
    drop(source);
    let bar = terminal::progress(elements, "{elapsed} [{bar:30}] {percent} % of the values, {eta} left");
    let convert = Convert::to(precision, arguments.memory);
    let errors = convert.run(&arguments.store, &arguments.out, |done| bar.set_position(done))?;
    bar.finish_and_clear();
    if arguments.json {
        let planes: Vec<_> = errors.iter().map(to_json).collect();
        let value = json!({ "path": arguments.out.display().to_string(), "planes": planes });
        terminal::json(out, &value)?;
        return Ok(Verdict::Sound);
    }
    for error in &errors {
        writeln!(
            out,
            "{}: {} of {} changed, {} became zero; changes up to {:.3e}, root mean square {:.3e} of {:.3e}",
            error.name,
            percent(error.changed, error.elements),
            counted(error.elements, "value"),
            grouped(error.lost),
            error.max_abs,
            error.rms,
            error.rms_value,
        )?;
    }
    writeln!(out, "converted {} to {}", arguments.store.display(), arguments.out.display())?;
    Ok(Verdict::Sound)
}

fn to_json(error: &PlaneError) -> serde_json::Value {
    json!({
        "name": error.name,
        "elements": error.elements,
        "changed": error.changed,
        "became_zero": error.lost,
        "max_abs_error": error.max_abs,
        "rms_error": error.rms,
        "rms_value": error.rms_value,
    })
}
