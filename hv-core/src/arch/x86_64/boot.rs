#![expect(unsafe_code, reason = "the first instructions after the boot loader")]
//! From the boot loader's 32-bit world to Rust.
//!
//! One file carries two entries' worth of notes: PVH (QEMU's `-kernel`) and multiboot2 (GRUB on BIOS and UEFI).
//! Both enter at `boot_entry` in 32-bit protected mode without paging; `eax` tells them apart and `ebx` holds the
//! boot information. The code here makes page tables that map the first 4 GiB twice (at 0, and where the direct
//! map will be) and the image at its own address, enters long mode, and calls [`super::start::start`].
//!
//! Everything in `.boot.*` is linked at its physical address, because it runs before paging is on.

use core::arch::global_asm;

/// `eax` of a multiboot2 loader.
pub const MULTIBOOT2_MAGIC: u32 = 0x36d7_6289;

/// From protected mode to the boot page tables, on any processor: the far jump to 64-bit code is left to do.
macro_rules! turn_paging_on {
    () => {
        r#"
    mov eax, cr4
    or eax, 1 << 5                  # PAE
    mov cr4, eax
    mov eax, offset boot_l4
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER: long mode, SYSCALL, no-execute
    rdmsr
    or eax, (1 << 8) | (1 << 0) | (1 << 11)
    wrmsr
    mov eax, 0x80010033             # paging, write protection, protected mode; caches, which a reset turns off, on
    mov cr0, eax
    "#
    };
}
pub(super) use turn_paging_on;

global_asm!(
    r#"
    .section .boot.header, "a"
    .balign 8
multiboot2_header:
    .long 0xe85250d6                # magic
    .long 0                         # architecture: i386 protected mode
    .long multiboot2_header_end - multiboot2_header
    .long -(0xe85250d6 + 0 + (multiboot2_header_end - multiboot2_header))
    .balign 8
    .short 6, 0                     # modules on page boundaries
    .long 8
    .balign 8
    .short 0, 0                     # end
    .long 8
multiboot2_header_end:

    .section .note.Xen, "a", @note
    .balign 4
    .long 4                         # name size
    .long 4                         # descriptor size
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long boot_entry

    .section .boot.text, "ax"
    .code32
    .global boot_entry
boot_entry:
    cli
    cld
    mov esp, offset boot_stack_end
    mov esi, eax                    # magic
    mov edi, ebx                    # boot information

    mov eax, 0x80000001             # long mode and no-execute are needed
    cpuid
    test edx, 1 << 29
    jz no_long_mode
    test edx, 1 << 20
    jz no_long_mode

    mov ecx, 2048                   # four tables of 2 MiB pages: the first 4 GiB
    mov eax, 0x83                   # present, writable, large
    mov ebx, offset boot_l2
2:  mov [ebx], eax
    mov dword ptr [ebx + 4], 0
    add eax, 0x200000
    add ebx, 8
    loop 2b

    mov ecx, 4
    mov eax, offset boot_l2 + 3
    mov ebx, offset boot_l3_low
3:  mov [ebx], eax
    add eax, 0x1000
    add ebx, 8
    loop 3b

    mov eax, offset boot_l2 + 3     # the image's gigabyte is the first of memory
    mov [boot_l3_image + {image_l3} * 8], eax
    mov eax, offset boot_l3_low + 3
    mov [boot_l4], eax
    mov [boot_l4 + {direct_l4} * 8], eax
    mov eax, offset boot_l3_image + 3
    mov [boot_l4 + {image_l4} * 8], eax

    "#,
    turn_paging_on!(),
    r#"
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset boot_long_mode
    push eax
    retf

no_long_mode:
    mov ebx, offset boot_message
4:  mov al, [ebx]
    test al, al
    jz 5f
    mov dx, 0x3f8
    out dx, al
    inc ebx
    jmp 4b
5:  hlt
    jmp 5b
boot_message:
    .asciz "WEIR PANIC: this CPU has no 64-bit mode with no-execute\r\n"

    .code64
boot_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edx, edi
    mov edi, esi
    mov esi, edx
    movabs rax, offset {start}
    movabs rsp, offset {stack_top}   # holds the address of the boot CPU's data
    mov rsp, [rsp]
    xor ebp, ebp
    call rax
    ud2

    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        # 64-bit code
boot_gdt_pointer:
    .short 15
    .quad boot_gdt

    .section .boot.bss, "aw", @nobits
    .balign 4096
boot_l4: .skip 4096
boot_l3_low: .skip 4096
boot_l3_image: .skip 4096
boot_l2: .skip 4 * 4096
boot_stack: .skip 512
boot_stack_end:
"#,
    image_l3 = const (crate::layout::IMAGE_BASE >> 30) & 511,
    image_l4 = const (crate::layout::IMAGE_BASE >> 39) & 511,
    direct_l4 = const (crate::layout::DIRECT_MAP_BASE >> 39) & 511,
    start = sym super::start::start,
    stack_top = sym super::cpu::BOOT_STACK_TOP,
);
