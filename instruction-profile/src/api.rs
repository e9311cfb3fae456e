//! The part of QEMU's plugin interface (`qemu-plugin.h`, version 3 and later) that is used.

use core::ffi::{c_int, c_uint, c_void};

/// A plugin as QEMU knows it.
pub type PluginId = u64;

/// What QEMU tells of itself; not looked at.
#[repr(C)]
pub struct Info {
    _private: [u8; 0],
}

/// A block in translation.
#[repr(C)]
pub struct TranslationBlock {
    _private: [u8; 0],
}

/// An instruction of such a block.
#[repr(C)]
pub struct Instruction {
    _private: [u8; 0],
}

/// `QEMU_PLUGIN_CB_NO_REGS`: a callback does not look at the machine's registers.
pub const NO_REGISTERS: c_int = 0;

/// Called when something is executed, with the virtual processor's number.
pub type Executed = extern "C" fn(c_uint, *mut c_void);

unsafe extern "C" {
    /// Has a function called for every block that is translated.
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(
        id: PluginId,
        callback: extern "C" fn(PluginId, *mut TranslationBlock),
    );
    /// Has a function called when QEMU ends.
    pub fn qemu_plugin_register_atexit_cb(
        id: PluginId,
        callback: extern "C" fn(PluginId, *mut c_void),
        data: *mut c_void,
    );
    /// Has a function called whenever a block is executed.
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        block: *mut TranslationBlock,
        callback: Executed,
        registers: c_int,
        data: *mut c_void,
    );
    /// Has a function called whenever an instruction is executed.
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        callback: Executed,
        registers: c_int,
        data: *mut c_void,
    );
    /// The number of a block's instructions.
    pub fn qemu_plugin_tb_n_insns(block: *const TranslationBlock) -> usize;
    /// The address of a block's first instruction.
    pub fn qemu_plugin_tb_vaddr(block: *const TranslationBlock) -> u64;
    /// One of a block's instructions.
    pub fn qemu_plugin_tb_get_insn(block: *const TranslationBlock, place: usize) -> *mut Instruction;
    /// Copies an instruction's bytes, and says how many were copied.
    pub fn qemu_plugin_insn_data(instruction: *const Instruction, to: *mut c_void, length: usize) -> usize;
    /// The length of an instruction in bytes.
    pub fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    /// The address of an instruction.
    pub fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
}
