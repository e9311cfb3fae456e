//! Several stock kernels at once: what happens to one of them, however bad, is nothing to the others.

use super::*;

/// Memory of a machine with so many.
const MEMORY_MIB: u32 = 1792;
const ROUNDS: u32 = 4;

/// Writes and reads its disk, fetches something half-way, and says after each round what came of it.
const WORK: &str = r#"
lease
round=0
while [ $round -lt $rounds ]; do
    round=$((round + 1))
    dd if=/dev/urandom of=/own bs=64k count=32 2> /dev/null
    written=$(sum < /own); sync; echo 3 > /proc/sys/vm/drop_caches
    [ $written = $(sum < /own) ] || echo "round $round lost something"
    echo "round $round: file $(sum < /file)"
    [ "$web" ] && [ $round = 2 ] && echo "fetched $(wget -q -O - http://10.0.2.2:$web/file | sum)"
    [ "$panics" ] && echo c > /proc/sysrq-trigger
done
"#;

/// A machine with a stock kernel and a root disk for each of its guests.
struct Machine {
    stocks: Vec<Stock>,
    disks: Vec<std::path::PathBuf>,
    file: Vec<u8>,
    dom0: Prompt,
    /// Holds the disks.
    _scratch: xtask::scratch::Scratch,
}

impl Machine {
    /// One for these kernels; nothing if one of them could not be had.
    fn start(kernels: &[Kernel]) -> Option<Self> {
        let stocks = kernels.iter().map(|kernel| Stock::find(*kernel)).collect::<Option<Vec<_>>>()?;
        let scratch = program::scratch();
        let file = data(seed(), 4 * MIB + 3);
        let disks: Vec<_> = (0..stocks.len()).map(|index| scratch.join(format!("disk{index}"))).collect();
        let with_network = Dom0::new().words("dom0_mem=384M").network(&[]);
        let with_memory = with_network.with(|machine| machine.memory_mib(MEMORY_MIB).time_limit(LIMIT * 8));
        let mut dom0 = stocks.iter().fold(with_memory, |dom0, stock| stock.add_to(dom0));
        for (stock, disk) in stocks.iter().zip(&disks) {
            stock.root_disk(disk, WORK, &[("file", &file)]);
            let disk = disk.clone();
            dom0 = dom0.with(|machine| machine.disk(disk));
        }
        let dom0 = start(dom0, "disk=disk0 vif");
        Some(Self { stocks, disks, file, dom0, _scratch: scratch })
    }

    /// Makes the guest of this number, which is told these words when it is let go.
    fn create(&mut self, index: usize, words: &str) {
        let settings = format!("disk=disk{index} vif paused");
        let command = self.stocks[index].create(&name(index), &settings, words);
        let printed = self.dom0.run_within(&command, LIMIT);
        assert!(!printed.contains("error: "), "{printed}");
    }

    /// Lets all guests go, at once.
    fn unpause(&mut self) {
        for index in 0..self.stocks.len() {
            self.dom0.succeed(&format!("unpause {}", name(index)));
        }
    }

    /// The end of the guest of this number, which did all it was to do.
    fn expect_work_done(&mut self, index: usize, page: Option<&[u8]>) {
        let said = last_words(&mut self.dom0, &name(index));
        let hash = sha256(&self.file);
        expect_lines(&said, (1..=ROUNDS).map(|round| format!("round {round}: file {hash}")));
        expect_lines(&said, page.map(|page| format!("fetched {}", sha256(page))));
        expect_lines(&said, ["all done"]);
        assert!(!said.contains("lost something") && !said.contains("complained"), "{said}");
    }
}

fn name(index: usize) -> String {
    format!("linux{index}")
}

#[test]
fn four_stock_kernels_work_at_once_and_one_is_destroyed() {
    let Some(mut machine) = Machine::start(&Kernel::ALL) else { return };
    let before = Ledger::of(&mut machine.dom0);
    machine.create(0, "rounds=1000000");
    let pages = [1, 2, 3].map(|index| data(seed() + index, 3 * MIB + 7));
    let webs = pages.each_ref().map(|page| web_server(page.clone()));
    for (index, web) in (1..).zip(&webs) {
        machine.create(index, &format!("rounds={ROUNDS} web={}", web.port));
    }
    machine.unpause();
    machine.dom0.hear_within(&name(3), "round 1: ", LIMIT * 4);
    machine.dom0.hear_within(&name(0), "round ", LIMIT);
    machine.dom0.succeed("destroy linux0");
    for (index, page) in (1..).zip(&pages) {
        machine.expect_work_done(index, Some(page));
    }
    before.expect_same(&mut machine.dom0, "four guests, one of them destroyed");
    machine.dom0.type_line("poweroff");
    machine.dom0.wait_for_end();
    machine.disks[1..].iter().for_each(|disk| expect_clean(disk));
}

#[test]
fn a_panic_is_told_with_the_last_lines_and_hurts_nobody_else() {
    let Some(mut machine) = Machine::start(&[Kernel::Cloud612, Kernel::Cloud61]) else { return };
    let before = Ledger::of(&mut machine.dom0);
    machine.create(1, &format!("rounds={ROUNDS}"));
    machine.create(0, "rounds=1 panics=1");
    machine.unpause();
    machine.dom0.wait_for("(linux0) crashed");
    let told = machine.dom0.wait_for("(linux0) is gone");
    assert!(told.contains("Kernel panic - not syncing: sysrq triggered crash"), "{told}");
    assert!(told.contains("round 1: file"), "{told}");
    machine.expect_work_done(1, None);
    before.expect_same(&mut machine.dom0, "a panic");
}
