//! What lies where in a domain's memory when it starts.

use crate::Image;
use core::{fmt, ops::Range};

const PAGE_SIZE: u64 = 4096;
/// What one page table of the lowest level maps.
const TABLE_SPAN: u64 = 2 << 20;
/// The mapped area ends at a multiple of this.
const AREA_ALIGNMENT: u64 = 4 << 20;
/// Bytes mapped beyond the last page in use.
const AREA_PADDING: u64 = 512 << 10;
/// Entries in a page table.
const ENTRIES: u64 = 512;

/// What the layout depends on besides the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Pages of memory the domain has.
    pub pages: u64,
    /// Bytes of the module; zero for none.
    pub module: u64,
    /// The domain gets a store page and a console page: every domain but dom0.
    pub has_store_and_console: bool,
}

/// Why a layout cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Kernel, module and tables do not fit.
    TooLittleMemory {
        /// Pages they need.
        needed: u64,
        /// Pages there are.
        available: u64,
    },
    /// The addresses would wrap around or leave the kernel's part of the address space.
    BadAddresses,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleMemory { needed, available } => write!(
                f,
                "kernel and module need {} KiB to start; the domain has {} KiB",
                needed * 4,
                available * 4
            ),
            Self::BadAddresses => f.write_str("the kernel's virtual addresses are not those of a kernel"),
        }
    }
}

/// Ranges of pseudo-physical frame numbers, and the addresses that follow from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Virtual address of frame 0.
    pub virt_base: u64,
    /// The module.
    pub module: Range<u64>,
    /// The list of machine frames.
    pub p2m: Range<u64>,
    /// Virtual address of that list.
    pub p2m_address: u64,
    /// `start_info`.
    pub start_info: u64,
    /// The store's page.
    pub store: Option<u64>,
    /// The console's page.
    pub console: Option<u64>,
    /// Page tables: L4 first, then L3s, L2s, L1s.
    pub tables: Range<u64>,
    /// The boot stack's page.
    pub stack: u64,
    /// End of what the page tables map.
    pub end: u64,
    /// How many tables of each level there are, from L4 down to L1.
    pub table_counts: [u64; 4],
}

impl Layout {
    /// Says what lies where.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn plan(image: &Image<'_>, plan: &Plan) -> Result<Self, LayoutError> {
        if image.virt_base < 0xffff_8800_0000_0000 || !image.virt_base.is_multiple_of(PAGE_SIZE) {
            return Err(LayoutError::BadAddresses);
        }
        let mut next = image.size().div_ceil(PAGE_SIZE);
        let mut take = |pages: u64| {
            let first = next;
            next = next.saturating_add(pages);
            first..next
        };
        let module = take(plan.module.div_ceil(PAGE_SIZE));
        let p2m = take((plan.pages * 8).div_ceil(PAGE_SIZE));
        let start_info = take(1).start;
        let store = plan.has_store_and_console.then(|| take(1).start);
        let console = plan.has_store_and_console.then(|| take(1).start);
        let (first_table, table_counts, end) = place_tables(image.virt_base, next)?;
        let tables = first_table..first_table + table_counts.iter().sum::<u64>();
        let stack = tables.end;
        if end > plan.pages {
            return Err(LayoutError::TooLittleMemory { needed: end, available: plan.pages });
        }
        let p2m_address = image.virt_base + p2m.start * PAGE_SIZE;
        let virt_base = image.virt_base;
        Ok(Self {
            virt_base,
            module,
            p2m,
            p2m_address,
            start_info,
            store,
            console,
            tables,
            stack,
            end,
            table_counts,
        })
    }

    /// Virtual address of a frame in the mapped area.
    pub fn address(&self, frame: u64) -> u64 {
        self.virt_base + frame * PAGE_SIZE
    }
}

/// Where the tables begin, how many there are of each level, and where the mapped area ends.
///
/// They go to the area's last 4 MiB, even if there is room before: Linux takes down what is mapped from the first table
/// up to the next multiple of 4 MiB behind the last, and what it left would be memory that can be written and executed.
fn place_tables(virt_base: u64, first_free: u64) -> Result<(u64, [u64; 4], u64), LayoutError> {
    let (_, end) = tables_for(virt_base, first_free)?;
    let first_table = first_free.max(end.saturating_sub(AREA_ALIGNMENT / PAGE_SIZE));
    let (counts, end) = tables_for(virt_base, first_table)?;
    Ok((first_table, counts, end))
}

/// How many tables map everything from frame 0 to behind themselves and the stack, and where the area ends: more
/// tables need more memory to map, so the numbers grow until they fit.
fn tables_for(virt_base: u64, first_table: u64) -> Result<([u64; 4], u64), LayoutError> {
    let mut tables = 4;
    loop {
        let used = first_table.checked_add(tables + 1).and_then(|pages| pages.checked_mul(PAGE_SIZE));
        let end = used
            .and_then(|used| virt_base.checked_add(used + AREA_PADDING))
            .ok_or(LayoutError::BadAddresses)?;
        let end = end.checked_next_multiple_of(AREA_ALIGNMENT).unwrap_or(u64::MAX);
        let counts =
            [1, tables_of(3, virt_base, end), tables_of(2, virt_base, end), tables_of(1, virt_base, end)];
        let sum = counts.iter().sum();
        if sum <= tables {
            return Ok((counts, (end - virt_base).div_ceil(PAGE_SIZE)));
        }
        tables = sum;
    }
}

/// Tables of `level` that map `start..end`.
fn tables_of(level: u32, start: u64, end: u64) -> u64 {
    let span = TABLE_SPAN * ENTRIES.pow(level - 1);
    (end - 1) / span - start / span + 1
}
