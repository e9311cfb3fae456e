//! The domain builder: from a kernel's file to a paused domain that can take its first step.
//!
//! Steps, each of which may fail and leaves a domain that only has to be destroyed then:
//!
//! 1. an empty domain, its virtual CPUs and its memory;
//! 2. a port each for store and console, in the new domain;
//! 3. kernel, module, frame list, start information and page tables, through a window;
//! 4. two grants by which this domain reaches the store's and the console's pages later on: its right to map the
//!    domain's frames ends when the domain first runs;
//! 5. the hypervisor checks the page tables, and takes the first registers.

use alloc::borrow::Cow;
use core::mem::{offset_of, size_of};

use domain_image::{DomainMemory, Entry, Image, Layout, Plan, StartInfoFields};
use hypercall_abi::arch_x86::*;
use hypercall_abi::domctl::XEN_DOMINF_DYING;
use hypercall_abi::grant_table::{
    GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE, GTF_PERMIT_ACCESS, GrantEntryV1,
};
use hypercall_abi::xen::{SharedInfo, VcpuInfo, XEN_LEGACY_MAX_VCPUS};
use hypercall_abi::{DomainId, Errno, MachineFrame, PAGE_SIZE, Port, PseudoPhysicalFrame, VcpuId};
use kernel_file::{KernelFile, KernelFileError};
use pv_runtime::executor::yield_now;
use pv_runtime::memory::SharedMemory;

use super::control;
use super::destruction::take_apart;
use super::error::{CreateError, Shortage};
use super::faults::Faults;
use super::handle::Handle;
use super::memory::NewMemory;

/// Pages in a MiB.
const PAGES_PER_MIB: u64 = (1 << 20) / PAGE_SIZE as u64;
/// KiB of places beyond its memory that a guest is told of, as `xl` does, for kernels that need some without memory.
const MEMORY_SLACK: u64 = 8 * 1024;
/// The x87 control word and the SSE control word as processors have them after a reset.
const FPU_CONTROL: u16 = 0x037f;
const SSE_CONTROL: u32 = 0x1f80;
/// Where the two lie in the state.
const FPU_CONTROL_OFFSET: usize = 0;
const SSE_CONTROL_OFFSET: usize = 24;
/// Flags register: interrupts on.
const INTERRUPT_FLAG: u64 = 1 << 9;

/// What a domain is to be built from.
pub struct Parts<'a> {
    /// The name of the kernel's file, for messages.
    pub kernel_name: &'a str,
    /// The kernel's file: ELF or bzImage.
    pub kernel: &'a [u8],
    /// Its module; empty for none.
    pub module: &'a [u8],
    /// Its command line.
    pub command_line: &'a str,
    /// Its memory in MiB.
    pub memory: u64,
    /// Its virtual CPUs; it starts the first and brings up the others itself.
    pub vcpus: u32,
    /// The memory in MiB up to which it may grow.
    pub most_memory: u64,
    /// Its handle.
    pub handle: Handle,
    /// A step that is to fail.
    pub faults: &'a Faults,
}

/// A built domain, still paused.
#[derive(Clone, Copy, Debug)]
pub struct BuiltDomain {
    /// Its number.
    pub domain: DomainId,
    /// Frame of its store page and the port that goes with it.
    pub store: (MachineFrame, Port),
    /// Frame of its console page and the port that goes with it.
    pub console: (MachineFrame, Port),
}

/// Builds a domain.
///
/// # Errors
///
/// [`CreateError`]; nothing is left of the domain then.
pub async fn build(parts: &Parts<'_>) -> Result<BuiltDomain, CreateError> {
    let kernel = unpack(parts).await?;
    let (image, layout) = plan(&kernel, parts)?;
    check_free_memory(parts.memory)?;
    let create = || control::create_domain(parts.handle.0, parts.vcpus);
    let domain = parts.faults.step("create a domain", create)?;
    let built = furnish(domain, &image, &layout, parts.memory * PAGES_PER_MIB, parts).await;
    if built.is_err() {
        take_apart(domain).await;
    }
    built
}

