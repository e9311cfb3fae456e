//! Links the kernels of this crate as the runtime's linker script says.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script = env::var("DEP_PV_RUNTIME_LINKER_SCRIPT").expect("the runtime names its linker script");
        println!("cargo::rustc-link-arg-bins=-T{script}");
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
