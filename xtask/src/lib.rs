//! The commands that set up, build, run, check and test Weir, and the code that drives its virtual machine.
//!
//! `cargo xtask` is a Rust program rather than a heap of shell scripts so that it can be read, tested and reused like
//! everything else here. One module, one noun. The idea to hold is that three layers build on each other:
//!
//! - *what is needed*: [`toolchain`] and [`sysroot`] (a compiler for bare metal), [`qemu`], [`packages`] (how missing
//!   programs are installed, and who must agree), all of them called by [`setup`];
//! - *what is made*: [`build`] (three images), [`archive`] and [`bundle`] (what the machine boots from), [`disk`],
//!   [`image`] (an ISO file);
//! - *what is done with it*: [`machine`] starts QEMU and talks to its serial console, [`boot`] knows how our kernels
//!   are started, [`peer`] is Debian's Xen for comparison, [`exec`] understands what domain 0 prints around each command,
//!   [`guest`] brings up a kernel of the user's own and [`debian`] makes one, [`remote`] is the way to domain 0 by SSH;
//!   [`run`], [`ctl`], [`mod@bench`], [`check`] and [`mod@test`] are the commands on top.
//!
//! The integration tests drive QEMU through the very same [`machine`].

pub mod archive;
pub mod bench;
pub mod boot;
pub mod build;
pub mod bundle;
pub mod check;
pub mod cli;
pub mod command;
pub mod consent;
pub mod ctl;
pub mod debian;
pub mod disk;
pub mod disk_image;
pub mod exec;
pub mod guest;
pub mod image;
pub mod linux;
pub mod machine;
pub mod packages;
pub mod pattern;
pub mod peer;
mod private;
pub mod progress;
pub mod qemu;
pub mod remote;
pub mod run;
pub mod scratch;
pub mod setup;
pub mod sysroot;
pub mod test;
pub mod toolchain;
pub mod version;
pub mod workspace;
