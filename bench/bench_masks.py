"""Masks beside what people use: mean colour, ragged selection, morphology and labels.

    python bench/bench_masks.py [--frames 2000] [--folder DIR] [--quick]

Two threads each, warm, all ways in turn in one process, median of 5. Memory is the most that a
process of its own gains. dask-image takes part where it is installed.
"""

import argparse
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import scipy.ndimage as ndi
import xarray as xr
from side_by_side import RUNS, peak_of, peaks, table, timed

import lazyvol as lv
from lazyvol.plan import stitching

IMAGE = (1314, 489, 3)
POINTS, FEATURES = 3000, 128


def ellipse(shape: tuple[int, int]) -> np.ndarray:
    """A mask as masks are: one piece, a half of the picture."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    return ((y / shape[0] - 0.5) / 0.45) ** 2 + ((x / shape[1] - 0.5) / 0.37) ** 2 < 1


def colours(runs: int) -> None:
    """Mean colour of an image in memory under a mask."""
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
                "boolean index": lambda a=array, m=mask: a[m].mean(0),
            }
            found = timed(ways, runs)
            rows.append(
                [dtype, name, *(f"{1e3 * s:.2f}" for s in found.values()),
                 f"{found['tensordot'] / found['lazyvol']:.2f}"]
            )  # fmt: skip
    print(f"\nMean colour of an image {IMAGE} under a mask, milliseconds\n")
    header = ["image", "mask", "lazyvol", "tensordot", "image[mask].mean(0)", "tensordot / lazyvol"]
    print(table(header, rows), flush=True)


def write_points(path: Path, frames: int) -> None:
    """Points of many frames, some 12 MB of them to a stored chunk."""
    if (path / "done").exists():
        return
    made = lv.synthetic.noise((frames, POINTS, FEATURES), seed=1)
    made = made.rename(z="frame", y="point", x="feature").drop_vars(("frame", "point", "feature"))
    lv.save(made.drop_vars(list(made.coords)), path)
    (path / "done").write_text("")


def selection(folder: Path, frames: int) -> tuple[xr.DataArray, xr.DataArray]:
    points = lv.open(folder / f"points-{frames}.zarr")
    mask = np.random.default_rng(2).random((frames, POINTS)) < 0.5
    return points, xr.DataArray(mask, dims=("frame", "point"))


def ours(folder: Path, frames: int) -> None:
    points, mask = selection(folder, frames)
    with lv.limited("1GiB"):
        found = lv.masks.select(points, mask)
        lv.save(found, folder / "ragged.zarr", overwrite=True, memory="1GiB")


def copied(folder: Path, frames: int) -> None:
    """Read and write all of it, as it is: what a selection cannot be much faster than."""
    points, _ = selection(folder, frames)
    lv.save(points, folder / "copy.zarr", overwrite=True, memory="1GiB")


def frame_by_frame(folder: Path, frames: int) -> None:
    """The usual loop: each frame's rows, to a file of their own."""
    points, mask = selection(folder, frames)
    out = folder / "rows"
    out.mkdir(exist_ok=True)
    for n in range(frames):
        np.save(out / f"{n}.npy", points[n].values[mask.values[n]])


