//! The boot archive: the files domain 0 finds when it starts, as a plain ustar tar.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tar::{Builder, Header};

/// The kernel of our own guests.
pub const GUEST: &str = "guest";
/// Commands for domain 0 to run at once, one a line.
pub const EXEC: &str = "exec";

/// A boot archive in the making.
pub struct Archive {
    tar: Builder<Vec<u8>>,
}

impl Archive {
    /// An archive without files.
    pub fn new() -> Self {
        Self { tar: Builder::new(Vec::new()) }
    }

    /// Adds a file by its content.
    pub fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_size(content.len() as u64);
        // Neither time nor owner is recorded: the same files make the same archive.
        header.set_mode(0o644);
        self.tar
            .append_data(&mut header, name, content)
            .with_context(|| format!("cannot add {name} to the boot archive"))
    }

    /// Adds a file of this machine.
    pub fn add_file(&mut self, name: &str, path: &Path) -> Result<()> {
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.add(name, &content)
    }

    /// Adds the commands that domain 0 is to run.
    pub fn add_commands(&mut self, commands: &[String]) -> Result<()> {
        for command in commands {
            ensure!(!command.contains(['\n', '\r']), "a command must be one line: {command:?}");
            ensure!(!command.trim().is_empty(), "an empty command cannot be run");
        }
        self.add(EXEC, (commands.join("\n") + "\n").as_bytes())
    }

    /// The finished archive.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.tar.into_inner().context("cannot finish the boot archive")
    }
}

impl Default for Archive {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn read_back(archive: &[u8]) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for entry in tar::Archive::new(archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            files.push((entry.path().unwrap().display().to_string(), content));
        }
        files
    }

    #[test]
    fn files_come_back_as_they_went_in() {
        let mut archive = Archive::new();
        archive.add(GUEST, b"kernel").unwrap();
        archive.add_commands(&["xl list".to_owned(), "xl info".to_owned()]).unwrap();
        let bytes = archive.finish().unwrap();
        let expected = [("guest", "kernel"), ("exec", "xl list\nxl info\n")];
        assert_eq!(read_back(&bytes), expected.map(|(name, content)| (name.to_owned(), content.to_owned())));
    }

    #[test]
    fn it_is_ustar_in_blocks_of_512_bytes() {
        let mut archive = Archive::new();
        archive.add("a", b"1").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[257..263], b"ustar\0");
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(bytes.len(), 4 * 512, "header, content, two empty blocks");
    }

    #[test]
    fn a_command_of_two_lines_is_refused() {
        assert!(Archive::new().add_commands(&["one\ntwo".to_owned()]).is_err());
        assert!(Archive::new().add_commands(&[" ".to_owned()]).is_err());
    }
}
