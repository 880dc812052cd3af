//! The terminal: taken, drawn on, asked for keys, and given back whatever happens.

use std::io::{self, Stdout};
use std::sync::Once;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

use super::model::Model;
use super::{PATIENCE, Source, Stop, view};
use crate::Verdict;
use crate::failure::Failure;

/// The terminal as long as it is ours.
struct Screen;

impl Screen {
    fn take() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        // A message of a panic has to be seen, below what was there before.
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                give_back();
                before(panic);
            }));
        });
        enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// A terminal that is gone needs nothing back.
pub(super) fn give_back() {
    let _raw = disable_raw_mode();
    let _left = execute!(io::stdout(), Show, LeaveAlternateScreen);
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    Pause,
    Reset,
}

pub(super) fn wish(key: &KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Wish::Quit),
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Wish::Quit),
        KeyCode::Char('p' | 'P') => Some(Wish::Pause),
        KeyCode::Char('r' | 'R') => Some(Wish::Reset),
        _ => None,
    }
}

pub(super) fn run(
    mut model: Model,
    source: &mut Source,
    interval: Duration,
    stop: &Stop,
) -> Result<Verdict, Failure> {
    let _screen = Screen::take()?;
    let mut terminal: Terminal<CrosstermBackend<Stdout>> =
        Terminal::new(CrosstermBackend::new(io::stdout()))?;
    let mut due = Instant::now() + interval;
    loop {
        terminal.draw(|frame| view::draw(frame.buffer_mut(), &model))?;
        match next(due, stop)? {
            Some(Wish::Quit) => return Ok(Verdict::Sound),
            Some(Wish::Pause) => model.is_paused = !model.is_paused,
            Some(Wish::Reset) => model.reset(),
            None => {}
        }
        if Instant::now() >= due {
            due = Instant::now() + interval;
            if !model.is_paused {
                // A store that moves away may come back: what was known stays in view.
                model.trouble = source.read(&mut model).err().map(|failure| failure.to_string());
            }
        }
    }
}

/// Waits for a key that asks for something, until another frame is due or the terminal has another size.
fn next(due: Instant, stop: &Stop) -> Result<Option<Wish>, Failure> {
    loop {
        stop.check()?;
        let left = due.saturating_duration_since(Instant::now());
        let event = match event::poll(left.min(PATIENCE))
            .and_then(|is_there| is_there.then(event::read).transpose())
        {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            other => other?,
        };
        match event {
            Some(Event::Key(key)) => {
                if let Some(wish) = wish(&key) {
                    return Ok(Some(wish));
                }
            }
            Some(Event::Resize(..)) => return Ok(None),
            _ => {}
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}
