//! The models: how an entity and a relation make the vector of a query, and how near an answer is to it.
//!
//! | model | query of entity `e` and relation `r` | score of answer `a` |
//! | --- | --- | --- |
//! | ComplEx (Trouillon et al., 2016) | `e * r`, complex | real part of `query . conjugate(a)` |
//! | DistMult (Yang et al., 2015) | `e * r` | `query . a` |
//! | TransE (Bordes et al., 2013) | `e + r` | `-\|query - a\|`, Euclidean |
//!
//! Complex rows hold the real parts, then the imaginary ones; with the query's, the score is a scalar product again. A
//! relation has two rows, one for each direction that is asked for, as Lacroix et al. (2018) do.

use std::fmt;
use std::str::FromStr;

use crate::math::add_scaled;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Complex products.
    Complex,
    /// Real products.
    Distmult,
    /// Translations.
    Transe,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Complex => "complex",
            Self::Distmult => "distmult",
            Self::Transe => "transe",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Complex, Self::Distmult, Self::Transe]
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or_else(|| format!("no model {name}"))
    }
}

impl Kind {
    /// The vector of a query.
    pub(crate) fn query(self, entity: &[f32], relation: &[f32], out: &mut [f32]) {
        let half = out.len() / 2;
        match self {
            Self::Complex => {
                let ((e_re, e_im), (r_re, r_im)) = (entity.split_at(half), relation.split_at(half));
                let (out_re, out_im) = out.split_at_mut(half);
                for i in 0..half {
                    out_re[i] = e_re[i] * r_re[i] - e_im[i] * r_im[i];
                    out_im[i] = e_re[i] * r_im[i] + e_im[i] * r_re[i];
                }
            }
            Self::Distmult => {
                for (out, (e, r)) in out.iter_mut().zip(entity.iter().zip(relation)) {
                    *out = e * r;
                }
            }
            Self::Transe => {
                for (out, (e, r)) in out.iter_mut().zip(entity.iter().zip(relation)) {
                    *out = e + r;
                }
            }
        }
    }

    /// Adds to the gradients of a query's entity and relation, given that of its vector.
    pub(crate) fn add_gradients(
        self,
        (entity, relation): (&[f32], &[f32]),
        gradient: &[f32],
        of_entity: &mut [f32],
        of_relation: &mut [f32],
    ) {
        let half = gradient.len() / 2;
        match self {
            Self::Complex => {
                let ((e_re, e_im), (r_re, r_im)) = (entity.split_at(half), relation.split_at(half));
                let (g_re, g_im) = gradient.split_at(half);
                let (de_re, de_im) = of_entity.split_at_mut(half);
                let (dr_re, dr_im) = of_relation.split_at_mut(half);
                for i in 0..half {
                    de_re[i] += g_re[i] * r_re[i] + g_im[i] * r_im[i];
                    de_im[i] += g_im[i] * r_re[i] - g_re[i] * r_im[i];
                    dr_re[i] += g_re[i] * e_re[i] + g_im[i] * e_im[i];
                    dr_im[i] += g_im[i] * e_re[i] - g_re[i] * e_im[i];
                }
            }
            Self::Distmult => {
                for i in 0..gradient.len() {
                    of_entity[i] += gradient[i] * relation[i];
                    of_relation[i] += gradient[i] * entity[i];
                }
            }
            Self::Transe => {
                add_scaled(of_entity, 1.0, gradient);
                add_scaled(of_relation, 1.0, gradient);
            }
        }
    }

    /// Adds the gradient of `weight` times the sum of cubes of a row's moduli (N3; Lacroix et al., 2018), and returns
    /// that sum times the weight. TransE has none.
    pub(crate) fn add_n3(self, row: &[f32], weight: f32, gradient: &mut [f32]) -> f32 {
        let half = row.len() / 2;
        let mut sum = 0.0;
        match self {
            Self::Complex => {
                let ((re, im), (g_re, g_im)) = (row.split_at(half), gradient.split_at_mut(half));
                for i in 0..half {
                    let modulus = (re[i] * re[i] + im[i] * im[i]).sqrt();
                    g_re[i] += 3.0 * weight * modulus * re[i];
                    g_im[i] += 3.0 * weight * modulus * im[i];
                    sum += modulus * modulus * modulus;
                }
            }
            Self::Distmult => {
                for (x, gradient) in row.iter().zip(gradient) {
                    *gradient += 3.0 * weight * x.abs() * x;
                    sum += (x * x * x).abs();
                }
            }
            Self::Transe => {}
        }
        weight * sum
    }

