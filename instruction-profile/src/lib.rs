#![expect(unsafe_code, reason = "speaks QEMU's plugin interface, which is C")]
//! A plugin for QEMU that counts which instructions are executed between two places in the code.
//!
//! ```text
//! -plugin libinstruction_profile.so,begin=ADDRESS,end=ADDRESS,record=FILE
//! ```
//!
//! A *round* begins when the instruction at `begin` is executed and ends with the one at `end`. QEMU translates
//! straight pieces of code, *blocks*, and tells the plugin of each once when it is translated and whenever it is executed.
//! The record, written when QEMU ends, is text:
//!
//! ```text
//! block NUMBER ADDRESS SIZES BYTES     SIZES of its instructions, with commas; BYTES and ADDRESS in hexadecimal
//! round
//! count NUMBER TIMES                   how often that block was executed in the round
//! ```
//!
//! Only one virtual processor is supported, which is what counting instructions means anyway. A block that is left by
//! an exception counts whole.

mod api;
mod recorder;

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::slice;
use std::sync::OnceLock;

use api::{Info, Instruction, PluginId, TranslationBlock};
use recorder::{Block, Recorder, Settings};

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// The version of QEMU's plugin interface that this was written for; QEMU looks at it before it calls
/// [`qemu_plugin_install`].
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 3;

/// Called by QEMU when it has loaded the plugin. Anything but 0 makes it give up.
///
/// # Safety
/// `arguments` must be `count` C strings, as QEMU promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: PluginId,
    _info: *const Info,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: the caller's promise.
    let words: Vec<_> = unsafe { slice::from_raw_parts(arguments, usize::try_from(count).unwrap_or(0)) }
        .iter()
        // SAFETY: as above.
        .map(|&word| unsafe { CStr::from_ptr(word) }.to_string_lossy().into_owned())
        .collect();
    let settings = match Settings::read(&words) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("instruction-profile: {error:#}");
            return 1;
        }
    };
    RECORDER.get_or_init(|| Recorder::new(settings));
    // SAFETY: `id` is from QEMU, and the functions are as the interface wants them.
    unsafe {
        api::qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
        api::qemu_plugin_register_atexit_cb(id, ended, core::ptr::null_mut());
    }
    0
}

/// QEMU has translated a block.
extern "C" fn translated(_id: PluginId, block: *mut TranslationBlock) {
    let Some(recorder) = RECORDER.get() else { return };
    // SAFETY: QEMU lends the block and its instructions for this call.
    let instructions: Vec<_> = unsafe {
        (0..api::qemu_plugin_tb_n_insns(block))
            .map(|place| api::qemu_plugin_tb_get_insn(block, place))
            .collect()
    };
    // SAFETY: as above.
    let address = unsafe { api::qemu_plugin_tb_vaddr(block) };
    let known = recorder.block(address, instructions.iter().map(|&instruction| bytes(instruction)).collect());
    // SAFETY: the callback gets what it expects, which lives for ever.
    unsafe {
        let user_data = core::ptr::from_ref(known).cast_mut().cast();
        api::qemu_plugin_register_vcpu_tb_exec_cb(block, executed, api::NO_REGISTERS, user_data);
    }
    for instruction in instructions {
        // SAFETY: as above.
        let address = unsafe { api::qemu_plugin_insn_vaddr(instruction) };
        let callback = match address {
            address if address == recorder.settings.begin => began,
            address if address == recorder.settings.end => finished,
            _ => continue,
        };
        // SAFETY: the callbacks use no data.
        unsafe {
            let none = core::ptr::null_mut();
            api::qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, api::NO_REGISTERS, none);
        }
    }
}

/// An instruction's bytes.
fn bytes(instruction: *mut Instruction) -> Vec<u8> {
    // SAFETY: the instruction is lent by QEMU; no more than the buffer's length is written.
    unsafe {
        let mut bytes = vec![0; api::qemu_plugin_insn_size(instruction)];
        api::qemu_plugin_insn_data(instruction, bytes.as_mut_ptr().cast(), bytes.len());
        bytes
    }
}

extern "C" fn executed(_processor: c_uint, block: *mut c_void) {
    // SAFETY: registered with a block that lives for ever.
    let block = unsafe { &*block.cast::<Block>() };
    block.count_one();
}

extern "C" fn began(_processor: c_uint, _data: *mut c_void) {
    if let Some(recorder) = RECORDER.get() {
        recorder.begin();
    }
}

extern "C" fn finished(_processor: c_uint, _data: *mut c_void) {
    if let Some(recorder) = RECORDER.get() {
        recorder.end();
    }
}

/// QEMU ends.
extern "C" fn ended(_id: PluginId, _data: *mut c_void) {
    let Some(recorder) = RECORDER.get() else { return };
    if let Err(error) = recorder.write() {
        eprintln!("instruction-profile: {error:#}");
    }
}
