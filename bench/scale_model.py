"""Print ``bench/SCALE.md``: what 10 TB and 1 PB would take, from figures measured on one machine.

    python bench/scale_model.py > bench/SCALE.md

Everything is arithmetic on the constants below; nothing is run.
"""

from dataclasses import dataclass

from side_by_side import table

from lazyvol.plan.write import GROUPED_TASKS, MOST_REGIONS

#: GB of float32 per second and core, of the tables of RESULTS.md that are named
READ_AND_DESCRIBE = 1.97 / 2  # "Statistics and scores of a stack", zstd, two threads
SCREEN = 0.50 / 2 / 2  # "Memory of a screening", 12 GB: two passes, two workers
VOXELS_PER_GB = 250e6
READ_ENCODE_WRITE = 2 * 0.0115e-6  # core seconds per voxel, "A chain on a volume"
GAUSSIAN = 2 * 3.53e-9  # core seconds per voxel, "Filters"
CHAIN = 2 * 0.0446e-6  # vesselness(gaussian), saved, "A chain on a volume"
#: CPU seconds of the scheduler for a task, "Planning at scale"
SCHEDULER = 0.0011
#: a shard of ours, in GB, and the requests to read or to write it
SHARD, READ_REQUESTS, WRITE_REQUESTS = 0.268, 2, 1
#: assumed: cores and GB/s from an object store of a node; dollars for 1,000 requests of each kind
CORES, NODE_RATE = 16, 1.5
READ_PRICE, WRITE_PRICE = 0.0004, 0.005


@dataclass
class Job:
    """A computation: passes over the input, core seconds per GB of input, GB written per GB."""

    name: str
    passes: int
    core_seconds: float
    output: float


JOBS = [
    Job("describe (mean, variance, extremes)", 1, 1 / READ_AND_DESCRIBE, 0),
    Job("screen", 2, 1 / SCREEN, 0),
    Job("gaussian, saved", 1, (GAUSSIAN + READ_ENCODE_WRITE) * VOXELS_PER_GB, 1),
    Job("vesselness of gaussian, saved", 1, CHAIN * VOXELS_PER_GB, 1),
]


def row(job: Job, gigabytes: float, nodes: int) -> list[str]:
    """Return the seconds of each resource, and the one that decides."""
    shards = gigabytes / SHARD
    # a reduction streams: each core has a few tasks; a task of a saved result writes a few shards
    per_task = max(1, min(MOST_REGIONS, shards // (GROUPED_TASKS * nodes * CORES)))
    tasks = shards * job.output / per_task if job.output else 4.0 * nodes * CORES * job.passes
    seconds = {
        "cores": gigabytes * job.core_seconds / (nodes * CORES),
        "network": gigabytes * (job.passes + job.output) / (nodes * NODE_RATE),
        "scheduler": tasks * SCHEDULER,
    }
    reads, writes = shards * job.passes * READ_REQUESTS, shards * job.output * WRITE_REQUESTS
    dollars = (reads * READ_PRICE + writes * WRITE_PRICE) / 1000
    weakest = max(seconds, key=lambda name: seconds[name])
    return [
        job.name,
        str(job.passes),
        f"{tasks:,.0f}",
        *(f"{s:,.0f}" for s in seconds.values()),
        f"{(reads + writes) / 1e3:,.0f}",
        f"{dollars:,.2f}",
        f"**{weakest}**",
    ]


def main() -> None:
    header = ["job", "passes", "tasks", "cores, s", "network, s", "scheduler, s"]
    header += ["requests, thousands", "requests, $", "weakest link"]
    print("# Planning past this machine\n")
    print(
        "Arithmetic of `python bench/scale_model.py` on figures that RESULTS.md measured on two\n"
        f"cores, for nodes of {CORES} cores that get {NODE_RATE} GB/s each from an object store\n"
        f"(assumed, as are ${READ_PRICE} and ${WRITE_PRICE} for 1,000 reads and writes), and data\n"
        f"in shards of {1000 * SHARD:.0f} MB. Nothing here was run. Seconds of a resource are the\n"
        "time that it alone needs; the largest decides if all overlap.\n"
    )
    for title, gigabytes, nodes in (
        ("10 TB on 50 nodes", 1e4, 50),
        ("1 PB on 1,000 nodes", 1e6, 1000),
    ):
        print(f"## {title}\n")
        print(table(header, [row(job, gigabytes, nodes) for job in JOBS]), "\n")
    print(
        "The weakest link is the network: most jobs wait for data. dask's scheduler, one process\n"
        f"of Python, spends {1e6 * SCHEDULER:.0f} us on a task and would be the weakest link of\n"
        "results of 1 PB if its tasks did not write several shards each. The rate of a node is\n"
        "the figure to measure first on the machines at hand: the server of our own tests, in\n"
        "Python on the two cores of its client, gives a process 137 MB/s."
    )


if __name__ == "__main__":
    main()
