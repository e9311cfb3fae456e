//! Guests that can be started, and the errors for those that cannot.

use super::*;
use crate::scratch::Scratch;

/// A scratch directory with a kernel: an ELF file with the notes of a paravirtual one, in 16 bytes of code.
fn scratch() -> Scratch {
    let scratch = Scratch::create(&std::env::temp_dir(), "weir-guest").unwrap();
    fs::write(scratch.join("kernel"), kernel(true)).unwrap();
    scratch
}

/// A kernel's file, with or without notes for Xen.
fn kernel(with_notes: bool) -> Vec<u8> {
    const BASE: u64 = 0xffff_ffff_8000_0000;
    const TEXT: u64 = 0x10_0000;
    let note = |kind: u32, value: &[u8]| {
        let head = [4, value.len() as u32, kind].map(u32::to_le_bytes).concat();
        [&head[..], b"Xen\0", value].concat()
    };
    let notes =
        [note(5, b"xen-3.0\0"), note(3, &BASE.to_le_bytes()), note(1, &(BASE + TEXT).to_le_bytes())].concat();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([0_u64, 64, 0].map(u64::to_le_bytes).concat());
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 2, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut header = |kind: u32, offset: usize, address: u64, length: usize| {
        file.extend([kind, 7].map(u32::to_le_bytes).concat());
        let numbers = [offset as u64, address, address, length as u64, length as u64, 4];
        file.extend(numbers.map(u64::to_le_bytes).concat());
    };
    let notes_at = 64 + 2 * 56;
    header(if with_notes { 4 } else { 0 }, notes_at, 0, notes.len());
    header(1, notes_at + notes.len(), TEXT, 16);
    file.extend(&notes);
    file.extend([0x90; 16]);
    file
}

fn guest(scratch: &Scratch) -> Guest {
    Guest {
        kernel: scratch.join("kernel"),
        ramdisk: None,
        command_line: String::new(),
        memory_mib: 64,
        vcpus: 1,
        disks: Vec::new(),
        nics: 0,
    }
}

/// What is wrong with a guest, with the scratch directory shown as `S`.
fn error(scratch: &Scratch, change: impl FnOnce(&mut Guest)) -> String {
    let mut guest = guest(scratch);
    change(&mut guest);
    let error = guest.check().map(|_| ()).unwrap_err();
    format!("{error:#}").replace(&scratch.path().display().to_string(), "S")
}

#[test]
fn a_good_guest_is_made_by_one_command() {
    let scratch = scratch();
    fs::write(scratch.join("ramdisk"), [7; 3000]).unwrap();
    fs::write(scratch.join("disk"), [0; 512]).unwrap();
    let mut guest = guest(&scratch);
    assert_eq!(guest.command(), "create -c guest kernel=kernel memory=64");
    guest.ramdisk = Some(scratch.join("ramdisk"));
    guest.vcpus = 2;
    guest.nics = 2;
    guest.command_line = "root=/dev/xvda x=\"a b\"".to_owned();
    guest.disks = vec![
        DiskImage::writable(scratch.join("disk")),
        DiskImage { is_read_only: true, ..DiskImage::writable(scratch.join("ramdisk")) },
    ];
    assert_eq!(
        guest.command(),
        "create -c guest kernel=kernel memory=64 ramdisk=ramdisk vcpus=2 disk=disk0,xvda,w disk=disk1,xvdb,r vif vif \
         cmdline=\"root=/dev/xvda x=\"'\"'\"a b\"'\"'\"\""
    );
    guest.disks.pop();
    let checked = guest.check().unwrap();
    let files: Vec<_> = checked.files().into_iter().map(|(name, content)| (name, content.len())).collect();
    assert_eq!(files, [("kernel", kernel(true).len()), ("ramdisk", 3000)]);
}

#[test]
fn memory_grows_with_what_is_to_be_unpacked_and_kept() {
    let scratch = scratch();
    let plain = guest(&scratch).check().unwrap();
    assert_eq!((plain.dom0_memory_mib(), plain.machine_memory_mib()), (98, 233));
    fs::write(scratch.join("ramdisk"), vec![1; 100 << 20]).unwrap();
    let big =
        Guest { ramdisk: Some(scratch.join("ramdisk")), memory_mib: 512, ..guest(&scratch) }.check().unwrap();
    assert_eq!((big.dom0_memory_mib(), big.machine_memory_mib()), (198, 901));
}

