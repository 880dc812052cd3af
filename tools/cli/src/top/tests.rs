use std::sync::OnceLock;

use paramstore::optim::{AdamW, Optimizer};
use paramstore::telemetry::{self, Live, Metrics, StepMetrics};
use paramstore::{Options, ParamGroup, ParamStore, Schema, TensorSpec};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::json;
use super::model::{Model, Point, Rates, Reading, State, Writer, resampled};
use super::screen::{Wish, wish};
use super::view::{self, Kind};

/// What a store says after two steps; tests change it, since only the library makes such pages.
fn said() -> (Live, Vec<StepMetrics>) {
    static SAID: OnceLock<(Live, Vec<StepMetrics>)> = OnceLock::new();
    SAID.get_or_init(train).clone()
}

fn train() -> (Live, Vec<StepMetrics>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let schema = Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("w", &[100, 1024]));
    let options = Options::new().memory_budget(4 << 20).threads(1);
    let mut store = ParamStore::create(&path, &schema, &options).unwrap();
    for loss in [3.5, 2.5] {
        let mut step = store.begin_step().unwrap();
        step.apply("w", &vec![0.5; 102_400]).unwrap();
        step.finish().unwrap();
        store.note_metrics(&Metrics::new().loss(loss).lr(3e-4));
    }
    store.commit(b"").unwrap();
    (telemetry::live(&path).unwrap().unwrap(), telemetry::history(&path, 2).unwrap())
}

/// A page at a time, at a step, after so many MB read, half as many written and so many ms waited for reads.
fn page(live: &Live, unix_ms: u64, step: u64, mb: u64) -> Live {
    let mut page = live.clone();
    (page.now_unix_ms, page.step) = (unix_ms, step);
    page.stats.bytes_read = mb * 1_000_000;
    page.stats.bytes_written = mb * 500_000;
    page.stats.stall_read_ns = mb * 1_000_000;
    page.stats.compute_ns = mb * 2_000_000;
    (page.stats.blocks_hit, page.stats.blocks_missed) = (mb * 3, mb);
    (page.stats.rows_hit, page.stats.rows_missed) = (0, 0);
    page
}

fn reading(live: &Live, unix_ms: u64) -> Reading {
    Reading { unix_ms, live: Some(live.clone()), writer: Writer::Process(77) }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9 * b.abs().max(1.0)
}

#[test]
fn rates_are_differences_over_the_time_between_two_pages() {
    let (live, _) = said();
    let of = |unix_ms, step, mb| Point::of(&page(&live, unix_ms, step, mb));
    let rates = Rates::between(&of(1000, 10, 100), &of(3000, 14, 500)).unwrap();
    assert_eq!((rates.steps, rates.seconds), (4, 2.0));
    assert!(close(rates.steps_per_s(), 2.0) && close(rates.read_bytes_per_s, 200e6), "{rates:?}");
    assert!(close(rates.written_bytes_per_s, 100e6), "{rates:?}");
    assert!(close(rates.stall_read, 0.2) && close(rates.compute, 0.4), "{rates:?}");
    assert!(close(rates.hit_rate.unwrap(), 0.75), "{rates:?}");
    // The same page again; and counters that went back, which no writer has.
    assert_eq!(Rates::between(&of(1000, 10, 100), &of(1000, 10, 100)), None);
    let back = Rates::between(&of(1000, 10, 100), &of(2000, 9, 50)).unwrap();
    assert_eq!((back.steps, back.read_bytes_per_s, back.hit_rate), (0, 0.0, None));
    // Another opening of the store counts from 0.
    let mut other = page(&live, 5000, 15, 600);
    other.opened_unix_ms += 1;
    assert_eq!(Rates::between(&of(1000, 10, 100), &Point::of(&other)), None);
}

#[test]
fn window_holds_five_seconds_or_two_steps_whichever_is_longer() {
    let (live, _) = said();
    let mut model = Model::new("s".to_owned(), None);
    for at in 0..=20 {
        model.take(reading(&page(&live, 1000 * at, at, at), 1000 * at));
    }
    assert!(close(model.rates().unwrap().seconds, 5.0));
    // Steps of 20 seconds.
    let mut model = Model::new("s".to_owned(), None);
    for at in 0..=100 {
        model.take(reading(&page(&live, 1000 * at, at / 20, at), 1000 * at));
    }
    let rates = model.rates().unwrap();
    assert_eq!(rates.steps, 2);
    assert!(close(rates.seconds, 21.0), "{rates:?}");
    // From now on: one page is none to compare with.
    model.reset();
    assert_eq!(model.rates(), None);
    model.take(reading(&page(&live, 102_000, 6, 102), 102_000));
    assert!(close(model.rates().unwrap().seconds, 2.0));
    // A new opening, and a rollback, begin anew.
    model.take(reading(&page(&live, 103_000, 3, 103), 103_000));
    assert_eq!(model.rates(), None);
}

