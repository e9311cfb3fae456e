#![no_std]
#![no_main]
//! Domain 0's kernel: starts the store, the back ends and the toolstack, then runs commands.

extern crate alloc;

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::time::Duration;

use device_drivers::disk;
use device_drivers::pci::Address;
use dom0_backend::admin::{Admin, DeviceReports, MachineConsole, run_script, talk};
use dom0_backend::archive::{self, Archive};
use dom0_backend::backend;
use dom0_backend::block::{BlockBackEnd, Images, VbdReport};
use dom0_backend::machine::{Devices, Disk, Machine, check_disk, disk_partitions, start_devices};
use dom0_backend::net::{CardReport, NetworkBackEnd, VifReport};
use dom0_backend::pci::PciBackEnd;
use dom0_backend::remote::{self, Place};
use dom0_backend::store_service::StoreService;
use dom0_backend::toolstack::{GuestConfiguration, Inventory, MachineDisk, Toolstack, look_after_guests};
use pv_runtime::executor::spawn;
use pv_runtime::{BootInfo, println};

pv_runtime::entry!(main);

async fn main(info: &'static BootInfo) {
    let archive = open_archive(info);
    let script = archive.file(archive::EXEC).and_then(|bytes| core::str::from_utf8(bytes).ok());
    let service = StoreService::new();
    let place = remote_place(info);
    let mut devices = start_machine(info, place.as_ref()).await;
    let management = devices.management.take();
    let mut disks = Vec::new();
    for disk in &devices.disks {
        disks.push(machine_disk(disk).await);
    }
    let inventory = Inventory { disks, has_switch: devices.switch.is_some() };
    let own_disks = devices.disks.clone();
    let images = Rc::<Images>::default();
    let functions = Rc::clone(&devices.functions);
    let back_ends = serve_guests(&service, devices, Rc::clone(&images));
    let toolstack = Toolstack::with_functions(service, archive, inventory, images, functions);
    if let Err(error) = toolstack.introduce_dom0(info.memory_pages) {
        println!("error: the store does not take what is to be said of dom0: {error}");
    }
    if let Some(home) = info.option("home") {
        open_home(&toolstack, home, &own_disks).await;
    }
    spawn(watch_over(Rc::clone(&toolstack)));
    if !info.flag("noguest") {
        start_guest(&toolstack).await;
    }
    toolstack.start_automatic().await;
    let terminal = Rc::new(MachineConsole { has_person: script.is_none() });
    let admin = Admin::new(Rc::clone(&toolstack), Rc::new(back_ends), info, terminal.clone());
    if let Some(place) = place {
        let started = match management {
            Some(card) => remote::start(&toolstack, admin.at(terminal), card, place.plan)
                .await
                .map_err(|error| format!("{error}")),
            None => Err(format!("the machine has no network card {}", place.card)),
        };
        if let Err(error) = started {
            println!("error: no remote administration: {error}");
        }
    }
    match script {
        Some(script) => run_script(&admin, script).await,
        None => {
            talk(&admin).await;
            println!("error: the terminal cannot be read");
        }
    }
}

/// Where remote administration is to take place, if it is.
fn remote_place(info: &BootInfo) -> Option<Place> {
    let text = info.option("ssh")?;
    Place::parse(text).inspect_err(|error| println!("error: ssh={text}: {error}")).ok()
}

/// The machine's devices; none of them if the hypervisor does not let us.
async fn start_machine(info: &BootInfo, place: Option<&Place>) -> Devices {
    let management = place.map(|place| place.card.as_str());
    let devices = start_devices(management, &hidden(info), patience(info)).await.unwrap_or_else(|errno| {
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

/// How long a disk may take for a request: `disk-timeout=SECONDS` on the command line.
fn patience(info: &BootInfo) -> Duration {
    disk::patience(info.option("disk-timeout")).unwrap_or_else(|error| {
        println!("error: disk-timeout: seconds are expected, or 0 for ever: {error}");
        disk::PATIENCE
    })
}

/// The PCI functions that are kept for guests: `hide=BB:DD.F,...` on the command line.
fn hidden(info: &BootInfo) -> Vec<Address> {
    let words = info.option("hide").unwrap_or_default().split(',').filter(|word| !word.is_empty());
    let parsed = words.map(|word| word.parse().map_err(|_| word));
    let (good, bad): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
    for word in bad.into_iter().filter_map(Result::err) {
        println!("error: hide={word}: no address of a PCI device, such as 00:04.0");
    }
    good.into_iter().filter_map(Result::ok).collect()
}

/// A disk as the toolstack needs to know it.
async fn machine_disk(disk: &Disk) -> MachineDisk {
    let sectors = disk.device.geometry().sectors;
    let partitions = disk_partitions(disk).await.unwrap_or_else(|error| {
        println!("error: the partitions of {} cannot be read: {error}", disk.name);
        Vec::new()
    });
    MachineDisk { name: disk.name.clone(), sectors, partitions }
}

/// Opens the file system with dom0's own files on a disk or partition.
async fn open_home(toolstack: &Toolstack, name: &str, disks: &[Disk]) {
    let disk = disks.iter().find(|disk| name.split(['p', '@']).next() == Some(disk.name.as_str()));
    let opened = match disk {
        Some(disk) => {
            toolstack.open_home(name, Rc::clone(&disk.device)).await.map_err(|error| format!("{error}"))
        }
        None => Err("the machine has no such disk".into()),
    };
    match opened {
        Ok(()) => log::info!("dom0's own files are on {name}"),
        Err(error) => println!("error: no files can be had from {name}: {error}"),
    }
}

/// Starts the back ends for what the machine has.
fn serve_guests(service: &Rc<StoreService>, devices: Devices, images: Rc<Images>) -> BackEnds {
    spawn(backend::serve(Rc::new(PciBackEnd::new(devices.functions)), service.connect()));
    let disks = devices.disks.into_iter().map(|disk| (disk.name, disk.device));
    let disks = Rc::new(BlockBackEnd::new(disks, images));
    spawn(backend::serve(Rc::clone(&disks), service.connect()));
    let network = devices.switch.map(|switch| Rc::new(NetworkBackEnd::new(switch)));
    if let Some(network) = &network {
        spawn(backend::serve(Rc::clone(network), service.connect()));
    }
    BackEnds { disks, network }
}

/// The back ends, as the administrator sees them.
struct BackEnds {
    disks: Rc<BlockBackEnd>,
    network: Option<Rc<NetworkBackEnd<Machine>>>,
}

impl DeviceReports for BackEnds {
    fn disks(&self) -> Vec<VbdReport> {
        self.disks.report()
    }

    fn interfaces(&self) -> Vec<VifReport> {
        self.network.as_ref().map(|network| network.report()).unwrap_or_default()
    }

    fn card(&self) -> Option<CardReport> {
        self.network.as_ref()?.card()
    }
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
