// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * What single hypercalls cost a Linux kernel, in ticks of the time stamp counter.
 *
 * Everything is measured while the module is loaded; /proc/weir_bench then shows a line for each figure,
 * "bench: NUMBER NAME", with the names that the tool looks for. Each figure is the least of several rounds, less
 * what the two readings of the counter cost. Without a hypervisor there is nothing to measure and the file is empty.
 */
#include <linux/errno.h>
#include <linux/interrupt.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <asm/msr.h>
#include <asm/xen/hypercall.h>
#include <asm/xen/page.h>
#include <xen/events.h>
#include <xen/grant_table.h>
#include <xen/interface/memory.h>
#include <xen/interface/vcpu.h>
#include <xen/interface/version.h>
#include <xen/xen.h>

#define ROUNDS 9
#define FIGURES 32
#define BATCH 32
#define ENTRIES 512
#define READ_ONLY (_PAGE_PRESENT | _PAGE_USER | _PAGE_ACCESSED | _PAGE_DIRTY)

static unsigned long start;
module_param(start, ulong, 0444);
MODULE_PARM_DESC(start, "time stamp counter when user space began");

static struct { const char *name; u64 ticks; } figures[FIGURES];
static unsigned int figure_count;

static void add(const char *name, u64 ticks)
{
	if (figure_count == FIGURES)
		return;
	figures[figure_count].name = name;
	figures[figure_count++].ticks = ticks;
}

/* What two readings with nothing in between differ by. */
static u64 reading(void)
{
	u64 least = U64_MAX, before;
	int round;

	for (round = 0; round < ROUNDS; round++) {
		before = rdtsc_ordered();
		least = min(least, rdtsc_ordered() - before);
	}
	return least;
}

/*
 * Adds the least that `action` takes; `undo` puts everything back before the next round. Interrupts stay on: a round
 * that one falls into is not the least.
 */
#define MEASURE(name, action, undo) do {				\
	u64 least = U64_MAX, before, ticks;				\
	int round;							\
									\
	for (round = 0; round < ROUNDS; round++) {			\
		before = rdtsc_ordered();				\
		action;							\
		ticks = rdtsc_ordered() - before;			\
		least = min(least, ticks);				\
		undo;							\
	}								\
	add(name, least - reading());					\
} while (0)

/* Ticks that this virtual CPU ran, until user space began. */
static void boot(void)
{
	struct vcpu_runstate_info state;
	u64 now;

	if (!start || HYPERVISOR_vcpu_op(VCPUOP_get_runstate_info, 0, &state))
		return;
	now = rdtsc_ordered();
	add("boot to user space", state.time[RUNSTATE_running] - (now - start));
}

static int null_call(void)
{
	if (HYPERVISOR_xen_version(XENVER_version, NULL) < 0)
		return -EIO;
	MEASURE("null hypercall (xen_version)", HYPERVISOR_xen_version(XENVER_version, NULL), );
	return 0;
}

/* An entry as the hypervisor wants it: with the machine's frame number, where Linux's own helpers take a guest's. */
static pte_t entry(void *page, unsigned long flags)
{
	return (pte_t){ .pte = (pteval_t)virt_to_mfn(page) << PAGE_SHIFT | flags };
}

static int remap(void *page, unsigned long flags, unsigned long flush)
{
	return HYPERVISOR_update_va_mapping((unsigned long)page, entry(page, flags), flush);
}

static int pin(void *table, unsigned int command)
{
	struct mmuext_op op = { .cmd = command, .arg1.mfn = virt_to_mfn(table) };

	return HYPERVISOR_mmuext_op(&op, 1, NULL, DOMID_SELF);
}

static int update_many(void *table, void *target)
{
	static struct mmu_update updates[BATCH];
	int index;

	for (index = 0; index < BATCH; index++) {
		updates[index].ptr = virt_to_machine((u64 *)table + index).maddr | MMU_NORMAL_PT_UPDATE;
		updates[index].val = entry(target, READ_ONLY).pte;
	}
	return HYPERVISOR_mmu_update(updates, BATCH, NULL, DOMID_SELF);
}

