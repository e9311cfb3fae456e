//! A stock Linux as a guest: one of Debian's kernels, started with its own drivers as modules, and a script that is its
//! first program.
//!
//! A script is a piece of shell between two others: what is there before it (file systems, a few functions) and what
//! follows (did the kernel complain? then the end). It finds the words of its kernel's command line in its environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::build::path_in;
use xtask::linux::{self, Files, Kernel, initramfs, initramfs::Initramfs, programs::Programs, root_disk};

use crate::Dom0;
use crate::program;

/// What domain 0 needs: memory to unpack large kernels in.
const DOM0_WORDS: &str = "dom0_mem=384M";
/// The setting of `create` for a guest's memory, unless the test has its own.
const MEMORY: &str = "memory=192";
/// Size of a root disk in MiB.
pub const ROOT_DISK_MIB: u32 = 96;

/// Comes before every script.
const BEFORE: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t tmpfs none /tmp
[ -c /dev/null ] || mount -t devtmpfs none /dev
echo "user space of $(uname -r)"
sum() { sha256sum | cut -d' ' -f1; }
wait_for() { tries=0; while ! "$@" 2>/dev/null && [ $tries -lt 200 ]; do usleep 50000; tries=$((tries + 1)); done; }
plugged() { [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; }
link() { wait_for test -e /sys/class/net/eth0; ip link set eth0 up; wait_for plugged; }
lease() { link; udhcpc -i eth0 -n -q -t 20 -T 1 -s /bin/leased > /dev/null 2>&1 || echo "no lease"; }
"#;

/// What a lease of an address does.
const LEASED: &str = r#"#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet
route add default gw $router
echo "leased $ip" > /dev/console
"#;

/// Follows every script.
const AFTER: &str = r#"
if dmesg | grep -qE 'WARNING|BUG|Oops|stalls? on|lockup|Call Trace|segfault|general protection'; then
    echo "the kernel complained"; dmesg
fi
echo "all done"
[ "$stay" ] && while true; do sleep 1; done
sync; mount -o remount,ro /
poweroff -f
"#;

/// What Linux runs when the toolstack asks it to end.
const END: &str = "#!/bin/busybox sh\nexec /bin/busybox ${0##*/} -f\n";

/// Files that every tree has, beside busybox.
const OWN_PROGRAMS: [(&str, &str); 3] =
    [("bin/leased", LEASED), ("sbin/poweroff", END), ("sbin/reboot", END)];
const DIRECTORIES: [&str; 7] = ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp"];

/// A kernel that is there to be booted, and programs for it.
#[derive(Clone, Debug)]
pub struct Stock {
    kernel: Kernel,
    files: Files,
    programs: Programs,
}

impl Stock {
    /// The kernel; nothing, with a message, if it could not be had.
    ///
    /// # Panics
    ///
    /// If it could not, on a build server (`CI` set).
    pub fn find(kernel: Kernel) -> Option<Self> {
        let all = path_in(linux::VARIABLE).unwrap_or_else(|error| panic!("{error}"));
        let found = Files::find(&all, kernel).zip(Programs::find(&all));
        if found.is_none() {
            let name = kernel.name();
            assert!(std::env::var_os("CI").is_none(), "no Linux {name} on a build server");
            eprintln!("skipped: there is no Linux {name} in {}", all.display());
        }
        found.map(|(files, programs)| Self { kernel, files, programs })
    }

    /// Domain 0 with this kernel, which goes on from a root disk.
    pub fn dom0(&self) -> Dom0 {
        self.add_to(Dom0::new().words(DOM0_WORDS))
    }

    /// Domain 0 with this kernel and a first program that does what the script says, without any disk.
    pub fn dom0_with_script(&self, script: &str) -> Dom0 {
        self.dom0_with_programs(script, &[])
    }

    /// The same, with these programs in the file system, by path.
    pub fn dom0_with_programs(&self, script: &str, programs: &[(&str, &[u8])]) -> Dom0 {
        self.add_with_programs(Dom0::new().words(DOM0_WORDS), script, programs)
    }

    /// Adds this kernel, with a first program that does what the script says and with these programs, to what domain 0 can
    /// boot.
    pub fn add_with_programs(&self, dom0: Dom0, script: &str, programs: &[(&str, &[u8])]) -> Dom0 {
        let archive = DIRECTORIES.iter().fold(Initramfs::new(), |all, name| all.directory(name));
        let archive = archive
            .directory("modules")
            .modules("modules", &self.files)
            .unwrap_or_else(|error| panic!("{error:#}"))
            .program("bin/busybox", &read(&self.programs.busybox()))
            .program("init", first_program(script).as_bytes());
        let add = |all: Initramfs, (path, content): &(&str, &str)| all.program(path, content.as_bytes());
        let archive = OWN_PROGRAMS.iter().fold(archive, add);
        let archive = programs.iter().fold(archive, |all, (path, content)| all.program(path, content));
        self.add_files(dom0, archive.finish())
    }

    /// The kernel's image.
    pub fn image(&self) -> PathBuf {
        self.files.image()
    }

    /// An initial file system whose first program does these lines and nothing else, and then ends.
    pub fn bare_file_system(&self, lines: &str) -> Vec<u8> {
        let init = format!("#!/bin/busybox sh\n{lines}\n");
        let directories = DIRECTORIES.iter().fold(Initramfs::new(), |all, name| all.directory(name));
        directories
            .program("init", init.as_bytes())
            .program("bin/busybox", &read(&self.programs.busybox()))
            .finish()
    }

    /// Adds this kernel to what domain 0 can boot.
    pub fn add_to(&self, dom0: Dom0) -> Dom0 {
        let archive = initramfs::for_root_disk(&self.files, &self.programs.busybox());
        self.add_files(dom0, archive.unwrap_or_else(|error| panic!("{error:#}")))
    }

    fn add_files(&self, dom0: Dom0, archive: Vec<u8>) -> Dom0 {
        let name = self.kernel.name();
        dom0.file(name, read(&self.files.image())).file(&format!("{name}.initrd"), archive)
    }

    /// Makes a root disk with these files, and a first program that does what the script says.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn root_disk(&self, image: &Path, script: &str, files: &[(&str, &[u8])]) {
        let scratch = program::scratch();
        let tree = scratch.join("tree");
        // Hard links: the programs are many megabytes.
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--link"]).arg(self.programs.tree()).arg(&tree);
        xtask::command::run(&mut copy).unwrap_or_else(|error| panic!("{error:#}"));
        for name in DIRECTORIES {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        for (path, content) in OWN_PROGRAMS {
            write_program(&tree.join(path), content);
        }
        write_program(&tree.join("sbin/init"), &first_program(script));
        for (path, content) in files {
            fs::write(tree.join(path), content).unwrap();
        }
        root_disk::make(&tree, image, ROOT_DISK_MIB).unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The command that makes a guest of this kernel; its script finds the words in its environment.
    pub fn create(&self, guest: &str, settings: &str, words: &str) -> String {
        let name = self.kernel.name();
        let memory = if settings.contains("memory=") { "" } else { MEMORY };
        format!(
            "create {guest} {memory} kernel={name} ramdisk={name}.initrd {settings} cmdline=\"console=hvc0 quiet {words}\""
        )
    }
}

/// Checks the file system on a root disk, which nobody uses any more.
///
/// # Panics
///
/// If it was not left in order.
pub fn expect_clean(image: &Path) {
    let mut fsck = Command::new("/sbin/e2fsck");
    let said = xtask::command::text(fsck.args(["-f", "-n"]).arg(image));
    said.unwrap_or_else(|error| panic!("{error:#}"));
}

fn first_program(script: &str) -> String {
    format!("{BEFORE}{script}{AFTER}")
}

fn write_program(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
