//! What a domain 0 on Xen consists of: which files of which packages, and scripts of our own in place of Debian's, which
//! want a whole Debian around them.

use std::path::{Path, PathBuf};

/// The package that always depends on the newest kernel. (The one for clouds cannot be a domain 0.)
pub const NEWEST_KERNEL: &str = "linux-image-amd64";
/// The other packages.
pub const PACKAGES: [&str; 21] = [
    "xen-hypervisor-4.17-amd64",
    "xen-utils-4.17",
    "xenstore-utils",
    "busybox-static",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libc6",
    "libgcc-s1",
    "liblzma5",
    "libuuid1",
    "libzstd1",
    "zlib1g",
];

/// The hypervisor as the package has it, beside where it goes.
pub const PACKED_XEN: &str = "xen.gz";
/// All usual programs in one.
pub const BUSYBOX: &str = "bin/busybox";
/// Where all libraries go.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// Where Xen's own programs are.
const TOOLS: &str = "usr/lib/xen-4.17/bin";
/// Those that are needed.
const TOOL_NAMES: [&str; 5] = ["xl", "xenstored", "xenconsoled", "xen-init-dom0", "libxl-save-helper"];
/// What the store is read and written with, under many names.
const STORE_TOOL: &str = "usr/bin/xenstore";
/// Those names, each after `xenstore-`.
const STORE_COMMANDS: [&str; 6] = ["exists", "list", "ls", "read", "rm", "write"];
/// Where kernel modules are.
const MODULES: &str = "modules";
/// The modules, in the order in which they are loaded.
const MODULE_NAMES: [&str; 19] = [
    "xen-privcmd",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-evtchn",
    "xenfs",
    "xen-blkback",
    "xen-netback",
    "llc",
    "stp",
    "bridge",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_ring",
    "virtio",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Directories of domain 0's file system, outer ones first.
pub const DIRECTORIES: [&str; 18] = [
    "bin",
    "dev",
    "etc/xen/scripts",
    LIBRARIES,
    "lib64",
    MODULES,
    "proc",
    "run/xen",
    "sbin",
    "sys",
    "tmp",
    "usr/bin",
    TOOLS,
    "var/lib/xen",
    "var/lib/xenstored",
    "var/lock",
    "var/log/xen",
    "var/run/xen",
];

/// Scripts of our own.
pub const SCRIPTS: [(&str, &str); 3] = [
    ("init", include_str!("init.sh")),
    ("etc/xen/scripts/block", include_str!("block.sh")),
    ("etc/xen/scripts/vif-bridge", include_str!("vif-bridge.sh")),
];

/// Symbolic links: where, and to what.
pub fn links() -> Vec<(String, String)> {
    let tools = TOOL_NAMES.map(|name| (format!("usr/bin/{name}"), format!("/{TOOLS}/{name}")));
    let store = STORE_COMMANDS.map(|name| (format!("{STORE_TOOL}-{name}"), format!("/{STORE_TOOL}")));
    let loader = (LOADER.to_owned(), format!("/{LIBRARIES}/ld-linux-x86-64.so.2"));
    tools.into_iter().chain(store).chain([loader]).collect()
}

/// The program that loads libraries, under the name that programs know.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// The kernel's package in what [`NEWEST_KERNEL`] depends on.
pub fn kernel_package(depends: &str) -> Option<&str> {
    let names = depends.split([',', '|']).filter_map(|clause| clause.split_ascii_whitespace().next());
    names.into_iter().find(|name| name.starts_with("linux-image-"))
}

/// Where a file of a package goes, if it is needed.
pub fn place(path: &Path) -> Option<PathBuf> {
    let (parent, name) = (path.parent()?, path.file_name()?.to_str()?);
    let in_tree = |path: &Path| Some(Path::new(super::TREE).join(path));
    if parent == Path::new("boot") {
        return match name {
            _ if name.starts_with("vmlinuz-") => Some(super::KERNEL.into()),
            _ if name.starts_with("xen-") && name.ends_with(".gz") => Some(PACKED_XEN.into()),
            _ => None,
        };
    }
    if [BUSYBOX, STORE_TOOL].iter().any(|wanted| path == Path::new(wanted)) {
        return in_tree(path);
    }
    if parent == Path::new(TOOLS) && TOOL_NAMES.contains(&name) {
        return in_tree(path);
    }
    if is_library(parent, name) {
        return in_tree(&Path::new(LIBRARIES).join(name));
    }
    let number = MODULE_NAMES.iter().position(|module| name == format!("{module}.ko"))?;
    in_tree(&Path::new(MODULES).join(format!("{number:02}-{name}")))
}

fn is_library(parent: &Path, name: &str) -> bool {
    let places = [Path::new(LIBRARIES).to_owned(), Path::new("usr").join(LIBRARIES)];
    places.iter().any(|place| parent == place) && name.contains(".so")
}

/// What must be there once all packages are unpacked.
pub fn needed() -> Vec<PathBuf> {
    let modules = MODULE_NAMES.iter().enumerate();
    let tools = TOOL_NAMES.iter().map(|name| format!("{TOOLS}/{name}"));
    let tree = modules.map(|(number, name)| format!("{MODULES}/{number:02}-{name}.ko")).chain(tools).chain([
        BUSYBOX.to_owned(),
        STORE_TOOL.to_owned(),
        format!("{LIBRARIES}/libc.so.6"),
    ]);
    let tree = tree.map(|path| Path::new(super::TREE).join(path));
    tree.chain([super::XEN.into(), super::KERNEL.into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        assert_eq!(
            kernel_package("linux-image-6.1.0-56-amd64 (= 6.1.1)"),
            Some("linux-image-6.1.0-56-amd64")
        );
        assert_eq!(kernel_package("linux-base"), None);
    }

    #[test]
    fn files_go_where_they_are_looked_for() {
        let place = |path: &str| place(Path::new(path)).map(|place| place.display().to_string());
        for (from, to) in [
            ("boot/vmlinuz-6.1.0-56-amd64", "vmlinuz"),
            ("boot/xen-4.17-amd64.gz", "xen.gz"),
            ("bin/busybox", "tree/bin/busybox"),
            ("usr/lib/xen-4.17/bin/xl", "tree/usr/lib/xen-4.17/bin/xl"),
            ("usr/lib/x86_64-linux-gnu/libyajl.so.2", "tree/lib/x86_64-linux-gnu/libyajl.so.2"),
            ("lib/x86_64-linux-gnu/libc.so.6", "tree/lib/x86_64-linux-gnu/libc.so.6"),
            ("lib/modules/6.1/kernel/drivers/xen/xenfs/xenfs.ko", "tree/modules/04-xenfs.ko"),
        ] {
            assert_eq!(place(from).as_deref(), Some(to));
        }
        for unneeded in ["boot/config-6.1.0-56-amd64", "usr/lib/xen-4.17/bin/pygrub", "usr/bin/ldd"] {
            assert_eq!(place(unneeded), None);
        }
    }

    #[test]
    fn what_is_linked_to_is_needed() {
        let needed = needed();
        for (_, target) in links().iter().filter(|(path, _)| path != LOADER) {
            let path = Path::new("tree").join(target.trim_start_matches('/'));
            assert!(needed.contains(&path), "{target}");
        }
    }
}