/* Single mappings, batches, and pages that become page tables; `table` is empty, or maps `target` everywhere. */
static int mappings(void *table, void *target)
{
	int result = 0;

	MEASURE("update_va_mapping, to read-only", result |= remap(target, READ_ONLY, 0), );
	MEASURE("update_va_mapping, to writable", result |= remap(target, READ_ONLY | _PAGE_RW, 0), );
	MEASURE("update_va_mapping, INVLPG", result |= remap(target, READ_ONLY | _PAGE_RW, UVMF_INVLPG), );
	result |= remap(table, READ_ONLY, UVMF_INVLPG);
	MEASURE("pin an L1 empty", result |= pin(table, MMUEXT_PIN_L1_TABLE), pin(table, MMUEXT_UNPIN_TABLE));
	result |= pin(table, MMUEXT_PIN_L1_TABLE);
	MEASURE("unpin an L1 empty", result |= pin(table, MMUEXT_UNPIN_TABLE), pin(table, MMUEXT_PIN_L1_TABLE));
	MEASURE("mmu_update, 32 in a batch", result |= update_many(table, target), );
	result |= pin(table, MMUEXT_UNPIN_TABLE);
	result |= remap(table, READ_ONLY | _PAGE_RW, UVMF_INVLPG);
	return result ? -EIO : 0;
}

static int full_table(void *table, void *target)
{
	int index, result = 0;

	for (index = 0; index < ENTRIES; index++)
		((u64 *)table)[index] = entry(target, READ_ONLY).pte;
	result |= remap(table, READ_ONLY, UVMF_INVLPG);
	MEASURE("pin an L1 of 512 entries", result |= pin(table, MMUEXT_PIN_L1_TABLE),
		pin(table, MMUEXT_UNPIN_TABLE));
	result |= pin(table, MMUEXT_PIN_L1_TABLE);
	MEASURE("unpin an L1 of 512 entries", result |= pin(table, MMUEXT_UNPIN_TABLE),
		pin(table, MMUEXT_PIN_L1_TABLE));
	result |= pin(table, MMUEXT_UNPIN_TABLE);
	result |= remap(table, READ_ONLY | _PAGE_RW, UVMF_INVLPG);
	return result ? -EIO : 0;
}

/* An event channel from this domain to itself: its first end is unbound, the second bound to it. */
static int channel(evtchn_port_t *near, evtchn_port_t *far, domid_t *own)
{
	struct evtchn_alloc_unbound unbound = { .dom = DOMID_SELF, .remote_dom = DOMID_SELF };
	struct evtchn_bind_interdomain bind = { .remote_dom = DOMID_SELF };
	struct evtchn_status status = { .dom = DOMID_SELF };
	int result = HYPERVISOR_event_channel_op(EVTCHNOP_alloc_unbound, &unbound);

	if (result)
		return result;
	status.port = *near = unbound.port;
	result = HYPERVISOR_event_channel_op(EVTCHNOP_status, &status);
	*own = status.u.unbound.dom;
	bind.remote_port = unbound.port;
	result = result ?: HYPERVISOR_event_channel_op(EVTCHNOP_bind_interdomain, &bind);
	*far = bind.local_port;
	return result;
}

static void close_port(evtchn_port_t port)
{
	struct evtchn_close close = { .port = port };

	HYPERVISOR_event_channel_op(EVTCHNOP_close, &close);
}

static u64 arrived;

static irqreturn_t arrival(int irq, void *data)
{
	arrived = rdtsc_ordered();
	return IRQ_HANDLED;
}

static void send(evtchn_port_t port)
{
	struct evtchn_send send = { .port = port };

	HYPERVISOR_event_channel_op(EVTCHNOP_send, &send);
}

