//! `paramstore convert`.

use super::{Place, run};

/// A store of 70,000 parameters after a step, made through the library.
fn trained(place: &Place) -> String {
    use paramstore::{Init, Optimizer, Options, ParamGroup, ParamStore, Schema, TensorSpec};
    let store = place.text("s");
    let schema = Schema::new()
        .group(ParamGroup::new("all", Optimizer::from_name("adamw").unwrap()))
        .tensor(TensorSpec::new("w", &[200, 350]).init(Init::Normal { mean: 0.0, std: 1.0 }))
        .tensor(TensorSpec::new("bias", &[100]));
    let mut made = ParamStore::create(&store, &schema, &Options::new().memory_budget(64 << 20)).unwrap();
    let mut step = made.begin_step().unwrap();
    let gradient: Vec<f32> = (0..1999_u16).map(|i| f32::from(i) * 1e-3 - 1.0).cycle().take(70_000).collect();
    step.apply("w", &gradient).unwrap();
    step.apply("bias", &gradient[..100]).unwrap();
    step.finish().unwrap();
    made.commit(b"note").unwrap();
    store
}

#[test]
fn converted_store_is_sound_smaller_and_its_error_is_told() {
    let place = Place::new();
    let (store, out) = (trained(&place), place.text("out"));
    let told =
        run(&["convert", &store, &out, "--params", "bf16", "--moments", "q8", "--json"]).expect(0).json();
    let plane =
        |name: &str| told["planes"].as_array().unwrap().iter().find(|plane| plane["name"] == name).unwrap();
    let of = |name: &str, what: &str| plane(name)[what].as_f64().unwrap();
    assert_eq!(
        (&plane("param")["elements"], &plane("exp_avg_sq")["became_zero"]),
        (&70_100.into(), &0.into())
    );
    // Values of 4 to 8 are 2^-5 apart in bf16, and some of 70,000 draws are so large.
    assert!(of("param", "max_abs_error") <= 0.015_625 && of("param", "max_abs_error") > 0.007_8, "{told}");
    assert!(of("param", "rms_error") < 0.003 * of("param", "rms_value"));
    assert!(of("exp_avg", "rms_error") < 0.03 * of("exp_avg", "rms_value"));
    run(&["verify", &out]).expect(0);
    let (before, after) = (
        run(&["inspect", &store, "--json"]).expect(0).json(),
        run(&["inspect", &out, "--json"]).expect(0).json(),
    );
    assert_eq!((&after["step"], &after["params"]), (&before["step"], &before["params"]));
    assert_eq!(after["planes"][0]["dtype"], "bf16+f32");
    assert_eq!(after["planes"][2]["dtype"], "q8-unsigned+f32");
    // And back: what bf16 holds, f32 holds.
    let back = place.text("back");
    let told =
        run(&["convert", &out, &back, "--params", "f32", "--moments", "f32", "--json"]).expect(0).json();
    assert!(told["planes"].as_array().unwrap().iter().all(|plane| plane["changed"] == 0), "{told}");
}

#[test]
fn store_converted_to_compensated_parameters_and_back_keeps_17_bits() {
    let place = Place::new();
    let (store, out, back) = (trained(&place), place.text("out"), place.text("back"));
    let convert = |from: &str, to: &str, params: &str, moments: &str| {
        let told =
            run(&["convert", from, to, "--params", params, "--moments", moments, "--json"]).expect(0).json();
        told["planes"].as_array().unwrap().clone()
    };
    let planes = convert(&store, &out, "bf16-kahan", "q8");
    let param = |what: &str| planes[0][what].as_f64().unwrap();
    // Values of 4 to 8 come back to 2^-15.
    assert!(param("max_abs_error") <= 0.000_030_6 && param("max_abs_error") > 0.000_015, "{planes:?}");
    assert_eq!(planes.len(), 3, "what rounding lost is a part of the parameters: {planes:?}");
    let after = run(&["inspect", &out, "--json"]).expect(0).json();
    let last = after["planes"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&last["name"], &last["role"], &last["dtype"]),
        (&"compensation".into(), &"compensation".into(), &"bf16".into())
    );
    run(&["verify", &out]).expect(0);
    let planes = convert(&out, &back, "f32", "f32");
    assert!(planes.iter().all(|plane| plane["changed"] == 0), "{planes:?}");
}

#[test]
fn conversion_onto_a_store_or_to_an_unknown_type_is_refused() {
    let place = Place::new();
    let store = trained(&place);
    run(&["convert", &store, &store, "--params", "bf16"]).expect(3);
    run(&["convert", &store, &place.text("x"), "--params", "q8"]).expect(2);
    run(&["convert", &place.text("none"), &place.text("x"), "--params", "bf16"]).expect(3);
}
