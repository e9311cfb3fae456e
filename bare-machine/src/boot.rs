#![expect(unsafe_code, reason = "the first instructions after the boot loader")]
//! From the PVH entry, in 32-bit mode without paging, to Rust in 64-bit mode.
//!
//! One third-level table maps the first 512 GiB one to one in pages of a gigabyte. It stays in place under the kernel's
//! own page tables, in the first entry of their root, where such a kernel has nothing.

use core::arch::global_asm;

global_asm!(
    r#"
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
    mov edi, ebx                    # the boot loader's information

    mov ecx, 512                    # one table of pages of a gigabyte
    xor eax, eax
    mov ebx, offset boot_third_level
2:  mov dword ptr [ebx], 0x83       # present, writable, large
    mov edx, eax
    shl edx, 30
    or [ebx], edx
    mov edx, eax
    shr edx, 2
    mov [ebx + 4], edx
    inc eax
    add ebx, 8
    loop 2b
    mov eax, offset boot_third_level + 3
    mov [boot_root], eax

    mov eax, cr4
    or eax, 1 << 5                  # PAE
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER: long mode, no-execute
    rdmsr
    or eax, (1 << 8) | (1 << 11)
    wrmsr
    mov eax, cr0
    or eax, 0x80010001              # paging, write protection, protected mode
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset boot_long_mode
    push eax
    retf

    .code64
boot_long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    lea rsp, [rip + boot_stack_end]
    xor ebp, ebp
    call {start}
    ud2

    .section .rodata.boot, "a"
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        # 64-bit code
boot_gdt_pointer:
    .short 15
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_root: .skip 4096
    .global boot_third_level
boot_third_level: .skip 4096
boot_stack: .skip 64 * 1024
boot_stack_end:
"#,
    start = sym crate::load::start,
);
