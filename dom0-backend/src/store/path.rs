//! Paths: where a node is, as checked text.
//!
//! A [`Path`] is always absolute and always valid, so nothing behind this module checks one again. There are
//! two kinds: ordinary ones (`/`, `/local/domain/3/name`), and special ones that start with `@`
//! (`@releaseDomain`), which only watches and permissions know.
//!
//! Paths order as text does, and a path sorts before everything below it. Much of the store walks sets of
//! paths in that order, to meet a parent before its children.

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt;

use hypercall_abi::DomainId;
use hypercall_abi::io::xs_wire::{XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX};

/// The directory whose children are the home directories of the domains.
const DOMAINS: &str = "/local/domain/";

/// A valid absolute path. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Rc<str>);

/// Why a text is not a path. On the wire all of these are `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// No text at all.
    Empty,
    /// A byte other than a letter, a digit, or one of `-/_@`.
    Character {
        /// The byte.
        byte: u8,
    },
    /// Two slashes in a row.
    DoubledSlash,
    /// A slash at the end, where the path is not just `/`.
    TrailingSlash,
    /// More bytes than any path may have.
    TooLong {
        /// Bytes in the text.
        length: usize,
        /// Most bytes a text of this kind may have.
        limit: usize,
    },
    /// A special path where only an ordinary one will do.
    Special,
}

/// Whether a special path (`@...`) will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Only ordinary paths.
    Refused,
    /// Ordinary paths and special ones.
    Allowed,
}

impl Path {
    /// The path of the node above all others.
    pub fn root() -> Self {
        Self(Rc::from("/"))
    }

    /// The home directory of `domain`, where its relative paths start.
    pub fn home(domain: DomainId) -> Self {
        Self(format!("{DOMAINS}{}", domain.0).into())
    }

    /// The special path `name`, which must start with `@` and otherwise be valid.
    pub(super) fn special(name: &str) -> Self {
        debug_assert!(name.starts_with('@'));
        Self(name.into())
    }

    /// Checks `text` as a path from `domain`; a relative one starts at the domain's home directory.
    ///
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn resolve(text: &[u8], domain: DomainId, special: Special) -> Result<Self, PathError> {
        let text = check(text, special)?;
        let relative = is_relative(text.as_bytes());
        Ok(Self(if relative { format!("{DOMAINS}{}/{text}", domain.0).into() } else { text.into() }))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a special path.
    pub fn is_special(&self) -> bool {
        self.0.starts_with('@')
    }

    /// The path of the child `name`, which must be one valid component.
    pub(super) fn child(&self, name: &str) -> Self {
        let above = if self.as_str() == "/" { "" } else { self.as_str() };
        Self([above, "/", name].concat().into())
    }

    /// The path one level above. Neither the root nor a special node has one.
    pub(super) fn parent(&self) -> Option<Self> {
        parent(&self.0).map(|path| Self(path.into()))
    }

    /// This path, the one above, and so on to the top.
    pub(super) fn ancestors(&self) -> impl Iterator<Item = &str> {
        core::iter::successors(Some(&*self.0), |path| parent(path))
    }

    /// This path and those above it, `levels` in all.
    pub(super) fn up(&self, levels: usize) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        let paths: Vec<_> = self.ancestors().take(levels).map(|path| Self(path.into())).collect();
        paths.into_iter()
    }

    /// The name under which the parent lists the node. Empty for the root.
    pub(super) fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }

    /// How many levels below the top the path lies: none for the root.
    pub(super) fn depth(&self) -> usize {
        match self.as_str() {
            "/" => 0,
            path => path.bytes().filter(|byte| *byte == b'/').count(),
        }
    }

    /// The name at which the path starts: empty for the root.
    pub(super) fn top(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The bytes of the path that count against a quota: what stands after a domain's home directory, or
    /// everything.
    pub(super) fn counted_length(&self) -> usize {
        let below_home = self.0.strip_prefix(DOMAINS).and_then(|rest| rest.split_once('/'));
        match below_home {
            Some((domain, rest)) if domain.parse::<u16>().is_ok() => rest.len(),
            _ => self.0.len(),
        }
    }

    /// The names on the way from the top down to the node.
    pub(super) fn names_below_top(&self) -> impl Iterator<Item = &str> {
        let first = self.0.bytes().position(|byte| byte == b'/');
        names(first.and_then(|slash| self.0.get(slash + 1..)).unwrap_or_default())
    }
}

/// The names that a relative path goes through.
pub(super) fn names(path: &str) -> impl Iterator<Item = &str> {
    Names(path)
}

/// The names of a path that are left to go through. Every operation walks along paths, several times, so this goes
/// byte by byte; splitting at a character costs a multiple.
struct Names<'a>(&'a str);

impl<'a> Iterator for Names<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let end = self.0.bytes().position(|byte| byte == b'/').unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Some(name)
    }
}

/// Checks `text` as a path that starts at some directory.
///
/// # Errors
/// The first rule that it breaks; one that starts at the top is [`PathError::Special`].
pub(super) fn check_relative(text: &str) -> Result<&str, PathError> {
    match check(text.as_bytes(), Special::Refused)? {
        text if is_relative(text.as_bytes()) => Ok(text),
        _ => Err(PathError::Special),
    }
}

