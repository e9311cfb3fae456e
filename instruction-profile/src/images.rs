//! Whose code a block is, and from which source it was compiled.
//!
//! Kernels of different domains lie at the same addresses, so it is the bytes that tell.

use std::fs;
use std::path::{Path, PathBuf};

use addr2line::gimli::Reader;
use addr2line::{Frame, Loader};
use anyhow::{Context, Result, anyhow, ensure};
use object::{Object, ObjectSegment, ObjectSymbol};

use crate::record::Block;

/// A kernel's file.
struct Image {
    name: String,
    /// Address and content of each part that is loaded.
    parts: Vec<(u64, Vec<u8>)>,
    source: Loader,
}

impl Image {
    fn open(name: &str, path: &Path) -> Result<Self> {
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = object::File::parse(&*data).with_context(|| path.display().to_string())?;
        let parts = file
            .segments()
            .map(|segment| Ok((segment.address(), segment.data()?.to_vec())))
            .collect::<Result<_>>()?;
        let source = Loader::new(path).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self { name: name.to_owned(), parts, source })
    }

    fn has(&self, block: &Block) -> bool {
        self.parts.iter().any(|(start, bytes)| {
            let offset = block.address.checked_sub(*start).and_then(|offset| usize::try_from(offset).ok());
            offset.and_then(|offset| bytes.get(offset..)).is_some_and(|bytes| bytes.starts_with(&block.bytes))
        })
    }
}

/// The address of the one function whose path ends with `function`.
pub fn address_of(path: &Path, function: &str) -> Result<u64> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*data).with_context(|| path.display().to_string())?;
    let is_meant = |symbol: &object::Symbol<'_, '_>| {
        symbol.name().is_ok_and(|name| ends_with(&addr2line::demangle_auto(name.into(), None), function))
    };
    let found: Vec<_> = file.symbols().filter(is_meant).map(|symbol| symbol.address()).collect();
    ensure!(found.len() == 1, "{} has {} functions called {function}", path.display(), found.len());
    Ok(found[0])
}

/// Whether a function's path ends with these names; what compilers append to tell functions apart does not count.
fn ends_with(path: &str, function: &str) -> bool {
    let path = path.rsplit_once("::h").filter(|(_, hash)| hash.len() == 16).map_or(path, |(path, _)| path);
    path.strip_suffix(function).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"))
}

/// Where an instruction comes from: of the functions that were inlined into each other there, the innermost one of the
/// project itself, if there is one. What `Option` and its like do is counted for who uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The function, without its module.
    pub function: String,
    /// Its file.
    pub file: String,
    /// The line; 0 if unknown.
    pub line: u32,
}

/// The kernels that may run.
pub struct Images {
    images: Vec<Image>,
    /// Where the project's own source lies.
    root: PathBuf,
}

impl Images {
    /// Reads files of kernels whose source lies below `root`.
    pub fn open(files: &[(String, PathBuf)], root: &Path) -> Result<Self> {
        let images = files.iter().map(|(name, path)| Image::open(name, path)).collect::<Result<_>>()?;
        Ok(Self { images, root: root.to_owned() })
    }

    /// The name of the kernel whose code this is, and where each of its instructions comes from.
    pub fn find(&self, block: &Block) -> Option<(&str, Vec<Place>)> {
        let image = self.images.iter().find(|image| image.has(block))?;
        let mut address = block.address;
        let mut places = Vec::with_capacity(block.sizes.len());
        for size in &block.sizes {
            places.push(self.place(&image.source, address));
            address += size;
        }
        Some((&image.name, places))
    }

    fn place(&self, source: &Loader, address: u64) -> Place {
        let mut innermost = None;
        let mut frames = source.find_frames(address).ok();
        while let Some(frame) = frames.as_mut().and_then(|frames| frames.next().ok().flatten()) {
            let place = place_of(&frame);
            match Path::new(&place.file).strip_prefix(&self.root) {
                Ok(own) => return Place { file: own.display().to_string(), ..place },
                Err(_) => innermost = innermost.or(Some(place)),
            }
        }
        innermost.unwrap_or_else(|| unknown(source, address))
    }
}

fn place_of(frame: &Frame<'_, impl Reader>) -> Place {
    let name = frame.function.as_ref().and_then(|name| name.demangle().ok());
    let location = frame.location.as_ref();
    Place {
        function: name.map_or_else(|| "?".to_owned(), |name| without_types(&name).to_owned()),
        file: location.and_then(|location| location.file).unwrap_or("?").to_owned(),
        line: location.and_then(|location| location.line).unwrap_or(0),
    }
}

/// A function's name without the types that it was made for.
fn without_types(name: &str) -> &str {
    match name.find('<') {
        Some(0) | None => name,
        Some(end) => &name[..end],
    }
}

/// Code without a line, such as assembly: a symbol may tell what it is.
fn unknown(source: &Loader, address: u64) -> Place {
    let symbol = source.find_symbol(address).unwrap_or("?");
    Place {
        function: addr2line::demangle_auto(symbol.into(), None).into_owned(),
        file: String::new(),
        line: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_the_end_of_their_path() {
        assert!(ends_with("hv_core::counters::start", "counters::start"));
        assert!(ends_with("hv_core::counters::start::h0123456789abcdef", "counters::start"));
        assert!(ends_with("start", "start"));
        assert!(!ends_with("hv_core::counters::restart", "start"));
        assert!(!ends_with("hv_core::counters::start::inner", "start"));
    }

    #[test]
    fn types_are_no_part_of_a_name() {
        assert_eq!(without_types("load<a::B<c>>"), "load");
        assert_eq!(without_types("{closure#0}<a>"), "{closure#0}");
        assert_eq!(without_types("<a as b>::c"), "<a as b>::c");
        assert_eq!(without_types("put"), "put");
    }
}
