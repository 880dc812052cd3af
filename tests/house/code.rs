//! Just enough of Rust's grammar to tell code from comments, text and tests.

/// Replaces comments and the content of string and character literals by blanks; lines stay where they are.
pub(crate) fn without_text(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, '"'),
            'r' | 'b' if !ends_in_name(&out) => literal_with_prefix(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if len == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        out.extend(rest[..len].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[len..];
    }
    out
}

fn ends_in_name(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_name)
}

pub(crate) fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of a literal in quotes with escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Length of `r"..."`, `r#"..."#`, `b"..."`, `b'.'` and `br"..."`, or 0 for a name.
fn literal_with_prefix(text: &str) -> usize {
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r'));
    if let Some(after) = raw {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = text.len() - after.len() + hashes + 1;
            return text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
        }
        return 0;
    }
    match text.as_bytes().get(1) {
        Some(b'"') => 1 + quoted(&text[1..], '"'),
        Some(b'\'') => 1 + quoted(&text[1..], '\''),
        _ => 0,
    }
}

/// Length of a character literal, or 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) => quoted(text, '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Blanks every item that is compiled for tests only. Takes what [`without_text`] gives.
pub(crate) fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(at) = out[from..].find("#[cfg(").map(|at| from + at) {
        let end = at + matching(&out[at..]);
        let attribute = &out[at..end];
        let for_tests = words(attribute).any(|(_, word)| word == "test") && !attribute.contains("not(test");
        from = end;
        if for_tests {
            let end = end + item(&out[end..]);
            let blank: String = out[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            out.replace_range(at..end, &blank);
            from = end;
        }
    }
    out
}

/// Length of an item, its other attributes included.
fn item(code: &str) -> usize {
    let mut at = 0;
    loop {
        at += code[at..].len() - code[at..].trim_start().len();
        if !code[at..].starts_with("#[") {
            break;
        }
        at += matching(&code[at..]);
    }
    match code[at..].find(['{', ';']) {
        Some(open) if code[at + open..].starts_with('{') => at + open + matching(&code[at + open..]),
        Some(end) => at + end + 1,
        None => code.len(),
    }
}

/// Length from here to the end of the first bracketed group.
pub(crate) fn matching(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Names and numbers, with where they begin.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c| !is_name(c)).filter(|word| !word.is_empty()).map(|word| {
        let at = word.as_ptr().addr() - code.as_ptr().addr();
        (at, word)
    })
}

/// The number of the line that holds a place, from 1.
pub(crate) fn line_of(code: &str, at: usize) -> usize {
    1 + code[..at].matches('\n').count()
}

/// Functions with a body: name, first line, lines.
pub(crate) fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut names = words(code).peekable();
    while let Some((at, word)) = names.next() {
        let Some(&(name_at, name)) = names.peek().filter(|_| word == "fn") else { continue };
        let after = name_at + name.len();
        // A type `fn(...)` has no name directly behind the word.
        if !code[at + 2..name_at].trim().is_empty() {
            continue;
        }
        let Some(open) = code[after..].find(['{', ';']).filter(|&o| code[after + o..].starts_with('{'))
        else {
            continue;
        };
        let end = after + open + matching(&code[after + open..]);
        let first = line_of(code, at);
        found.push((name.to_owned(), first, line_of(code, end - 1) - first + 1));
    }
    found
}