/// Finds out whether a domain could be built by now.
///
/// # Errors
///
/// As [`build`], as far as it can be known beforehand.
pub async fn try_out(parts: &Parts<'_>) -> Result<(), CreateError> {
    let kernel = unpack(parts).await?;
    plan(&kernel, parts)?;
    check_free_memory(parts.memory)
}

/// A kernel as an ELF file.
async fn unpack<'a>(parts: &Parts<'a>) -> Result<Cow<'a, [u8]>, CreateError> {
    let kernel = unpack_file(parts.kernel).await;
    kernel.map_err(|error| CreateError::Packed { file: parts.kernel_name.into(), error })
}

/// Unpacks a kernel, and lets other tasks run meanwhile.
async fn unpack_file(file: &[u8]) -> Result<Cow<'_, [u8]>, KernelFileError> {
    match KernelFile::open(file)? {
        KernelFile::Plain(content) => Ok(Cow::Borrowed(content)),
        KernelFile::Packed(mut unpacking) => {
            while !unpacking.step()? {
                yield_now().await;
            }
            Ok(Cow::Owned(unpacking.finish()?))
        }
    }
}

fn plan<'a>(kernel: &'a [u8], parts: &Parts<'_>) -> Result<(Image<'a>, Layout), CreateError> {
    let image =
        Image::parse(kernel).map_err(|error| CreateError::Image { file: parts.kernel_name.into(), error })?;
    let pages = parts.memory * PAGES_PER_MIB;
    let plan = Plan { pages, module: parts.module.len() as u64, has_store_and_console: true };
    let layout = Layout::plan(&image, &plan)?;
    Ok((image, layout))
}

/// Says how much memory is missing before anything is made.
fn check_free_memory(needed: u64) -> Result<(), CreateError> {
    let shortage = memory_beside(needed).map_err(CreateError::in_step("tell of the machine's memory"))?;
    if needed > shortage.free { Err(CreateError::Memory(shortage)) } else { Ok(()) }
}

/// Where the machine's memory is, when so many MiB are needed.
fn memory_beside(needed: u64) -> Result<Shortage, Errno> {
    let machine = control::physical_info()?;
    let held = control::list_domains()?.into_iter().filter(|info| info.flags & XEN_DOMINF_DYING != 0);
    Ok(Shortage {
        needed,
        free: machine.free_pages.saturating_sub(machine.outstanding_pages) / PAGES_PER_MIB,
        claimed: machine.outstanding_pages / PAGES_PER_MIB,
        held: held.map(|info| (info.domain, info.tot_pages.div_ceil(PAGES_PER_MIB))).collect(),
    })
}

async fn furnish(
    domain: DomainId,
    image: &Image<'_>,
    layout: &Layout,
    pages: u64,
    parts: &Parts<'_>,
) -> Result<BuiltDomain, CreateError> {
    let faults = parts.faults;
    faults.step("create its virtual CPUs", || control::create_vcpus(domain, parts.vcpus))?;
    faults.step("limit its memory", || control::limit_memory(domain, parts.most_memory * 1024))?;
    let told = parts.most_memory * 1024 + MEMORY_SLACK;
    faults.step("tell it of its memory", || control::tell_memory(domain, told))?;
    // From here on nobody else gets the memory that this guest is still to be given.
    let claimed = faults.pass().and_then(|()| control::claim_memory(domain, pages));
    claimed.map_err(|errno| shortage(parts.memory, errno))?;
    let memory = NewMemory::populate(domain, pages, faults).await;
    let mut memory = memory.map_err(|errno| shortage(parts.memory, errno))?;
    let open_port = || faults.step("open a port", || control::open_port_in(domain));
    let (store_port, console_port) = (open_port()?, open_port()?);
    let shared_info = faults.step("tell of the domain", || control::domain_info(domain))?;
    let shared_info = MachineFrame(shared_info.shared_info_frame);
    let fields = StartInfoFields {
        pages,
        shared_info,
        flags: 0,
        ports: Some((store_port, console_port)),
        command_line: parts.command_line,
        module_size: parts.module.len() as u64,
    };
    let build = || domain_image::build(image, layout, parts.module, &fields, &mut memory);
    let entry = faults.step("map its memory", build)?;
    faults.step("map its shared page", || mask_events(&memory, shared_info))?;
    let frame_of = |place: Option<u64>| memory.machine_frame(PseudoPhysicalFrame(place.unwrap_or_default()));
    let (store, console) = (frame_of(layout.store), frame_of(layout.console));
    faults.step("map its grant table", || grant_rings(&memory, domain, store, console))?;
    memory.close();
    if let Some(page) = image.hypercall_page {
        let frame = memory.machine_frame(PseudoPhysicalFrame((page - image.virt_base) / PAGE_SIZE as u64));
        faults.step("fill its hypercall page", || control::fill_hypercall_page(domain, frame))?;
    }
    begin(domain, &entry, faults)?;
    Ok(BuiltDomain { domain, store: (store, store_port), console: (console, console_port) })
}

