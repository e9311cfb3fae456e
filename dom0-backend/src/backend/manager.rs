//! Finding devices: whatever appears in a kind's directory of the store gets a task.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::DomainId;
use pv_runtime::executor::{JoinHandle, spawn};
use pv_runtime::xenbus::{Device, Store, StoreError, domain_path};

use super::device_task::{BackEnd, run};

/// A device's place: the guest, and the device's number in it.
type Place = (DomainId, u32);

/// Serves all devices of a kind, those that are there and those to come.
///
/// # Errors
///
/// If the store cannot be asked.
pub async fn serve<B: BackEnd>(back_end: Rc<B>, store: Store) -> Result<(), StoreError> {
    let directory = format!("{}/backend/{}", domain_path(DomainId::ZERO), B::KIND);
    let changes = store.watch(&directory).await?;
    let mut tasks: BTreeMap<Place, JoinHandle<()>> = BTreeMap::new();
    loop {
        changes.next().await;
        tasks.retain(|_, task| !task.is_finished());
        for place in find(&store, &directory).await? {
            if tasks.contains_key(&place) {
                continue;
            }
            if let Some(device) = open(&store, &directory, place).await {
                tasks.insert(place, spawn(run(Rc::clone(&back_end), device)));
            }
        }
    }
}

/// Everything in the directory that has the form of a device.
async fn find(store: &Store, directory: &str) -> Result<Vec<Place>, StoreError> {
    let mut places = Vec::new();
    for guest in list(store, directory).await? {
        let Ok(domain) = guest.parse().map(DomainId) else { continue };
        for number in list(store, &format!("{directory}/{guest}")).await? {
            places.extend(number.parse().map(|number| (domain, number)));
        }
    }
    Ok(places)
}

/// What is in a directory; nothing if it is not there.
async fn list(store: &Store, directory: &str) -> Result<Vec<String>, StoreError> {
    match store.directory(directory).await {
        Ok(names) => Ok(names),
        Err(StoreError::Disconnected) => Err(StoreError::Disconnected),
        Err(_) => Ok(Vec::new()),
    }
}

/// The device at a place, once it is there completely: the toolstack writes its state last.
async fn open(store: &Store, directory: &str, (guest, number): Place) -> Option<Device> {
    let own = format!("{directory}/{guest}/{number}");
    store.read(&format!("{own}/state")).await.ok()?;
    let front = store.read(&format!("{own}/frontend")).await.ok()?;
    Some(Device::new(store.clone(), own, front, guest))
}

#[cfg(test)]
mod tests;
