//! Links the programs for fixed addresses below 4 GiB, where 32-bit code reaches everything.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