/// Memory that was free a moment ago, or only in the hypervisor's books, may not be had after all.
fn shortage(needed: u64, errno: Errno) -> CreateError {
    match (errno, memory_beside(needed)) {
        (Errno::ENOMEM, Ok(shortage)) => CreateError::Memory(shortage),
        _ => CreateError::Refused { step: "give it memory", errno },
    }
}

/// A guest starts with its events masked.
fn mask_events(memory: &NewMemory, shared_info: MachineFrame) -> Result<(), Errno> {
    memory.with_shared_frame(shared_info, |page| {
        for vcpu in 0..XEN_LEGACY_MAX_VCPUS {
            let offset = vcpu * size_of::<VcpuInfo>() + offset_of!(VcpuInfo, evtchn_upcall_mask);
            page.write_u8(offset_of!(SharedInfo, vcpu_info) + offset, 1);
        }
    })
}

/// Enters into the domain's grant table that this domain may map the pages of store and console.
fn grant_rings(
    memory: &NewMemory,
    domain: DomainId,
    store: MachineFrame,
    console: MachineFrame,
) -> Result<(), Errno> {
    let table = control::grant_table_frame(domain)?;
    let entries = [(GNTTAB_RESERVED_CONSOLE, console), (GNTTAB_RESERVED_XENSTORE, store)];
    let mut grants = [(0, GrantEntryV1::default()); 2];
    for (grant, (reference, frame)) in grants.iter_mut().zip(entries) {
        let frame = u32::try_from(frame.0).map_err(|_| Errno::ERANGE)?;
        *grant = (reference, GrantEntryV1 { flags: GTF_PERMIT_ACCESS, domid: DomainId::ZERO, frame });
    }
    memory.with_shared_frame(table, |page| {
        for (reference, entry) in grants {
            page.write(reference as usize * size_of::<GrantEntryV1>(), &entry);
        }
    })
}

/// Has the page tables checked, and sets the first registers.
fn begin(domain: DomainId, entry: &Entry, faults: &Faults) -> Result<(), CreateError> {
    faults.step("pin its page tables", || control::pin_root(domain, entry.root))?;
    let mut context = control::empty_context();
    context.flags = VGCF_IN_KERNEL | VGCF_ONLINE;
    context.fpu_ctxt[FPU_CONTROL_OFFSET..][..size_of::<u16>()].copy_from_slice(&FPU_CONTROL.to_le_bytes());
    context.fpu_ctxt[SSE_CONTROL_OFFSET..][..size_of::<u32>()].copy_from_slice(&SSE_CONTROL.to_le_bytes());
    context.user_regs.rip = entry.instruction;
    context.user_regs.rsp = entry.stack;
    context.user_regs.rsi = entry.start_info;
    context.user_regs.rflags = INTERRUPT_FLAG;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.kernel_ss = u64::from(FLAT_KERNEL_SS);
    context.kernel_sp = entry.stack;
    context.ctrlreg[3] = xen_pfn_to_cr3(entry.root.0);
    faults.step("set its registers", || control::set_context(domain, VcpuId(0), &context))
}
