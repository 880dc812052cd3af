//! `paramstore completions` and `paramstore man`.

use super::{Place, closed_pipe, run};

#[test]
fn completions_and_man_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(&["completions", shell]).expect(0).stdout;
        assert!(script.contains("checkpoint") && script.contains("histograms"), "{shell}");
    }
    let page = run(&["man"]).expect(0).stdout;
    assert!(page.contains(".TH paramstore") && page.contains("paramstore\\-diff"), "{page}");
    let place = Place::new();
    let dir = place.text("pages/man1");
    run(&["man", "--dir", &dir]).expect(0);
    for name in ["paramstore.1", "paramstore-show.1", "paramstore-checkpoint-keep.1"] {
        assert!(place.path("pages/man1").join(name).is_file(), "{name}");
    }
    assert_eq!(closed_pipe(&["completions", "bash"]), 0);
}
