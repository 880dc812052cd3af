//! Another program cuts files short under a live handle.

use std::fs::OpenOptions;
use std::path::Path;

use crate::{digest, one_step, options, trained};
use paramstore::inspect::VerifyOptions;
use paramstore::{Error, IoPath, ParamStore};

fn cut(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

const FILES: [&str; 6] =
    ["meta", "param.0000.0", "param.0000.1", "exp_avg.0000.0", "exp_avg_sq.0000.1", "momentum_buffer.0000.0"];

/// An error that says what is wrong with a file.
fn is_typed(error: &Error) -> bool {
    matches!(error, Error::Io { .. } | Error::Damaged(_) | Error::Poisoned { .. } | Error::Mixed { .. })
}

#[test]
fn a_file_cut_short_under_a_live_reader_is_an_error_and_no_signal() {
    let mut refused = 0;
    let dir = tempfile::tempdir().unwrap();
    let (path, digests) = trained(dir.path());
    for io_path in [IoPath::Mapped, IoPath::Direct] {
        for name in FILES {
            let file = path.join(name);
            let whole = std::fs::read(&file).unwrap();
            let len = u64::try_from(whole.len()).unwrap();
            for to in [0, 4096, len / 2, len - 1].into_iter().filter(|&to| to < len) {
                let reader = ParamStore::open_read_only(&path, &options().io_path(io_path)).unwrap();
                cut(&file, to);
                match reader.digest() {
                    Ok(digest) => assert_eq!(digest.to_string(), digests[&1]),
                    Err(error) => {
                        assert!(is_typed(&error), "{name} cut to {to}: {error:?}");
                        refused += 1;
                    }
                }
                for tensor in ["big", "small"] {
                    if let Err(error) = reader.view(tensor).map(|view| view.iter().sum::<f32>()) {
                        assert!(is_typed(&error), "{name} cut to {to}: {error:?}");
                    }
                }
                let verification = paramstore::inspect::verify(&path, &VerifyOptions::new(), |_| {});
                assert!(!verification.unwrap().is_sound(), "{name} cut to {to}");
                let error = ParamStore::open_read_only(&path, &options()).map(|_| ()).unwrap_err();
                assert!(matches!(error, Error::Damaged(_)), "{name} cut to {to}: {error:?}");
                std::fs::write(&file, &whole).unwrap();
            }
            assert_eq!(digest(&path), digests[&1], "{name}");
        }
    }
    println!("{refused} digests refused");
    assert!(refused >= 24, "{refused}");
}

/// What the writer writes may make the file longer again, with a hole where there were blocks: an error now, or one
/// that names the blocks when they are read.
#[test]
fn a_file_cut_short_under_a_live_writer_is_an_error_now_or_when_it_is_read() {
    let (mut at_once, mut later) = (0, 0);
    for io_path in [IoPath::Mapped, IoPath::Direct] {
        for name in FILES {
            for to in [0, 4096] {
                let dir = tempfile::tempdir().unwrap();
                let (path, digests) = trained(dir.path());
                let mut writer = ParamStore::open(&path, &options().io_path(io_path)).unwrap();
                cut(&path.join(name), to);
                let mut result = Ok(());
                for _ in 0..2 {
                    result = result.and_then(|()| {
                        one_step(&mut writer)?;
                        writer.commit(b"").map(|_| ())
                    });
                }
                if let Err(error) = &result {
                    assert!(is_typed(error), "{name} cut to {to}: {error:?}");
                    at_once += 1;
                }
                drop(writer);
                let read = ParamStore::open(&path, &options())
                    .and_then(|store| Ok((store.step(), store.digest()?.to_string())));
                match read {
                    Ok((step, digest)) => {
                        assert_eq!(digest, digests[&step], "{name} cut to {to}: silent damage");
                    }
                    Err(error) => {
                        assert!(
                            matches!(error, Error::Damaged(_) | Error::Io { .. }),
                            "{name} to {to}: {error:?}"
                        );
                        later += 1;
                    }
                }
            }
        }
    }
    println!("of 24 cuts, {at_once} were noticed at once and {later} when read");
    assert!(later > 0 && at_once > 0, "{at_once} {later}");
}
