//! Checks of the store, for a domain that has a connection to one.

use alloc::format;

use hypercall_abi::{DomainId, MachineFrame, Port};
use pv_runtime::xenbus::{RingTransport, Store};

use crate::{Outcome, during, expect};

/// Where a domain may write: the toolstack gives it this directory.
const DIRECTORY: &str = "data";

/// Reads, writes, lists, watches and removes.
pub async fn store(frame: MachineFrame, port: Port, own: DomainId) -> Outcome {
    let store = Store::connect(during("the ring", RingTransport::new(frame, port))?);
    let home = during("the home", store.domain_path(own).await)?;
    expect(home == format!("/local/domain/{own}"), format!("the home is {home}"))?;
    let number = during("domid", store.read("domid").await)?;
    expect(number.trim() == format!("{own}"), format!("domid is {number}"))?;
    let key = format!("{DIRECTORY}/selftest");
    let watch = during("watching", store.watch(&key).await)?;
    watch.next().await;
    during("writing", store.write(&key, "1").await)?;
    watch.next().await;
    let value = during("reading", store.read(&key).await)?;
    expect(value == "1", format!("the value is {value}"))?;
    let bump = store.transaction(async |transaction| {
        transaction.read(&key).await?;
        transaction.write(&key, "2").await
    });
    during("a transaction", bump.await)?;
    let names = during("listing", store.directory(DIRECTORY).await)?;
    expect(names.iter().any(|name| name == "selftest"), format!("the list is {names:?}"))?;
    during("removing", store.remove(&key).await)?;
    let gone = store.read(&key).await.err();
    expect(gone.is_some_and(|error| error.is_not_found()), format!("after removing: {gone:?}"))
}
