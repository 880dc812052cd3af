//! Draws the model, in as many rows and columns as there are.

use paramstore::telemetry::{Cell, Live};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::model::{Model, Rates, State, WINDOW_STEPS, Writer, number, resampled};
use crate::human::{self, bytes, counted, grouped, seconds, speed};

/// Columns of the names at the left.
const LABEL: usize = 10;
/// From this size on, blocks stand beside the numbers.
const WIDE: (u16, u16) = (110, 20);
/// Columns of the numbers there.
const LEFT: u16 = 68;
/// From this height on, each part of the time has a bar.
const TALL: u16 = 21;
/// Rows that the map of blocks keeps.
const MAP_ROWS: u16 = 2;

/// Lines from top to bottom, each with its rank: those of the highest go first where rows are missing.
type Rows = Vec<(u8, Line<'static>)>;

pub(super) fn draw(buffer: &mut Buffer, model: &Model) {
    let area = buffer.area;
    if area.height == 0 || area.width == 0 {
        return;
    }
    let is_wide = area.width >= WIDE.0 && area.height >= WIDE.1;
    let left = Rect { width: if is_wide { LEFT } else { area.width }, ..area };
    line(buffer, area, 0, &title(model, area.width.into()));
    line(buffer, area, area.height - 1, &footer(model));
    // Below the title, above the keys.
    let inside = |area: Rect| Rect { y: area.y + 1, height: area.height.saturating_sub(2), ..area };
    let mut below = inside(left);
    let Some(live) = &model.live else {
        waiting(buffer, below, model);
        return;
    };
    let mut rows = numbers(model, live, below);
    let kept = if is_wide { 0 } else { MAP_ROWS + 1 };
    let room = usize::from(below.height.saturating_sub(kept + 1));
    while rows.len() > room {
        let highest = rows.iter().map(|(rank, _)| *rank).max().unwrap_or(0);
        let Some(last) = rows.iter().rposition(|(rank, _)| *rank == highest) else { break };
        rows.remove(last);
    }
    for (at, (_, row)) in rows.iter().enumerate() {
        line(buffer, below, u16::try_from(at).unwrap_or(u16::MAX), row);
    }
    let used = u16::try_from(rows.len()).unwrap_or(u16::MAX).min(below.height);
    below = Rect { y: below.y + used, height: below.height - used, ..below };
    let right =
        inside(Rect { x: left.x + left.width + 2, width: area.width.saturating_sub(LEFT + 2), ..area });
    let chart_rows =
        if is_wide { below.height } else { below.height.saturating_sub(kept).min(below.height / 3) };
    loss(buffer, Rect { height: chart_rows, ..below }, model, live);
    let beneath = Rect { y: below.y + chart_rows, height: below.height - chart_rows, ..below };
    blocks(buffer, if is_wide { right } else { beneath }, live);
}

/// One row of an area.
fn line(buffer: &mut Buffer, area: Rect, row: u16, line: &Line<'_>) {
    if row < area.height {
        buffer.set_line(area.x, area.y + row, line, area.width);
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().fg(Color::DarkGray)
}

fn title(model: &Model, width: usize) -> Line<'static> {
    let state = model.state();
    let color = match state {
        State::Live => Color::Green,
        State::Waiting | State::Stale => Color::Yellow,
        State::Ended => Color::Red,
    };
    let word = if model.is_paused { "paused".to_owned() } else { state.name().to_owned() };
    // The end of a path says more than its beginning.
    let room = width.saturating_sub("paramstore ".len() + word.len() + 1);
    let letters = model.path.chars().count();
    let path: String = if letters <= room {
        model.path.clone()
    } else {
        let cut = model.path.chars().skip((letters + 3).saturating_sub(room));
        "...".chars().chain(cut).collect()
    };
    let space = " ".repeat(room.saturating_sub(path.chars().count()) + 1);
    Line::from(vec![
        Span::styled("paramstore ", dim()),
        Span::styled(path, bold()),
        Span::raw(space),
        Span::styled(word, bold().fg(color)),
    ])
}

fn footer(model: &Model) -> Line<'static> {
    if let Some(trouble) = &model.trouble {
        return Line::styled(trouble.clone(), Style::new().fg(Color::Red));
    }
    let pause = if model.is_paused { "p go on" } else { "p pause" };
    Line::styled(format!("q quit   {pause}   r reset rates"), dim())
}

