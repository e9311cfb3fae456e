//! A kernel's file: its segments, and what its notes ask for.

use core::{fmt, ops::Range};
use elf::{
    ElfBytes,
    abi::{EM_X86_64, ET_EXEC, PT_LOAD, PT_NOTE},
    endian::LittleEndian,
    file::Class,
    note::Note,
};
use hypercall_abi::elfnote::{
    XEN_ELFNOTE_ENTRY, XEN_ELFNOTE_HYPERCALL_PAGE, XEN_ELFNOTE_LOADER, XEN_ELFNOTE_NAME,
    XEN_ELFNOTE_PADDR_OFFSET, XEN_ELFNOTE_VIRT_BASE, XEN_ELFNOTE_XEN_VERSION,
};

/// Most loadable segments a kernel may have.
pub const MOST_SEGMENTS: usize = 16;

/// Why a file cannot be started as a paravirtual domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It does not begin like an ELF file, or is cut short.
    NotElf,
    /// It is an ELF file for another machine or of another kind.
    WrongKind,
    /// It has no notes for Xen: a kernel built without paravirtual support.
    NoXenNotes,
    /// It asks for another version of the interface.
    WrongVersion,
    /// A note it needs is missing: which.
    MissingNote(&'static str),
    /// It has nothing to load, or too much: more segments than can be kept.
    Segments(usize),
    /// A segment lies outside the file, below the virtual base, or where the hypervisor lives.
    BadSegment {
        /// Its virtual address.
        address: u64,
    },
    /// The entry point or the hypercall page lies in no segment.
    OutsideImage(&'static str),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("the kernel is no ELF file"),
            Self::WrongKind => f.write_str("the kernel is no 64-bit x86 executable"),
            Self::NoXenNotes => {
                f.write_str("the kernel has no Xen notes: it was built without paravirtual support")
            }
            Self::WrongVersion => f.write_str("the kernel wants another interface than xen-3.0"),
            Self::MissingNote(name) => write!(f, "the kernel's Xen notes lack {name}"),
            Self::Segments(0) => f.write_str("the kernel has nothing to load"),
            Self::Segments(count) => {
                write!(f, "the kernel has {count} segments; at most {MOST_SEGMENTS} can be loaded")
            }
            Self::BadSegment { address } => {
                write!(f, "the kernel's segment at {address:#x} is outside its file or its address range")
            }
            Self::OutsideImage(what) => write!(f, "the kernel's {what} is outside what it loads"),
        }
    }
}

/// A part of the file that goes to memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Offset from the virtual base, which is also the pseudo-physical address.
    pub offset: u64,
    /// Bytes in memory; what the file does not fill is zero.
    pub size: u64,
    /// Bytes in the file.
    pub file: Range<usize>,
}

/// A kernel that can be started as a paravirtual domain.
pub struct Image<'a> {
    file: &'a [u8],
    segments: [Segment; MOST_SEGMENTS],
    segment_count: usize,
    /// Virtual address of pseudo-physical address 0.
    pub virt_base: u64,
    /// Where it begins to run.
    pub entry: u64,
    /// Virtual address of the page of hypercall stubs it wants filled, if it has one.
    pub hypercall_page: Option<u64>,
}

/// The notes for Xen, read one by one.
#[derive(Default)]
struct Notes {
    any: bool,
    virt_base: Option<u64>,
    paddr_offset: Option<u64>,
    entry: Option<u64>,
    hypercall_page: Option<u64>,
    wrong_version: bool,
}

impl Notes {
    fn take(&mut self, kind: u32, value: &[u8]) {
        self.any = true;
        let number = || match *value {
            [a, b, c, d] => Some(u64::from(u32::from_le_bytes([a, b, c, d]))),
            _ => value.try_into().ok().map(u64::from_le_bytes),
        };
        match kind {
            XEN_ELFNOTE_VIRT_BASE => self.virt_base = number(),
            XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = number(),
            XEN_ELFNOTE_ENTRY => self.entry = number(),
            XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = number(),
            XEN_ELFNOTE_XEN_VERSION => self.wrong_version |= text(value) != b"xen-3.0",
            XEN_ELFNOTE_LOADER => self.wrong_version |= text(value) != b"generic",
            _ => {}
        }
    }
}

