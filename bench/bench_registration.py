"""Registration compared with scipy and scikit-image: shifts, rotations, averages, alignment.

    python bench/bench_registration.py [--box 64] [--particles 16]

Two threads each, in memory, median of 5, interleaved in one process. The peers process particle by
particle in a pool of two threads.
"""

import argparse
from functools import partial

import dask
import numpy as np
import scipy.fft
import scipy.ndimage as ndi
from scipy.spatial.transform import Rotation
from side_by_side import table, threads, timed
from skimage.registration import phase_cross_correlation

import lazyvol as lv
from lazyvol.kernels.geometry import affine, rotation_grids
from lazyvol.kernels.registration import rotational_correlation


def for_each_particle(function, stack) -> None:
    """Call ``function(particle)`` for every particle, on two threads."""
    values = stack.values

    def share(thread: int) -> None:
        for volume in values[thread::2]:
            function(volume)

    threads(share)


def operations(stack, reference, rotation) -> dict:
    """Each operation voxels lazyvol and voxels its peer."""
    step = {"z": 1.3, "y": -0.7, "x": 0.4}
    voxels = list(step.values())
    zyx_rotation = rotation_grids.zyx_matrices(rotation.as_quat())
    matrix, offset = affine.inverse_affine(reference.shape, (1, 1, 1), zyx_rotation)
    masks = np.ones(reference.shape, bool)
    mask = reference > -np.inf
    registration = lv.registration
    phase = partial(phase_cross_correlation, reference.values)
    masked = {"reference_mask": masks, "moving_mask": masks}
    return {
        "shifts": lambda: registration.shifts(stack, reference),
        "shifts, skimage": lambda: for_each_particle(
            lambda v: phase(v, upsample_factor=10, normalization=None), stack
        ),
        "shifts under a mask": lambda: registration.shifts(stack, reference, mask=mask, upsample=1),
        "shifts under a mask, skimage": lambda: for_each_particle(
            lambda v: phase(v, **masked), stack
        ),
        "shift, cubic": lambda: registration.shift(stack, step),
        "shift, cubic, scipy": lambda: for_each_particle(lambda v: ndi.shift(v, voxels), stack),
        "shift, linear": lambda: registration.shift(stack, step, order=1),
        "shift, linear, scipy": lambda: for_each_particle(
            lambda v: ndi.shift(v, voxels, order=1), stack
        ),
        "shift, fourier": lambda: registration.shift(stack, step, order="fourier"),
        "shift, fourier, scipy": lambda: for_each_particle(
            lambda v: scipy.fft.ifftn(ndi.fourier_shift(scipy.fft.fftn(v), voxels)).real, stack
        ),
        "rotate, cubic": lambda: registration.rotate(stack, rotation),
        "rotate, cubic, scipy": lambda: for_each_particle(
            lambda v: ndi.affine_transform(v, matrix, offset), stack
        ),
        "rotate, linear": lambda: registration.rotate(stack, rotation, order=1),
        "rotate, linear, scipy": lambda: for_each_particle(
            lambda v: ndi.affine_transform(v, matrix, offset, order=1), stack
        ),
        "average of shifted": lambda: registration.average(stack, step),
        "average of shifted, scipy": lambda: for_each_particle(
            lambda v: np.nan_to_num(ndi.shift(v, voxels, cval=np.nan)), stack
        ),
    }


def rotational_searches(reference, count: int = 100) -> dict:
    """Coefficient of a particle with a reference in many orientations, at the best shift."""
    box = reference.shape
    frequencies = rotational_correlation.Frequencies.up_to(box, (1, 1, 1), [0.4])[-1]
    window = rotational_correlation.ShiftWindow.within(box, (1, 1, 1), frequencies, box[0] / 4)
    reference_spectrum = rotational_correlation.ReferenceSpectrum.from_volume(
        reference.values, (1, 1, 1), 0.4
    )
    particle = (
        np.conj(rotational_correlation.spectrum_at(reference.values, frequencies))
        * frequencies.multiplicity
    )
    matrices = rotation_grids.zyx_matrices(rotation_grids.super_fibonacci(count))
    spectrum = np.conj(scipy.fft.rfftn(reference.values))

    def rotate_volumes() -> None:
        for m in matrices:
            centre = np.array(box) // 2
            volume = ndi.affine_transform(reference.values, m.T, centre - m.T @ centre, order=1)
            scipy.fft.irfftn(scipy.fft.rfftn(volume) * spectrum, box).max()

    def search_all_shifts() -> None:
        for m in matrices:
            window.peaks(reference_spectrum.rotated(m[None], frequencies) * particle)

    return {
        "100 rotations, shift and its top followed": lambda: reference_spectrum.correlation_sums(
            matrices, frequencies, particle, frequencies.multiplicity
        ),
        "100 rotations, all shifts": search_all_shifts,
        "100 rotations, all shifts, scipy": rotate_volumes,
    }


def report(title: str, seconds: dict[str, float], n: int) -> None:
    rows = []
    for name, s in seconds.items():
        lazyvol_names = [o for o in seconds if name.startswith(f"{o}, ") and name != o]
        ratio = f"{s / seconds[max(lazyvol_names, key=len)]:.1f}" if lazyvol_names else ""
        rows.append([name, f"{1000 * s / n:.2f}", ratio])
    print(f"\n{title}\n")
    print(table(["way", "ms each", "time / lazyvol"], rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--particles", type=int, default=16)
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    rng = np.random.default_rng(0)
    box = (args.box,) * 3
    reference = lv.as_stack(ndi.gaussian_filter(rng.normal(size=box), 2).astype("f4"))
    particles = reference.values + 0.05 * rng.normal(size=(args.particles, *box))
    stack = lv.as_stack(particles.astype("f4"))
    rotation = Rotation.from_euler("ZYZ", (30, 40, 50), degrees=True)
    title = f"{args.particles} particles of {args.box}^3 float32, two threads"
    report(title, timed(operations(stack, reference, rotation)), args.particles)
    report("one reference, one thread", timed(rotational_searches(reference)), 100)


if __name__ == "__main__":
    main()
