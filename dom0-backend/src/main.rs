#![no_std]
#![no_main]
//! Domain 0's kernel: starts the store, the back ends and the toolstack, then runs commands.

extern crate alloc;

use alloc::rc::Rc;

use dom0_backend::admin::{Admin, run_script, talk};
use dom0_backend::archive::{self, Archive};
use dom0_backend::machine::{Devices, check_disk, start_devices};
use dom0_backend::store_service::StoreService;
use dom0_backend::toolstack::{GuestConfiguration, Inventory, Toolstack, look_after_guests};
use pv_runtime::executor::spawn;
use pv_runtime::{BootInfo, println};

pv_runtime::entry!(main);

async fn main(info: &'static BootInfo) {
    let archive = open_archive(info);
    let script = archive.file(archive::EXEC).and_then(|bytes| core::str::from_utf8(bytes).ok());
    let service = StoreService::new();
    let devices = start_machine(info).await;
    let inventory = Inventory {
        disks: devices.disks.iter().map(|disk| disk.name.clone()).collect(),
        has_switch: devices.switch.is_some(),
    };
    let toolstack = Toolstack::new(service, archive, inventory);
    if let Err(error) = toolstack.introduce_dom0(info.memory_pages) {
        println!("error: the store does not take what is to be said of dom0: {error}");
    }
    spawn(watch_over(Rc::clone(&toolstack)));
    if !info.flag("noguest") {
        start_guest(&toolstack).await;
    }
    let admin = Admin::new(toolstack, info, script.is_none());
    match script {
        Some(script) => run_script(&admin, script).await,
        None => {
            if let Err(errno) = talk(&admin).await {
                println!("error: the terminal cannot be read: {errno}");
            }
        }
    }
}

/// The machine's devices; none of them if the hypervisor does not let us.
async fn start_machine(info: &BootInfo) -> Devices {
    let devices = start_devices().await.unwrap_or_else(|errno| {
        println!("error: the machine's devices cannot be reached: {errno}");
        Devices::default()
    });
    if info.flag("check-disks") {
        for disk in &devices.disks {
            if let Err(error) = check_disk(disk).await {
                println!("error: {} cannot be read: {error}", disk.name);
            }
        }
    }
    devices
}

/// The boot archive; one that is damaged is none.
fn open_archive(info: &BootInfo) -> Archive<'static> {
    Archive::open(info.module.unwrap_or_default()).unwrap_or_else(|error| {
        println!("error: {error}");
        Archive::default()
    })
}

async fn watch_over(toolstack: Rc<Toolstack>) {
    if let Err(errno) = look_after_guests(toolstack).await {
        println!("error: guests that end will not be noticed: {errno}");
    }
}

async fn start_guest(toolstack: &Toolstack) {
    let configuration = GuestConfiguration::of_start_up();
    if let Err(error) = toolstack.create(&configuration).await {
        println!("error: {} cannot be made: {error}", configuration.name);
    }
}
