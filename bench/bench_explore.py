"""The explorer on a large volume: seconds to planes, and chunks decoded to step through slices.

python bench/bench_explore.py --gb 4
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

import dask.array as da

import lazyvol as lv
from lazyvol.explorer.planes import shown_on_screen
from lazyvol.explorer.views import VALUES, Views
from lazyvol.io.zarr.source import ZarrSource

#: slices across z that are stepped through: one layer of chunks of 128 slices, and the next slice
STEPS = 129
BLOCK = (128, 128, 128)


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that a call takes, and those of the cores."""
    begun, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begun, time.process_time() - cpu


def decoded(reads: list[int]) -> None:
    """Note the bytes of the chunks that each read of a store decodes."""
    plain = ZarrSource.read

    def read(self: ZarrSource, region, out=None):
        reads.append(self.stored_bytes(region))
        return plain(self, region, out)

    ZarrSource.read = read


def report(views: Views, view: str, sigma: float, reads: list[int]) -> None:
    """Print a row: the first planes, a jump of all three, and steps across z."""
    planes = views.planes(view, sigma)
    n = dict(views.array.sizes)

    def show(z: int, y: int, x: int) -> None:
        for normal in planes.normals:
            shown_on_screen(planes.plane(normal, {"z": z, "y": y, "x": x}))

    first = seconds(lambda: show(10, 10, 10))
    apart = range(128, 512, 128)
    jumps = [seconds(lambda i=i: show(n["z"] // 2 + i // 4, 10 + i, 10 + i)) for i in apart]
    at = (n["y"] // 2, n["x"] // 2)
    show(BLOCK[0], *at)
    steps, decodes = [], []
    for z in range(BLOCK[0], BLOCK[0] + STEPS):
        reads.clear()
        steps.append(seconds(lambda z=z: show(z, *at)))
        decodes.append(sum(reads))
    layer = BLOCK[0] * prod((n["y"], n["x"])) * 4
    times = (first, sorted(jumps)[1], sorted(steps)[STEPS // 2], max(steps))
    shown = " | ".join(f"{wall:.3f} ({cpu:.3f})" for wall, cpu in times)
    most, total = max(decodes) / layer, sum(decodes) / layer
    print(f"| {view} | {shown} | {most:.2f} | {total:.1f} |", flush=True)


def main() -> None:
    """Write a volume of noise, and print a row per view."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--views", nargs="*", default=(VALUES, "Gaussian", "Hessian ridges"))
    options = parser.parse_args()
    z = round(options.gb * 1e9 / 4 / 1024**2 / 128) * 128
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "volume.zarr"
        noise = lv.synthetic.noise(lv.as_stack(da.zeros((z, 1024, 1024), "f4", chunks=BLOCK)))
        lv.save(noise, path)
        reads: list[int] = []
        decoded(reads)
        print("| view | first | jump | step | slowest step | layers decoded by a step | by all |")
        for view in options.views:
            report(Views(lv.open(path)), view, 2.0, reads)


if __name__ == "__main__":
    main()
