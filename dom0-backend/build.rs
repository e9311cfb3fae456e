//! Links the bare-metal image where a domain builder expects a kernel.

use std::env;

fn main() {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let script = env::var("DEP_PV_RUNTIME_LINKER_SCRIPT").expect("pv-runtime names its linker script");
    println!("cargo::rustc-link-arg-bins=-T{script}");
    println!("cargo::rustc-link-arg-bins=--no-pie");
}