fn waiting(buffer: &mut Buffer, area: Rect, model: &Model) {
    let who = match model.writer {
        Writer::Process(process) => format!("process {process} has the store open for writing"),
        Writer::Outside => "a process outside this container has the store open for writing".to_owned(),
        Writer::Nobody => "no process has the store open for writing".to_owned(),
        Writer::Unknown => "who writes is unknown".to_owned(),
    };
    let lines = [
        "No step yet: a writer says what it does from the end of its first step on.".to_owned(),
        "(One opened with telemetry off says nothing.)".to_owned(),
        who,
    ];
    for (row, text) in (1..).zip(lines) {
        line(buffer, area, row, &Line::raw(text));
    }
}

fn labelled(label: &str, text: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("{label:<LABEL$}"), dim()), Span::raw(text)])
}

/// A bar in eighths of a column.
fn bar(share: f64, width: usize) -> String {
    let whole = number(u64::try_from(width * 8).unwrap_or(0));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 8 times the width")]
    let eighths = (share.clamp(0.0, 1.0) * whole).round() as usize;
    let mut text = "\u{2588}".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        let parts = ['\u{258f}', '\u{258e}', '\u{258d}', '\u{258c}', '\u{258b}', '\u{258a}', '\u{2589}'];
        text.extend(parts.get(eighths % 8 - 1));
    }
    text
}

fn gauge(label: &str, share: f64, color: Color, text: String, width: usize) -> Line<'static> {
    let full = bar(share, width);
    let space = "\u{b7}".repeat(width.saturating_sub(full.chars().count()));
    Line::from(vec![
        Span::styled(format!("{label:<LABEL$}"), dim()),
        Span::styled(full, Style::new().fg(color)),
        Span::styled(space, dim()),
        Span::raw("  "),
        Span::raw(text),
    ])
}

fn percent(share: f64) -> String {
    format!("{:3.0} %", share * 100.0)
}

fn numbers(model: &Model, live: &Live, area: Rect) -> Rows {
    let width = usize::from((area.width / 3).clamp(8, 30));
    let mut rows = vec![
        (0, labelled("step", steps(live))),
        (0, labelled("writer", writer(model, live))),
        (0, labelled("rate", rate(model))),
    ];
    let rates = model.shown_rates();
    if area.height + 2 >= TALL {
        times(&mut rows, rates.as_ref(), width);
    } else {
        rows.push((1, labelled("time", times_in_short(rates.as_ref()))));
    }
    let directions = [
        ("read", rates.map(|rates| rates.read_bytes_per_s), Color::Blue),
        ("written", rates.map(|rates| rates.written_bytes_per_s), Color::Magenta),
    ];
    for (at, (label, rate, color)) in directions.into_iter().enumerate() {
        let (rate, full) = (rate.unwrap_or(0.0), model.full_scale(at));
        let of = if model.limit.is_some() { "measured" } else { "at most so far" };
        let text = match model.limit {
            None if full == 0.0 => speed(rate),
            _ => format!("{} of {} {of}", speed(rate), speed(full)),
        };
        rows.push((1, gauge(label, if full > 0.0 { rate / full } else { 0.0 }, color, text, width)));
    }
    let held = live.stats.held_bytes;
    let share = number(held) / number(live.budget_bytes).max(1.0);
    let (hot, budget) = (bytes(live.hot_bytes), bytes(live.budget_bytes));
    let text = format!("{} of {budget}, {hot} of it hot", bytes(held));
    rows.push((1, gauge("budget", share, Color::Cyan, text, width)));
    let hits = rates.and_then(|rates| rates.hit_rate);
    let hits = hits
        .map_or("none needed".to_owned(), |share| format!("{:.1} % in memory when needed", share * 100.0));
    let dirty = format!("{} changed, not written", bytes(live.dirty_bytes));
    rows.push((2, labelled("hits", format!("{hits}; {dirty}"))));
    rows
}

fn steps(live: &Live) -> String {
    let ahead = live.step.saturating_sub(live.committed_step);
    let ahead = if ahead > 0 { format!(", {} behind", grouped(ahead)) } else { String::new() };
    let (step, committed) = (grouped(live.step), grouped(live.committed_step));
    format!("{step}; committed {committed}{ahead}, generation {}", live.generation)
}

