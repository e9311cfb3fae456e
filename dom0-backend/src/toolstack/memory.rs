//! The memory of a domain under construction: its frames, and a window through which they are written.
//!
//! The builder's right to a domain's memory ends when the domain first runs, and the hypervisor refuses page
//! tables that are mapped writable. So a window is a short-lived thing: a run of frames is mapped, written, and
//! unmapped when the next one is needed or the building is done.

use alloc::vec::Vec;

use domain_image::DomainMemory;
use hypercall_abi::{DomainId, Errno, MachineFrame, PseudoPhysicalFrame};
use pv_runtime::executor::yield_now;
use pv_runtime::memory::{Mapping, Protection, SharedMemory, map_machine_frames};

use super::control;
use super::faults::Faults;

/// Frames that are mapped at a time, at most.
const WINDOW: u64 = 256;
/// Frames are asked for in runs of this many, as long as there are such runs.
const RUN_ORDER: u32 = 9;
/// Runs and single frames that are asked for with one call; in between other tasks run.
const RUNS_AT_ONCE: u64 = 8;
const FRAMES_AT_ONCE: u64 = 4096;

/// All frames of a domain that is being built.
pub struct NewMemory<'a> {
    domain: DomainId,
    frames: Vec<MachineFrame>,
    window: Option<(u64, Mapping)>,
    /// Frames from this one on are not known to be written.
    announced: u64,
    faults: &'a Faults,
}

impl<'a> NewMemory<'a> {
    /// Gives a domain `pages` frames.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there are not so many; those that there were are the domain's.
    pub async fn populate(domain: DomainId, pages: u64, faults: &'a Faults) -> Result<Self, Errno> {
        let mut frames = Vec::new();
        frames.try_reserve_exact(pages as usize).map_err(|_| Errno::ENOMEM)?;
        let mut memory = Self { domain, frames, window: None, announced: 0, faults };
        memory.take_runs(pages).await?;
        memory.take_singly(pages).await?;
        Ok(memory)
    }

    /// As many runs as fit and are to be had.
    async fn take_runs(&mut self, pages: u64) -> Result<(), Errno> {
        loop {
            let wanted = ((pages - self.count()) >> RUN_ORDER).min(RUNS_AT_ONCE);
            self.faults.pass()?;
            let got = control::populate(self.domain, self.count(), wanted as usize, RUN_ORDER)?;
            let is_short = got.len() < wanted as usize || wanted == 0;
            for first in got {
                self.frames.extend((0..1 << RUN_ORDER).map(|index| MachineFrame(first.0 + index)));
            }
            if is_short {
                return Ok(());
            }
            yield_now().await;
        }
    }

    async fn take_singly(&mut self, pages: u64) -> Result<(), Errno> {
        while self.count() < pages {
            let wanted = (pages - self.count()).min(FRAMES_AT_ONCE);
            self.faults.pass()?;
            let got = control::populate(self.domain, self.count(), wanted as usize, 0)?;
            let is_short = got.len() < wanted as usize;
            self.frames.extend(got);
            if is_short {
                return Err(Errno::ENOMEM);
            }
            yield_now().await;
        }
        Ok(())
    }

    fn count(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Maps one frame of the hypervisor's that it shares with the domain, and lets `work` at it.
    ///
    /// # Errors
    ///
    /// Why it cannot be mapped.
    pub fn with_shared_frame(&self, frame: MachineFrame, work: impl FnOnce(&Mapping)) -> Result<(), Errno> {
        let mapping = map_machine_frames(&[frame], self.domain, Protection::ReadWrite)?;
        work(&mapping);
        Ok(())
    }

    /// Unmaps everything.
    pub fn close(&mut self) {
        self.window = None;
    }

    /// Moves the window so that it shows `frame`; where in it that is.
    fn show(&mut self, frame: u64) -> Result<(usize, &Mapping), Errno> {
        let is_shown = self
            .window
            .as_ref()
            .is_some_and(|(first, window)| (*first..*first + pages(window)).contains(&frame));
        if !is_shown {
            self.faults.pass()?;
            // First the old one goes: there is room for one only.
            self.close();
            let start = usize::try_from(frame).map_err(|_| Errno::EINVAL)?;
            let wanted = self.announced.clamp(frame.saturating_add(1), frame.saturating_add(WINDOW));
            let end = self.frames.len().min(wanted as usize);
            let frames = self.frames.get(start..end).ok_or(Errno::EINVAL)?;
            self.window = Some((frame, map_machine_frames(frames, self.domain, Protection::ReadWrite)?));
        }
        let (first, mapping) = self.window.as_ref().ok_or(Errno::EINVAL)?;
        Ok(((frame - first) as usize, mapping))
    }
}

fn pages(window: &Mapping) -> u64 {
    (window.size() / hypercall_abi::PAGE_SIZE) as u64
}

impl DomainMemory for NewMemory<'_> {
    type Error = Errno;

    fn machine_frame(&self, frame: PseudoPhysicalFrame) -> MachineFrame {
        self.frames.get(frame.0 as usize).copied().unwrap_or(MachineFrame(u64::MAX))
    }

    fn announce(&mut self, end: PseudoPhysicalFrame) {
        self.announced = end.0;
    }

    fn write(&mut self, frame: PseudoPhysicalFrame, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let (index, mapping) = self.show(frame.0)?;
        let place = index * hypercall_abi::PAGE_SIZE + offset;
        if place + bytes.len() > mapping.size() {
            return Err(Errno::EINVAL);
        }
        mapping.copy_in(place, bytes);
        Ok(())
    }
}
