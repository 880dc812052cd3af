//! The safetensors format: a length, a header in JSON, and the elements of all tensors without a gap.
//!
//! As strict as the reference: at most 100 MB of header, every byte behind it in exactly one tensor, as many bytes as type
//! and shape ask for. Stricter in names, which are distinct, and in keys, of which there are no others.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::source::read_bytes;
use super::{ForeignDtype, ForeignTensor, byte_len};
use crate::error::{Error, Result};
use crate::storage::Segment;
use crate::units::to_u64;

/// Bytes of the length in front.
pub(super) const PREFIX_BYTES: u64 = 8;

/// The longest header that the reference reads.
pub(super) const HEADER_BYTES_MAX: u64 = 100_000_000;

/// The key of the strings that belong to no tensor.
const METADATA: &str = "__metadata__";

/// A tensor as the header has it.
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header in the order of the file.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entry, A::Error> {
                let (mut dtype, mut shape, mut data_offsets) = (None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let again = match key.as_str() {
                        "dtype" => dtype.replace(map.next_value()?).is_some(),
                        "shape" => shape.replace(map.next_value()?).is_some(),
                        "data_offsets" => data_offsets.replace(map.next_value()?).is_some(),
                        other => {
                            return Err(de::Error::unknown_field(other, &["dtype", "shape", "data_offsets"]));
                        }
                    };
                    if again {
                        return Err(de::Error::custom(format!("{key} twice in a tensor")));
                    }
                }
                Ok(Entry {
                    dtype: dtype.ok_or_else(|| de::Error::missing_field("dtype"))?,
                    shape: shape.ok_or_else(|| de::Error::missing_field("shape"))?,
                    data_offsets: data_offsets.ok_or_else(|| de::Error::missing_field("data_offsets"))?,
                })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Tensors;
        impl<'de> Visitor<'de> for Tensors {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let (mut tensors, mut metadata) = (Vec::new(), None::<BTreeMap<String, String>>);
                while let Some(key) = map.next_key::<String>()? {
                    if key != METADATA {
                        tensors.push((key, map.next_value()?));
                    } else if metadata.replace(map.next_value()?).is_some() {
                        return Err(de::Error::custom("__metadata__ twice"));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Tensors)
    }
}

/// Reads and checks the header of a file.
pub(super) fn read(file: &dyn Segment) -> Result<Vec<ForeignTensor>> {
    let (Header(entries), data_start) = read_json(file)?;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        tensors.push(checked(file, data_start, name, entry)?);
    }
    check_places(file, data_start, &tensors)?;
    Ok(tensors)
}

fn read_json(file: &dyn Segment) -> Result<(Header, u64)> {
    let prefix = read_bytes(file, 0, PREFIX_BYTES, "length of the header of safetensors")?;
    let len = prefix.try_into().map_or(u64::MAX, u64::from_le_bytes);
    let wrong = |range: (u64, u64), got: String, expected: String| {
        Error::foreign(file.path(), "header of safetensors", range, got, expected)
    };
    let room = file.len_bytes()?.saturating_sub(PREFIX_BYTES).min(HEADER_BYTES_MAX);
    if len > room {
        let expected = format!("a safetensors file with a header of at most {room} bytes");
        return Err(wrong((0, PREFIX_BYTES), format!("a header of {len} bytes"), expected));
    }
    let json = read_bytes(file, PREFIX_BYTES, len, "header of safetensors")?;
    let header = if json.first() == Some(&b'{') {
        serde_json::from_slice(&json).map_err(|error| error.to_string())
    } else {
        Err("no { at its beginning".to_owned())
    };
    match header {
        Ok(header) => Ok((header, PREFIX_BYTES + len)),
        Err(got) => Err(wrong((PREFIX_BYTES, len), got, "tensors in JSON".to_owned())),
    }
}