    /// Whether scores are distances, not scalar products.
    pub(crate) fn measures_distance(self) -> bool {
        self == Self::Transe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::dot;

    const KINDS: [Kind; 3] = [Kind::Complex, Kind::Distmult, Kind::Transe];

    #[test]
    fn the_complex_score_is_the_real_part_of_the_trilinear_product() {
        // h = 1+2i, r = 3-1i, t = 2+5i: h r = 5+5i, times 2-5i = 35-15i.
        let mut query = [0.0; 2];
        Kind::Complex.query(&[1.0, 2.0], &[3.0, -1.0], &mut query);
        assert!((dot(&query, &[2.0, 5.0]) - 35.0).abs() < 1e-5);
        Kind::Distmult.query(&[1.0, 2.0], &[3.0, -1.0], &mut query);
        assert!((query[0] - 3.0).abs() < 1e-6 && (query[1] + 2.0).abs() < 1e-6);
        Kind::Transe.query(&[1.0, 2.0], &[3.0, -1.0], &mut query);
        assert!((query[0] - 4.0).abs() < 1e-6 && (query[1] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn gradients_are_slopes() {
        let (mut entity, mut relation) = (vec![0.3, -0.7, 0.9, 0.2], vec![-0.5, 0.4, 0.8, 0.1]);
        let direction = [0.2, -0.6, 0.5, 1.1];
        for kind in KINDS {
            let (mut of_entity, mut of_relation) = (vec![0.0; 4], vec![0.0; 4]);
            kind.add_gradients((&entity, &relation), &direction, &mut of_entity, &mut of_relation);
            let score = |entity: &[f32], relation: &[f32]| {
                let mut query = [0.0; 4];
                kind.query(entity, relation, &mut query);
                dot(&query, &direction)
            };
            for i in 0..4 {
                let at = |by: f32, entity: &mut [f32]| {
                    entity[i] += by;
                    let score = score(entity, &relation);
                    entity[i] -= by;
                    score
                };
                let slope = (at(0.125, &mut entity) - at(-0.125, &mut entity)) / 0.25;
                assert!((of_entity[i] - slope).abs() < 1e-5, "{kind} {i}");
            }
            for i in 0..4 {
                let at = |by: f32, relation: &mut [f32]| {
                    relation[i] += by;
                    let score = score(&entity, relation);
                    relation[i] -= by;
                    score
                };
                let slope = (at(0.125, &mut relation) - at(-0.125, &mut relation)) / 0.25;
                assert!((of_relation[i] - slope).abs() < 1e-5, "{kind} {i}");
            }
        }
    }

    #[test]
    fn the_gradient_of_n3_is_its_slope() {
        let row = vec![0.3, -0.7, 0.9, 0.2];
        for kind in KINDS {
            let mut gradient = vec![0.0; 4];
            kind.add_n3(&row, 0.5, &mut gradient);
            for i in 0..4 {
                let at = |by: f32| {
                    let mut moved = row.clone();
                    moved[i] += by;
                    kind.add_n3(&moved, 0.5, &mut [0.0; 4])
                };
                let slope = (at(0.01) - at(-0.01)) / 0.02;
                assert!((gradient[i] - slope).abs() < 2e-3, "{kind} {i}: {} {slope}", gradient[i]);
            }
        }
    }

    #[test]
    fn names_read_back() {
        for kind in KINDS {
            assert_eq!(kind.to_string().parse::<Kind>(), Ok(kind));
        }
        assert!("rotate".parse::<Kind>().is_err());
    }
}
