//! Colours and width, where standard output is a terminal.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::sync::OnceLock;

use clap::builder::styling::{AnsiColor, Style};

/// Headings of tables and sections.
pub(crate) const HEADING: Style = Style::new().bold();
/// What should not be.
pub(crate) const ALARM: Style = AnsiColor::Red.on_default().bold();
/// What is less.
pub(crate) const LESS: Style = AnsiColor::Red.on_default();
/// What is more.
pub(crate) const MORE: Style = AnsiColor::Cyan.on_default();

/// Whether to colour: standard output is a terminal that is not dumb, and `NO_COLOR` is not set (<https://no-color.org>).
pub(crate) fn is_coloured() -> bool {
    static COLOURED: OnceLock<bool> = OnceLock::new();
    *COLOURED.get_or_init(|| {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        io::stdout().is_terminal() && !refused && !dumb
    })
}

/// Columns of the terminal; `None` where standard output is none, and lines may be as long as they are.
pub(crate) fn width() -> Option<usize> {
    let stdout = io::stdout();
    let size = stdout.is_terminal().then(|| terminal_size::terminal_size_of(stdout)).flatten();
    size.map(|(width, _)| usize::from(width.0))
}

/// Text in a style, if there is colour.
pub(crate) fn paint(style: Style, text: impl Display) -> String {
    if is_coloured() { format!("{style}{text}{style:#}") } else { text.to_string() }
}
