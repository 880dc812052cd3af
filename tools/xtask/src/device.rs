//! A disk with a cache that forgets: file systems within a file system, mounted through loop devices.
//!
//! The file system to try is on a loop device over an image file, and that file is on an outer file system, XFS, on an
//! image of its own. A flush of the inner device is a sync of its image; what was not flushed is in the page cache, above
//! the outer file system. Shutting the outer one down takes all of that away at one instant, but for what had been
//! written back by then.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::rng::Rng;

const OUTER_BYTES: u64 = 640 << 20;
const INNER_BYTES: u64 = 320 << 20;

/// How the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The disk forgets what it was not told to flush, but for random ranges, up to all of it.
    DiskCache,
    /// The system stops and the disk keeps all that it got: a shutdown of the inner file system, log not flushed.
    System,
}

/// The two file systems, mounted; unmounted when this is dropped.
pub(crate) struct Device {
    dir: PathBuf,
    pub(crate) losses: Vec<Loss>,
}

impl Device {
    /// Makes the images and mounts them.
    ///
    /// # Errors
    /// What is missing on this machine, as a sentence.
    pub(crate) fn new(dir: &Path, file_system: &str) -> Result<Self, String> {
        let losses = match file_system {
            "ext4" | "xfs" => vec![Loss::DiskCache, Loss::DiskCache, Loss::System],
            _ => vec![Loss::DiskCache],
        };
        let device = Self { dir: dir.to_owned(), losses };
        for name in ["outer", "inner"] {
            std::fs::create_dir(dir.join(name)).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        run("xfs_io", &["-V"])?;
        let outer = device.outer_image();
        let file = std::fs::File::create(&outer).and_then(|file| file.set_len(OUTER_BYTES));
        file.map_err(|error| format!("{}: {error}", outer.display()))?;
        run("mkfs.xfs", &["-q", &text(&outer)])?;
        mount(&outer, &device.dir.join("outer"))?;
        // Written and not only allocated: then blocks are overwritten in place, and nothing but they can be lost.
        let inner = device.inner_image();
        let zeros = vec![0; 1 << 20];
        let written = std::fs::File::create(&inner).and_then(|mut file| {
            (0..INNER_BYTES >> 20).try_for_each(|_| std::io::Write::write_all(&mut file, &zeros))?;
            file.sync_all()
        });
        written.map_err(|error| format!("{}: {error}", inner.display()))?;
        let force = if file_system == "ext4" { "-F" } else { "-f" };
        run(&format!("mkfs.{file_system}"), &["-q", force, &text(&inner)])?;
        mount(&inner, &device.inner())?;
        Ok(device)
    }

    fn outer_image(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn inner_image(&self) -> PathBuf {
        self.dir.join("outer/image")
    }

    /// Where the file system to try is mounted.
    pub(crate) fn inner(&self) -> PathBuf {
        self.dir.join("inner")
    }

    /// Takes the power away, now.
    ///
    /// # Errors
    /// A sentence, where the file system cannot be shut down.
    pub(crate) fn cut(&self, loss: Loss, rng: &mut Rng) -> Result<(), String> {
        match loss {
            Loss::System => run("xfs_io", &["-x", "-c", "shutdown", &text(&self.inner())]),
            Loss::DiskCache => {
                let mut words = vec!["-x".to_owned()];
                // What the disk had written by itself: nothing, all, or ranges here and there.
                let ranges = match rng.below(6) {
                    0 | 1 => Vec::new(),
                    2 => vec![(0, INNER_BYTES)],
                    kind => {
                        let bytes = [4 << 10, 256 << 10, 16 << 20][usize::try_from(kind - 3).unwrap_or(0)];
                        let count = 1 + rng.below(64);
                        (0..count).map(|_| (rng.below(INNER_BYTES / bytes) * bytes, bytes)).collect()
                    }
                };
                for (offset, bytes) in ranges {
                    words.extend(["-c".to_owned(), format!("sync_range -w -a {offset} {bytes}")]);
                }
                words.extend(["-c".to_owned(), "shutdown".to_owned(), text(&self.inner_image())]);
                let words: Vec<_> = words.iter().map(String::as_str).collect();
                run("xfs_io", &words)
            }
        }
    }

    /// Gives the power back: what was cut is unmounted and mounted again, and recovers by its log.
    ///
    /// # Errors
    /// A sentence, where a file system cannot be mounted again.
    pub(crate) fn restart(&self, loss: Loss) -> Result<(), String> {
        run("umount", &[&text(&self.inner())])?;
        if loss == Loss::DiskCache {
            let outer = self.dir.join("outer");
            run("umount", &[&text(&outer)])?;
            mount(&self.outer_image(), &outer)?;
        }
        mount(&self.inner_image(), &self.inner())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // As far as they are mounted.
        for name in ["inner", "outer"] {
            let mut command = Command::new("umount");
            drop(command.arg(self.dir.join(name)).stderr(Stdio::null()).status());
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn mount(image: &Path, at: &Path) -> Result<(), String> {
    run("mount", &["-o", "loop", &text(image), &text(at)])
}

/// Runs a command; its first line of complaint is the error.
fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(format!(
            "there is no {program} here; it is in one of the packages mount, xfsprogs, e2fsprogs and btrfs-progs"
        )),
        Err(error) => Err(format!("{program}: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", text.lines().next().unwrap_or("failed without a word")))
        }
    }
}
