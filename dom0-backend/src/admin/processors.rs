//! The words of commands about processors: shares of them, and virtual CPUs.

use alloc::borrow::ToOwned;
use alloc::format;

use super::arguments::Arguments;
use super::command::{Command, Misunderstood};
use super::parse::{number, usage};
use crate::toolstack::{CpuSetError, PinOrder};

impl Command {
    pub(super) fn shares(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let taken = Arguments::take(arguments, &[], &["-d", "--domain", "-w", "--weight", "-c", "--cap"]);
        let taken = taken.filter(|taken| taken.operands.is_empty()).ok_or_else(|| usage("sched-credit2"))?;
        let guest = taken.value(&["-d", "--domain"]).map(ToOwned::to_owned);
        let (weight, cap) = (taken.value(&["-w", "--weight"]), taken.value(&["-c", "--cap"]));
        if (weight.is_some() || cap.is_some()) && guest.is_none() {
            return Err(usage("sched-credit2"));
        }
        let weight = weight.map(|word| match word.parse() {
            Ok(0) | Err(_) => Err(Misunderstood(format!("{word:?} is no weight: a number from 1 to 65535"))),
            Ok(weight) => Ok(weight),
        });
        let cap = cap.map(|word| {
            let no_cap =
                |_| Misunderstood(format!("{word:?} is no cap: per cent of a CPU up to 65535, 0 for none"));
            word.parse().map_err(no_cap)
        });
        Ok(Self::Shares { guest, weight: weight.transpose()?, cap: cap.transpose()? })
    }

    /// `xl`'s `-f` is for kernels that pin themselves, which none here does.
    pub(super) fn pin(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let flags = ["-f", "--force", "--dedicated"];
        let taken = Arguments::take(arguments, &flags, &[]).ok_or_else(|| usage("vcpu-pin"))?;
        let (guest, vcpu, hard, soft) = match taken.operands.as_slice() {
            [guest, vcpu, hard] => (guest, vcpu, hard, &"-"),
            [guest, vcpu, hard, soft] => (guest, vcpu, hard, soft),
            _ => return Err(usage("vcpu-pin")),
        };
        let vcpu = if *vcpu == "all" { None } else { Some(number("a virtual CPU", vcpu)?) };
        let cpus = |word: &str| match word {
            "-" => Ok(None),
            list => list.parse().map(Some).map_err(|error: CpuSetError| Misunderstood(format!("{error}"))),
        };
        let is_dedicated = taken.has(&["--dedicated"]);
        let order = PinOrder { vcpu, hard: cpus(hard)?, soft: cpus(soft)?, is_dedicated };
        Ok(Self::Pin { guest: (*guest).to_owned(), order })
    }

    /// `xl` would refuse more than there are processors without `-i`; here that is no reason to.
    pub(super) fn plug(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let ([guest, count] | ["-i" | "--ignore-host", guest, count]) = arguments else {
            return Err(usage("vcpu-set"));
        };
        match count.parse() {
            Ok(0) | Err(_) => Err(Misunderstood(format!("{count:?} is no number of virtual CPUs"))),
            Ok(count) => Ok(Self::SetVcpus { guest: (*guest).to_owned(), count }),
        }
    }

    /// What is to be triggered, and on which virtual CPU: the first, if not said.
    pub(super) fn trigger(arguments: &[&str]) -> Result<Self, Misunderstood> {
        let (guest, what, vcpu) = match arguments {
            [guest, what] => (guest, *what, 0),
            [guest, what, vcpu] => (guest, *what, number("a virtual CPU", vcpu)?),
            _ => return Err(usage("trigger")),
        };
        match what {
            "nmi" => Ok(Self::Interrupt { guest: (*guest).to_owned(), vcpu }),
            "reset" | "init" | "power" | "sleep" | "s3resume" => Err(Misunderstood(format!(
                "a paravirtual guest has no {what} button, only nmi; see `shutdown`, `reboot`, `pause`"
            ))),
            other => Err(Misunderstood(format!("{other:?} is nothing to trigger; nmi is"))),
        }
    }
}
