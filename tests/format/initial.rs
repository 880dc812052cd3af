//! Section 10: initial values, by the coefficients that the document prints.

use std::collections::HashMap;
use std::path::Path;

use super::Tensor;

/// Section 10, with the coefficients that the document lists.
pub(crate) fn initial(
    seed: u64,
    tensor: &Tensor,
    element: u64,
    coefficients: &HashMap<String, Vec<f64>>,
) -> f32 {
    let mix = |z: u64| {
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let golden = 0x9e37_79b9_7f4a_7c15_u64;
    let hash = tensor
        .name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let key = mix(mix(seed.wrapping_add(golden)) ^ hash);
    let bits = mix(key.wrapping_add(element.wrapping_mul(golden)));
    let u = ((bits >> 12) as f64 + 0.5) * 2.0_f64.powi(-52);
    let value = |name: &str, x: f64| coefficients[name].iter().fold(0.0, |sum, c| sum * x + c);
    let quantile = || {
        let q = u - 0.5;
        if q.abs() <= 0.425 {
            let r = 0.180_625 - q * q;
            return q * (value("A", r) / value("B", r));
        }
        let t = if q < 0.0 { u } else { 1.0 - u };
        let r = libm::sqrt(-libm::log(t));
        let z = if r <= 5.0 {
            value("C", r - 1.6) / value("D", r - 1.6)
        } else {
            value("E", r - 5.0) / value("F", r - 5.0)
        };
        if q < 0.0 { -z } else { z }
    };
    let (kind, a, b) = (tensor.init.0, f64::from(tensor.init.1), f64::from(tensor.init.2));
    match kind {
        0 => 0.0,
        1 => tensor.init.1,
        2 => (a + b * quantile()) as f32,
        3 => (a + (b - a) * u) as f32,
        _ => panic!("init {kind}"),
    }
}

/// The block of coefficients in the document.
pub(crate) fn documented_coefficients() -> HashMap<String, Vec<f64>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/FORMAT.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text.split("```coefficients\n").nth(1).unwrap().split("```").next().unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        (words.next().unwrap(), words.map(|word| word.parse().unwrap()).collect::<Vec<f64>>())
    };
    let coefficients: HashMap<_, _> = block.lines().map(line).collect();
    assert!(coefficients.len() == 6 && coefficients.values().all(|c| c.len() == 8));
    coefficients
}