/// Checks everything that can be wrong with the text of a path.
fn check(text: &[u8], special: Special) -> Result<&str, PathError> {
    let text = check_characters(text)?;
    if text.starts_with('@') && special == Special::Refused {
        return Err(PathError::Special);
    }
    let relative = is_relative(text.as_bytes());
    check_length(text, if relative { XENSTORE_REL_PATH_MAX } else { XENSTORE_ABS_PATH_MAX })?;
    // Searching for text costs a multiple of this.
    if text.as_bytes().windows(2).any(|pair| pair == b"//") {
        return Err(PathError::DoubledSlash);
    }
    if text.ends_with('/') && text != "/" {
        return Err(PathError::TrailingSlash);
    }
    Ok(text)
}

/// Whether `text`, as a client sent it, starts at the client's home directory.
pub(super) fn is_relative(text: &[u8]) -> bool {
    !matches!(text.first(), Some(b'/' | b'@'))
}

/// The path one level above `path`. Neither the root nor a special node has one.
fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        slash => Some(&path[..slash]),
    }
}

/// For each byte whether a path may have it.
const ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] =
            matches!(byte as u8, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'/' | b'_' | b'@');
        byte += 1;
    }
    allowed
};

/// Turns bytes into text if each is one that a path may have.
fn check_characters(text: &[u8]) -> Result<&str, PathError> {
    if let Some(&byte) = text.iter().find(|byte| !ALLOWED[usize::from(**byte)]) {
        return Err(PathError::Character { byte });
    }
    match core::str::from_utf8(text) {
        Ok(text) if !text.is_empty() => Ok(text),
        _ => Err(PathError::Empty),
    }
}

/// Checks that `text` has no more than `limit` bytes.
fn check_length(text: &str, limit: usize) -> Result<(), PathError> {
    let length = text.len();
    if length > limit { Err(PathError::TooLong { length, limit }) } else { Ok(()) }
}

/// A path is its text, so a map keyed by paths can be asked with text.
impl Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<Path, PathError> {
        Path::resolve(text.as_bytes(), DomainId(7), Special::Refused)
    }

    fn path(text: &str) -> Path {
        Path::resolve(text.as_bytes(), DomainId(7), Special::Allowed).unwrap()
    }

    #[test]
    fn an_absolute_path_is_taken_as_it_is() {
        assert_eq!(path("/").as_str(), "/");
        assert_eq!(path("/tool/Xen_Store-1@x").as_str(), "/tool/Xen_Store-1@x");
    }

    #[test]
    fn a_relative_path_starts_at_home() {
        assert_eq!(path("device/vif/0").as_str(), "/local/domain/7/device/vif/0");
        assert_eq!(Path::home(DomainId(7)).as_str(), "/local/domain/7");
    }

    #[test]
    fn a_special_path_needs_leave() {
        assert_eq!(resolve("@releaseDomain"), Err(PathError::Special));
        assert!(path("@releaseDomain").is_special());
        assert!(!path("/@releaseDomain").is_special());
    }

    #[test]
    fn broken_paths_are_refused_by_name() {
        assert_eq!(resolve(""), Err(PathError::Empty));
        assert_eq!(resolve("/a b"), Err(PathError::Character { byte: b' ' }));
        assert_eq!(resolve("/a\0b"), Err(PathError::Character { byte: 0 }));
        assert_eq!(resolve("/\u{e4}"), Err(PathError::Character { byte: 0xc3 }));
        assert_eq!(resolve("//"), Err(PathError::DoubledSlash));
        assert_eq!(resolve("/a//b"), Err(PathError::DoubledSlash));
        assert_eq!(resolve("/a/"), Err(PathError::TrailingSlash));
        assert_eq!(resolve("a/"), Err(PathError::TrailingSlash));
    }

    #[test]
    fn length_is_limited_separately_for_both_kinds() {
        let of_length = |first: &str, length: usize| format!("{first:a<length$}");
        assert!(resolve(&of_length("/", 3072)).is_ok());
        let error = PathError::TooLong { length: 3073, limit: 3072 };
        assert_eq!(resolve(&of_length("/", 3073)), Err(error));
        assert!(resolve(&of_length("a", 2048)).is_ok());
        let error = PathError::TooLong { length: 2049, limit: 2048 };
        assert_eq!(resolve(&of_length("a", 2049)), Err(error));
    }

    #[test]
    fn parents_names_and_depths() {
        assert_eq!(parent("/"), None);
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("@a/b"), Some("@a"));
        assert_eq!(parent("@a"), None);
        assert_eq!(path("/a/bc").name(), "bc");
        assert_eq!(path("/").name(), "");
        let names = |text: &str| path(text).names_below_top().map(String::from).collect::<Vec<_>>();
        assert_eq!((names("/"), names("@a")), (Vec::new(), Vec::new()));
        assert_eq!(names("/a/bc/d"), ["a", "bc", "d"]);
        assert_eq!((path("/").depth(), path("/a/b").depth(), path("@a").depth()), (0, 2, 0));
        let ancestors: Vec<_> = path("/a/b").ancestors().map(str::to_owned).collect();
        assert_eq!(ancestors, ["/a/b", "/a", "/"]);
        assert_eq!(path("/").child("a").as_str(), "/a");
        assert_eq!(path("/a").child("b").as_str(), "/a/b");
    }

    #[test]
    fn the_home_directory_is_not_counted() {
        assert_eq!(path("abc").counted_length(), 3);
        assert_eq!(path("/local/domain/7").counted_length(), 15);
        assert_eq!(path("/local/domain/x/abc").counted_length(), 19);
        assert_eq!(path("/tool").counted_length(), 5);
    }
}