#[test]
fn states_are_told_apart_by_age_and_writer() {
    let (live, history) = said();
    let mut model = Model::new("s".to_owned(), None);
    assert_eq!(model.state(), State::Waiting);
    let now = page(&live, 50_000, 2, 0);
    model.take(reading(&now, 59_000));
    assert_eq!(model.state(), State::Live);
    model.take(reading(&now, 61_000));
    assert_eq!((model.state(), model.age_ms()), (State::Stale, Some(11_000)));
    // Long steps say nothing for long.
    model.history = history;
    model.history.last_mut().unwrap().duration = std::time::Duration::from_secs(60);
    assert_eq!(model.state(), State::Live);
    model.take(Reading { unix_ms: 61_000, live: None, writer: Writer::Nobody });
    assert_eq!((model.state(), model.live.as_ref().map(|live| live.step)), (State::Ended, Some(2)));
}

#[test]
fn last_steps_speak_where_nothing_is_known_of_now() {
    let (live, mut history) = said();
    for (step, ms) in history.iter_mut().zip([300, 100]) {
        step.duration = std::time::Duration::from_millis(ms);
        step.compute = std::time::Duration::from_millis(100);
        (step.bytes_read, step.bytes_written) = (40_000_000, 20_000_000);
    }
    let rates = Rates::of_steps(&history).unwrap();
    assert!(close(rates.seconds, 0.4) && close(rates.compute, 0.5), "{rates:?}");
    assert!(close(rates.read_bytes_per_s, 200e6) && close(rates.written_bytes_per_s, 100e6), "{rates:?}");
    assert_eq!(Rates::of_steps(&[]), None);
    let mut model = Model::new("s".to_owned(), None);
    model.take(reading(&page(&live, 50_000, 2, 0), 50_000));
    model.history = history;
    // Of what goes on, the last step says most.
    assert!(close(model.step_seconds().unwrap(), 0.1));
    model.take(Reading { unix_ms: 51_000, live: None, writer: Writer::Nobody });
    assert!(close(model.step_seconds().unwrap(), 0.2));
    let text = view::plain(&model, 80, 24);
    assert!(
        text.contains("nothing now; the last steps took 200 ms each") && text.contains(" 50 % updating"),
        "{text}"
    );
    assert!(text.contains("200 MB/s\n"), "{text}");
}

#[test]
fn highest_rate_is_the_scale_until_the_disk_is_measured() {
    let (live, _) = said();
    let mut model = Model::new("s".to_owned(), None);
    for (at, mb) in [(0, 0), (1000, 300), (2000, 400), (20_000, 401)] {
        model.take(reading(&page(&live, at, at / 100, mb), at));
    }
    assert!(close(model.full_scale(0), 300e6) && close(model.full_scale(1), 150e6));
    model.limit = Some(1e9);
    assert!(close(model.full_scale(0), 1e9));
}

#[test]
fn values_are_thinned_to_means_of_stretches() {
    assert_eq!(resampled(&[1.0, 2.0], 5), [1.0, 2.0]);
    assert_eq!(resampled(&[1.0, 3.0, 5.0, 7.0], 2), [2.0, 6.0]);
    assert_eq!(resampled(&[1.0, 2.0, 3.0], 0), [1.0, 2.0, 3.0]);
    let mean = resampled(&(0..1000).map(f64::from).collect::<Vec<_>>(), 7);
    assert_eq!(mean.len(), 7);
    assert!(mean.is_sorted());
}

fn model() -> Model {
    let (live, history) = said();
    let mut model = Model::new("/data/run1".to_owned(), Some(800e6));
    let mut live = page(&live, 1_000_000, 1_200, 0);
    (live.opened_unix_ms, live.pid) = (0, 77);
    model.take(reading(&live, 1_000_000));
    live = page(&live, 1_004_000, 1_210, 1_600);
    (live.opened_unix_ms, live.pid) = (0, 77);
    (live.committed_step, live.generation) = (1_200, 13);
    (live.budget_bytes, live.hot_bytes, live.dirty_bytes) = (256 << 20, 64 << 20, 12 << 20);
    live.stats.held_bytes = 128 << 20;
    for (at, cell) in live.cells.iter_mut().enumerate() {
        (cell.near, cell.dirty, cell.moving) = match at {
            0..50 => (0, 0, 0),
            50..60 => (1, 0, 0),
            60..80 => (3, 0, 0),
            80..90 => (3, 2, 0),
            _ => (3, 0, 1),
        };
    }
    model.take(reading(&live, 1_004_100));
    model.history = history;
    model
}

