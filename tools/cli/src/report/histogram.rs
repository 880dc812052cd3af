//! What planes hold, as small pictures and words for the table of tensors.

use paramstore::inspect::{PlaneStatistics, TensorStatistics};
use serde_json::{Value, json};

use super::charts::count;
use crate::human::{grouped, number};

/// Tensors whose histograms are drawn, the largest ones: each takes about a kilobyte.
pub(super) const DRAWN_MAX: usize = 2_000;
/// Powers of two on each side of zero; smaller magnitudes are counted with the smallest of them.
const POWERS_MAX: i32 = 40;
/// Height of a picture, in its own units.
const HEIGHT: f64 = 24.0;

/// Bars as one path, from the most negative magnitude over the smallest ones to the most positive.
#[derive(Debug, PartialEq)]
pub(super) struct Drawn {
    pub(super) path: String,
    /// How many bars there is room for, one unit each.
    pub(super) bars: i32,
    /// The power of two below the smallest magnitude, and above the largest one.
    pub(super) powers: (i32, i32),
}

/// Draws bins: whether negative, power of two, how many.
pub(super) fn drawn(bins: &[(bool, i32, u64)]) -> Option<Drawn> {
    let high = bins.iter().map(|bin| bin.1).max()?;
    let low = bins.iter().map(|bin| bin.1).min()?.max(high - POWERS_MAX + 1);
    let powers = high - low + 1;
    let mut counts = vec![0_u64; usize::try_from(2 * powers).unwrap_or(0)];
    for &(is_negative, power, elements) in bins {
        let above = power.max(low) - low;
        let at = if is_negative { powers - 1 - above } else { powers + above };
        if let Some(place) = usize::try_from(at).ok().and_then(|at| counts.get_mut(at)) {
            *place += elements;
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0);
    let bar = |(at, &elements): (usize, &u64)| {
        #[expect(clippy::cast_precision_loss, reason = "heights of a picture")]
        let height = HEIGHT * elements as f64 / most.max(1) as f64;
        // What is rare is seen to be there.
        format!("M{} {HEIGHT}v-{:.1}h1V{HEIGHT}z", count(at), height.max(0.4))
    };
    let path: Vec<_> = counts.iter().enumerate().filter(|(_, elements)| **elements > 0).map(bar).collect();
    Some(Drawn { path: path.concat(), bars: 2 * powers, powers: (low, high + 1) })
}

/// One plane for the page's script: name, words, path, bars, powers.
fn plane(plane: &PlaneStatistics) -> Value {
    let bins: Vec<_> = plane.histogram.bins().map(|bin| (bin.is_negative, bin.exponent, bin.count)).collect();
    let of = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {}", number(value)));
    let words = [
        of("norm", Some(plane.norm)),
        of("mean", plane.mean),
        of("std", plane.std),
        of("min", plane.min),
        of("max", plane.max),
        Some(format!("zeros {}", grouped(plane.zeros))),
        (plane.nan > 0).then(|| format!("NaN {}", grouped(plane.nan))),
        (plane.infinite > 0).then(|| format!("infinite {}", grouped(plane.infinite))),
    ];
    let words: Vec<_> = words.into_iter().flatten().collect();
    let drawn = drawn(&bins);
    json!([
        plane.plane,
        words.join(", "),
        drawn.as_ref().map_or("", |drawn| drawn.path.as_str()),
        drawn.as_ref().map_or(0, |drawn| drawn.bars),
        drawn.as_ref().map_or(0, |drawn| drawn.powers.0),
        drawn.as_ref().map_or(0, |drawn| drawn.powers.1),
    ])
}

/// What stands behind the other cells of a tensor's row: deviation, ratio of updates, values not finite, planes.
pub(super) fn cells(of: &TensorStatistics, is_drawn: bool) -> [Value; 4] {
    let not_finite: u64 = of.planes.iter().map(|plane| plane.nan + plane.infinite).sum();
    let planes = is_drawn.then(|| of.planes.iter().map(plane).collect::<Vec<_>>());
    [
        json!(of.planes.first().and_then(|plane| plane.std)),
        json!(of.update_ratio()),
        json!(not_finite),
        json!(planes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_from_negative_to_positive_with_the_smallest_in_the_middle() {
        let drawn = drawn(&[(true, 1, 5), (true, -1, 10), (false, -1, 1), (false, 0, 20)]).unwrap();
        assert_eq!((drawn.bars, drawn.powers), (6, (-1, 2)));
        assert_eq!(drawn.path, "M0 24v-6.0h1V24zM2 24v-12.0h1V24zM3 24v-1.2h1V24zM4 24v-24.0h1V24z");
        assert_eq!(super::drawn(&[]), None);
        // Far below the largest, magnitudes are counted together, and nothing is lost.
        let wide: Vec<_> = (-127..=3).map(|power| (false, power, 1)).collect();
        let drawn = super::drawn(&wide).unwrap();
        assert_eq!((drawn.bars, drawn.powers), (80, (-36, 4)));
        assert!(
            drawn.path.starts_with("M40 24v-24.0h1") && drawn.path.contains("M79 24v-0.4h1"),
            "{}",
            drawn.path
        );
        // One count among a billion is seen.
        assert!(super::drawn(&[(false, 0, 1), (false, 1, 1 << 30)]).unwrap().path.contains("v-0.4h1"));
    }
}
