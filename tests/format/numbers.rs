//! Section 5: what the bytes of a plane mean, by the code of its type.

/// Bytes that elements take, without padding.
pub(crate) fn bytes(code: u8, elements: u64) -> u64 {
    match code {
        1 => 4 * elements,
        2 | 3 => 2 * elements,
        4 | 5 => elements.next_multiple_of(4) + 4 * elements.div_ceil(256),
        _ => panic!("type {code}"),
    }
}

/// The elements of a block.
pub(crate) fn decode(code: u8, bytes: &[u8], elements: u64) -> Vec<f32> {
    let elements = usize::try_from(elements).unwrap();
    let f32s = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let u16s = || bytes.chunks(2).map(|b| u16::from_le_bytes(b.try_into().unwrap()));
    match code {
        1 => f32s(bytes),
        2 => u16s().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        3 => u16s().map(binary16).collect(),
        _ => {
            let scales = f32s(&bytes[elements.next_multiple_of(4)..]);
            let of = |(i, &code_of): (usize, &u8)| book(code == 5, code_of) * scales[i / 256];
            bytes[..elements].iter().enumerate().map(of).collect()
        }
    }
}

fn binary16(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2_f32.powi(-24),
        31 => panic!("infinity or NaN"),
        _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { magnitude } else { -magnitude }
}

/// What a code stands for: `p * (0.9 * (k + 1/2) / n - 0.8)` in the decade of `n` codes that has number `k`.
fn book(is_unsigned: bool, code: u8) -> f32 {
    let (sign, k) = if is_unsigned {
        (1.0, u32::from(code) + 1)
    } else if code < 127 {
        (-1.0, 127 - u32::from(code))
    } else {
        (1.0, u32::from(code) - 127)
    };
    let first = if is_unsigned { 2 } else { 1 };
    if k < first {
        return 0.0;
    }
    if k == first << 7 {
        return 1.0;
    }
    let n = 1 << k.ilog2();
    let p = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0][(n / first).ilog2() as usize];
    (sign * p * (0.9 * ((f64::from(k) + 0.5) / f64::from(n)) - 0.8)) as f32
}
