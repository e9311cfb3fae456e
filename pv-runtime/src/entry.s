# Where the hypervisor enters the kernel: first instruction, event upcall, failsafe callback, exceptions;
# and the notes by which a loader recognises the image. Intel syntax; the rest of start-up is `start.rs`.

# ---- Notes for the domain builder (public/elfnote.h) ---------------------------------------------------

.macro note_header type, length
    .align 4
    .long 4                     # length of the name "Xen" with its final zero
    .long \length
    .long \type
    .asciz "Xen"
.endm

.macro note_string type, text:vararg
    note_header \type, "(9f - 8f)"
8:  .asciz \text
9:  .align 4
.endm

.macro note_number type, value:vararg
    note_header \type, 8
    .quad \value
.endm

.pushsection .note.Xen, "a", @note
    note_string  6, "Weir"                          # GUEST_OS
    note_string  7, "0.1"                           # GUEST_VERSION
    note_string  5, "xen-3.0"                       # XEN_VERSION, the only one there is
    note_string  8, "generic"                       # LOADER
    note_string  9, "yes"                           # PAE_MODE
    note_string 10, "pae_pgdir_above_4gb"            # FEATURES
    note_number  3, 0xffffffff80000000              # VIRT_BASE
    note_number  4, 0                               # PADDR_OFFSET: load addresses are pseudo-physical
    note_number  1, _start                          # ENTRY
    note_number  2, hypercall_page                  # HYPERCALL_PAGE
.popsection

# ---- The hypercall page: the builder writes 32 bytes of code for each hypercall number ------------------

.pushsection .text.entry, "ax", @progbits
.align 4096
.global hypercall_page
hypercall_page:
    .fill 4096, 1, 0xcc

# ---- First instruction: rsi points to start_info, events are masked --------------------------------------

.global _start
_start:
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rip + {started_at}], rax
    cld
    mov rdi, rsi
    lea rsp, [rip + boot_stack_top]
    xor ebp, ebp
    call {start}
    ud2

# ---- Event upcall ------------------------------------------------------------------------------------------
#
# Runs only when SCHEDOP_block unmasks events, for the executor keeps them masked at all other times. Entry
# has masked them again, which is all that is wanted: go back to the executor, which looks for the ports.
# Frame: rcx, r11, rip, cs, rflags, rsp, ss.

.global event_upcall
event_upcall:
    inc qword ptr [rip + {upcalls}]
    pop rcx
    pop r11
    or byte ptr [rsp + 8], 3    # the saved selector's privilege level is 0 for "the kernel itself"
    iretq

# ---- Failsafe callback: the hypervisor could not load a saved segment selector ---------------------------
#
# This kernel never loads one, so this is a fault like others, with four words more in its frame: rcx, r11, ds,
# es, fs, gs, then what could not be returned to.

.global failsafe_callback
failsafe_callback:
    pop rcx
    pop r11
    add rsp, 32
    push 0
    push 255
    jmp trap_common

# ---- Exceptions ------------------------------------------------------------------------------------------------
#
# Frame: rcx, r11, the error code if the exception has one, rip, cs, rflags, rsp, ss. Every stub brings the
# stack to one form, `TrapFrame` in traps.rs.

.macro trap_stub vector, has_error_code
trap_\vector:
    pop rcx
    pop r11
.if \has_error_code == 0
    push 0
.endif
    push \vector
    jmp trap_common
.endm

trap_stub 0, 0
trap_stub 1, 0
trap_stub 2, 0
trap_stub 3, 0
trap_stub 4, 0
trap_stub 5, 0
trap_stub 6, 0
trap_stub 7, 0
trap_stub 8, 1
trap_stub 9, 0
trap_stub 10, 1
trap_stub 11, 1
trap_stub 12, 1
trap_stub 13, 1
trap_stub 14, 1
trap_stub 16, 0
trap_stub 17, 1
trap_stub 18, 0
trap_stub 19, 0

trap_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    cld
    mov rbp, rsp
    and rsp, -16
    call {trap}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16                 # vector and error code
    or byte ptr [rsp + 8], 3
    iretq

# ---- Calling a function that may fault -----------------------------------------------------------------------
#
# catch_call(rdi: function, rsi: its argument, rdx: where to keep the stack pointer) returns 0. On a fault,
# the trap handler goes on at catch_landing with that stack pointer and something else in rax.

.global catch_call
catch_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rdx], rsp
    sub rsp, 8                  # the callee's stack must be aligned
    mov rax, rdi
    mov rdi, rsi
    call rax
    add rsp, 8
    xor eax, eax
.global catch_landing
catch_landing:
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
.popsection

.pushsection .rodata.trap_entries, "a", @progbits
.align 8
.global trap_entries
trap_entries:
    .quad trap_0, trap_1, trap_2, trap_3, trap_4, trap_5, trap_6, trap_7, trap_8, trap_9
    .quad trap_10, trap_11, trap_12, trap_13, trap_14, 0, trap_16, trap_17, trap_18, trap_19
.popsection

# ---- A scratch page; the stack, over a page that start-up unmaps so that an overflow is a fault ----------

.pushsection .bss.pages, "aw", @nobits
.align 4096
.global scratch_page            # its address serves while page tables are made; it holds nothing
scratch_page:
    .skip 4096
.global boot_stack_guard
boot_stack_guard:
    .skip 4096
    .skip {stack_bytes}
boot_stack_top:
.popsection
