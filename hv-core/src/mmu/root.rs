//! The tables a vCPU runs on.
//!
//! A vCPU uses two roots, one for its kernel and one for its user mode, and holds each as a table of level 4 for
//! as long as it is in its context: the CPU may load it at any time.

use super::BUDGET;
use crate::{
    arch, descriptor, domain::Domain, hypercall::HypercallError, page_table::TableSession, vcpu::Context,
};
use hypercall_abi::MachineFrame;

/// Gives a vCPU that is not running its first tables.
///
/// # Errors
/// As [`TableSession::get_root`].
pub fn install_root(
    domain: &Domain,
    context: &mut Context,
    kernel: MachineFrame,
    user: Option<MachineFrame>,
) -> Result<(), HypercallError> {
    let mut session = TableSession::open(domain, BUDGET)?;
    session.get_root(kernel)?;
    if let Some(user) = user
        && let Err(error) = session.get_root(user)
    {
        session.put_table(kernel);
        return Err(error);
    }
    let old =
        [context.kernel_page_table.replace(kernel), core::mem::replace(&mut context.user_page_table, user)];
    old.into_iter().flatten().for_each(|root| session.put_table(root));
    Ok(())
}

/// Switches the running vCPU's kernel to another root.
///
/// # Errors
/// As [`TableSession::get_root`].
pub(super) fn switch_kernel(
    session: &mut TableSession<'_>,
    context: &mut Context,
    root: MachineFrame,
) -> Result<(), HypercallError> {
    if context.kernel_page_table == Some(root) {
        return Ok(());
    }
    session.get_root(root)?;
    let old = context.kernel_page_table.replace(root);
    // The CPU must be off the old tables before they can be undone.
    arch::load_page_tables(context);
    if let Some(old) = old {
        session.put_table(old);
    }
    Ok(())
}

/// Switches the running vCPU's user mode to another root, or to none (frame 0). It is not loaded: the caller is in
/// its kernel.
///
/// # Errors
/// As [`TableSession::get_root`].
pub(super) fn switch_user(
    session: &mut TableSession<'_>,
    context: &mut Context,
    root: MachineFrame,
) -> Result<(), HypercallError> {
    let root = (root.0 != 0).then_some(root);
    if context.user_page_table == root {
        return Ok(());
    }
    if let Some(root) = root {
        session.get_root(root)?;
    }
    if let Some(old) = core::mem::replace(&mut context.user_page_table, root) {
        session.put_table(old);
    }
    Ok(())
}

/// Takes a vCPU's tables and descriptor tables away, when it will never run again.
///
/// # Errors
/// `Restart` when undoing them takes longer: call again.
pub fn release_vcpu(domain: &Domain, context: &mut Context) -> Result<(), HypercallError> {
    let mut session = TableSession::open(domain, BUDGET)?;
    descriptor::release(context);
    for root in [&mut context.kernel_page_table, &mut context.user_page_table] {
        if let Some(root) = root.take() {
            session.put_table(root);
            session.finish_undoing()?;
        }
    }
    Ok(())
}