#[test]
fn frame_of_80_by_24_says_all_there_is() {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let model = model();
    terminal.draw(|frame| view::draw(frame.buffer_mut(), &model)).unwrap();
    let text = terminal.backend().to_string();
    for part in [
        "paramstore /data/run1",
        "live\"",
        "step      1,210; committed 1,200, 10 behind, generation 13",
        "writer    process 77, alive; last page 100 ms ago",
        "rate      2.50 steps/s, 400 ms a step (10 steps in 4.00 s)",
        " 80 % updating",
        " 40 % stalled on reads",
        "400 MB/s of 800 MB/s measured",
        "200 MB/s of 800 MB/s measured",
        "128 MiB of 256 MiB, 64 MiB of it hot",
        "75.0 % in memory when needed; 12 MiB changed, not written",
        "2.5, lr 3e-4; 2.5 to 3.5 below",
        "\u{b7} disk  \u{2591} part  \u{2593} memory  \u{2588} changed  * moving  1 block each",
        "q quit   p pause   r reset rates",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let buffer = terminal.backend().buffer();
    let count = |symbol: &str, color| {
        let cells = buffer.content().iter().skip(80 * 17);
        cells.filter(|cell| cell.symbol() == symbol && cell.fg == color).count()
    };
    // Below the legend.
    assert_eq!(count("\u{b7}", Color::DarkGray), 50, "{text}");
    assert_eq!(count("\u{2591}", Color::Cyan), 10);
    assert_eq!(count("\u{2593}", Color::Cyan), 20);
    assert_eq!(count("\u{2588}", Color::Yellow), 10);
    assert_eq!(count("*", Color::Magenta), 10);
}

#[test]
fn every_size_shows_the_step_the_writer_the_keys_and_some_blocks() {
    let mut model = model();
    for (width, height) in [(60, 15), (80, 24), (100, 20), (110, 20), (140, 45), (200, 60)] {
        let text = view::plain(&model, width, height);
        for part in
            ["step      1,210", "writer    process 77", "blocks ", "2.50 steps/s", "compute", "reads", "2.5"]
        {
            assert!(text.contains(part), "{width}x{height}: {part}\n{text}");
        }
        assert!(text.matches('*').count() > 1, "{width}x{height}: no map\n{text}");
    }
    // Sizes that nobody has do no harm, in any state.
    for state in 0..3 {
        for (width, height) in [(0, 0), (1, 1), (7, 3), (20, 5), (59, 9), (300, 4), (4, 200), (109, 70)] {
            view::plain(&model, width, height);
        }
        model.live = model.live.filter(|_| state == 0);
        model.trouble = Some("cannot read".to_owned());
    }
}

#[test]
fn what_was_never_said_went_stale_or_ended_is_said_plainly() {
    let mut model = Model::new("s".to_owned(), None);
    model.take(Reading { unix_ms: 5, live: None, writer: Writer::Process(9) });
    let text = view::plain(&model, 60, 15);
    assert!(text.contains("No step yet") && text.contains("process 9 has the store open"), "{text}");
    let live = page(&said().0, 1_000_000, 7, 0);
    model.take(reading(&live, 1_045_000));
    let text = view::plain(&model, 60, 15);
    assert!(text.contains("stale: last page 45.0 s ago") && text.contains("nothing now"), "{text}");
    model.take(Reading { unix_ms: 1_200_000, live: None, writer: Writer::Nobody });
    let text = view::plain(&model, 80, 24);
    assert!(text.contains("ended (process ") && text.contains("last page 3.3 min ago"), "{text}");
    model.trouble = Some("no such directory".to_owned());
    assert!(view::plain(&model, 80, 24).contains("no such directory"));
}

#[test]
fn one_moving_block_is_not_lost_among_a_thousand() {
    let mut cells = said().0.cells;
    for cell in &mut cells {
        (cell.near, cell.dirty, cell.moving) = (0, 0, 0);
    }
    assert_eq!(Kind::of(&cells), Kind::OnDisk);
    cells[3].near = 1;
    assert_eq!(Kind::of(&cells), Kind::Partly);
    cells[4].dirty = 1;
    assert_eq!(Kind::of(&cells), Kind::Changed);
    cells[5].moving = 1;
    assert_eq!(Kind::of(&cells), Kind::Moving);
}

#[test]
fn keys_ask_for_the_end_a_pause_and_new_rates() {
    let key = |code, modifiers| wish(&KeyEvent::new(code, modifiers));
    for code in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(key(code, KeyModifiers::NONE), Some(Wish::Quit));
    }
    assert_eq!(key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
    assert_eq!(key(KeyCode::Char('c'), KeyModifiers::NONE), None);
    assert_eq!(key(KeyCode::Char('p'), KeyModifiers::NONE), Some(Wish::Pause));
    assert_eq!(key(KeyCode::Char('r'), KeyModifiers::NONE), Some(Wish::Reset));
}

#[test]
fn json_has_the_rates_and_null_where_there_are_none() {
    let mut model = model();
    let value = json::value(&model);
    assert_eq!((&value["step"], &value["state"]), (&1210.into(), &"live".into()));
    assert_eq!(value["rates"]["steps_per_s"], 2.5);
    assert_eq!(value["writer"]["process"], 77);
    assert_eq!(value["blocks"]["by_state"]["on_disk"], 50);
    model.reset();
    assert!(json::value(&model)["rates"].is_null());
    model.live = None;
    let value = json::value(&model);
    assert!(value["step"].is_null() && value["state"] == "waiting");
}
