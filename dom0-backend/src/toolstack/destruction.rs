//! Taking a domain apart, which others may delay by what they still use of it: a disk that does not answer has its memory
//! until it does, or is reset.

use core::time::Duration;

use hypercall_abi::{DomainId, Errno};
use pv_runtime::executor::{sleep, spawn};

use super::control;

/// How often, and how many times, it is tried again while somebody uses the domain's memory, and somebody waits.
const PAUSE: Duration = Duration::from_millis(10);
const TRIES: u32 = 300;
/// How often it is tried after that.
const LATER: Duration = Duration::from_millis(500);

/// Destroys a domain. Returns when nothing of it is left or, if that takes long, when it is left to a task to go on with.
pub async fn take_apart(domain: DomainId) {
    for _ in 0..TRIES {
        if is_gone(domain) {
            return;
        }
        sleep(PAUSE).await;
    }
    log::warn!("domain {domain}: others still use its memory, which is kept until they are done");
    spawn(async move {
        while !is_gone(domain) {
            sleep(LATER).await;
        }
        log::info!("domain {domain}: the last of its memory is free");
    });
}

/// Goes on destroying a domain; whether nothing is left to do.
fn is_gone(domain: DomainId) -> bool {
    match control::destroy_domain(domain) {
        Ok(()) | Err(Errno::ESRCH) => true,
        Err(Errno::EAGAIN) => false,
        Err(errno) => {
            log::error!("domain {domain} cannot be destroyed: {errno}");
            true
        }
    }
}
