"""Compare mean colours, ragged selection, morphology and labels with numpy, scipy and dask.

    python bench/bench_masks.py [colours] [shapes] [labels] [ragged] [dask-label]
                                [--frames 2000] [--folder DIR] [--runs 5]

By default all parts run but the last: dask-image takes half a minute to label once. Times are
medians of 5 warm runs in turn in one process, on two threads. Ways of ragged selection are timed
once, each in a separate process, after the files were read once. Memory is the largest gain of such
a process, mapped files included. dask-image runs if it is installed.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import scipy.ndimage as ndi
import xarray as xr
import zarr
from side_by_side import RUNS, peak_of, table, timed

import lazyvol as lv
from lazyvol.plan import connected_blocks

IMAGE = (1314, 489, 3)
POINTS, FEATURES = 3000, 128


def ellipse(shape: tuple[int, int]) -> np.ndarray:
    """Return a mask of one ellipse that covers half of the image."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y / shape[0] - 0.5) / 0.45) ** 2 + ((x / shape[1] - 0.5) / 0.37) ** 2 < 1


def colours(runs: int) -> None:
    """Time the mean colour of an image in memory under a mask."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, IMAGE, np.uint8)
    rows = []
    for dtype in ("uint8", "float32", "float64"):
        for name, mask in (("piece", ellipse(IMAGE[:2])), ("noise", rng.random(IMAGE[:2]) < 0.5)):
            array = noise.astype(dtype)
            image = xr.DataArray(array, dims=("y", "x", "channel"))
            flags = xr.DataArray(mask, dims=("y", "x"))
            wide = np.float64 if dtype == "uint8" else dtype
            ways = {
                "lazyvol": lambda i=image, f=flags: lv.masks.mean(i, f),
                "tensordot": lambda a=array, m=mask, w=wide: (
                    np.tensordot(a, m.astype(w), ((0, 1), (0, 1))) / m.sum()
                ),
            }
            seconds = timed(ways, runs)
            # timed separately: it writes 8 to 15 MB, after which nothing is left in the cache
            seconds |= timed({"boolean index": lambda a=array, m=mask: a[m].mean(0)}, runs)
            rows.append(
                [dtype, name, *(f"{1e3 * s:.2f}" for s in seconds.values()),
                 f"{seconds['tensordot'] / seconds['lazyvol']:.2f}"]
            )  # fmt: skip
    print(f"\nMean colour of an image {IMAGE} under a mask, milliseconds\n")
    header = ["image", "mask", "lazyvol", "tensordot", "image[mask].mean(0)", "tensordot / lazyvol"]
    print(table(header, rows), flush=True)


def write_points(folder: Path, frames: int) -> None:
    """Write points of many frames as zarr (zstd, 12 MB of whole frames per chunk) and as .npy."""
    part = folder / "frames.part"
    if not (folder / f"frames-{frames}.npy").exists():
        shape, rng = (frames, POINTS, FEATURES), np.random.default_rng(1)
        stored = zarr.create_array(
            folder / f"frames-{frames}.zarr", shape=shape, chunks=(8, POINTS, FEATURES),
            dtype="f4", dimension_names=("frame", "point", "feature"), overwrite=True,
        )  # fmt: skip
        mapped = np.lib.format.open_memmap(part, "w+", np.float32, shape)
        for n in range(0, frames, 80):
            count = min(80, frames - n)
            block = rng.standard_normal((count, POINTS, FEATURES), np.float32)
            stored[n : n + count] = mapped[n : n + count] = block
        part.rename(folder / f"frames-{frames}.npy")


def chosen(frames: int) -> np.ndarray:
    return np.random.default_rng(2).random((frames, POINTS)) < 0.5


def ours(folder: Path, frames: int) -> None:
    points = lv.open(folder / f"frames-{frames}.zarr")
    mask = xr.DataArray(chosen(frames), dims=("frame", "point"))
    with lv.limited("1GiB"):
        selected = lv.masks.select(points, mask)
        lv.save(selected, folder / "ragged.zarr", overwrite=True, memory="1GiB")


def by_numpy(folder: Path, frames: int) -> None:
    points = np.load(folder / f"frames-{frames}.npy", mmap_mode="r")
    np.save(folder / "ragged.npy", points[chosen(frames)])


def by_dask(folder: Path, frames: int) -> None:
    """Compute chunk sizes in one read, values in another; the frames are lost."""
    points = da.from_zarr(str(folder / f"frames-{frames}.zarr"), chunks=(80, -1, -1))
    mask = da.from_array(chosen(frames), chunks=(80, -1))
    selected = points.reshape(-1, FEATURES)[mask.reshape(-1)].compute_chunk_sizes()
    da.to_npy_stack(folder / "ragged.stack", selected)


def frame_by_frame(folder: Path, frames: int) -> None:
    """Save the selected rows of each frame to a file."""
    points, mask = np.load(folder / f"frames-{frames}.npy", mmap_mode="r"), chosen(frames)
    out = folder / "ragged.rows"
    out.mkdir(exist_ok=True)
    for n in range(frames):
        np.save(out / f"{n}.npy", points[n][mask[n]])


SELECTING = {
    "lazyvol select": ours,
    "numpy memmap[mask]": by_numpy,
    "dask x[mask], compute_chunk_sizes": by_dask,
    "numpy, frame by frame": frame_by_frame,
}


def alone(way: str, folder: Path, frames: int) -> tuple[float, int]:
    """Return seconds and bytes gained by one way in a separate process; remove its files."""
    options = ["--frames", str(frames), "--folder", str(folder)]
    command = [sys.executable, __file__, "--peak", way, *options]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, peak = json.loads(out.splitlines()[-1])
    if way != "lazyvol select":
        clear(folder)
    return seconds, peak


def measured(way: str, folder: Path, frames: int) -> str:
    """Return the measurements of a way as JSON, in the process that ``alone`` starts."""
    start = time.perf_counter()
    peak = peak_of(partial(SELECTING[way], folder, frames))
    return json.dumps([time.perf_counter() - start, peak])


def clear(folder: Path) -> None:
    for name in ("ragged.stack", "ragged.rows"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "ragged.npy").unlink(missing_ok=True)


def ragged(folder: Path, frames: int, runs: int) -> None:
    write_points(folder, frames)
    shape = (frames, POINTS, FEATURES)
    points = lv.open(folder / f"frames-{frames}.zarr")
    mask = xr.DataArray(chosen(frames), dims=("frame", "point"))
    plan = lv.explain(lv.masks.select(points, mask), memory="1GiB")
    print(f"\nselect {shape} float32 by {shape[:2]} on disk, saved\n\n{plan}\n")
    for path in (p for p in folder.rglob("*") if p.is_file() and "frames-" in str(p)):
        with path.open("rb", buffering=0) as handle:  # into the system's cache
            while handle.read(2**24):
                pass
    read, rows = np.prod(shape) * 4 / 1e9, []
    for way in SELECTING:
        seconds, peak = alone(way, folder, frames)
        rows.append([way, f"{seconds:.2f}", f"{read / seconds:.2f}", f"{peak / 2**20:.0f}"])
    print(table(["way", "seconds", "GB/s read", "peak above start, MiB"], rows), flush=True)
    opened = lv.open(folder / "ragged.zarr")
    seconds = timed({"frame": lambda: lv.masks.frame(opened, frames // 2).compute()}, runs)
    print(f"\na frame of the saved selection: {1e3 * seconds['frame']:.0f} ms", flush=True)
    shutil.rmtree(folder / "ragged.zarr")


def volumes() -> tuple[xr.DataArray, np.ndarray]:
    """Return masks of smooth structures in eight volumes, in blocks and as an array."""
    rng = np.random.default_rng(3)
    smooth = ndi.gaussian_filter(rng.standard_normal((8, 128, 128, 128), np.float32), (0, 3, 3, 3))
    flags = smooth > 0.01
    return lv.as_stack(da.from_array(flags, chunks=(1, 64, 64, 64))), flags


def shapes(runs: int) -> None:
    stack, flags = volumes()
    ball = np.linalg.norm(np.mgrid[-3:4, -3:4, -3:4], axis=0) <= 3
    cross = ndi.generate_binary_structure(3, 1)
    works = {
        "dilate": (lv.masks.dilate, ndi.binary_dilation, cross, {}),
        "erode, ball of 3": (lv.masks.erode, ndi.binary_erosion, ball, {"radius": 3.0}),
        "close": (lv.masks.close, ndi.binary_closing, cross, {}),
    }
    rows = []
    for name, (op, oracle, element, options) in works.items():
        ways = {
            "lazyvol": lambda op=op, o=options: op(stack, **o).compute(),
            "scipy": lambda f=oracle, e=element: [f(v, e) for v in flags],
            **dask_image_ways(name, stack, element),
        }
        seconds = timed(ways, runs)
        rows += row_of(name, seconds, flags.size)
    show(rows)


def show(rows: list[list[str]]) -> None:
    print("\nMasks of 8 x 128^3 in blocks of 64^3\n")
    print(table(["operation", "way", "seconds", "Mvoxel/s", "times lazyvol"], rows), flush=True)


def row_of(name: str, seconds: dict, voxels: int) -> list[list[str]]:
    return [
        [name, way, f"{s:.3f}", f"{voxels / s / 1e6:.0f}", f"{s / seconds['lazyvol']:.2f}"]
        for way, s in seconds.items()
    ]


def dask_image_ways(name: str, stack: xr.DataArray, element: np.ndarray) -> dict:
    try:
        import dask_image.ndmorph as ndmorph
    except ImportError:
        return {}
    functions = {"dilate": ndmorph.binary_dilation, "erode": ndmorph.binary_erosion,
                 "close": ndmorph.binary_closing}  # fmt: skip
    function = functions[name.partition(",")[0]]
    return {"dask-image": lambda: function(stack.data, element[None]).compute()}


def labels(runs: int) -> None:
    """Time labels of whole volumes, and of volumes in blocks."""
    stack, flags = volumes()

    def in_blocks() -> object:
        room, connected_blocks.BLOCK = connected_blocks.BLOCK, 2**21
        try:
            return lv.masks.label(stack)
        finally:
            connected_blocks.BLOCK = room

    ways = {
        "lazyvol": lambda: lv.masks.label(stack).compute(),
        "lazyvol, in blocks": lambda: in_blocks().compute(),
        "scipy": lambda: [ndi.label(v)[0] for v in flags],
    }
    tasks = {
        "lazyvol": len(lv.masks.label(stack).data.dask),
        "in blocks": len(in_blocks().data.dask),
    }
    print(f"\ntasks to label {stack.data.npartitions} blocks: {tasks}")
    show(row_of("label", timed(ways, runs), flags.size))


def label_by_dask_image() -> None:
    """Time dask-image once without a warm-up: it takes half a minute."""
    from dask_image.ndmeasure import label

    stack, flags = volumes()
    structure = np.zeros((3, 3, 3, 3), int)
    structure[1] = ndi.generate_binary_structure(3, 1)
    ways = {"lazyvol": lambda: lv.masks.label(stack).compute()}
    seconds = timed(ways, 1)
    start = time.perf_counter()
    labelled = label(stack.data, structure)[0]
    labelled.compute()
    seconds["dask-image"] = time.perf_counter() - start
    print(f"\ndask-image's tasks to label {stack.data.npartitions} blocks: {len(labelled.dask)}")
    show(row_of("label", seconds, flags.size))


PARTS = ("colours", "shapes", "labels", "ragged", "dask-label")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"among {PARTS}")
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "lazyvol-bench"))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--peak")
    args = parser.parse_args()
    if set(args.parts) - set(PARTS):
        parser.error(f"parts are among {PARTS}, got {args.parts}")
    dask.config.set(scheduler="threads", num_workers=2)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.peak:
        print(measured(args.peak, folder, args.frames))
        return
    parts = args.parts or PARTS[:-1]
    if "colours" in parts:
        colours(max(args.runs, 15))
    if "shapes" in parts:
        shapes(args.runs)
    if "labels" in parts:
        labels(args.runs)
    if "dask-label" in parts:
        label_by_dask_image()
    if "ragged" in parts:
        ragged(folder, args.frames, args.runs)


if __name__ == "__main__":
    main()
