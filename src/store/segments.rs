//! Open files of the segments, each home on its own, opened when first needed and kept.

use std::collections::HashMap;
use std::sync::Arc;

use super::FileUse;
use crate::error::{Error, Result};
use crate::format::directory::Directory;
use crate::format::segment_file;
use crate::storage::{Access, Caching, Segment, Volume};

/// One of the two fixed places of a block's plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home(pub(crate) u8);

pub(super) struct Segments {
    directory: Arc<Directory>,
    open: HashMap<(usize, u8, bool), Arc<dyn Segment>>,
}

impl Segments {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self { directory, open: HashMap::new() }
    }

    fn name(&self, segment: usize, home: Home) -> Option<String> {
        let spec = self.directory.segments.get(segment)?;
        let plane = self.directory.planes.get(usize::from(spec.plane))?;
        Some(segment_file(&plane.name, spec.index, home.0))
    }

    pub(super) fn get(
        &mut self,
        volume: &Arc<dyn Volume>,
        segment: usize,
        home: Home,
        caching: Caching,
        writer: bool,
    ) -> Result<Arc<dyn Segment>> {
        let key = (segment, home.0, caching == Caching::Direct);
        if let Some(open) = self.open.get(&key) {
            return Ok(Arc::clone(open));
        }
        let name = self.name(segment, home).unwrap_or_default();
        let access = if writer { Access::Write } else { Access::Read };
        let file = volume.open(&name, access, caching)?;
        self.open.insert(key, Arc::clone(&file));
        Ok(file)
    }

    /// Checks that a file is there with exactly its length; maps and transfers rely on it.
    pub(super) fn check_length(
        &mut self,
        volume: &Arc<dyn Volume>,
        segment: usize,
        home: Home,
        writer: bool,
    ) -> Result<()> {
        let file = match self.get(volume, segment, home, Caching::Cached, writer) {
            Err(Error::Io { path, source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::damaged(path, "segment", (0, 0), "no file", "a file"));
            }
            other => other?,
        };
        let expected = self.directory.segments.get(segment).map_or(0, |spec| spec.bytes);
        let got = file.len_bytes()?;
        if got == expected {
            return Ok(());
        }
        let range = (got.min(expected), got.abs_diff(expected));
        let (got, expected) = (format!("{got} bytes"), format!("{expected} bytes"));
        Err(Error::damaged(file.path(), "length of a segment", range, got, expected))
    }

    /// All files: each home of each segment.
    pub(super) fn homes(&self) -> Vec<(usize, Home)> {
        let segments = self.directory.segments.iter().enumerate();
        segments.flat_map(|(i, spec)| (0..spec.homes).map(move |home| (i, Home(home)))).collect()
    }

    pub(super) fn files(&mut self, volume: &Arc<dyn Volume>) -> Result<Vec<FileUse>> {
        let mut files = Vec::new();
        for (segment, home) in self.homes() {
            let file = self.get(volume, segment, home, Caching::Cached, false)?;
            let plane = self.directory.segments.get(segment).map(|spec| spec.plane);
            files.push(FileUse::of(self.name(segment, home).unwrap_or_default(), plane, file.as_ref())?);
        }
        Ok(files)
    }
}