/// A tensor whose bytes lie in the file and are as many as type and shape ask for.
fn checked(file: &dyn Segment, data_start: u64, name: String, entry: Entry) -> Result<ForeignTensor> {
    let Entry { dtype, shape, data_offsets: (begin, end) } = entry;
    let wrong = |got: String, expected: String| {
        let range = (data_start.saturating_add(begin), end.saturating_sub(begin));
        Error::foreign(file.path(), format!("tensor {name:?}"), range, got, expected)
    };
    let Some((dtype, bits)) = dtype_of(&dtype) else {
        return Err(wrong(format!("dtype {dtype:?}"), "a dtype of safetensors".to_owned()));
    };
    let room = file.len_bytes()?.saturating_sub(data_start);
    if begin > end || end > room {
        let expected = format!("bytes inside the {room} behind the header");
        return Err(wrong(format!("offsets {begin} to {end}"), expected));
    }
    match byte_len(&shape, bits) {
        Some(bytes) if bytes == end - begin => {}
        bytes => {
            let expected =
                bytes.map_or("a shape of whole bytes".to_owned(), |bytes| format!("{bytes} bytes"));
            let got = format!("{} bytes for {} of shape {shape:?}", end - begin, dtype.name());
            return Err(wrong(got, expected));
        }
    }
    let (path, offset) = (Arc::from(file.path()), data_start + begin);
    Ok(ForeignTensor { name, dtype, shape, path, offset, bytes: end - begin, file: 0, packed: None })
}

/// Distinct names, and every byte behind the header in one tensor.
fn check_places(file: &dyn Segment, data_start: u64, tensors: &[ForeignTensor]) -> Result<()> {
    let mut names = HashSet::with_capacity(tensors.len());
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|tensor| (tensor.offset, tensor.bytes));
    let mut at = data_start;
    for tensor in order {
        let range = (tensor.offset, tensor.bytes);
        let what = || format!("tensor {:?}", tensor.name);
        if !names.insert(tensor.name.as_str()) {
            return Err(Error::foreign(file.path(), what(), range, "its name twice", "distinct names"));
        }
        if tensor.offset != at {
            let got = format!("a beginning at byte {}", tensor.offset);
            let expected = format!("byte {at}, where the tensor before ends");
            return Err(Error::foreign(file.path(), what(), range, got, expected));
        }
        at += tensor.bytes;
    }
    let len = file.len_bytes()?;
    if at == len {
        return Ok(());
    }
    let (range, got) = ((at, len - at), format!("{} bytes behind the last tensor", len - at));
    Err(Error::foreign(file.path(), "end of the file", range, got, "none"))
}

/// A type by its name, and its bits.
fn dtype_of(name: &str) -> Option<(ForeignDtype, u64)> {
    let dtype = ForeignDtype::of_name(name);
    let bits = match (dtype.bytes(), name) {
        (Some(bytes), _) => bytes * 8,
        (None, "F4") => 4,
        (None, "F6_E2M3" | "F6_E3M2") => 6,
        (None, "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ") => 8,
        (None, "C64") => 64,
        (None, _) => return None,
    };
    Some((dtype, bits))
}

/// A tensor of a header that is written.
pub(super) struct Planned<'a> {
    pub(super) name: &'a str,
    pub(super) dtype: &'a str,
    pub(super) shape: &'a [u64],
    pub(super) bytes: u64,
}

/// Length and header of a file with these tensors in this order; a multiple of 8 bytes, filled up with spaces as the
/// reference does. `metadata` are pairs of strings.
pub(super) fn header(tensors: &[Planned<'_>], metadata: &[(&str, String)]) -> Result<Vec<u8>> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let pairs: Vec<_> = metadata.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
    let mut json = format!("{{\"{METADATA}\":{{{}}}", pairs.join(","));
    let mut at = 0_u64;
    for tensor in tensors {
        let end = at.saturating_add(tensor.bytes);
        let shape: Vec<_> = tensor.shape.iter().map(u64::to_string).collect();
        let (name, dtype, shape) = (quoted(tensor.name), tensor.dtype, shape.join(","));
        let fields = format!("\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{at},{end}]");
        json.extend([",", &name, ":{", &fields, "}"]);
        at = end;
    }
    json.push('}');
    json += &" ".repeat(json.len().next_multiple_of(8) - json.len());
    if to_u64(json.len()) > HEADER_BYTES_MAX {
        let got = format!("{} tensors, a header of {} bytes", tensors.len(), json.len());
        let expected = "at most 100 MB of header: export to a directory of shards, or fewer tensors";
        return Err(Error::invalid("safetensors file", got, expected));
    }
    let mut bytes = to_u64(json.len()).to_le_bytes().to_vec();
    bytes.append(&mut json.into_bytes());
    Ok(bytes)
}
