//! `cargo xtask setup`: everything that building and running Weir needs, made present.
//!
//! Every command that builds or runs calls this first, so it must cost next to nothing when all is there.

use anyhow::{Context, Result};

use crate::consent::Consent;
use crate::qemu;
use crate::toolchain;
use crate::workspace::Workspace;

/// Makes sure of the compiler for bare metal and of QEMU.
pub fn ensure(workspace: &Workspace, consent: Consent) -> Result<()> {
    toolchain::ensure(workspace, consent).context("the compiler for bare metal could not be set up")?;
    qemu::ensure(consent).context("QEMU could not be set up")
}
