//! Where on its disk a file's content lies, so that the file can be a guest's disk.
//!
//! The crate that reads files does not tell. So the few structures on the way there are read here: the superblock, a
//! group's descriptor, inodes, directories, and the tree of a file's extents. What is refused is said exactly: a disk
//! needs every block of its file, and nobody else may move them.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use ext4_view::Ext4Read;

use super::FileSystemError;
use super::chunks::Reader;

/// Where the superblock is, and how much of it is read.
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Features without which a reader is at a loss.
const NEEDS_RECOVERY: u32 = 0x4;
const META_GROUPS: u32 = 0x10;
const WIDE: u32 = 0x80;
/// Flags of an inode.
const HAS_EXTENTS: u32 = 0x8_0000;
const IS_ENCRYPTED: u32 = 0x800;
/// Kinds of inodes.
const KIND: u16 = 0xf000;
const DIRECTORY: u16 = 0x4000;
const REGULAR: u16 = 0x8000;
const ROOT: u32 = 2;
/// A node of the tree: its magic number, the size of its head and of each entry, and how deep the tree may be.
const NODE_MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
const DEPTH_LIMIT: u16 = 5;
/// Longer extents are set aside, but nothing was written there yet.
const WRITTEN_LIMIT: u16 = 32768;
/// The largest directory that is looked through, in bytes.
const DIRECTORY_LIMIT: u64 = 4 << 20;

/// Bytes that lie together, on the disk of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub start: u64,
    /// How many.
    pub length: u64,
}

/// Finds out where the content of a file lies, in order. The path has no links in it.
///
/// # Errors
///
/// Why it cannot be a disk, or that something of it was not read from the disk yet.
pub fn runs(reader: &mut Reader, path: &str) -> Result<Vec<Run>, FileSystemError> {
    let mut volume = Volume::open(reader)?;
    let mut inode = volume.inode(ROOT)?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        inode = volume.look_up(&inode, name)?;
    }
    if inode.mode & KIND != REGULAR {
        return Err(other("it is no regular file"));
    }
    if inode.size == 0 {
        return Err(other("the file is empty"));
    }
    volume.runs(&inode)
}

fn other(words: &str) -> FileSystemError {
    FileSystemError::Other(words.to_owned())
}

