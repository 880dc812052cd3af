//! Sizes and counts as people write them: `64MiB`, `1.5GiB`, `120M`, `1T`.

/// Bytes: a number with a unit. `KiB`, `MiB`, `GiB`, `TiB`, `PiB` and the bare letters are powers of 1024, `kB`, `MB`,
/// `GB`, `TB` and `PB` powers of 1000.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let expected = "a size such as 4096, 4k, 64MiB, 1.5GiB or 2TB";
    let (number, unit) = split(text);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return Err(format!("expected {expected}")),
    };
    scaled(number, unit, expected)
}

/// Things: a number with `k`, `M`, `B` (or `G`) or `T` for thousands, millions, billions and trillions.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let expected = "a whole number such as 4096, 120M, 1.5B or 1T";
    let (number, unit) = split(text);
    let unit = match unit {
        "" => 1,
        "k" | "K" => 1_000,
        "m" | "M" => 1_000_000,
        "b" | "B" | "g" | "G" => 1_000_000_000,
        "t" | "T" => 1_000_000_000_000,
        _ => return Err(format!("expected {expected}")),
    };
    scaled(number, unit, expected)
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// A decimal number times its unit, rounded down to a whole; exact, without floating point.
fn scaled(number: &str, unit: u64, expected: &str) -> Result<u64, String> {
    let wrong = || format!("expected {expected}");
    let number = number.replace('_', "");
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    let fraction = fraction.trim_end_matches('0');
    if whole.len() + fraction.len() == 0 || fraction.len() > 15 || fraction.contains('.') {
        return Err(wrong());
    }
    let parse = |digits: &str| if digits.is_empty() { Ok(0) } else { digits.parse::<u128>() };
    let whole = parse(whole).map_err(|_| wrong())?;
    let digits = u32::try_from(fraction.len()).map_err(|_| wrong())?;
    let part = parse(fraction).map_err(|_| wrong())? * u128::from(unit) / 10_u128.pow(digits);
    let total = whole.checked_mul(u128::from(unit)).and_then(|whole| whole.checked_add(part));
    total.and_then(|total| u64::try_from(total).ok()).ok_or_else(|| "expected less than 2^64".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_their_units() {
        let cases = [
            ("4096", 4096),
            ("4k", 4096),
            ("64MiB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("1.5 GiB", 3 << 29),
            ("2TB", 2_000_000_000_000),
            ("0.5m", 1 << 19),
            ("1_000", 1000),
            ("0.1kB", 100),
            (".5k", 512),
            ("16383.5P", u64::MAX - (1 << 49) + 1),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn counts_follow_their_units() {
        let cases = [
            ("120M", 120_000_000),
            ("1B", 1_000_000_000),
            ("1T", 1_000_000_000_000),
            ("0.5k", 500),
            ("7", 7),
        ];
        for (text, expected) in cases {
            assert_eq!(count(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.2.3k",
            "1e9",
            "1Q",
            "nan",
            "20000000000P",
            "99999999999999999999999",
            "0.1234567890123456",
        ] {
            assert!(bytes(text).is_err(), "{text}");
            assert!(count(text).is_err(), "{text}");
        }
        assert!(count("64MiB").is_err());
    }
}
