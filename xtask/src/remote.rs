//! The way to a running machine's domain 0: SSH keys, the port that leads there, and the client.
//!
//! Everything lies in one directory, `work/ssh`: a key for domain 0 (`host_key`), which is pinned in `known_hosts`, a key
//! for whoever administers it (`client_key`), and, while a machine runs, its port (`machine`). Domain 0 gets its key and
//! the other's public half in its boot archive. Any other client can use the same files: [`Remote::client`] is no more
//! than `ssh` with the options that name them.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};

use crate::archive::Archive;
use crate::command;
use crate::consent::Consent;
use crate::machine::Machine;
use crate::packages::{Apt, Request};
use crate::private;
use crate::workspace::Workspace;

/// The user as whom domain 0 is administered.
const USER: &str = "admin";
/// What domain 0 is called among the known hosts, whatever its port.
const HOST_ALIAS: &str = "weir";
/// Where domain 0 looks for its key, and for those that open it.
const ARCHIVED: [(&str, &str); 2] = [("ssh/host_key", "host_key"), ("ssh/authorized_keys", "client_key.pub")];
/// The file that tells the port of the machine that runs, and the process that runs it.
const RUNNING: &str = "machine";

/// Makes sure of the client.
pub fn ensure_client(consent: Consent) -> Result<()> {
    if command::find("ssh").is_some() && command::find("ssh-keygen").is_some() {
        return Ok(());
    }
    let request =
        Request { packages: &["openssh-client"], reason: "ssh, by which domain 0 is administered," };
    Apt::find().context("ssh and ssh-keygen are needed")?.install(request, consent)
}

/// The keys, and the way.
#[derive(Clone, Debug)]
pub struct Remote {
    directory: PathBuf,
}

impl Remote {
    /// Of this checkout.
    pub fn of(workspace: &Workspace) -> Self {
        Self::at(workspace.work().join("ssh"))
    }

    /// With the files in this directory.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Makes sure of the client and of the keys.
    pub fn ensure(&self, consent: Consent) -> Result<()> {
        ensure_client(consent)?;
        self.make_keys()
    }

    /// Makes the keys that are missing.
    pub fn make_keys(&self) -> Result<()> {
        private::create_directory(&self.directory)?;
        for name in ["host_key", "client_key"] {
            let path = self.path(name);
            if !path.exists() {
                // The private half is readable by its owner only: ssh-keygen sees to that.
                let mut keygen = Command::new("ssh-keygen");
                keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]).arg(&path);
                command::text(&mut keygen)?;
            }
        }
        let public = fs::read_to_string(self.path("host_key.pub")).context("cannot read the host key")?;
        fs::write(self.path("known_hosts"), format!("{HOST_ALIAS} {public}"))
            .context("cannot pin the host key")
    }

    /// Gives domain 0 its key and those that open it.
    pub fn add_to(&self, archive: &mut Archive) -> Result<()> {
        ARCHIVED.iter().try_for_each(|(name, file)| archive.add_file(name, &self.path(file)))
    }

    /// Adds a card to a machine whose domain 0 has its keys. The card leads nowhere; only this computer's `port` leads
    /// to it. Domain 0 has to be told `ssh=nicN`, with the number of the cards that the machine has already.
    pub fn connect(machine: Machine, port: u16) -> Machine {
        machine.network(format!("user,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"))
    }

    /// Notes that a machine runs, until the note is dropped.
    pub fn note(&self, port: u16) -> Result<Note> {
        let path = self.path(RUNNING);
        let text = format!("{port} {}\n", process::id());
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Note { path, text })
    }

    /// The port of the machine that runs.
    pub fn running(&self) -> Result<u16> {
        let nothing = "no machine runs that can be administered: start one with `cargo xtask run`";
        let text = fs::read_to_string(self.path(RUNNING)).context(nothing)?;
        let (port, process) = text.trim().split_once(' ').context(nothing)?;
        ensure!(Path::new("/proc").join(process).exists(), nothing);
        port.parse().context(nothing)
    }

    /// The client, to be given a command or nothing. It takes the pinned host key only, and offers our key only.
    pub fn client(&self, port: u16) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ]);
        ssh.args(["-o", "GlobalKnownHostsFile=none", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30"]);
        ssh.arg("-o").arg(format!("HostKeyAlias={HOST_ALIAS}"));
        ssh.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", self.path("known_hosts").display()));
        ssh.arg("-i").arg(self.path("client_key")).args(["-p", &port.to_string()]);
        ssh.arg(format!("{USER}@{}", Ipv4Addr::LOCALHOST));
        ssh
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// The note that a machine runs.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    text: String,
}

impl Drop for Note {
    fn drop(&mut self) {
        // Another machine may have been started since; nothing depends on a note that stays.
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A port of this computer that nobody uses now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::fs::PermissionsExt;

    fn remote() -> (Remote, Scratch) {
        let scratch = Scratch::create(&std::env::temp_dir(), "weir-remote").unwrap();
        (Remote::at(scratch.join("ssh")), scratch)
    }

    #[test]
    fn keys_are_made_once_and_are_private() {
        let (remote, _scratch) = remote();
        remote.make_keys().unwrap();
        let key = fs::read(remote.path("client_key")).unwrap();
        remote.make_keys().unwrap();
        assert_eq!(fs::read(remote.path("client_key")).unwrap(), key);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(["client_key", "host_key"].map(|name| mode(remote.path(name))), [0o600; 2]);
        assert_eq!(mode(remote.path(".")), 0o700);
        let known = fs::read_to_string(remote.path("known_hosts")).unwrap();
        assert!(known.starts_with("weir ssh-ed25519 "), "{known}");
    }

    #[test]
    fn domain_0_gets_its_key_and_those_that_open_it() {
        let (remote, _scratch) = remote();
        remote.make_keys().unwrap();
        let mut archive = Archive::new();
        remote.add_to(&mut archive).unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("ssh/host_key") && text.contains("BEGIN OPENSSH PRIVATE KEY"));
        assert_eq!(text.matches("PRIVATE KEY").count(), 2, "one key, with a line before and after");
    }

    #[test]
    fn a_machine_is_found_only_while_it_runs() {
        let (remote, _scratch) = remote();
        let error = remote.running().unwrap_err().to_string();
        assert!(error.contains("cargo xtask run"), "{error}");
        remote.make_keys().unwrap();
        let note = remote.note(1234).unwrap();
        assert_eq!(remote.running().unwrap(), 1234);
        let later = remote.note(4321).unwrap();
        drop(note);
        assert_eq!(remote.running().unwrap(), 4321, "a later machine's note stays");
        drop(later);
        assert!(remote.running().is_err());
        fs::write(remote.path("machine"), "1 999999999\n").unwrap();
        assert!(remote.running().is_err(), "its process is gone");
    }

    #[test]
    fn the_client_trusts_nobody_else() {
        let line = command::shown(&Remote::at("/k").client(22));
        for words in ["StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "BatchMode=yes", "-i /k/client_key"]
        {
            assert!(line.contains(words), "{line}");
        }
        assert!(line.ends_with("-p 22 admin@127.0.0.1"), "{line}");
    }
}