fn writer(model: &Model, live: &Live) -> String {
    let age = seconds(number(model.age_ms().unwrap_or(0)) / 1e3);
    match (model.writer, model.state()) {
        (Writer::Nobody, _) => format!("ended (process {}); last page {age} ago", live.pid),
        (Writer::Unknown, _) => format!("process {}, alive or not; last page {age} ago", live.pid),
        (of, state) => {
            let process = match of {
                Writer::Process(process) => format!("process {process}"),
                _ => format!("process {}, outside this container", live.pid),
            };
            let stale = if state == State::Stale { "stale: " } else { "" };
            format!("{process}, alive; {stale}last page {age} ago")
        }
    }
}

fn rate(model: &Model) -> String {
    let each = model.step_seconds();
    let of = |each: f64| format!("{:.2} steps/s, {} a step", 1.0 / each.max(1e-9), seconds(each));
    match (model.rates().filter(|rates| rates.steps >= WINDOW_STEPS), model.state(), each) {
        (Some(rates), _, Some(each)) => {
            format!("{} ({} in {})", of(each), counted(rates.steps, "step"), seconds(rates.seconds))
        }
        (_, State::Live, Some(each)) => format!("{} (the last one)", of(each)),
        (_, State::Live, None) => "measuring".to_owned(),
        (_, _, Some(each)) => format!("nothing now; the last steps took {} each", seconds(each)),
        (_, _, None) => "nothing now".to_owned(),
    }
}

/// Parts of the time of a step, in the order of the view: name, color, share.
fn parts(rates: &Rates) -> [(&'static str, Color, f64); 5] {
    [
        ("compute", Color::Green, rates.compute),
        ("reads", Color::Blue, rates.stall_read),
        ("writes", Color::Magenta, rates.stall_write),
        ("updates", Color::Yellow, rates.stall_update),
        ("commit", Color::Red, rates.commit),
    ]
}

fn times(rows: &mut Rows, rates: Option<&Rates>, width: usize) {
    for (rank, at) in [(1, 0), (1, 1), (2, 2), (2, 3), (2, 4)] {
        let names = ["compute", "reads", "writes", "updates", "commit"];
        let Some(&name) = names.get(at) else { continue };
        let part = rates.map(parts).and_then(|parts| parts.get(at).copied());
        let (_, color, share) = part.unwrap_or((name, Color::Reset, 0.0));
        let what = match name {
            "compute" => "updating".to_owned(),
            "commit" => "committing".to_owned(),
            _ => format!("stalled on {name}"),
        };
        let text = if rates.is_some() { format!("{} {what}", percent(share)) } else { String::new() };
        rows.push((rank, gauge(name, share, color, text, width)));
    }
}

fn times_in_short(rates: Option<&Rates>) -> String {
    let Some(rates) = rates else { return String::new() };
    let parts = parts(rates).map(|(name, _, share)| format!("{name} {:.0}", share * 100.0));
    format!("{} %", parts.join(" "))
}

/// What the trainer said: in words, and as a curve below where there is room.
fn loss(buffer: &mut Buffer, area: Rect, model: &Model, live: &Live) {
    let said = [("loss", live.loss), ("validation", live.validation_loss), ("lr", live.lr)];
    let said = said.into_iter().filter_map(|(name, of)| of.map(|of| (name, human::number(of))));
    let text: Vec<_> =
        said.map(|(name, of)| if name == "loss" { of } else { format!("{name} {of}") }).collect();
    if area.height == 0 {
        return;
    }
    let mut text =
        if text.is_empty() { "the trainer says nothing of it".to_owned() } else { text.join(", ") };
    let losses = model.losses();
    let (least, greatest) = span(&losses);
    if area.width >= 70 && greatest > least {
        text = format!("{text}; {} to {} below", human::number(least), human::number(greatest));
    }
    let rows = area.height.saturating_sub(1).min(20);
    if rows > 0 || losses.is_empty() {
        line(buffer, area, 0, &labelled("loss", text));
        let curve =
            Rect { y: area.y + 1, height: rows, x: area.x + 10, width: area.width.saturating_sub(10) };
        sparkline(buffer, curve, &losses);
        return;
    }
    let used = u16::try_from(LABEL + text.chars().count() + 2).unwrap_or(u16::MAX);
    line(buffer, area, 0, &labelled("loss", text));
    let curve = Rect { x: area.x + used.min(area.width), width: area.width.saturating_sub(used), ..area };
    sparkline(buffer, curve, &losses);
}

/// The least and the greatest.
fn span(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// A curve from the least of the values, at the bottom, to the greatest.
fn sparkline(buffer: &mut Buffer, area: Rect, values: &[f64]) {
    let columns = resampled(values, area.width.into());
    let (least, greatest) = span(&columns);
    for (x, value) in (area.x..area.right()).zip(columns) {
        let share = if greatest > least { (value - least) / (greatest - least) } else { 0.5 };
        let levels = f64::from(area.height) * 8.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "1 to 8 times the height"
        )]
        let level = (share * (levels - 1.0)).round().clamp(0.0, levels) as u16 + 1;
        for row in 0..area.height {
            let here = level.saturating_sub(8 * (area.height - 1 - row)).min(8);
            let glyph = (0x2580 + u32::from(here)).try_into().unwrap_or(' ');
            if let Some(cell) = buffer.cell_mut((x, area.y + row)).filter(|_| here > 0) {
                cell.set_char(glyph).set_fg(Color::Green);
            }
        }
    }
}

