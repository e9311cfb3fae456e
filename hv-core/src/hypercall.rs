//! The one door from a guest into the hypervisor.
//!
//! Every hypercall has the same shape: a [`Caller`], up to six argument words, and a [`HypercallResult`]. It
//! checks everything first and then commits with steps that cannot fail. A long one does a bounded piece, writes
//! its progress into its arguments, and returns [`HypercallError::Restart`]: the guest executes the same
//! instruction again, after any interrupt that was waiting.

use crate::{
    console, descriptor,
    domain::{Domain, DomainRef},
    domctl, event_channel, grant_table, guest_control, memory_op, mmu, multicall, physdev, platform_op,
    sched_op, sysctl, time, trap,
    vcpu::{Context, Vcpu},
    vcpu_op, version,
};
use hypercall_abi::{DomainId, Errno, xen::*};

/// Who calls: the running vCPU, its domain, and its exclusive state.
pub struct Caller<'a> {
    /// Registers and private state of the running vCPU.
    pub context: &'a mut Context,
    /// Its shared half.
    pub vcpu: &'a Vcpu,
    /// Its domain.
    pub domain: &'a Domain,
}

/// How a hypercall can fail to complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypercallError {
    /// The guest gets this error.
    Errno(Errno),
    /// Not finished: the arguments in the caller's registers are up to date, execute it again.
    Restart,
}

impl From<Errno> for HypercallError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// What a hypercall returns to its guest.
pub type HypercallResult = Result<u64, HypercallError>;

/// Argument words in the order of the ABI: rdi, rsi, rdx, r10, r8, r9.
pub type Arguments = [u64; 6];

impl Caller<'_> {
    /// Writes argument `index` back, for a hypercall that will be restarted.
    pub fn set_argument(&mut self, index: usize, value: u64) {
        let registers = &mut self.context.registers;
        match index {
            0 => registers.rdi = value,
            1 => registers.rsi = value,
            2 => registers.rdx = value,
            3 => registers.r10 = value,
            4 => registers.r8 = value,
            _ => registers.r9 = value,
        }
    }

    /// The domain a hypercall names: the caller itself for `DOMID_SELF` or its own number, another one only for
    /// the control domain.
    ///
    /// # Errors
    /// `ESRCH` when there is none, `EPERM` when the caller has no business with it.
    pub fn target(&self, id: DomainId) -> Result<DomainRef, Errno> {
        let id = if id == DomainId::SELF { self.domain.id } else { id };
        if id != self.domain.id && !self.domain.is_privileged {
            return Err(Errno::EPERM);
        }
        crate::domain::find(id).ok_or(Errno::ESRCH)
    }
}

/// A hypercall's implementation.
type Handler = fn(&mut Caller<'_>, &Arguments) -> HypercallResult;

/// Entries in the table; every number from here on is `ENOSYS`.
const TABLE_SIZE: usize = 40;

/// Which hypercalls there are. `iret` is not among them: it replaces the registers instead of returning a value.
static TABLE: [Option<Handler>; TABLE_SIZE] = {
    let mut table: [Option<Handler>; TABLE_SIZE] = [None; TABLE_SIZE];
    table[HYPERVISOR_SET_TRAP_TABLE as usize] = Some(trap::set_trap_table);
    table[HYPERVISOR_MMU_UPDATE as usize] = Some(mmu::mmu_update);
    table[HYPERVISOR_SET_GDT as usize] = Some(descriptor::set_gdt);
    table[HYPERVISOR_STACK_SWITCH as usize] = Some(guest_control::stack_switch);
    table[HYPERVISOR_SET_CALLBACKS as usize] = Some(guest_control::set_callbacks);
    table[HYPERVISOR_FPU_TASKSWITCH as usize] = Some(guest_control::fpu_taskswitch);
    table[HYPERVISOR_PLATFORM_OP as usize] = Some(platform_op::platform_op);
    table[HYPERVISOR_SET_DEBUGREG as usize] = Some(guest_control::set_debugreg);
    table[HYPERVISOR_GET_DEBUGREG as usize] = Some(guest_control::get_debugreg);
    table[HYPERVISOR_UPDATE_DESCRIPTOR as usize] = Some(descriptor::update_descriptor);
    table[HYPERVISOR_MEMORY_OP as usize] = Some(memory_op::memory_op);
    table[HYPERVISOR_MULTICALL as usize] = Some(multicall::multicall);
    table[HYPERVISOR_UPDATE_VA_MAPPING as usize] = Some(mmu::update_va_mapping);
    table[HYPERVISOR_SET_TIMER_OP as usize] = Some(time::set_timer_op);
    table[HYPERVISOR_XEN_VERSION as usize] = Some(version::xen_version);
    table[HYPERVISOR_CONSOLE_IO as usize] = Some(console::console_io);
    table[HYPERVISOR_GRANT_TABLE_OP as usize] = Some(grant_table::grant_table_op);
    table[HYPERVISOR_VM_ASSIST as usize] = Some(guest_control::vm_assist);
    table[HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN as usize] = Some(mmu::update_va_mapping_otherdomain);
    table[HYPERVISOR_VCPU_OP as usize] = Some(vcpu_op::vcpu_op);
    table[HYPERVISOR_SET_SEGMENT_BASE as usize] = Some(guest_control::set_segment_base);
    table[HYPERVISOR_MMUEXT_OP as usize] = Some(mmu::mmuext_op);
    table[HYPERVISOR_SCHED_OP as usize] = Some(sched_op::sched_op);
    table[HYPERVISOR_CALLBACK_OP as usize] = Some(guest_control::callback_op);
    table[HYPERVISOR_EVENT_CHANNEL_OP as usize] = Some(event_channel::event_channel_op);
    table[HYPERVISOR_PHYSDEV_OP as usize] = Some(physdev::physdev_op);
    table[HYPERVISOR_SYSCTL as usize] = Some(sysctl::sysctl);
    table[HYPERVISOR_DOMCTL as usize] = Some(domctl::domctl);
    table
};

/// Performs the call of this number; `multicall` enters here too.
///
/// # Errors
/// `ENOSYS` for a number without a call, and what the call says.
#[inline]
pub fn call(caller: &mut Caller<'_>, number: u64, arguments: &Arguments) -> HypercallResult {
    match TABLE.get(number as usize) {
        Some(Some(handler)) => handler(caller, arguments),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Length of the SYSCALL instruction, which a restarted hypercall executes again.
const SYSCALL_LENGTH: u64 = 2;

/// A guest's kernel executed SYSCALL: performs the hypercall its registers ask for.
#[inline]
pub fn dispatch(caller: &mut Caller<'_>) {
    let registers = &caller.context.registers;
    let number = registers.rax;
    if number == HYPERVISOR_IRET {
        if let Ok(value) = trap::iret(caller) {
            caller.context.registers.rax = value;
        }
        return;
    }
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    match call(caller, number, &arguments) {
        Ok(value) => caller.context.registers.rax = value,
        Err(HypercallError::Errno(errno)) => caller.context.registers.rax = errno.to_return() as u64,
        Err(HypercallError::Restart) => {
            let registers = &mut caller.context.registers;
            registers.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
        }
    }
}
