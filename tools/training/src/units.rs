//! Numbers with units, as the command line takes them.

/// A parser of whole numbers within bounds.
pub fn size(
    least: usize,
    most: usize,
) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("expected a whole number from {least} to {most}")),
    }
}

/// Parses a positive number.
///
/// # Errors
/// What was expected, for anything but a positive number.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err("expected a positive number, e.g. 3e-3".to_owned()),
    }
}

/// Parses a number that is not negative.
///
/// # Errors
/// What was expected, for anything but 0 or a positive number.
pub fn not_negative(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() && x >= 0.0 => Ok(x),
        _ => Err("expected 0 or a positive number, e.g. 1e-4".to_owned()),
    }
}

/// Parses a count: 1200, 350k, 120M, 1.5B, 1T.
///
/// # Errors
/// What was expected, for anything but a count.
pub fn count(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 4] = [("k", 1e3), ("M", 1e6), ("B", 1e9), ("T", 1e12)];
    scaled(text, &UNITS).ok_or_else(|| "expected a count such as 1200, 350k, 120M, 1.5B or 1T".to_owned())
}

/// Parses a size: 65536, 64KiB, 64MiB, 1.5GiB, 2TiB, or with powers of 1000 64KB, 64MB, 1.5GB, 2TB.
///
/// # Errors
/// What was expected, for anything but a size.
pub fn bytes(text: &str) -> Result<u64, String> {
    const KIB: f64 = 1024.0;
    const UNITS: [(&str, f64); 9] = [
        ("KiB", KIB),
        ("MiB", KIB * KIB),
        ("GiB", KIB * KIB * KIB),
        ("TiB", KIB * KIB * KIB * KIB),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("B", 1.0),
    ];
    scaled(text, &UNITS).ok_or_else(|| "expected a size such as 65536, 64MiB or 1.5GiB".to_owned())
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let text = text.trim();
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = unit.unwrap_or((text, 1.0));
    if let Ok(whole) = number.trim().parse::<u64>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "factors are whole and below 2^53"
        )]
        return whole.checked_mul(factor as u64);
    }
    let value = number.trim().parse::<f64>().ok()? * factor;
    let fits = value.is_finite() && (0.0..1.8e19).contains(&value);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked on the line above")]
    fits.then_some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_sizes_accept_their_units() {
        assert_eq!(count("120M"), Ok(120_000_000));
        assert_eq!(count("1B"), Ok(1_000_000_000));
        assert_eq!(count("0.5k"), Ok(500));
        assert_eq!(count("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("10GB"), Ok(10_000_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
    }

    #[test]
    fn nonsense_negatives_and_overflow_are_refused() {
        for text in ["", "M", "-1M", "1.5.2M", "nan", "inf", "20000000T", "1e30"] {
            assert!(count(text).is_err(), "{text}");
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(positive("0").is_err() && not_negative("0").is_ok() && not_negative("-1").is_err());
        assert_eq!(size(2, 9)("9"), Ok(9));
        assert!(size(2, 9)("10").is_err());
    }
}
