//! A directory that is gone when its owner is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// A fresh directory for files nobody needs afterwards; removed with all its content on drop.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a new directory in `parent`, whose name starts with `prefix`.
    pub fn create(parent: &Path, prefix: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{prefix}-{}-{number}", process::id()));
        // A leftover of a process that had the same number and was killed.
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot clear {}", path.display()))?;
        }
        fs::create_dir_all(&path).with_context(|| format!("cannot make the directory {}", path.display()))?;
        Ok(Self { path })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in the directory.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on it being gone, and there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_away_with_its_content() {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-scratch").unwrap();
        let path = scratch.path().to_owned();
        fs::write(scratch.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn two_at_once_are_different() {
        let parent = std::env::temp_dir();
        let one = Scratch::create(&parent, "weir-scratch").unwrap();
        let two = Scratch::create(&parent, "weir-scratch").unwrap();
        assert_ne!(one.path(), two.path());
    }
}
