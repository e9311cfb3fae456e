//! Domain 0's shell, from the keyboard's side.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::{Exit, Machine, Running};

/// What domain 0 prints when it takes commands.
const READY: &str = "@ready";
/// How long it may take until then.
const BOOT: Duration = Duration::from_secs(150);
/// The longest line that can be typed: Xen keeps no more than it is sure to pass on.
const LONGEST: usize = 110;

/// A machine with domain 0 on Xen that takes commands.
#[derive(Debug)]
pub struct Console {
    running: Running,
    commands: u32,
}

impl Console {
    /// Starts a machine that [`super::Files::machine`] described, and waits until commands can be typed.
    pub fn start(machine: &Machine) -> Result<Self> {
        let mut running = machine.spawn()?;
        running.wait_for(READY, BOOT).context("domain 0 on Xen does not start")?;
        Ok(Self { running, commands: 0 })
    }

    /// Has the shell execute a command; what it printed, and its status.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<(String, u32)> {
        self.commands += 1;
        let line = format!("{} {command}", self.commands);
        ensure!(line.len() <= LONGEST, "too long to be typed: {line}");
        self.running.send(format!("{line}\n").as_bytes())?;
        let end = format!("@end {} ", self.commands);
        let printed = self.running.wait_for(&end, limit)?;
        let status = self.running.wait_for("\n", limit)?;
        let output = printed.trim_end_matches(&end).replace('\r', "");
        Ok((without_hypervisor(&output), status.trim().parse().context("a status is no number")?))
    }

    /// The same for a command that must succeed.
    pub fn succeed(&mut self, command: &str, limit: Duration) -> Result<String> {
        let (output, status) = self.run(command, limit)?;
        ensure!(status == 0, "`{command}` failed ({status}):\n{output}\n{}", self.running.context());
        Ok(output)
    }

    /// Switches the machine off.
    pub fn end(mut self) -> Result<()> {
        self.running.send(b"0 poweroff -f\n")?;
        let exit = self.running.wait()?;
        ensure!(exit == Exit::PowerOff, "Xen ended with {exit}:\n{}", self.running.context());
        Ok(())
    }

    /// The console's last lines.
    pub fn context(&self) -> String {
        self.running.context()
    }
}

/// Text without the hypervisor's own lines.
fn without_hypervisor(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("(XEN) "));
    lines.map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hypervisor_says_is_no_commands_output() {
        assert_eq!(without_hypervisor("a\n(XEN) warning\nb"), "a\nb\n");
    }
}