def ragged(folder: Path, frames: int, runs: int) -> None:
    write_points(folder / f"points-{frames}.zarr", frames)
    shape = (frames, POINTS, FEATURES)
    points, mask = selection(folder, frames)
    plan = lv.explain(lv.masks.select(points, mask), memory="1GiB")
    print(f"\nselect {shape} float32 by {shape[:2]} on disk, saved\n\n{plan}\n")
    ways = {"lazyvol select": partial(ours, folder, frames)}
    ways["lazyvol copy"] = partial(copied, folder, frames)
    ways["frame by frame"] = partial(frame_by_frame, folder, frames)
    found = timed(ways, runs)
    memory = peaks(__file__, list(ways), "--frames", str(frames), "--folder", str(folder))
    read = np.prod(shape) * 4 / 1e9
    rows = [
        [n, f"{s:.2f}", f"{read / s:.2f}", f"{memory[n] / 2**20:.0f}"] for n, s in found.items()
    ]
    print(table(["way", "seconds", "GB/s read", "peak above start, MiB"], rows), flush=True)
    opened = lv.open(folder / "ragged.zarr")
    one = timed({"a frame of it": lambda: lv.masks.frame(opened, frames // 2).compute()}, runs)
    print(f"\na frame of what was saved: {1e3 * one['a frame of it']:.0f} ms", flush=True)


def volumes() -> tuple[xr.DataArray, np.ndarray]:
    """Eight volumes with some smooth structure, in blocks."""
    rng = np.random.default_rng(3)
    smooth = ndi.gaussian_filter(rng.standard_normal((8, 128, 128, 128), np.float32), (0, 3, 3, 3))
    flags = smooth > 0.01
    return lv.as_stack(da.from_array(flags, chunks=(1, 64, 64, 64))), flags


def shapes(runs: int) -> None:
    stack, flags = volumes()
    ball = np.linalg.norm(np.mgrid[-3:4, -3:4, -3:4], axis=0) <= 3
    each = ndi.generate_binary_structure(3, 1)
    works = {
        "dilate": (lv.masks.dilate, ndi.binary_dilation, each, {}),
        "erode, ball of 3": (lv.masks.erode, ndi.binary_erosion, ball, {"radius": 3.0}),
        "close": (lv.masks.close, ndi.binary_closing, each, {}),
    }
    rows = []
    for name, (op, oracle, element, options) in works.items():
        ways = {
            "lazyvol": lambda op=op, o=options: op(stack, **o).compute(),
            "scipy": lambda f=oracle, e=element: [f(v, e) for v in flags],
            **dask_image_ways(name, stack, element),
        }
        found = timed(ways, runs)
        tasks = {"lazyvol": len(op(stack, **options).data.dask)}
        rows += row_of(name, found, tasks, flags.size)
    rows += labels(stack, flags, runs)
    print("\nMasks of 8 x 128^3 in blocks of 64^3\n")
    print(table(["operation", "way", "seconds", "Mvoxel/s", "times lazyvol"], rows), flush=True)


def row_of(name: str, found: dict, tasks: dict, voxels: int) -> list[list[str]]:
    return [
        [name, way, f"{s:.3f}", f"{voxels / s / 1e6:.0f}", f"{s / found['lazyvol']:.2f}"]
        for way, s in found.items()
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


def labels(stack: xr.DataArray, flags: np.ndarray, runs: int) -> list[list[str]]:
    """Whole volumes, and one volume in blocks."""

    def in_blocks() -> object:
        room, stitching.BLOCK = stitching.BLOCK, 2**21
        try:
            return lv.masks.label(stack)
        finally:
            stitching.BLOCK = room

    ways = {
        "lazyvol": lambda: lv.masks.label(stack).compute(),
        "lazyvol, in blocks": lambda: in_blocks().compute(),
        "scipy": lambda: [ndi.label(v)[0] for v in flags],
    }
    tasks = {
        "lazyvol": len(lv.masks.label(stack).data.dask),
        "in blocks": len(in_blocks().data.dask),
    }
    try:
        from dask_image.ndmeasure import label

        apart = np.zeros((3, 3, 3, 3), int)
        apart[1] = ndi.generate_binary_structure(3, 1)
        ways["dask-image"] = lambda: label(stack.data, apart)[0].compute()
        tasks["dask-image"] = len(label(stack.data, apart)[0].dask)
    except ImportError:
        pass
    print(f"\ntasks to label {stack.data.npartitions} blocks: {tasks}")
    return row_of("label", timed(ways, runs), tasks, flags.size)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "lazyvol-bench"))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--quick", action="store_true", help="nothing on disk")
    parser.add_argument("--peak")
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.peak:
        ways = {"lazyvol select": ours, "lazyvol copy": copied, "frame by frame": frame_by_frame}
        print(json.dumps(peak_of(partial(ways[args.peak], folder, args.frames))))
        return
    colours(max(args.runs, 15))
    shapes(args.runs)
    if not args.quick:
        ragged(folder, args.frames, args.runs)
        for name in ("copy.zarr", "ragged.zarr", "rows"):
            shutil.rmtree(folder / name, ignore_errors=True)


if __name__ == "__main__":
    main()