/// A string without the zero at its end.
fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or(value)
}

impl<'a> Image<'a> {
    /// Reads a kernel's file.
    ///
    /// # Errors
    /// The first reason why it cannot be started.
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ImageError::NotElf)?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != EM_X86_64 || elf.ehdr.e_type != ET_EXEC {
            return Err(ImageError::WrongKind);
        }
        let notes = read_notes(&elf)?;
        let virt_base = notes.virt_base.ok_or(ImageError::MissingNote("VIRT_BASE"))?;
        let offset = notes.paddr_offset.unwrap_or(0);
        let mut image = Self {
            file,
            segments: core::array::from_fn(|_| Segment::default()),
            segment_count: 0,
            virt_base,
            entry: notes.entry.unwrap_or(elf.ehdr.e_entry),
            hypercall_page: notes.hypercall_page,
        };
        for header in
            elf.segments().ok_or(ImageError::Segments(0))?.iter().filter(|header| header.p_type == PT_LOAD)
        {
            let base =
                virt_base.checked_sub(offset).ok_or(ImageError::BadSegment { address: header.p_paddr })?;
            let address =
                header.p_paddr.checked_add(base).ok_or(ImageError::BadSegment { address: header.p_paddr })?;
            image.add(address, header.p_memsz, header.p_offset, header.p_filesz)?;
        }
        image.check_entry_points()?;
        Ok(image)
    }

    fn add(&mut self, address: u64, size: u64, offset: u64, file_size: u64) -> Result<(), ImageError> {
        if size == 0 {
            return Ok(());
        }
        let bad = ImageError::BadSegment { address };
        let start = usize::try_from(offset).map_err(|_| bad)?;
        let end = usize::try_from(file_size).ok().and_then(|length| start.checked_add(length)).ok_or(bad)?;
        let place = address.checked_sub(self.virt_base).ok_or(bad)?;
        let fits = end <= self.file.len() && file_size <= size && address.checked_add(size).is_some();
        if !fits {
            return Err(bad);
        }
        let slot =
            self.segments.get_mut(self.segment_count).ok_or(ImageError::Segments(self.segment_count + 1))?;
        *slot = Segment { offset: place, size, file: start..end };
        self.segment_count += 1;
        Ok(())
    }

    fn check_entry_points(&self) -> Result<(), ImageError> {
        if self.segment_count == 0 {
            return Err(ImageError::Segments(0));
        }
        let loaded = |address: u64| {
            let offset = address.wrapping_sub(self.virt_base);
            self.segments().any(|segment| offset.wrapping_sub(segment.offset) < segment.size)
        };
        if !loaded(self.entry) {
            return Err(ImageError::OutsideImage("entry point"));
        }
        match self.hypercall_page {
            Some(page) if !loaded(page) || page % 4096 != 0 => {
                Err(ImageError::OutsideImage("hypercall page"))
            }
            _ => Ok(()),
        }
    }

    /// Its segments, in the file's order.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments[..self.segment_count].iter()
    }

    /// A segment's bytes in the file.
    pub fn contents(&self, segment: &Segment) -> &'a [u8] {
        &self.file[segment.file.clone()]
    }

    /// Bytes from the virtual base to the end of the last segment.
    pub fn size(&self) -> u64 {
        self.segments().map(|segment| segment.offset + segment.size).max().unwrap_or(0)
    }
}

fn read_notes(elf: &ElfBytes<'_, LittleEndian>) -> Result<Notes, ImageError> {
    let mut notes = Notes::default();
    for header in elf.segments().ok_or(ImageError::NotElf)?.iter().filter(|header| header.p_type == PT_NOTE) {
        for note in elf.segment_data_as_notes(&header).map_err(|_| ImageError::NotElf)? {
            if let Note::Unknown(note) = note
                && text(note.name) == XEN_ELFNOTE_NAME.as_bytes()
            {
                notes.take(note.n_type as u32, note.desc);
            }
        }
    }
    if !notes.any {
        return Err(ImageError::NoXenNotes);
    }
    if notes.wrong_version {
        return Err(ImageError::WrongVersion);
    }
    Ok(notes)
}
