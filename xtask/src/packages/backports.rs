//! Debian 12's backports, for the time of one command: apt with a private copy of this system's sources and one more
//! line. What is below `/etc/apt` stays as it is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Apt;
use crate::scratch::Scratch;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that reads the sources that `configuration` (`/etc/apt`) lists and bookworm-backports, and prefers the latter;
/// all its files are in `scratch`. Its package lists have to be fetched before it is asked for anything.
pub fn apt(apt: &Apt, configuration: &Path, scratch: &Scratch) -> Result<Apt> {
    let parts = scratch.join("parts");
    let lists = scratch.join("lists");
    fs::create_dir_all(&parts)?;
    fs::create_dir_all(lists.join("partial"))?;
    copy_sources(configuration, &parts).context("cannot copy the list of package sources")?;
    let line = format!("deb [signed-by={KEYRING}] {} bookworm-backports main\n", mirror(apt)?);
    fs::write(parts.join("weir-backports.list"), line)?;
    let options = [
        "--option".to_owned(),
        format!("Dir::Etc::SourceParts={}", parts.display()),
        "--option".to_owned(),
        "Dir::Etc::SourceList=/dev/null".to_owned(),
        "--option".to_owned(),
        format!("Dir::State::Lists={}", lists.display()),
        // For `update` this is only a preference and does no harm.
        "--target-release".to_owned(),
        "bookworm-backports".to_owned(),
    ];
    Ok(apt.with(&lists, options))
}

fn copy_sources(configuration: &Path, parts: &Path) -> Result<()> {
    let single = configuration.join("sources.list");
    if single.exists() {
        fs::copy(&single, parts.join("sources.list"))?;
    }
    let Ok(entries) = fs::read_dir(configuration.join("sources.list.d")) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "list" || kind == "sources") {
            fs::copy(&path, parts.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}

/// The address this system fetches bookworm's packages from.
fn mirror(apt: &Apt) -> Result<String> {
    let targets = apt.index_targets(&["Created-By: Packages", "Codename: bookworm"], "$(REPO_URI)")?;
    let first = targets.lines().next().map(str::trim).filter(|uri| !uri.is_empty());
    first.map(str::to_owned).context("apt knows no source of bookworm's packages")
}
