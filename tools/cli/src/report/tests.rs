use super::charts::{
    Curve, MapCell, POINTS_MAX, Unit, divided, lines, map, stacked, thinned, ticks, timeline,
};
use super::{MARK, check_target};
use crate::whole;

#[test]
fn ticks_are_round_and_inside() {
    assert_eq!(ticks(0.0, 1.0, 5.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
    assert_eq!(ticks(0.07, 0.33, 5.0), [0.1, 0.2, 0.3]);
    assert_eq!(ticks(-15.0, 38.0, 5.0), [0.0, 20.0]);
    assert_eq!(ticks(3.0, 3.0, 5.0), [3.0]);
    assert_eq!(ticks(0.0, f64::INFINITY, 5.0), [0.0]);
    assert_eq!(ticks(1e-9, 5e-9, 4.0), [1e-9, 2e-9, 3e-9, 4e-9, 5e-9]);
}

#[test]
fn labels_have_units_and_few_digits() {
    let cases = [
        (Unit::Plain, 0.3, "0.3"),
        (Unit::Plain, 3e-4, "3e-4"),
        (Unit::Plain, 1.25e7, "1.25e7"),
        (Unit::Steps, 12_000.0, "12,000"),
        (Unit::Seconds, 0.05, "50 ms"),
        (Unit::Seconds, 0.0, "0"),
        (Unit::Seconds, 6.0, "6 s"),
        (Unit::Seconds, 2.5, "2.5 s"),
        (Unit::Bytes, 2.5e9, "2.5 GB"),
        (Unit::Bytes, 200e6, "200 MB"),
    ];
    for (unit, value, text) in cases {
        assert_eq!(unit.text(value), text);
    }
}

#[test]
fn thinned_curves_keep_ends_order_and_spikes() {
    let mut points: Vec<_> = (0..50_000).map(|x| (f64::from(x), f64::from(x % 7))).collect();
    points[31_234].1 = 1e9;
    let thin = thinned(&points);
    assert!(thin.len() <= POINTS_MAX && thin.len() > POINTS_MAX / 2, "{}", thin.len());
    assert!(thin.contains(&(31_234.0, 1e9)), "the spike is lost");
    assert!(thin.is_sorted_by(|a, b| a.0 < b.0));
    assert!(thin[0].0 < 50.0 && thin[thin.len() - 1].0 > 49_950.0);
    assert_eq!(thinned(&points[..2_000]).len(), 2_000);
}

fn curve(points: &[(f64, f64)]) -> Curve {
    Curve { name: "loss", color: 3, points: points.to_vec() }
}

#[test]
fn curves_stand_inside_their_axes_and_upward_is_more() {
    let svg = lines("loss", &[curve(&[(1.0, 2.0), (2.0, 4.0), (3.0, 3.0)])], Unit::Plain, false);
    let line = svg.split("<polyline class=\"l3\" points=\"").nth(1).unwrap().split('"').next().unwrap();
    let places: Vec<Vec<f64>> =
        line.split(' ').map(|place| place.split(',').map(|at| at.parse().unwrap()).collect()).collect();
    assert_eq!(places.len(), 3);
    assert!(
        places.iter().all(|at| (56.0..=382.0).contains(&at[0]) && (10.0..=188.0).contains(&at[1])),
        "{line}"
    );
    assert!(places[1][1] < places[2][1] && places[2][1] < places[0][1], "{line}");
    for label in [">2<", ">3<", ">4<", ">step<"] {
        assert!(svg.contains(label), "{label}: {svg}");
    }
    // One point and a flat line have a scale; nothing has no chart.
    for points in [&[(5.0, 1.0)][..], &[(1.0, 0.0), (2.0, 0.0)]] {
        let svg = lines("loss", &[curve(points)], Unit::Plain, false);
        assert!(svg.contains("<polyline") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
    assert_eq!(lines("loss", &[curve(&[])], Unit::Plain, false), "");
}

#[test]
fn stacks_add_up_and_are_bounded() {
    let steps: Vec<_> = (1..=1000).map(f64::from).collect();
    let parts = [(0, vec![1.0; 1000]), (1, vec![3.0; 1000]), (2, vec![0.0; 1000])];
    let svg = stacked("time", &steps, &parts, Unit::Seconds);
    assert_eq!(svg.matches("class=\"b0\"").count(), 120);
    assert_eq!(svg.matches("class=\"b2\"").count(), 0);
    let height = |class: &str| -> f64 {
        let rect = svg.split(&format!("<rect class=\"{class}\"")).nth(1).unwrap();
        rect.split("height=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    assert!((height("b1") / height("b0") - 3.0).abs() < 0.01, "{} {}", height("b0"), height("b1"));
    assert_eq!(stacked("time", &[], &[], Unit::Seconds), "");
}

#[test]
fn bars_maps_and_time_lines_escape_and_fit() {
    let bar = divided("disk", &[(0, 1.0), (1, 3.0)]);
    assert!(bar.contains("x=\"100.00\" width=\"300.00\""), "{bar}");
    assert!(!divided("disk", &[(0, 0.0)]).contains("NaN"));
    let cell = |title: &str| MapCell { color: 1, strength: 0.5, title: title.to_owned() };
    let cells: Vec<_> = (0..51).map(|_| cell("<b>")).collect();
    let map = map("blocks", &cells);
    assert_eq!((map.matches("<rect").count(), map.matches("&lt;b&gt;").count()), (51, 51));
    assert!(map.contains("viewBox=\"0 0 400 16\""), "{map}");
    // Names on top of each other give way; all are marked.
    let marks: Vec<_> = (0..40_u32).map(|at| (f64::from(at), format!("name-{at}<"), 0)).collect();
    let line = timeline("checkpoints", 4_000.0, &marks);
    assert_eq!(line.matches("<title>").count(), 40);
    assert_eq!(line.matches("name-0&lt;</text>").count(), 1);
    assert!(line.matches("&lt;</text>").count() <= 4, "{line}");
}

#[test]
fn only_reports_are_replaced_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    assert!(check_target(&path, false).is_ok());
    std::fs::write(&path, "my notes").unwrap();
    let refused = check_target(&path, false).unwrap_err();
    assert!(refused.hint().contains("--force"), "{refused}");
    assert!(check_target(&path, true).is_ok());
    whole::write(&path, format!("<!DOCTYPE html>{MARK}").as_bytes()).unwrap();
    assert!(check_target(&path, false).is_ok());
    assert!(check_target(dir.path(), true).is_err());
    // Nothing is left beside it, also where it cannot be written.
    assert!(whole::write(&dir.path().join("missing/page.html"), b"").is_err());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // What mentions a report further on is none.
    std::fs::write(&path, format!("{}{MARK}", " ".repeat(2_000))).unwrap();
    assert!(check_target(&path, false).is_err());
}
