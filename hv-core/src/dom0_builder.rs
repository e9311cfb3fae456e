//! Building the control domain: the only domain the hypervisor builds itself.
//!
//! The kernel and the boot archive come from the boot loader; what goes where is [`domain_image`]'s business. Every
//! other domain is built by the control domain.

use crate::{
    direct_map,
    domain::{Domain, DomainRef},
    frame,
    frame_allocator::{self, Limit, MAX_ORDER},
    hypercall::HypercallError,
    hypercall_page,
    layout::PAGE_SIZE,
    lifecycle::{self, Configuration},
    mmu,
    page_table::TableSession,
    scheduler,
    vcpu::not_runnable,
};
use core::{fmt, sync::atomic::Ordering};
use domain_image::{
    DomainMemory, Entry, Image, ImageError, Layout, LayoutError, Plan, StartInfoFields, build,
};
use hypercall_abi::{
    DomainId, Errno, MachineFrame, PseudoPhysicalFrame, VcpuId,
    arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS},
    xen::{SIF_INITDOMAIN, SIF_PRIVILEGED},
};

/// Why the control domain cannot be started.
#[derive(Debug)]
pub enum BuildError {
    /// Its kernel is no good.
    Image(ImageError),
    /// It has too little memory for what it is to start with.
    Layout(LayoutError),
    /// The machine has too little memory.
    Memory {
        /// Bytes that the domain is to have.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The hypervisor refused a step, such as its page tables.
    Refused(Errno),
}

impl From<ImageError> for BuildError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<LayoutError> for BuildError {
    fn from(error: LayoutError) -> Self {
        Self::Layout(error)
    }
}

impl From<Errno> for BuildError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => write!(f, "{error}"),
            Self::Layout(error) => write!(f, "{error}; give it more with dom0_mem="),
            Self::Memory { needed, free } => {
                write!(f, "dom0_mem= is {} MiB, but only {} MiB of memory are free", needed >> 20, free >> 20)
            }
            Self::Refused(errno) => write!(f, "{errno}"),
        }
    }
}

/// What the control domain is made of.
pub struct Parts<'a> {
    /// Its kernel's file.
    pub kernel: &'a [u8],
    /// Its module, the boot archive.
    pub archive: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// Bytes of memory.
    pub memory: u64,
}

/// Builds the control domain and lets it run.
///
/// # Errors
/// [`BuildError`].
pub fn start(parts: &Parts<'_>) -> Result<DomainRef, BuildError> {
    let image = Image::parse(parts.kernel)?;
    let pages = parts.memory / PAGE_SIZE;
    let free = frame_allocator::free_frames();
    if pages > free {
        return Err(BuildError::Memory { needed: parts.memory, free: free * PAGE_SIZE });
    }
    let module = parts.archive.len() as u64;
    let layout = Layout::plan(&image, &Plan { pages, module, has_store_and_console: false })?;
    let domain = lifecycle::create(&Configuration {
        id: DomainId::ZERO,
        is_privileged: true,
        handle: [0; 16],
        highest_port: u32::MAX,
        grant_frames: 64,
        maptrack_frames: 256,
        newest_grants: crate::grant_table::Version::Two,
    })?;
    lifecycle::create_vcpus(&domain, 1)?;
    let mut memory = Blocks::allocate(&domain, pages)?;
    let fields = StartInfoFields {
        pages,
        shared_info: domain.shared_info,
        flags: SIF_PRIVILEGED | SIF_INITDOMAIN,
        ports: None,
        command_line: parts.command_line,
        module_size: module,
    };
    let Ok(entry) = build(&image, &layout, parts.archive, &fields, &mut memory);
    if let Some(page) = image.hypercall_page {
        let frame = memory.machine_frame(PseudoPhysicalFrame((page - image.virt_base) / PAGE_SIZE));
        hypercall_page::write(&domain, frame)?;
    }
    begin(&domain, &entry)?;
    lifecycle::unpause(&domain)?;
    Ok(domain)
}

