//! `paramstore report`.

use std::path::PathBuf;
use std::process::Command;

use paramstore::optim::{AdamW, Optimizer};
use paramstore::telemetry::Metrics;
use paramstore::{Options, ParamGroup, ParamStore, Schema, TensorSpec};

use super::{Place, closed_pipe, run, train};

/// A name that is markup, where names may be anything.
const EVIL: &str = "<img src=x onerror=alert(1)></script>";

/// A store with such a name, trained for some steps, with losses and a checkpoint.
fn trained(place: &Place) -> String {
    let path = place.path("s");
    let schema = Schema::new()
        .block_bytes(4096)
        .group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())))
        .tensor(TensorSpec::new("wte", &[200, 100]))
        .tensor(TensorSpec::new(EVIL, &[7]));
    let options = Options::new().memory_budget(1 << 20).threads(1);
    let mut store = ParamStore::create(&path, &schema, &options).unwrap();
    for loss in [4.0, 3.0, 2.5] {
        let mut step = store.begin_step().unwrap();
        step.apply("wte", &vec![0.5; 20_000]).unwrap();
        step.apply(EVIL, &[0.5; 7]).unwrap();
        step.finish().unwrap();
        store.note_metrics(&Metrics::new().loss(loss).validation_loss(loss + 0.25).lr(0.001));
        store.commit(b"").unwrap();
    }
    store.keep("best").unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn page_has_every_section_and_nothing_from_elsewhere() {
    let place = Place::new();
    let store = trained(&place);
    let output = place.text("page.html");
    let wrote = run(&["report", &store, "-o", &output, "--json"]).expect(0).json();
    assert_eq!(
        (&wrote["step"], &wrote["tensors_listed"], &wrote["steps_in_curves"]),
        (&3.into(), &2.into(), &3.into())
    );
    let page = std::fs::read_to_string(&output).unwrap();
    for part in [
        "<h2>Training</h2>",
        "<figcaption>Loss</figcaption>",
        "validation loss</span>",
        "<figcaption>Learning rate</figcaption>",
        "<figcaption>Time of a step</figcaption>",
        "<b>1e-8</b>",
        "second homes of these",
        "generation 4</title>",
        "never written</span>",
        "best, step 3</title>",
        "name=\"viewport\"",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // The name of SVG is the only address.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for part in ["http:", "https:", "//fonts", "@import", "url(", " src=", "<link"] {
        let in_names = usize::from(part == " src=");
        // The name's own text, which stands in data and is no markup.
        assert_eq!(page.matches(part).count(), in_names, "{part}");
    }
    assert!(!page.contains("<img") && page.contains("\\u003cimg src=x"), "a name became markup");
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(page.is_ascii() && page.len() < 200_000, "{} bytes", page.len());
    // With statistics on demand.
    assert!(!page.contains("[\"exp_avg_sq\",\"norm "), "nobody asked for statistics");
    run(&["report", &store, "-o", &output, "--stats"]).expect(0);
    let with = std::fs::read_to_string(&output).unwrap();
    assert!(
        with.contains("[\"exp_avg_sq\",\"norm ") && with.len() < page.len() + 10_000,
        "{} bytes",
        with.len()
    );
    // Again in its place; but not in that of something else.
    run(&["report", &store, "-o", &output]).expect(0);
    std::fs::write(&output, "notes").unwrap();
    let refused = run(&["report", &store, "-o", &output]).expect(3);
    assert!(
        refused.stderr.contains("exists already") && refused.stderr.contains("--force"),
        "{}",
        refused.stderr
    );
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "notes");
    run(&["report", &store, "-o", &output, "--force"]).expect(0);
    let left: Vec<_> =
        std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(closed_pipe(&["report", &store, "-o", &output]), 0);
    let ran = run(&["report", &store, "-o", &place.text("missing/page.html")]).expect(3);
    assert!(ran.stderr.contains("missing/page.html"), "{}", ran.stderr);
}

#[test]
fn store_that_never_trained_and_a_checkpoint_have_pages_too() {
    let place = Place::new();
    let store = place.trained("s", 0, &[]);
    let output = place.text("page.html");
    run(&["report", &store, "-o", &output]).expect(0);
    let page = std::fs::read_to_string(&output).unwrap();
    assert!(page.contains("No writer kept account") && page.contains("No checkpoints are kept"), "{page}");
    train(std::path::Path::new(&store), 1);
    run(&["checkpoint", "keep", &store, "one"]).expect(0);
    run(&["report", &format!("{store}/checkpoints/one"), "-o", &output]).expect(0);
    let ran = run(&["report", &place.text("nothing"), "-o", &output]).expect(3);
    assert!(ran.stderr.contains("hint: check the path"), "{}", ran.stderr);
}

#[test]
fn tensors_beyond_the_limit_are_counted_and_the_size_is_bounded() {
    let place = Place::new();
    let path = place.path("s");
    let mut schema = Schema::new().group(ParamGroup::new("all", Optimizer::AdamW(AdamW::default())));
    for at in 0..20_001 {
        schema = schema.tensor(TensorSpec::new(format!("layers.{at}.norm"), &[2]));
    }
    drop(ParamStore::create(&path, &schema, &Options::new().memory_budget(64 << 20).threads(1)).unwrap());
    let output = place.text("page.html");
    run(&["report", path.to_str().unwrap(), "-o", &output]).expect(0);
    let page = std::fs::read_to_string(&output).unwrap();
    assert!(page.contains("1 more are not listed here") && page.contains("\"layers.19999.norm\""));
    assert!(page.len() < 3 << 20, "{} bytes", page.len());
}

/// A browser, if there is one.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name))).find(|file| file.is_file())
}

#[test]
fn browser_makes_rows_of_the_tensors() {
    let Some(browser) = browser() else {
        println!("skipped: neither chromium, chromium-browser nor google-chrome is in PATH");
        return;
    };
    let place = Place::new();
    let store = trained(&place);
    let output = place.text("page.html");
    run(&["report", &store, "-o", &output, "--stats"]).expect(0);
    let ran = Command::new(browser)
        .args(["--headless", "--disable-gpu", "--no-first-run", "--dump-dom"])
        // As root there is no sandbox to be had; the page is our own.
        .arg("--no-sandbox")
        .arg(format!("--user-data-dir={}", place.text("profile")))
        .arg(format!("file://{output}"))
        .output()
        .unwrap();
    let dom = String::from_utf8(ran.stdout).unwrap();
    assert!(dom.contains("<td class=\"n\">20,000</td>"), "{dom}");
    // The largest one is open.
    assert!(dom.contains("<td><button type=\"button\" aria-expanded=\"true\">wte</button></td>"), "{dom}");
    assert!(
        dom.contains("<figcaption>exp_avg_sq</figcaption>") && dom.contains("class=\"histogram\""),
        "{dom}"
    );
    assert!(dom.contains(">&lt;img src=x onerror=alert(1)&gt;&lt;/script&gt;</button></td>"), "{dom}");
}