fn damaged() -> FileSystemError {
    other("the file system is damaged")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |part| u16::from_le_bytes([part[0], part[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// A file, as far as is needed.
struct Inode {
    mode: u16,
    flags: u32,
    size: u64,
    /// The top of the tree of its extents.
    top: Vec<u8>,
}

/// Blocks that lie together, in the file and on the disk.
struct Extent {
    in_file: u64,
    on_disk: u64,
    count: u64,
    is_written: bool,
}

struct Volume<'a> {
    reader: &'a mut Reader,
    block_size: u64,
    blocks: u64,
    /// The block before the descriptors of the groups.
    first_block: u64,
    descriptor_size: u64,
    inodes_per_group: u32,
    inode_size: u64,
    is_wide: bool,
}

impl<'a> Volume<'a> {
    fn open(reader: &'a mut Reader) -> Result<Self, FileSystemError> {
        let mut block = [0; SUPERBLOCK_LENGTH];
        read(reader, SUPERBLOCK, &mut block)?;
        let features = u32_at(&block, 0x60);
        let shift = u32_at(&block, 0x18);
        let inodes_per_group = u32_at(&block, 0x28);
        if u16_at(&block, 0x38) != MAGIC || shift > 6 || inodes_per_group == 0 {
            return Err(damaged());
        }
        if features & NEEDS_RECOVERY != 0 {
            return Err(other("the file system was not left in order: mount it once, or run e2fsck"));
        }
        if features & META_GROUPS != 0 {
            return Err(other("the file system's groups are kept in a way that is not understood (meta_bg)"));
        }
        let is_wide = features & WIDE != 0;
        let high = if is_wide { u64::from(u32_at(&block, 0x150)) } else { 0 };
        Ok(Self {
            reader,
            block_size: 1024 << shift,
            blocks: u64::from(u32_at(&block, 0x4)) | high << 32,
            first_block: u32_at(&block, 0x14).into(),
            descriptor_size: if is_wide { u16_at(&block, 0xfe).max(64).into() } else { 32 },
            inodes_per_group,
            inode_size: u16_at(&block, 0x58).max(128).into(),
            is_wide,
        })
    }

    fn inode(&mut self, number: u32) -> Result<Inode, FileSystemError> {
        let index = number.checked_sub(1).ok_or_else(damaged)?;
        let (group, index) = (index / self.inodes_per_group, index % self.inodes_per_group);
        let descriptors = (self.first_block + 1) * self.block_size;
        let mut descriptor = vec![0; self.descriptor_size as usize];
        read(self.reader, descriptors + u64::from(group) * self.descriptor_size, &mut descriptor)?;
        let high = if self.is_wide { u64::from(u32_at(&descriptor, 0x28)) } else { 0 };
        let table = self.place(u64::from(u32_at(&descriptor, 0x8)) | high << 32, 1)?;
        let mut bytes = [0; 128];
        read(self.reader, table + u64::from(index) * self.inode_size, &mut bytes)?;
        Ok(Inode {
            mode: u16_at(&bytes, 0),
            flags: u32_at(&bytes, 0x20),
            size: u64::from(u32_at(&bytes, 0x4)) | u64::from(u32_at(&bytes, 0x6c)) << 32,
            top: bytes[0x28..0x28 + 60].to_vec(),
        })
    }

    /// Where blocks lie, in bytes, if they are the file system's.
    fn place(&self, first: u64, count: u64) -> Result<u64, FileSystemError> {
        let is_inside = first > 0 && first.checked_add(count).is_some_and(|end| end <= self.blocks);
        if is_inside { Ok(first * self.block_size) } else { Err(damaged()) }
    }

    /// The file of this name in a directory.
    fn look_up(&mut self, directory: &Inode, name: &str) -> Result<Inode, FileSystemError> {
        if directory.mode & KIND != DIRECTORY || directory.size > DIRECTORY_LIMIT {
            return Err(FileSystemError::NotFound);
        }
        for run in self.runs(directory)? {
            let mut bytes = vec![0; run.length as usize];
            read(self.reader, run.start, &mut bytes)?;
            if let Some(number) = entry_called(&bytes, name) {
                return self.inode(number);
            }
        }
        Err(FileSystemError::NotFound)
    }

    /// Where all of a file lies.
    fn runs(&mut self, inode: &Inode) -> Result<Vec<Run>, FileSystemError> {
        if inode.flags & IS_ENCRYPTED != 0 {
            return Err(other("it is encrypted"));
        }
        if inode.flags & HAS_EXTENTS == 0 {
            return Err(other(
                "its blocks are listed one by one, as in ext2 and ext3; only extents are understood",
            ));
        }
        let mut extents = Vec::new();
        self.collect(&inode.top, None, &mut extents)?;
        let mut runs: Vec<Run> = Vec::new();
        let (mut next, count) = (0, inode.size.div_ceil(self.block_size));
        for extent in extents {
            if extent.in_file > next {
                break;
            }
            if next + extent.count > u64::from(u32::MAX) + 1 {
                return Err(damaged());
            }
            if !extent.is_written {
                let at = next * self.block_size;
                return Err(FileSystemError::Other(format!(
                    "nothing was ever written at byte {at}; fill the file"
                )));
            }
            // What was set aside behind the end of the file is not part of it.
            let used = extent.count.min(count.saturating_sub(next));
            next += extent.count;
            let start = self.place(extent.on_disk, extent.count)?;
            let length = used * self.block_size;
            match runs.last_mut() {
                _ if length == 0 => {}
                Some(last) if last.start + last.length == start => last.length += length,
                _ => runs.push(Run { start, length }),
            }
        }
        if next < count {
            let at = next * self.block_size;
            return Err(FileSystemError::Other(format!(
                "the file has a hole at byte {at}; copy it with `cp --sparse=never`"
            )));
        }
        if let Some(last) = runs.last_mut() {
            last.length -= count * self.block_size - inode.size;
        }
        Ok(runs)
    }

    /// Lists the extents below a node whose depth is to be this one, or any that is allowed at the top. They are in order,
    /// and below the top each node has some: so a tree that leads in circles ends soon.
    fn collect(
        &mut self,
        node: &[u8],
        depth: Option<u16>,
        extents: &mut Vec<Extent>,
    ) -> Result<(), FileSystemError> {
        let (count, own_depth) = (usize::from(u16_at(node, 2)), u16_at(node, 6));
        let is_sound = u16_at(node, 0) == NODE_MAGIC
            && (count + 1) * ENTRY <= node.len()
            && own_depth <= DEPTH_LIMIT
            && depth.is_none_or(|depth| depth == own_depth && count > 0);
        if !is_sound {
            return Err(damaged());
        }
        for entry in node[ENTRY..].chunks_exact(ENTRY).take(count) {
            if own_depth == 0 {
                let extent = extent_of(entry);
                let end = extents.last().map_or(0, |last| last.in_file + last.count);
                if extent.count == 0 || extent.in_file < end {
                    return Err(damaged());
                }
                extents.push(extent);
                continue;
            }
            let child = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
            let mut bytes = vec![0; self.block_size as usize];
            let place = self.place(child, 1)?;
            read(self.reader, place, &mut bytes)?;
            self.collect(&bytes, Some(own_depth - 1), extents)?;
        }
        Ok(())
    }
}

fn extent_of(entry: &[u8]) -> Extent {
    let length = u16_at(entry, 4);
    let is_written = length <= WRITTEN_LIMIT;
    Extent {
        in_file: u32_at(entry, 0).into(),
        on_disk: u64::from(u32_at(entry, 8)) | u64::from(u16_at(entry, 6)) << 32,
        count: if is_written { length } else { length - WRITTEN_LIMIT }.into(),
        is_written,
    }
}

/// The inode of the entry of this name, among those of a directory's blocks.
fn entry_called(bytes: &[u8], name: &str) -> Option<u32> {
    let mut rest = bytes;
    while rest.len() >= 8 {
        let (inode, length) = (u32_at(rest, 0), usize::from(u16_at(rest, 4)));
        let name_end = 8 + usize::from(rest[6]);
        if inode != 0 && rest.get(8..name_end) == Some(name.as_bytes()) {
            return Some(inode);
        }
        // An entry that is shorter than its head would lead in circles.
        rest = rest.get(length.max(8)..)?;
    }
    None
}

fn read(reader: &mut Reader, start: u64, into: &mut [u8]) -> Result<(), FileSystemError> {
    reader.read(start, into).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::super::chunks::CHUNK;
    use super::*;
    use alloc::rc::Rc;

    const BLOCK: usize = 4096;

    /// A node of this depth, full of entries that name this block.
    fn node(size: usize, depth: u16, block: u16) -> Vec<u8> {
        let count = (size / ENTRY - 1) as u16;
        let head = [NODE_MAGIC, count, count, depth, 0, 0];
        let entry = if depth == 0 { [0, 0, 1, 0, block, 0] } else { [0, 0, block, 0, 0, 0] };
        let words = head.into_iter().chain((0..count).flat_map(|_| entry));
        let mut node: Vec<u8> = words.flat_map(u16::to_le_bytes).collect();
        node.resize(size, 0);
        node
    }

    #[test]
    fn a_tree_whose_branches_are_all_the_same_ends_soon() {
        let mut disk = vec![0; CHUNK as usize];
        for depth in 0..DEPTH_LIMIT {
            let place = usize::from(depth + 1) * BLOCK;
            disk[place..place + BLOCK].copy_from_slice(&node(BLOCK, depth, depth));
        }
        let mut reader = Reader { chunks: Rc::default(), size: CHUNK };
        reader.chunks.borrow_mut().put(0, disk);
        let mut volume = Volume {
            reader: &mut reader,
            block_size: BLOCK as u64,
            blocks: CHUNK / BLOCK as u64,
            first_block: 0,
            descriptor_size: 32,
            inodes_per_group: 8,
            inode_size: 128,
            is_wide: false,
        };
        let mut extents = Vec::new();
        let top = node(60, DEPTH_LIMIT, DEPTH_LIMIT);
        assert_eq!(volume.collect(&top, None, &mut extents), Err(damaged()));
        assert_eq!(extents.len(), 1);
    }
}