/// Gives the first vCPU its page tables and registers.
fn begin(domain: &Domain, entry: &Entry) -> Result<(), Errno> {
    let vcpu = domain.vcpu(VcpuId(0)).ok_or(Errno::ENOENT)?;
    {
        let _control = domain.control.lock();
        let context = vcpu.paused_context()?;
        // The domain finds its first tables pinned, and may unpin them once it has its own.
        to_the_end(|| TableSession::open(domain, PIECE)?.pin(entry.root, 4))?;
        to_the_end(|| mmu::install_root(domain, context, entry.root, None))?;
        context.registers.rip = entry.instruction;
        context.registers.rsp = entry.stack;
        context.registers.rsi = entry.start_info;
        context.registers.cs = FLAT_KERNEL_CS;
        context.registers.ss = FLAT_KERNEL_SS;
        context.registers.rflags = crate::trap::guest_flags(0);
        context.kernel_stack = (u64::from(FLAT_KERNEL_SS), entry.stack);
        vcpu.initialised.store(true, Ordering::Release);
    }
    scheduler::resume(vcpu, not_runnable::OFFLINE);
    Ok(())
}

/// Page-table entries to look at in one piece.
const PIECE: u32 = 1 << 16;

/// Does work in pieces until it is done.
fn to_the_end(mut work: impl FnMut() -> Result<(), HypercallError>) -> Result<(), Errno> {
    loop {
        match work() {
            Ok(()) => return Ok(()),
            Err(HypercallError::Restart) => {}
            Err(HypercallError::Errno(errno)) => return Err(errno),
        }
    }
}

/// Most blocks the control domain's memory comes in.
const MOST_BLOCKS: usize = 1024;

/// A run of frames of the domain that are a run of machine frames too.
#[derive(Clone, Copy)]
struct Block {
    first: u64,
    machine: MachineFrame,
    count: u64,
}

/// The control domain's memory: blocks as large as they are to be had.
struct Blocks {
    blocks: crate::frame_object::FrameBox<[Option<Block>; MOST_BLOCKS]>,
}

impl Blocks {
    fn allocate(domain: &Domain, pages: u64) -> Result<Self, Errno> {
        domain.memory.set_maximum(pages);
        let blocks = crate::frame_object::FrameBox::try_new([None; MOST_BLOCKS]).ok_or(Errno::ENOMEM)?;
        let mut memory = Self { blocks };
        let mut first = 0;
        let mut order = MAX_ORDER;
        for slot in memory.blocks.iter_mut() {
            if first == pages {
                return Ok(memory);
            }
            order = order.min((pages - first).ilog2());
            let machine = loop {
                match frame_allocator::allocate_for_domain(domain, order, Limit::Any) {
                    Ok(machine) => break machine,
                    Err(Errno::ENOMEM) if order > 0 => order -= 1,
                    Err(errno) => return Err(errno),
                }
            };
            let count = 1 << order;
            (0..count).for_each(|index| {
                frame::set_machine_to_physical(
                    MachineFrame(machine.0 + index),
                    PseudoPhysicalFrame(first + index),
                );
            });
            *slot = Some(Block { first, machine, count });
            first += count;
        }
        Err(Errno::ENOMEM)
    }
}

impl DomainMemory for Blocks {
    type Error = core::convert::Infallible;

    fn machine_frame(&self, frame: PseudoPhysicalFrame) -> MachineFrame {
        let holds = |block: &&Block| frame.0.wrapping_sub(block.first) < block.count;
        // Blocks are in order and all but the last few have the same size: look there first.
        let guess = self.blocks[(frame.0 >> MAX_ORDER) as usize % MOST_BLOCKS].as_ref().filter(holds);
        let block = guess.or_else(|| self.blocks.iter().flatten().find(holds));
        block.map_or(MachineFrame(u64::MAX), |block| MachineFrame(block.machine.0 + frame.0 - block.first))
    }

    fn write(&mut self, frame: PseudoPhysicalFrame, offset: usize, bytes: &[u8]) -> Result<(), Self::Error> {
        direct_map::write_bytes(self.machine_frame(frame), offset, bytes);
        Ok(())
    }
}
