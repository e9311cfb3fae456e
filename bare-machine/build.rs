//! Links the image where a boot loader puts it.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=image.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo::rustc-link-arg-bins=-T{directory}/image.ld");
    println!("cargo::rustc-link-arg-bins=--no-pie");
}
