//! Every stock kernel, with one, two and four virtual CPUs, on a Weir of one and of two processors: from a root disk, with
//! files through disk and network, every CPU and every kind of load, and a clean end.

use super::*;

const MACHINE_MIB: u32 = 1536;
/// Numbers of virtual CPUs.
const VCPUS: [u32; 3] = [1, 2, 4];
/// How long each load lasts.
const SECONDS: u32 = 1;

/// Files go through disk and network, and every CPU executes. It leaves the disk as it was.
const SCRIPT: &str = r#"
lease
echo "file $(sum < /file)"
cp /file /copy; sync; echo 3 > /proc/sys/vm/drop_caches
echo "copy $(sum < /copy)"; rm /copy
echo "fetched $(wget -q -O - http://10.0.2.2:$web/file | sum)"
all=$(nproc)
storm() { for i in 1 2 3 4; do taskset $1 /bin/true || echo "nothing runs on $1"; (md5sum /bin/busybox | wc -c) > /dev/null; done; }
mask=1
for cpu in $(seq $all); do storm $(printf %x $mask) & mask=$((mask * 2)); done; wait
echo "$all worked"
"#;

/// The kernels that there are, and the files that all guests read.
struct Bench {
    stocks: Vec<(Kernel, Stock)>,
    file: Vec<u8>,
    page: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let found = Kernel::ALL.into_iter().filter_map(|kernel| Some((kernel, Stock::find(kernel)?)));
        let seed = seed();
        Self { stocks: found.collect(), file: data(seed, 8 * MIB + 5), page: data(seed + 1, 8 * MIB + 17) }
    }

    /// What a guest with so many virtual CPUs says if all is well.
    fn expected(&self, vcpus: u32) -> Vec<String> {
        let hash = sha256(&self.file);
        let fetched = format!("fetched {}", sha256(&self.page));
        let lines = [format!("file {hash}"), format!("copy {hash}"), fetched, format!("{vcpus} worked")];
        let loads = stress::LOADS.map(|(name, _)| format!("{name}: passed"));
        lines.into_iter().chain(loads).chain(["all done".to_owned()]).collect()
    }
}

/// Boots all of them, one after the other, in one machine of so many processors.
fn boot_all(processors: u32) {
    let bench = Bench::new();
    let Some((_, any)) = bench.stocks.first() else { return };
    let scratch = program::scratch();
    let disk = scratch.join("disk.img");
    any.root_disk(&disk, &format!("{SCRIPT}{}", stress::script()), &[("file", &bench.file)]);
    let machine_disk = disk.clone();
    let dom0 = Dom0::new().words("dom0_mem=384M").network(&[]).with(move |machine| {
        machine.memory_mib(MACHINE_MIB).processors(processors).disk(machine_disk).time_limit(LIMIT * 40)
    });
    let dom0 = bench.stocks.iter().fold(dom0, |dom0, (_, stock)| stock.add_to(dom0));
    let mut dom0 = start(dom0, "disk=disk0 vif");
    let before = Ledger::of(&mut dom0);
    for (kernel, stock) in &bench.stocks {
        for vcpus in VCPUS {
            let guest = format!("linux{vcpus}");
            let what = format!("{} with {vcpus} on {processors}", kernel.name());
            let settings = format!("disk=disk0 vif vcpus={vcpus} memory={}", stress::MEMORY_MIB);
            let web = web_server(bench.page.clone());
            let words = format!("web={} seconds={SECONDS}", web.port);
            let printed = dom0.run_within(&stock.create(&guest, &settings, &words), LIMIT * 2);
            assert!(!printed.contains("error: "), "{what}: {printed}");
            dom0.wait_until_gone_within(&guest, LIMIT * 5);
            let said = dom0.succeed(&format!("console {guest} --tail 500"));
            expect_lines(&said, bench.expected(vcpus));
            assert!(!said.contains("complained") && !said.contains("nothing runs"), "{what}: {said}");
            before.expect_same(&mut dom0, &what);
        }
    }
    drop(dom0);
    expect_clean(&disk);
}

#[test]
fn every_kernel_boots_with_one_to_four_virtual_cpus_on_one_processor() {
    boot_all(1);
}

#[test]
fn every_kernel_boots_with_one_to_four_virtual_cpus_on_two_processors() {
    boot_all(2);
}
