//! `paramstore top`, in a terminal that is none and without one.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use paramstore::telemetry::Metrics;
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize};

use super::{Place, program, run, take_step};

const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal with the program in it.
struct Terminal {
    child: Child,
    /// What is typed.
    keys: File,
    /// The program's side, for its modes.
    inside: OwnedFd,
    screen: std::sync::Arc<std::sync::Mutex<vt100::Parser>>,
}

impl Terminal {
    fn with(arguments: &[&str], (columns, rows): (u16, u16)) -> Self {
        let outside = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&outside).unwrap();
        rustix::pty::unlockpt(&outside).unwrap();
        let name = rustix::pty::ptsname(&outside, Vec::new()).unwrap();
        let inside = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&outside, size).unwrap();
        let end = || Stdio::from(inside.try_clone().unwrap());
        let child = program()
            .args(arguments)
            .env("TERM", "xterm-256color")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let mut from = File::from(outside.try_clone().unwrap());
        let screen = std::sync::Arc::new(std::sync::Mutex::new(vt100::Parser::new(
            rows.try_into().unwrap(),
            columns.try_into().unwrap(),
            0,
        )));
        let seen = std::sync::Arc::clone(&screen);
        // Ends with the last handle of the program's side.
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                seen.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, keys: File::from(outside), inside, screen }
    }

    /// Waits for a text, and returns the screen that has it.
    #[track_caller]
    fn until(&self, what: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let text = self.screen.lock().unwrap().screen().contents();
            if what(&text) {
                return text;
            }
            assert!(start.elapsed() < PATIENCE, "not seen: {text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn key(&mut self, key: &[u8]) {
        self.keys.write_all(key).unwrap();
    }

    /// Whether keys are shown and lines edited by the terminal, as a shell wants it.
    fn is_cooked(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.inside).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// The status, and the terminal as the program left it: cooked, with cursor, not on the other screen.
    #[track_caller]
    fn end(mut self) -> i32 {
        let status = self.child.wait().unwrap();
        let start = Instant::now();
        // What was written last may still be on its way.
        loop {
            let is_back = {
                let screen = self.screen.lock().unwrap();
                !screen.screen().alternate_screen() && !screen.screen().hide_cursor()
            };
            if is_back && self.is_cooked() {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "the terminal is not given back");
            std::thread::sleep(Duration::from_millis(10));
        }
        status.code().unwrap_or(-1)
    }
}

/// Trains until it is told to stop.
fn training<R>(store: &str, onlooker: impl FnOnce() -> R) -> R {
    let options = paramstore::Options::new().memory_budget(16 << 20).threads(1);
    let mut store = paramstore::ParamStore::open(store, &options).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        /// Ends the training also where the onlooker fails.
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (end, done) = (Done(&done), &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                take_step(&mut store);
                store.note_metrics(&Metrics::new().loss(3.25).lr(0.125));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let result = onlooker();
        drop(end);
        result
    })
}

fn step(screen: &str) -> Option<u64> {
    let line = screen.lines().find_map(|line| line.strip_prefix("step "))?;
    line.trim().split(';').next()?.replace(',', "").parse().ok()
}

#[test]
fn a_training_is_seen_to_go_on_and_the_terminal_is_given_back() {
    let place = Place::new();
    let store = place.trained("s", 0, &[]);
    training(&store, || {
        let mut terminal = Terminal::with(&["top", &store, "--interval", "0.05"], (80, 24));
        let first = step(&terminal.until(|text| step(text).is_some())).unwrap();
        let text =
            terminal.until(|text| step(text).is_some_and(|step| step > first) && text.contains("steps/s"));
        assert!(text.contains("3.25, lr 0.125") && text.contains("live"), "{text}");
        assert!(!terminal.is_cooked());
        terminal.key(b"p");
        let paused = terminal.until(|text| text.contains("paused"));
        std::thread::sleep(Duration::from_millis(150));
        assert_eq!(step(&terminal.until(|_| true)), step(&paused));
        terminal.key(b"pr");
        terminal.until(|text| step(text) > step(&paused));
        terminal.key(b"q");
        assert_eq!(terminal.end(), 0);
    });
}

#[test]
fn signal_and_ctrl_c_give_the_terminal_back_too() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let terminal = Terminal::with(&["top", &store], (60, 15));
    terminal.until(|text| text.contains("ended (process"));
    let process = rustix::process::Pid::from_child(&terminal.child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(terminal.end(), 130);
    let mut terminal = Terminal::with(&["top", &store], (60, 15));
    terminal.until(|text| text.contains("ended (process"));
    terminal.key(b"\x03");
    assert_eq!(terminal.end(), 0);
}

/// The end of a terminal came, and the program went on asking it for keys, with all the time of a processor.
#[test]
fn the_end_of_its_terminal_is_its_end() {
    let place = Place::new();
    let store = place.trained("s", 1, &[]);
    let outside = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&outside).unwrap();
    rustix::pty::unlockpt(&outside).unwrap();
    let name = rustix::pty::ptsname(&outside, Vec::new()).unwrap();
    let inside = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let end = || Stdio::from(inside.try_clone().unwrap());
    let mut child = program().args(["top", &store]).stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
    let start = Instant::now();
    // It has taken the terminal.
    while rustix::termios::tcgetattr(&inside).unwrap().local_modes.contains(LocalModes::ECHO) {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    drop((inside, outside));
    std::thread::sleep(Duration::from_millis(100));
    let process = rustix::process::Pid::from_child(&child);
    let _gone_already = rustix::process::kill_process(process, rustix::process::Signal::HUP);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(!status.success());
            return;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn without_a_terminal_one_frame_is_printed_before_the_first_step_and_after_the_last() {
    let place = Place::new();
    let store = place.trained("s", 0, &[]);
    let text = run(&["top", &store]).expect(0).stdout;
    assert!(text.contains("No step yet") && text.contains("no process has the store open"), "{text}");
    super::train(Path::new(&store), 2);
    let text = run(&["top", &store, "--once"]).expect(0).stdout;
    assert!(text.contains("step      2; committed 2, generation 3"), "{text}");
    assert!(text.contains("ended (process ") && !text.contains('\u{1b}'), "{text}");
    let json = run(&["top", &store, "--once", "--json", "--measure-disk"]).expect(0).json();
    assert_eq!((&json["state"], &json["step"]), (&"ended".into(), &2.into()));
    assert!(json["disk"]["measured_bytes_per_s"].as_f64().unwrap() > 0.0, "{json}");
    let ran = run(&["top", &place.text("nothing")]).expect(3);
    assert!(ran.stderr.contains("hint: check the path"), "{}", ran.stderr);
    assert!(run(&["top", &store, "--interval", "0"]).expect(2).stderr.contains("0.05 to 3600"));
}

#[test]
fn json_comes_line_by_line_with_rates() {
    let place = Place::new();
    let store = place.trained("s", 0, &[]);
    training(&store, || {
        let arguments = ["top", &store, "--json", "--interval", "0.05"];
        let mut child = program().args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || serde_json::from_str::<serde_json::Value>(&lines.next().unwrap().unwrap()).unwrap();
        let seen = std::iter::repeat_with(&mut next)
            .take(200)
            .find(|json| json["rates"]["steps_per_s"].as_f64().is_some_and(|rate| rate > 0.0))
            .expect("a line with a rate");
        assert_eq!(
            (&seen["state"], &seen["writer"]["process"]),
            (&"live".into(), &std::process::id().into())
        );
        drop(lines);
        // A reader that goes away ends it.
        assert_eq!(child.wait().unwrap().code(), Some(0));
    });
}
