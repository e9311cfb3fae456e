//! The bundle: several boot modules in one file.
//!
//! A boot loader of the multiboot kind hands over any number of modules. The PVH entry that QEMU's `-kernel` uses has
//! room for one only, `-initrd`. So the modules are put into one file, little-endian throughout:
//!
//! ```text
//! 0   8 bytes  "WEIRBNDL"
//! 8   u32      version, 1
//! 12  u32      number of modules
//! 16  for each module: u64 offset from the start of the file, u64 length in bytes
//!     the modules, each beginning at a multiple of 4096, the gaps filled with zeros
//! ```
//!
//! Module 0 is the kernel of domain 0, module 1 the boot archive. The file ends on a multiple of 4096 too, after a stretch
//! that belongs to no module: QEMU puts the file right below the place it keeps for the firmware's tables, and on a machine
//! with many devices these take more, from the end of the file.

use anyhow::Result;

use crate::archive::{Archive, GUEST};
use crate::build::Images;

/// What a bundle begins with.
const MAGIC: &[u8; 8] = b"WEIRBNDL";
const VERSION: u32 = 1;
/// Modules begin on page boundaries, so that they can be handed over without copying.
const ALIGNMENT: usize = 4096;
/// Bytes at the end that may be lost.
const TAIL: usize = 256 << 10;
const HEADER_LENGTH: usize = 16;
const ENTRY_LENGTH: usize = 16;

/// Puts modules into one file.
pub fn bundle(modules: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(modules.len() as u32).to_le_bytes());
    let mut offset = (HEADER_LENGTH + modules.len() * ENTRY_LENGTH).next_multiple_of(ALIGNMENT);
    for module in modules {
        bytes.extend_from_slice(&(offset as u64).to_le_bytes());
        bytes.extend_from_slice(&(module.len() as u64).to_le_bytes());
        offset = (offset + module.len()).next_multiple_of(ALIGNMENT);
    }
    for module in modules {
        pad(&mut bytes);
        bytes.extend_from_slice(module);
    }
    pad(&mut bytes);
    bytes.resize(bytes.len() + TAIL, 0);
    bytes
}

/// One module for a kernel that takes it as it is, with the stretch behind it that may be lost.
pub fn padded(module: &[u8]) -> Vec<u8> {
    let mut bytes = module.to_vec();
    bytes.resize(bytes.len() + TAIL, 0);
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// The boot archive of an ordinary start: the guest's kernel and, if there are any, commands to run.
pub fn boot_archive(images: &Images, commands: &[String]) -> Result<Vec<u8>> {
    boot_files(images, commands)?.finish()
}

/// The same, for more files to be added.
pub fn boot_files(images: &Images, commands: &[String]) -> Result<Archive> {
    let mut archive = Archive::new();
    archive.add_file(GUEST, &images.guest)?;
    if !commands.is_empty() {
        archive.add_commands(commands)?;
    }
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], offset: usize) -> usize {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap()) as usize
    }

    #[test]
    fn every_module_is_found_through_its_entry() {
        let modules: [&[u8]; 3] = [&[1; 5000], b"", &[3; 4096]];
        let bytes = bundle(&modules);
        assert_eq!(&bytes[..8], b"WEIRBNDL");
        assert_eq!(bytes[8..16], [1, 0, 0, 0, 3, 0, 0, 0]);
        for (index, module) in modules.iter().enumerate() {
            let (offset, length) = (number(&bytes, 16 + 16 * index), number(&bytes, 24 + 16 * index));
            assert_eq!(offset % 4096, 0);
            assert_eq!(&bytes[offset..offset + length], *module);
        }
    }

    #[test]
    fn the_layout_is_exactly_the_documented_one() {
        let bytes = bundle(&[&[7; 5000], &[8; 1]]);
        assert_eq!((number(&bytes, 16), number(&bytes, 24)), (4096, 5000));
        assert_eq!((number(&bytes, 32), number(&bytes, 40)), (12288, 1));
        assert_eq!(bytes.len(), 16384 + TAIL);
        assert!(bytes[48..4096].iter().all(|&byte| byte == 0));
        assert!(bytes[9096..12288].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn entries_that_fill_a_page_push_the_first_module_on() {
        let modules = vec![&b"x"[..]; 256];
        assert_eq!(number(&bundle(&modules), 16), 8192);
    }

    #[test]
    fn a_bundle_without_modules_is_a_page_and_the_tail() {
        assert_eq!(bundle(&[]).len(), 4096 + TAIL);
    }
}
