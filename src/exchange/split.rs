//! A model in several files, in Hugging Face's form.

use super::content::Item;

/// Cuts items into files of at most so many bytes; a larger item has one for itself.
pub(super) fn shards(items: &[Item], shard_bytes: u64) -> Vec<&[Item]> {
    let mut shards = Vec::new();
    let (mut first, mut bytes) = (0, 0_u64);
    for (at, item) in items.iter().enumerate() {
        let with_it = bytes.saturating_add(item.bytes);
        if at > first && with_it > shard_bytes {
            shards.push((first, at));
            (first, bytes) = (at, item.bytes);
        } else {
            bytes = with_it;
        }
    }
    if first < items.len() {
        shards.push((first, items.len()));
    }
    shards.into_iter().filter_map(|(from, to)| items.get(from..to)).collect()
}

/// The name of a shard, counted from 0.
pub(super) fn shard_name(stem: &str, at: usize, of: usize) -> String {
    match of {
        1 => format!("{stem}.safetensors"),
        _ => format!("{stem}-{:05}-of-{of:05}.safetensors", at + 1),
    }
}

/// The name of the index.
pub(super) fn index_name(stem: &str) -> String {
    format!("{stem}.safetensors.index.json")
}

/// The index: where each tensor is, and the bytes of all.
pub(super) fn index(stem: &str, shards: &[&[Item]]) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    for (at, shard) in shards.iter().enumerate() {
        let name = shard_name(stem, at, shards.len());
        map.extend(shard.iter().map(|item| (item.name.clone(), name.clone().into())));
    }
    let total: u64 = shards.iter().flat_map(|shard| shard.iter()).map(|item| item.bytes).sum();
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
    format!("{index:#}\n").into_bytes()
}

/// Whether a file of this name belongs to a model or its optimizer, as an export to a directory names them.
pub(super) fn is_of_a_model(name: &str) -> bool {
    let rest = name.strip_prefix("model").or_else(|| name.strip_prefix("optimizer"));
    let Some(rest) = rest else { return false };
    if matches!(rest, ".safetensors" | ".safetensors.index.json") {
        return true;
    }
    let numbers = rest.strip_prefix('-').and_then(|rest| rest.strip_suffix(".safetensors"));
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    numbers.and_then(|text| text.split_once("-of-")).is_some_and(|(at, of)| is_number(at) && is_number(of))
}