/// What a run of blocks is shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    OnDisk,
    Partly,
    InMemory,
    Changed,
    Moving,
}

impl Kind {
    const ALL: [Self; 5] = [Self::OnDisk, Self::Partly, Self::InMemory, Self::Changed, Self::Moving];

    pub(super) fn of(cells: &[Cell]) -> Self {
        // What is rare and short must not be lost among its neighbours.
        if cells.iter().any(|cell| cell.moving > 0) {
            Self::Moving
        } else if cells.iter().any(|cell| cell.dirty > 0) {
            Self::Changed
        } else if cells.iter().all(|cell| cell.near == 3) {
            Self::InMemory
        } else if cells.iter().any(|cell| cell.near > 0) {
            Self::Partly
        } else {
            Self::OnDisk
        }
    }

    /// A letter and a color, each of which tells by itself.
    fn look(self) -> (char, Color, &'static str) {
        match self {
            Self::OnDisk => ('\u{b7}', Color::DarkGray, "disk"),
            Self::Partly => ('\u{2591}', Color::Cyan, "part"),
            Self::InMemory => ('\u{2593}', Color::Cyan, "memory"),
            Self::Changed => ('\u{2588}', Color::Yellow, "changed"),
            Self::Moving => ('*', Color::Magenta, "moving"),
        }
    }
}

/// The map of blocks below its legend.
fn blocks(buffer: &mut Buffer, area: Rect, live: &Live) {
    let map = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    let room = usize::from(map.width) * usize::from(map.height);
    let of_glyph = live.cells.len().div_ceil(room.max(1)).max(1);
    let runs = u64::try_from(live.cells.len().div_ceil(of_glyph)).unwrap_or(1).max(1);
    let mut legend = vec![Span::styled(format!("{:<LABEL$}", "blocks"), dim())];
    for kind in Kind::ALL {
        let (glyph, color, name) = kind.look();
        legend.push(Span::styled(glyph.to_string(), Style::new().fg(color)));
        legend.push(Span::raw(format!(" {name}  ")));
    }
    let each = live.blocks.div_ceil(runs);
    legend.push(Span::styled(format!("{} each", counted(each, "block")), dim()));
    line(buffer, area, 0, &Line::from(legend));
    if room == 0 {
        return;
    }
    for (at, run) in live.cells.chunks(of_glyph).enumerate() {
        let (glyph, color, _) = Kind::of(run).look();
        let width = usize::from(map.width);
        let place = u16::try_from(at % width).ok().zip(u16::try_from(at / width).ok());
        let cell = place.and_then(|(x, y)| buffer.cell_mut((map.x + x, map.y + y)));
        if let Some(cell) = cell {
            cell.set_char(glyph).set_fg(color);
        }
    }
}

/// The view as plain text, without empty lines at the end.
pub(super) fn plain(model: &Model, width: u16, height: u16) -> String {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(&mut buffer, model);
    let row = |y| -> String {
        let symbols = (0..width).filter_map(|x| buffer.cell((x, y)).map(ratatui::buffer::Cell::symbol));
        symbols.collect::<String>().trim_end().to_owned()
    };
    let mut rows: Vec<_> = (0..height).map(row).collect();
    // Keys are of no use on paper.
    rows.truncate(usize::from(height).saturating_sub(usize::from(model.trouble.is_none())));
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows.iter().flat_map(|row| [row.as_str(), "\n"]).collect()
}
