//! The file system on a disk of dom0's own, with configuration files and kernels: ext2, ext3 or ext4, read only.
//!
//! The crate that knows the format reads synchronously, and a disk answers later. So every step is tried on what has
//! been read already; what is missing is fetched, and the step is tried again from its beginning. Steps are small, and
//! what they have read stays, so hardly anything is done twice.

mod chunks;
mod disk;
mod extents;
#[cfg(test)]
mod tests;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;

use ext4_view::{Ext4, Ext4Error};

use crate::block::IoError;
use chunks::{CHUNK, Chunks, Reader};

pub use disk::DiskSource;
pub use extents::Run;

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 30;
/// Chunks that one step may need. A sound file system never does; one that leads in circles ends here.
const MOST_MISSES: usize = 512;

/// Where a file system lies.
#[expect(async_fn_in_trait, reason = "all of this runs on one processor")]
pub trait Source {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Reads `length` bytes from `start` on, which lie within its size.
    ///
    /// # Errors
    ///
    /// Why the disk does not give them.
    async fn read(&self, start: u64, length: usize) -> Result<Vec<u8>, IoError>;
}

/// Why a file cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSystemError {
    /// There is no such file or directory.
    NotFound,
    /// The disk cannot be read.
    Disk(IoError),
    /// The file has so many bytes.
    TooLarge(u64),
    /// There is no memory for so many bytes.
    NoMemory(u64),
    /// The file system is damaged, or none, or it is no file; in words.
    Other(String),
}

impl fmt::Display for FileSystemError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => formatter.write_str("there is no such file"),
            Self::Disk(error) => error.fmt(formatter),
            Self::TooLarge(size) => {
                write!(formatter, "the file has {size} bytes; {LARGEST_FILE} are the most")
            }
            Self::NoMemory(size) => write!(formatter, "dom0 has no memory for the {size} bytes of the file"),
            Self::Other(words) => formatter.write_str(words),
        }
    }
}

impl core::error::Error for FileSystemError {}

impl From<Ext4Error> for FileSystemError {
    fn from(error: Ext4Error) -> Self {
        match error {
            Ext4Error::NotFound => Self::NotFound,
            other => Self::Other(other.to_string()),
        }
    }
}

/// A file system.
pub struct FileSystem<S> {
    source: S,
    chunks: Rc<RefCell<Chunks>>,
    files: Ext4,
}

impl<S: Source> FileSystem<S> {
    /// Opens the file system on `source`.
    ///
    /// # Errors
    ///
    /// If there is none, or it cannot be read.
    pub async fn open(source: S) -> Result<Self, FileSystemError> {
        let chunks = Rc::new(RefCell::new(Chunks::default()));
        let size = source.size();
        let load = || Ext4::load(Box::new(Reader { chunks: Rc::clone(&chunks), size }));
        let files = with_chunks(&source, &chunks, load).await?;
        Ok(Self { source, chunks, files })
    }

    /// A file's content. The path begins at the root, with or without a slash.
    ///
    /// # Errors
    ///
    /// [`FileSystemError`].
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, FileSystemError> {
        let path = absolute(path);
        let size = self.step(|| self.files.metadata(path.as_str()).map(|metadata| metadata.len())).await?;
        if size > LARGEST_FILE {
            return Err(FileSystemError::TooLarge(size));
        }
        let mut content = Vec::new();
        content.try_reserve_exact(size as usize).map_err(|_| FileSystemError::NoMemory(size))?;
        while (content.len() as u64) < size {
            let before = content.len();
            self.step(|| self.read_on(&path, &mut content)).await?;
            if content.len() == before {
                return Err(FileSystemError::Other(format!("the file ends after {before} of {size} bytes")));
            }
        }
        Ok(content)
    }

    /// Reads from where `content` ends on, as far as goes. It is no error that more is missing if there was anything.
    fn read_on(&self, path: &str, content: &mut Vec<u8>) -> Result<(), Ext4Error> {
        let mut file = self.files.open(path)?;
        file.seek_to(content.len() as u64)?;
        let mut block = [0; 4096];
        let before = content.len();
        // A file whose reading failed once is not asked again: it may have lost its place.
        loop {
            match file.read_bytes(&mut block) {
                Ok(0) => return Ok(()),
                Ok(count) if content.len() + count <= content.capacity() => {
                    content.extend_from_slice(&block[..count]);
                }
                Ok(_) => return Ok(()),
                Err(_) if content.len() > before => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The names of the files in a directory, sorted.
    ///
    /// # Errors
    ///
    /// [`FileSystemError`].
    pub async fn list(&self, path: &str) -> Result<Vec<String>, FileSystemError> {
        let path = absolute(path);
        let names = || {
            let mut names = Vec::new();
            for entry in self.files.read_dir(path.as_str())? {
                let entry = entry?;
                if entry.file_type()?.is_regular_file()
                    && let Ok(name) = entry.file_name().as_str()
                {
                    names.push(name.to_owned());
                }
            }
            names.sort();
            Ok(names)
        };
        self.step(names).await
    }

    /// Where the content of a file lies on the disk, in order.
    ///
    /// # Errors
    ///
    /// [`FileSystemError`]: also if some of it is not there, or in a form that cannot be used in place.
    pub async fn runs(&self, path: &str) -> Result<Vec<Run>, FileSystemError> {
        let path = absolute(path);
        let path = self.step(|| self.files.canonicalize(path.as_str())).await?;
        let path = path.to_str().map_err(|_| FileSystemError::NotFound)?.to_owned();
        // The crate checks the sums of what leads to the file.
        self.step(|| self.files.metadata(path.as_str()).map(drop)).await?;
        let mut reader = Reader { chunks: Rc::clone(&self.chunks), size: self.source.size() };
        with_chunks(&self.source, &self.chunks, || extents::runs(&mut reader, &path)).await
    }

    async fn step<T>(&self, work: impl FnMut() -> Result<T, Ext4Error>) -> Result<T, FileSystemError> {
        with_chunks(&self.source, &self.chunks, work).await
    }
}

/// Tries `work` until nothing is missing for it.
async fn with_chunks<S: Source, T, E: Into<FileSystemError>>(
    source: &S,
    chunks: &RefCell<Chunks>,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, FileSystemError> {
    for _ in 0..MOST_MISSES {
        chunks.borrow_mut().take_missed();
        let error = match work() {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let Some(missed) = chunks.borrow_mut().take_missed() else { return Err(error.into()) };
        let start = missed * CHUNK;
        let length = source.size().saturating_sub(start).min(CHUNK) as usize;
        let bytes = source.read(start, length).await.map_err(FileSystemError::Disk)?;
        chunks.borrow_mut().put(missed, bytes);
    }
    Err(FileSystemError::Other("the file system is damaged: it leads in circles".to_owned()))
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
