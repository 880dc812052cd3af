//! The index of a model in several safetensors files: which tensor stands in which of them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::ForeignTensor;
use super::source::read_bytes;
use crate::error::{Error, Result};
use crate::storage::Segment;

/// The longest index that is read.
const INDEX_BYTES_MAX: u64 = 100_000_000;

/// The tensors' files.
struct Index(BTreeMap<String, Vec<String>>);

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Index;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with weight_map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Index, A::Error> {
                let mut found = None;
                while let Some(key) = map.next_key::<String>()? {
                    if key != "weight_map" {
                        map.next_value::<IgnoredAny>()?;
                    } else if found.replace(map.next_value::<Shards>()?).is_some() {
                        return Err(de::Error::custom("weight_map twice"));
                    }
                }
                found.map(|shards| Index(shards.0)).ok_or_else(|| de::Error::missing_field("weight_map"))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The map turned round: names by file.
struct Shards(BTreeMap<String, Vec<String>>);

impl<'de> Deserialize<'de> for Shards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Shards;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names by tensor")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Shards, A::Error> {
                let mut shards = BTreeMap::<String, Vec<String>>::new();
                let mut seen = HashSet::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(de::Error::custom(format!("tensor {name:?} twice")));
                    }
                    shards.entry(file).or_default().push(name);
                }
                Ok(Shards(shards))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// The shards of an index, each with the tensors that it is said to have. Their names are plain: an index cannot lead out of
/// its directory. Links that stand there, and which only its owner could make, can.
pub(super) fn read(file: &dyn Segment) -> Result<BTreeMap<String, Vec<String>>> {
    let len = file.len_bytes()?;
    let wrong = |got: String, expected: &str| {
        Error::foreign(file.path(), "index of safetensors", (0, len), got, expected)
    };
    if len > INDEX_BYTES_MAX {
        return Err(wrong(format!("{len} bytes"), "at most 100 MB"));
    }
    let json = read_bytes(file, 0, len, "index of safetensors")?;
    let Index(shards) = serde_json::from_slice(&json).map_err(|error| {
        wrong(error.to_string(), "an object whose weight_map names a file for each tensor")
    })?;
    let is_plain = |name: &str| !name.contains(['/', '\\', '\0']) && !matches!(name, "" | "." | "..");
    match shards.keys().find(|name| !is_plain(name)) {
        None => Ok(shards),
        Some(name) => Err(wrong(format!("the file name {name:?}"), "plain names of files beside the index")),
    }
}

/// Refuses a shard without a tensor that the index says it has, or with one that the index does not know there.
pub(super) fn check_shard(
    index: &Path,
    shard: &str,
    names: &[String],
    tensors: &[ForeignTensor],
) -> Result<()> {
    let has: HashSet<_> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let said: HashSet<_> = names.iter().map(String::as_str).collect();
    let wrong = |name: &str, got: &str, expected: &str| {
        let what = format!("tensor {name:?} of shard {shard}");
        Err(Error::foreign(index, what, (0, 0), got, expected))
    };
    if let Some(name) = said.difference(&has).min() {
        return wrong(name, "no such tensor in the shard", "every tensor of the index in its shard");
    }
    match has.difference(&said).min() {
        None => Ok(()),
        Some(name) => wrong(name, "a tensor that the index does not name there", "every tensor in the index"),
    }
}
