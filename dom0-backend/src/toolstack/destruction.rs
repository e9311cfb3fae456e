//! Taking a domain apart, which others may delay by what they still use of it.

use core::time::Duration;

use hypercall_abi::{DomainId, Errno};
use pv_runtime::executor::sleep;

use super::control;

/// How often, and how many times, it is tried again while somebody uses the domain's memory.
const PAUSE: Duration = Duration::from_millis(10);
const TRIES: u32 = 1000;

/// Destroys a domain, and waits until nothing of it is left.
pub async fn take_apart(domain: DomainId) {
    for _ in 0..TRIES {
        match control::destroy_domain(domain) {
            Ok(()) | Err(Errno::ESRCH) => return,
            Err(Errno::EAGAIN) => sleep(PAUSE).await,
            Err(errno) => return log::error!("domain {domain} cannot be destroyed: {errno}"),
        }
    }
    log::error!("domain {domain} cannot be destroyed: others still use its memory");
}
