"""Run suites of benchmarks; write their tables to JSON, pictures and, on request, RESULTS.md.

    python -m bench [SUITE ...] [--quick] [--out DIR] [--write]

A suite is one or more scripts of this folder, each in a process of its own. ``--quick`` takes small
data and one round: it shows that a suite works, its figures mean nothing. ``--write`` replaces the
tables of a suite in ``RESULTS.md``, between ``<!-- bench SUITE -->`` and ``<!-- end SUITE -->``.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "RESULTS.md"


@dataclass(frozen=True)
class Script:
    """A script with the options of a full and of a quick run."""

    name: str
    full: str = ""
    quick: str = ""

    def command(self, quick: bool) -> list[str]:
        """Return the command line of a run."""
        options = self.quick if quick else self.full
        return [sys.executable, str(FOLDER / f"{self.name}.py"), *options.split()]


@dataclass(frozen=True)
class Table:
    """A table that a script printed."""

    header: list[str]
    rows: list[list[str]]


QUICK_OPS = "--shape 4 12 13 14 --runs 1 --only stats.mean filters.gaussian/ measure"
SUITES = {
    "ops": [Script("bench_ops", "", QUICK_OPS)],
    "peers": [
        Script("bench_filters", "--shape 4 96 96 96", "--shape 2 24 24 24 --runs 1"),
        Script("bench_derivatives", "", "--side 24 --runs 1"),
        Script("bench_density", "", "--runs 1"),
        Script("bench_masks", "", "--frames 20 --runs 1"),
        Script("bench_measure", "", "--runs 1"),
        Script("bench_registration", "", "--box 16 --particles 4"),
        Script("bench_transform", "--size 96", "--size 24 --runs 1"),
        Script("bench_clustering"),
        Script("bench_synthetic", "", "--side 32 --large 64"),
    ],
    "overhead": [Script("bench_steps", "", "--steps 2 --rounds 1")],
    "memory": [Script("bench_fold", "--gb 4", "--gb 0.2"), Script("bench_chain", "", "--side 128")],
    "out-of-core": [Script("bench_disk", "--gb 1 4", "--gb 0.02 --memory 512MiB")],
    "scaling": [Script("bench_scaling", "", "--volumes 4 --side 32 --runs 1")],
    "scale": [Script("bench_scale")],
    "io": [Script("bench_places", "", "--side 32"), Script("bench_slabs")],
    "screening": [Script("bench_screening_wedges", "", "--particles 20")],
    "explore": [Script("bench_explore", "--gb 2.2", "--gb 0.1")],
}


def tables_in(text: str) -> list[Table]:
    """Return the markdown tables in a text.

    >>> tables_in("ms\\n| op | s |\\n| --- | --- |\\n| mean | 2 |\\n")
    [Table(header=['op', 's'], rows=[['mean', '2']])]
    """
    tables = []
    for block in re.findall(r"(?:^\|.*\|[ ]*$\n?)+", text, re.MULTILINE):
        cells = [[c.strip() for c in line.strip()[1:-1].split("|")] for line in block.splitlines()]
        tables.append(Table(cells[0], cells[2:]))
    return tables


def run(suite: str, quick: bool) -> str:
    """Return what the scripts of a suite print, shown while they run."""
    texts = []
    for script in SUITES[suite]:
        command = script.command(quick)
        shown = " ".join(["python", f"bench/{script.name}.py", *command[2:]])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            lines = []
            for line in process.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            raise SystemExit(f"{shown} failed with status {process.returncode}")
        texts.append(f"`{shown}`:\n\n{''.join(lines).strip()}\n")
    return "\n".join(texts)


def machine() -> str:
    """Return the machine and the versions that figures depend on."""
    packages = ("lazyvol", "dask", "numpy", "numba", "zarr")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), load average {load:.1f} after the run, "
        f"Python {platform.python_version()}, {versions}."
    )


def replaced(results: str, suite: str, text: str) -> str:
    """Return the text of RESULTS.md with the tables of a suite, which are appended if absent.

    >>> replaced("# Results\\n", "io", "new")
    '# Results\\n\\n## Suite io\\n\\n<!-- bench io -->\\nnew\\n<!-- end io -->\\n'
    >>> replaced("<!-- bench io -->\\nold\\n<!-- end io -->\\n", "io", "new")
    '<!-- bench io -->\\nnew\\n<!-- end io -->\\n'
    """
    begin, end = f"<!-- bench {suite} -->", f"<!-- end {suite} -->"
    section = f"{begin}\n{text}\n{end}"
    if begin not in results:
        return f"{results.rstrip()}\n\n## Suite {suite}\n\n{section}\n"
    before, _, rest = results.partition(begin)
    return before + section + rest.partition(end)[2]


def draw(table: Table, path: Path) -> None:
    """Draw the ratios of a table as bars, if it has a column of them."""
    column = next((n for n, name in enumerate(table.header) if "times" in name), None)
    numbers = [
        (row[0], float(match[0]))
        for row in table.rows
        if column is not None and (match := re.search(r"\d+\.?\d*", row[column]))
    ]
    if not numbers:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.18 * len(numbers)), layout="constrained")
    axes = figure.subplots()
    names, ratios = zip(*reversed(numbers), strict=True)
    axes.barh(range(len(ratios)), ratios, color=["C0" if r >= 1 else "C3" for r in ratios])
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set(xscale="log", xlabel=table.header[column or 0], ylim=(-1, len(names)))
    axes.axvline(1, color="0.3", lw=0.8)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=", ".join(SUITES))
    parser.add_argument("--quick", action="store_true", help="small data, one round")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", help="folder of the files")
    parser.add_argument("--write", action="store_true", help="replace the tables in RESULTS.md")
    args = parser.parse_args(arguments)
    unknown = set(args.suites) - set(SUITES)
    if unknown:
        parser.error(f"SUITE must be among {', '.join(SUITES)}, got {', '.join(sorted(unknown))}")
    args.out.mkdir(parents=True, exist_ok=True)
    for suite in args.suites or SUITES:
        print(f"# {suite}", flush=True)
        text = run(suite, args.quick)
        tables = tables_in(text)
        facts = {"suite": suite, "quick": args.quick, "machine": machine()}
        content = {**facts, "tables": [asdict(t) for t in tables]}
        (args.out / f"{suite}.json").write_text(json.dumps(content, indent=1) + "\n")
        for number, table in enumerate(tables):
            draw(table, args.out / f"{suite}-{number}.png")
        if args.write and not args.quick:
            RESULTS.write_text(replaced(RESULTS.read_text(), suite, f"{text}\n{machine()}"))


if __name__ == "__main__":
    main()