static int events(evtchn_port_t near, evtchn_port_t far)
{
	u64 least = U64_MAX, before;
	int round, irq = bind_evtchn_to_irqhandler(far, arrival, 0, "weir_bench", &arrived);

	if (irq < 0) {
		close_port(far);
		return irq;
	}
	for (round = 0; round < ROUNDS; round++) {
		before = rdtsc_ordered();
		send(near);
		least = min(least, arrived - before);
	}
	add("event to self, until its handler", least - reading());
	MEASURE("event to self, until send returns", send(near), );
	unbind_from_irqhandler(irq, &arrived);
	return 0;
}

static int map_and_unmap(grant_ref_t grant, domid_t own, u64 address)
{
	struct gnttab_map_grant_ref map = { .host_addr = address, .flags = GNTMAP_host_map, .ref = grant, .dom = own };
	struct gnttab_unmap_grant_ref unmap = { .host_addr = address };

	if (HYPERVISOR_grant_table_op(GNTTABOP_map_grant_ref, &map, 1) || map.status)
		return -EIO;
	unmap.handle = map.handle;
	return HYPERVISOR_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1) || unmap.status ? -EIO : 0;
}

static int copy(grant_ref_t from, grant_ref_t to, domid_t own)
{
	struct gnttab_copy copy = {
		.source = { .u.ref = from, .domid = own }, .dest = { .u.ref = to, .domid = own },
		.len = PAGE_SIZE, .flags = GNTCOPY_source_gref | GNTCOPY_dest_gref,
	};

	return HYPERVISOR_grant_table_op(GNTTABOP_copy, &copy, 1) || copy.status ? -EIO : 0;
}

/* Pages that this domain grants to itself: mapped at the place of another of its pages, and copied. */
static int grants(domid_t own, void *from, void *to)
{
	int source = gnttab_grant_foreign_access(own, virt_to_gfn(from), 0);
	int target = gnttab_grant_foreign_access(own, virt_to_gfn(to), 0);
	unsigned long place = __get_free_page(GFP_KERNEL);
	int result = source < 0 || target < 0 || !place ? -ENOMEM : 0;

	if (!result) {
		MEASURE("grant map and unmap", result |= map_and_unmap(source, own, place), );
		/* Unmapping left no page there. */
		result |= remap((void *)place, READ_ONLY | _PAGE_RW, UVMF_INVLPG);
		MEASURE("grant copy of 4 KiB", result |= copy(source, target, own), );
	}
	if (place)
		free_page(place);
	if (source >= 0)
		gnttab_end_foreign_access_ref(source);
	if (target >= 0)
		gnttab_end_foreign_access_ref(target);
	return result;
}

static int with_pages(void *one, void *other)
{
	evtchn_port_t near, far;
	domid_t own;
	int result = null_call();

	result = result ?: mappings(one, other);
	result = result ?: full_table(one, other);
	result = result ?: channel(&near, &far, &own);
	if (result)
		return result;
	result = events(near, far) ?: grants(own, one, other);
	close_port(near);
	return result;
}

static int measure(void)
{
	void *one = (void *)get_zeroed_page(GFP_KERNEL), *other = (void *)get_zeroed_page(GFP_KERNEL);
	int result = one && other ? with_pages(one, other) : -ENOMEM;

	free_page((unsigned long)one);
	free_page((unsigned long)other);
	return result;
}

static int show(struct seq_file *file, void *data)
{
	unsigned int index;

	for (index = 0; index < figure_count; index++)
		seq_printf(file, "bench: %llu %s\n", figures[index].ticks, figures[index].name);
	return 0;
}

static int __init weir_bench_init(void)
{
	int result = 0;

	if (xen_pv_domain()) {
		boot();
		result = measure();
	}
	if (!result && !proc_create_single("weir_bench", 0444, NULL, show))
		result = -ENOMEM;
	return result;
}

static void __exit weir_bench_exit(void)
{
	remove_proc_entry("weir_bench", NULL);
}

module_init(weir_bench_init);
module_exit(weir_bench_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("What single hypercalls cost");
