//! Hyperparameters by name.

use super::super::*;
use super::optimizer;

fn message(result: Result<()>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn every_name_makes_its_optimizer_and_another_one_lists_them() {
    for name in Optimizer::NAMES {
        assert_eq!(Optimizer::from_name(name).unwrap().name(), name);
    }
    let error = Optimizer::from_name("AdamW").unwrap_err().to_string();
    let names = "sgd, adagrad, adadelta, rmsprop, adam, adamw, adamax, nadam, radam, lion, sparseadam, rowwiseadagrad";
    assert_eq!(error, format!("optimizer: got \"AdamW\", expected one of {names}"));
}

#[test]
fn defaults_are_those_of_pytorch() {
    let text = |name| {
        let settings = optimizer(name, &[]).settings();
        settings
            .iter()
            .map(|(key, value)| format!("{key} {}", f64::from(*value)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert_eq!(text("sgd"), "lr 0.001, momentum 0, dampening 0, weight_decay 0, nesterov 0, maximize 0");
    let adagrad =
        "lr 0.01, lr_decay 0, weight_decay 0, initial_accumulator_value 0, eps 0.0000000001, maximize 0";
    assert_eq!(text("adagrad"), adagrad);
    assert_eq!(text("adadelta"), "lr 1, rho 0.9, eps 0.000001, weight_decay 0, maximize 0");
    let rmsprop = "lr 0.01, alpha 0.99, eps 0.00000001, weight_decay 0, momentum 0, centered 0, maximize 0";
    assert_eq!(text("rmsprop"), rmsprop);
    let moments = "beta1 0.9, beta2 0.999, eps 0.00000001";
    assert_eq!(text("adam"), format!("lr 0.001, {moments}, weight_decay 0, amsgrad 0, maximize 0"));
    assert_eq!(text("adamw"), format!("lr 0.001, {moments}, weight_decay 0.01, amsgrad 0, maximize 0"));
    assert_eq!(text("adamax"), format!("lr 0.002, {moments}, weight_decay 0, maximize 0"));
    let nadam = "weight_decay 0, momentum_decay 0.004, decoupled_weight_decay 0, maximize 0";
    assert_eq!(text("nadam"), format!("lr 0.002, {moments}, {nadam}"));
    let radam = "weight_decay 0, decoupled_weight_decay 0, maximize 0";
    assert_eq!(text("radam"), format!("lr 0.001, {moments}, {radam}"));
    assert_eq!(text("lion"), "lr 0.0001, beta1 0.9, beta2 0.99, weight_decay 0");
    assert_eq!(text("sparseadam"), format!("lr 0.001, {moments}, maximize 0"));
    for name in Optimizer::NAMES {
        optimizer(name, &[]).validate().unwrap();
    }
}

/// The hyperparameters as a store records them.
fn recorded(rule: &Optimizer) -> Vec<(String, f64)> {
    rule.settings().into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

#[test]
fn settings_round_trip_exactly_for_every_optimizer() {
    for name in Optimizer::NAMES {
        let mut rule = super::decayed(name, "1.1754943508222875e-38");
        rule.set("lr", "0.1").unwrap();
        for key in ["maximize", "amsgrad", "centered", "decoupled_weight_decay"] {
            if rule.settings().iter().any(|&(known, _)| known == key) {
                rule.set(key, "on").unwrap();
            }
        }
        let mut settings = recorded(&rule);
        settings.reverse();
        assert_eq!(Optimizer::from_settings(name, &settings).unwrap(), rule);
    }
}

#[test]
fn restoring_refuses_a_setting_that_is_missing_unknown_double_or_out_of_range() {
    let rule = optimizer("adam", &[]);
    let settings = recorded(&rule);
    let restore =
        |settings: &[(String, f64)]| message(Optimizer::from_settings("adam", settings).map(|_| ()));

    assert_eq!(restore(&settings[1..]), "lr of adam: got nothing, expected a finite number of at least 0");
    let with =
        |key: &str, value| settings.iter().cloned().chain([(key.to_owned(), value)]).collect::<Vec<_>>();
    assert!(
        restore(&with("momentum", 0.5))
            .starts_with("hyperparameter of adam: got \"momentum\", expected one of lr,")
    );
    assert_eq!(restore(&with("lr", 0.5)), "lr of adam: got two values, expected one");
    let replaced = |i: usize, value| {
        let mut settings = settings.clone();
        settings[i].1 = value;
        settings
    };
    assert_eq!(
        restore(&replaced(2, 1.0)),
        "beta2 of adam: got 1, expected a number of at least 0 and below 1"
    );
    assert_eq!(restore(&replaced(5, 0.5)), "amsgrad of adam: got 0.5, expected on, true, 1, off, false or 0");
    assert!(Optimizer::from_settings("Adam", &settings).is_err());
}

#[test]
fn both_betas_are_set_at_once_or_not_at_all() {
    let mut rule = optimizer("adamw", &[("betas", " 0.8, 0.95 ")]);
    assert_eq!(rule, Optimizer::AdamW(AdamW { beta1: 0.8, beta2: 0.95, ..AdamW::default() }));
    for bad in ["0.9", "0.5,1", "0.5,0.6,0.7", "", "a,b"] {
        assert!(message(rule.set("betas", bad)).contains("of adamw"), "{bad}");
    }
    assert_eq!(rule, Optimizer::AdamW(AdamW { beta1: 0.8, beta2: 0.95, ..AdamW::default() }));
    assert!(optimizer("sgd", &[]).set("betas", "0.9,0.99").is_err());
}

#[test]
fn a_switch_takes_words_and_digits() {
    let mut rule = Optimizer::from_name("sgd").unwrap();
    for (text, want) in
        [("on", true), ("off", false), ("true", true), ("false", false), ("1", true), ("0", false)]
    {
        rule.set("maximize", text).unwrap();
        assert_eq!(rule.settings().last(), Some(&("maximize", Setting::Switch(want))));
    }
    let error = message(rule.set("maximize", "yes"));
    assert_eq!(error, "maximize of sgd: got \"yes\", expected on, true, 1, off, false or 0");
}

#[test]
fn an_unknown_key_names_those_that_exist() {
    let error = message(Optimizer::from_name("lion").unwrap().set("eps", "1e-8"));
    let expected = "one of lr, beta1, beta2, weight_decay, betas";
    assert_eq!(error, format!("hyperparameter of lion: got \"eps\", expected {expected}"));
}

#[test]
fn a_value_out_of_range_or_no_number_is_refused() {
    for (name, key, value) in [
        ("sgd", "lr", "-0.1"),
        ("sgd", "lr", "nan"),
        ("sgd", "lr", "inf"),
        ("sgd", "lr", "1e39"), // infinite in f32
        ("sgd", "lr", "fast"),
        ("sgd", "dampening", "inf"),
        ("sgd", "momentum", "-0.1"),
        ("adagrad", "lr_decay", "-1"),
        ("adagrad", "initial_accumulator_value", "-1"),
        ("adadelta", "rho", "1.01"),
        ("rmsprop", "alpha", "-0.01"),
        ("adam", "beta1", "1"),
        ("adam", "eps", "-1e-8"),
        ("nadam", "momentum_decay", "-0.004"),
        ("lion", "beta2", "-0.1"),
    ] {
        let mut rule = Optimizer::from_name(name).unwrap();
        let error = message(rule.set(key, value));
        assert!(error.starts_with(&format!("{key} of {name}: got \"{value}\"")), "{error}");
        assert_eq!(rule, Optimizer::from_name(name).unwrap());
    }
    optimizer("adadelta", &[("rho", "1")]).validate().unwrap();
    optimizer("sgd", &[("dampening", "-2")]).validate().unwrap();
}

#[test]
fn validate_finds_what_was_put_into_a_field() {
    let error = message(Optimizer::Adam(Adam { beta1: 1.0, ..Adam::default() }).validate());
    assert_eq!(error, "beta1 of adam: got 1, expected a number of at least 0 and below 1");
    let mut rule = Optimizer::from_name("radam").unwrap();
    rule.set_lr(f64::NAN);
    assert!(rule.validate().is_err());
    rule.set_lr(0.5);
    assert_eq!(rule.lr().to_bits(), 0.5_f64.to_bits());
    rule.validate().unwrap();
}

#[test]
fn nesterov_needs_momentum_and_no_dampening() {
    let sgd = Sgd { nesterov: true, momentum: 0.9, ..Sgd::default() };
    Optimizer::Sgd(sgd).validate().unwrap();
    for bad in [Sgd { momentum: 0.0, ..sgd }, Sgd { dampening: 0.1, ..sgd }] {
        let error = message(Optimizer::Sgd(bad).validate());
        assert!(error.ends_with("expected momentum above 0 and dampening 0"), "{error}");
    }
}
