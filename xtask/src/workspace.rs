//! Where things lie in this checkout.
//!
//! Everything the commands make stays below three directories that git ignores: `target` (cargo's own), `.toolchain`
//! (the private library for bare metal) and `work` (disks, boot archives, test leftovers).

use std::env;
use std::path::{Path, PathBuf};

/// The checkout this program was compiled from.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The workspace that holds this crate.
    pub fn locate() -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::at(package.parent().unwrap_or(package))
    }

    /// The workspace whose root manifest is in `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of the root manifest.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `cargo xtask setup` keeps the library it compiled for bare metal.
    pub fn toolchain(&self) -> PathBuf {
        self.root.join(".toolchain")
    }

    /// Where disks, boot archives and test leftovers go.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Where cargo puts what it builds: `CARGO_TARGET_DIR` if set, else `target`.
    pub fn target(&self) -> PathBuf {
        match env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => env::current_dir().unwrap_or_else(|_| self.root.clone()).join(directory),
            None => self.root.join("target"),
        }
    }
}
