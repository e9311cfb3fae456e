#![no_std]
#![no_main]
//! placeholder

pv_runtime::entry!(main);

async fn main(info: &'static pv_runtime::BootInfo) {
    pv_runtime::println!("hello {info:?}");
}
