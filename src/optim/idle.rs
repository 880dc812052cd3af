//! Many steps without a gradient at once.

use crate::kernel::MOST_PLANES;

/// Steps that are taken one by one where no rule says how many.
const ONE_BY_ONE: u64 = 64;
/// Most of them.
const MOST_ONE_BY_ONE: u64 = 4096;

/// What one step without a gradient does to an element, where this is linear or as good as that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Idle {
    /// Steps that are taken one by one by the rule itself; the rest at once by what stands below.
    pub(super) one_by_one: u64,
    /// Takes the parameter and the state that moves it to their next values; with no such state the first element.
    pub(super) map: [[f64; 2]; 2],
    /// The state plane that moves the parameter.
    pub(super) moves: Option<usize>,
    /// What each other state plane is multiplied with.
    pub(super) factors: [f64; MOST_PLANES],
}

impl Default for Idle {
    /// Nothing happens.
    fn default() -> Self {
        Self { one_by_one: 0, map: [[1.0, 0.0], [0.0, 1.0]], moves: None, factors: [1.0; MOST_PLANES] }
    }
}

impl Idle {
    /// The parameter shrinks and the state decays.
    pub(super) fn decaying(shrink: f64, factors: [f64; MOST_PLANES]) -> Self {
        Self { one_by_one: ONE_BY_ONE, map: [[shrink, 0.0], [0.0, 1.0]], factors, ..Self::default() }
    }

    /// As many steps are taken one by one as a move takes to fall, by `ratio` with each step, to where all further ones
    /// together are below 2^-24 of the first.
    pub(super) fn until_moves_end(self, ratio: f64) -> Self {
        let end = (1.0 - ratio) / f64::from(1 << 24);
        let (mut left, mut steps) = (1.0, 0);
        while left > end && steps < MOST_ONE_BY_ONE {
            left *= ratio;
            steps += 1;
        }
        Self { one_by_one: steps.max(ONE_BY_ONE), ..self }
    }

    /// Takes `steps` of them at once.
    pub(super) fn run(&self, steps: u64, param: &mut [f32], state: &mut [&mut [f32]]) {
        if steps == 0 {
            return;
        }
        let map = power_of(self.map, steps, times);
        for (at, (plane, &factor)) in state.iter_mut().zip(&self.factors).enumerate() {
            if self.moves != Some(at) {
                scale(plane, power_of(factor, steps, |a, b| a * b));
            }
        }
        match self.moves.and_then(|at| state.get_mut(at)) {
            None => scale(param, map[0][0]),
            Some(plane) => {
                let pairs = param.iter_mut().zip(plane.iter_mut());
                for (p, x) in pairs.filter(|(p, x)| !(is_zero(**p) && is_zero(**x))) {
                    let (old, moving) = (f64::from(*p), f64::from(*x));
                    *p = super::round(map[0][0] * old + map[0][1] * moving);
                    *x = super::round(map[1][0] * old + map[1][1] * moving);
                }
            }
        }
    }
}

/// Zeros stay what they are, whatever the factor has become.
fn scale(values: &mut [f32], factor: f64) {
    for value in values.iter_mut().filter(|value| !is_zero(**value)) {
        *value = super::round(f64::from(*value) * factor);
    }
}

const fn is_zero(value: f32) -> bool {
    value.to_bits() << 1 == 0
}

fn times(a: [[f64; 2]; 2], b: [[f64; 2]; 2]) -> [[f64; 2]; 2] {
    let at = |row: usize, column: usize| a[row][0] * b[0][column] + a[row][1] * b[1][column];
    [[at(0, 0), at(0, 1)], [at(1, 0), at(1, 1)]]
}

/// The product of `exponent` times the same, at least one, in the same order everywhere.
fn power_of<T: Copy>(base: T, exponent: u64, times: impl Fn(T, T) -> T) -> T {
    let (mut square, mut rest) = (base, exponent - 1);
    let mut result = base;
    while rest != 0 {
        if rest & 1 == 1 {
            result = times(result, square);
        }
        rest >>= 1;
        square = times(square, square);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_is_the_product_one_after_the_other() {
        let map = [[0.5, -2.0], [0.25, 1.0]];
        let mut product = map;
        for exponent in 1..20 {
            assert_eq!(power_of(map, exponent, times), product, "{exponent}");
            product = times(product, map);
        }
        assert!(power_of(0.5, 1 << 40, |a: f64, b| a * b) < f64::MIN_POSITIVE);
    }

    #[test]
    fn moves_end_where_the_rest_is_no_longer_seen() {
        let steps = |ratio| Idle::default().until_moves_end(ratio).one_by_one;
        assert_eq!(steps(0.5), ONE_BY_ONE);
        let ratio = 0.9 / 0.999_f64.sqrt();
        let (first, last) = (1.0, ratio.powi(i32::try_from(steps(ratio)).unwrap()));
        assert!(last / (1.0 - ratio) < first / f64::from(1 << 24), "{}", steps(ratio));
        assert_eq!(steps(ratio), 181);
        assert_eq!([steps(1.0), steps(1.5), steps(f64::NAN)], [MOST_ONE_BY_ONE, MOST_ONE_BY_ONE, ONE_BY_ONE]);
    }
}
