//! Elements in place: bytes of a plane seen as numbers, without a copy.

#[cfg(target_endian = "big")]
compile_error!("stored elements are little-endian and used in place; big-endian hosts are not supported");

/// Sees bytes of an f32 plane as elements. `bytes` is a page-aligned buffer cut at a multiple of four bytes; an
/// unaligned or ragged slice gives no elements, which every caller's length check refuses.
pub(crate) fn as_f32(bytes: &[u8]) -> &[f32] {
    bytemuck::try_cast_slice(bytes).unwrap_or_default()
}

/// As [`as_f32`], for changing the elements.
pub(crate) fn as_f32_mut(bytes: &mut [u8]) -> &mut [f32] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or_default()
}

/// Sees bytes of a plane of 16-bit floats as their patterns; otherwise as [`as_f32`].
pub(crate) fn as_u16(bytes: &[u8]) -> &[u16] {
    bytemuck::try_cast_slice(bytes).unwrap_or_default()
}

/// As [`as_u16`], for changing them.
pub(crate) fn as_u16_mut(bytes: &mut [u8]) -> &mut [u16] {
    bytemuck::try_cast_slice_mut(bytes).unwrap_or_default()
}

/// Sees bytes of binary64 as numbers; otherwise as [`as_f32`].
pub(crate) fn as_f64(bytes: &[u8]) -> &[f64] {
    bytemuck::try_cast_slice(bytes).unwrap_or_default()
}

/// The bytes of patterns of 16 bits.
pub(crate) fn bytes_of_u16(values: &[u16]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// The bytes of elements, as an f32 plane holds them.
pub(crate) fn bytes_of(values: &[f32]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// As [`bytes_of`], for changing them.
pub(crate) fn bytes_of_mut(values: &mut [f32]) -> &mut [u8] {
    bytemuck::cast_slice_mut(values)
}
