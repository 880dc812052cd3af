//! Text in HTML. Whatever comes from a store passes through here.

use std::fmt::Write as _;

/// Text for an element or a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Not allowed in HTML, and of no use to a reader.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// JSON for a script element: nothing in it can end the element or begin a comment, and it is the same JSON.
pub(super) fn script_json(value: &serde_json::Value) -> String {
    let text = value.to_string();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to memory does not fail.
                let _written = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A table; cells are HTML already. A heading that begins with `>` belongs to a column aligned to the right.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let is_right: Vec<_> = headings.iter().map(|heading| heading.starts_with('>')).collect();
    let cells = |tag: &str, cells: Vec<&str>| -> String {
        let cell = |(cell, is_right): (&str, &bool)| {
            let class = if *is_right { " class=\"n\"" } else { "" };
            format!("<{tag}{class}>{cell}</{tag}>")
        };
        cells.into_iter().zip(&is_right).map(cell).collect()
    };
    let head = cells("th", headings.iter().map(|heading| heading.trim_start_matches('>')).collect());
    let body: Vec<_> = rows
        .iter()
        .map(|row| format!("<tr>{}</tr>\n", cells("td", row.iter().map(String::as_str).collect())))
        .collect();
    let body = body.concat();
    format!(
        "<div class=\"scroll\"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_a_store_becomes_markup() {
        let name = "</script><img src=x onerror='alert(1)'>&\"\u{7}";
        let escaped = escape(name);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\u{7}']), "{escaped}");
        assert!(escaped.starts_with("&lt;/script&gt;") && escaped.contains("&amp;&quot;"), "{escaped}");
        let value = serde_json::json!([name, "<!--\u{2028}"]);
        let json = script_json(&value);
        assert!(!json.contains(['<', '>', '&', '\u{2028}']), "{json}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }

    #[test]
    fn columns_of_numbers_are_marked() {
        let table = table(&["name", ">bytes"], &[vec!["a".into(), "1".into()]]);
        assert!(table.contains("<th>name</th><th class=\"n\">bytes</th>"), "{table}");
        assert!(table.contains("<td>a</td><td class=\"n\">1</td>"), "{table}");
    }
}