#[test]
fn files_that_are_no_kernels_are_named() {
    let scratch = scratch();
    let with_kernel = |content: &[u8]| {
        fs::write(scratch.join("kernel"), content).unwrap();
        error(&scratch, |_| ())
    };
    assert_eq!(with_kernel(b"#!/bin/sh"), "S/kernel: the kernel is no ELF file");
    assert_eq!(with_kernel(b""), "S/kernel: the kernel is no ELF file");
    assert_eq!(
        with_kernel(&kernel(false)),
        "S/kernel: the kernel has no Xen notes: it was built without paravirtual support"
    );
    let whole = kernel(true);
    let cut = with_kernel(&whole[..whole.len() - 1]);
    assert_eq!(
        cut,
        "S/kernel: the kernel's segment at 0xffffffff80100000 is outside its file or its address range"
    );
    let missing = error(&scratch, |guest| guest.kernel = scratch.join("none"));
    assert_eq!(missing, "the kernel S/none cannot be read: No such file or directory (os error 2)");
    let directory = error(&scratch, |guest| guest.kernel = scratch.path().to_owned());
    assert_eq!(directory, "the kernel S cannot be read: it is a directory");
}

/// A bzImage whose content is packed so badly that it is the ELF file itself, or what else is given.
fn bzimage(content: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&(content.len() as u32).to_le_bytes());
    file.extend(content);
    file
}

#[test]
fn bzimages_are_looked_into() {
    let scratch = scratch();
    let with_kernel = |content: &[u8]| {
        fs::write(scratch.join("kernel"), content).unwrap();
        error(&scratch, |_| ())
    };
    fs::write(scratch.join("kernel"), bzimage(&kernel(true))).unwrap();
    guest(&scratch).check().unwrap();
    assert_eq!(
        with_kernel(&bzimage(&kernel(false))),
        "S/kernel: the kernel has no Xen notes: it was built without paravirtual support"
    );
    let whole = bzimage(&kernel(true));
    let cut = with_kernel(&whole[..whole.len() - 9]);
    let (has, should) = (whole.len() - 9, whole.len());
    assert_eq!(
        cut,
        format!("S/kernel: the bzImage is cut short: it has {has} bytes and should have {should}")
    );
    let corrupt =
        with_kernel(&bzimage(b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\x10\0\0\0"));
    assert_eq!(corrupt, "S/kernel: the bzImage is damaged: gzip: it makes no sense");
}

#[test]
fn a_ramdisk_must_be_there_and_fit() {
    let scratch = scratch();
    fs::write(scratch.join("big"), vec![0; (65 << 20) + 1]).unwrap();
    fs::write(scratch.join("tight"), vec![0; 63 << 20]).unwrap();
    fs::write(scratch.join("empty"), []).unwrap();
    let with_ramdisk = |name: &str| error(&scratch, |guest| guest.ramdisk = Some(scratch.join(name)));
    assert_eq!(
        with_ramdisk("big"),
        "the RAM disk S/big has 66 MiB; that does not go into a memory of 64 MiB"
    );
    assert_eq!(
        with_ramdisk("tight"),
        "--memory 64 is too little: S/kernel and its RAM disk need 68 MiB to start"
    );
    assert_eq!(with_ramdisk("empty"), "the RAM disk S/empty is empty");
    assert_eq!(
        with_ramdisk("none"),
        "the RAM disk S/none cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn numbers_that_are_out_of_range_are_refused() {
    let scratch = scratch();
    assert_eq!(error(&scratch, |guest| guest.vcpus = 0), "--vcpus 0: a guest has 1 to 8 virtual CPUs");
    assert_eq!(error(&scratch, |guest| guest.vcpus = 9), "--vcpus 9: a guest has 1 to 8 virtual CPUs");
    assert_eq!(
        error(&scratch, |guest| guest.memory_mib = 0),
        "--memory 0: a guest has 1 to 65536 MiB of memory"
    );
    assert_eq!(
        error(&scratch, |guest| guest.memory_mib = 3),
        "--memory 3 is too little: S/kernel needs 4 MiB to start"
    );
    assert_eq!(
        error(&scratch, |guest| guest.command_line = "x".repeat(1024)),
        "the kernel's command line has 1024 bytes; there is room for 1023"
    );
    assert_eq!(
        error(&scratch, |guest| guest.command_line = "a\nb".to_owned()),
        "the kernel's command line must be one line"
    );
    assert_eq!(
        error(&scratch, |guest| guest.nics = 9),
        "a guest has at most 8 network interfaces; these are 9"
    );
    assert_eq!(
        error(&scratch, |guest| guest.disks = vec![DiskImage::writable(scratch.join("none"))]),
        "the disk S/none cannot be used: No such file or directory (os error 2)"
    );
}
