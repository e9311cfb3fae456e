//! Every stock kernel, with one, two and four virtual CPUs, on a Weir of one and of two processors.

use super::*;

const MEMORY_MIB: u32 = 1536;
/// Numbers of virtual CPUs.
const VCPUS: [u32; 3] = [1, 2, 4];

/// Every CPU executes, and processes come and go on all of them at once.
const SCRIPT: &str = r#"
all=$(nproc)
storm() { for i in 1 2 3 4; do taskset $1 /bin/true || echo "nothing runs on $1"; (md5sum /bin/busybox | wc -c) > /dev/null; done; }
mask=1
for cpu in $(seq $all); do storm $(printf %x $mask) & mask=$((mask * 2)); done; wait
echo "$all worked"
"#;

/// Boots all of them, one after the other, in one machine of so many processors.
fn boot_all(processors: u32) {
    let found = Kernel::ALL.map(Stock::find);
    let stocks: Vec<_> = Kernel::ALL.into_iter().zip(found).collect();
    let dom0 = Dom0::new()
        .words("dom0_mem=384M")
        .with(move |machine| machine.memory_mib(MEMORY_MIB).processors(processors).time_limit(LIMIT * 10));
    let add = |dom0, (_, stock): &(Kernel, Option<Stock>)| match stock {
        Some(stock) => stock.add_with_programs(dom0, SCRIPT, &[]),
        None => dom0,
    };
    let mut dom0 = start(stocks.iter().fold(dom0, add), "");
    let before = Ledger::of(&mut dom0);
    for (kernel, stock) in stocks {
        let Some(stock) = stock else { continue };
        for vcpus in VCPUS {
            let guest = format!("linux{vcpus}");
            let what = format!("{} with {vcpus} on {processors}", kernel.name());
            let printed = dom0.run_within(&stock.create(&guest, &format!("vcpus={vcpus}"), ""), LIMIT * 2);
            assert!(!printed.contains("error: "), "{what}: {printed}");
            let said = last_words(&mut dom0, &guest);
            expect_lines(&said, [format!("{vcpus} worked"), "all done".to_owned()]);
            assert!(!said.contains("complained") && !said.contains("nothing runs"), "{what}: {said}");
            before.expect_same(&mut dom0, &what);
        }
    }
}

#[test]
fn every_kernel_boots_with_one_to_four_virtual_cpus_on_one_processor() {
    boot_all(1);
}

#[test]
fn every_kernel_boots_with_one_to_four_virtual_cpus_on_two_processors() {
    boot_all(2);
}
