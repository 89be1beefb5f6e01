"""Area under the ROC curve of screening, next to the theoretical limit and to common scores.

    python bench/bench_screening_auc.py [--shapes cylinder hollow blob ribosome]
        [--wrong lying tilted] [--sigmas 6 10 15] [--particles 600] [--seeds 5] [--box 32] [--null]

Areas are means over seeds. Noise is normal, signals have the norm of a cylinder of radius 6,
half-length 11 and contrast 1; one particle in ten is misaligned: lying along another axis, or
tilted by 60 to 90 degrees. Scores:

- limit: log likelihood ratio of an observer who knows every aligned and misaligned shape
- template: correlation with the true aligned shape
- ncc, smooth ncc: correlation with the average of the others, and after a Gaussian of 2 voxels
- user: projection along z, min-max, mean squared difference from the average projection
- acryo: its ZNCC score against the average (if acryo is installed)
- screen: ``scores.screen`` without options

``--null`` prints p-values and flags without misaligned particles, in white and coloured noise;
``--ribosomes FILE`` screens the 20 real particles of ``subtomos_aligned.mrc``, some of them
rotated.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import scipy.stats
from scipy.spatial.transform import Rotation
from scipy.special import logsumexp
from side_by_side import table

import lazyvol as lv
from lazyvol.kernels.geometry import solids

Array = np.ndarray[Any, np.dtype[Any]]
#: squared norm that all shapes are scaled to, that of the cylinder
ENERGY = 2488.0


def cylinder(box: int, along: Array, radius: float = 6.0, inner: float = 0.0) -> Array:
    out = np.zeros((box,) * 3)
    centre, scale = (float(box // 2),) * 3, box / 32
    for r, gain in ((radius, 1.0), (inner, -1.0)):
        if r:
            step = (1.0, 1.0, 1.0)
            solids.add_cylinder(
                out, (0.0,) * 3, centre, step, along, r * scale, 11.0 * scale, 0.0, gain
            )
    return out


def blob(box: int) -> Array:
    """Five Gaussians, no symmetry."""
    place = np.indices((box,) * 3) - box // 2
    out = np.zeros((box,) * 3)
    for centre, width, height in [
        ((0, 0, 0), 4.0, 1.0), ((7, 2, -1), 3.0, 1.2), ((-3, 6, 2), 2.5, 1.0),
        ((1, -4, 6), 2.5, 0.9), ((-6, -3, -4), 2.0, 0.8),
    ]:  # fmt: skip
        squared = sum((place[a] - centre[a] * box / 32) ** 2 for a in range(3))
        out += height * np.exp(-squared / 2 / (width * box / 32) ** 2)
    return out


def ribosome(box: int, path: Path) -> Array:
    """A map resampled to the box, with positive density and no solvent."""
    volume = lv.open(path).values.astype(np.float64)
    volume = np.maximum(volume if volume.max() > -volume.min() else -volume, 0)
    return ndi.zoom(volume, box / volume.shape[0], order=1, grid_mode=True, mode="nearest")


def rotated(volume: Array, matrix: Array) -> Array:
    centre = np.full(3, volume.shape[0] // 2)
    return np.asarray(ndi.affine_transform(volume, matrix.T, centre - matrix.T @ centre, order=1))


def poses(kind: str, n: int, rng: np.random.Generator) -> list[Array]:
    """Rotations, acting on (z, y, x), of misaligned particles."""
    if kind == "lying":
        quarter = np.pi / 2 * np.eye(3)[1:]
        return [Rotation.from_rotvec(quarter[rng.integers(2)]).as_matrix() for _ in range(n)]
    tilt, about = np.radians(rng.uniform(60, 90, n)), rng.uniform(0, 2 * np.pi, n)
    axes = np.stack([0 * about, np.cos(about), np.sin(about)], 1)
    return list(Rotation.from_rotvec(tilt[:, None] * axes).as_matrix())


def shape_of(name: str, box: int, map_path: Path | None) -> Callable[[Array], Array]:
    """Return a function from rotation to shape; cylinders are exact, others interpolated."""
    if name in ("cylinder", "hollow"):
        radius, inner = (6.0, 0.0) if name == "cylinder" else (7.0, 4.0)
        scale = np.sqrt(ENERGY / (cylinder(32, np.eye(3)[0], radius, inner) ** 2).sum())
        return lambda m: scale * cylinder(box, m[:, 0].copy(), radius, inner)
    volume = blob(box) if name == "blob" else ribosome(box, map_path)
    volume = volume * np.sqrt(ENERGY * (box / 32) ** 3 / (volume**2).sum())
    return lambda m: volume if np.allclose(m, np.eye(3)) else rotated(volume, m)


def simulated(
    shape: Callable[[Array], Array], kind: str, n: int, sigma: float, part: float, seed: int
) -> tuple[Array, Array, Array, list[Array]]:
    """Particles, True for misaligned ones, the aligned shape and all misaligned shapes."""
    rng = np.random.default_rng(seed)
    right = shape(np.eye(3))
    wrong = np.zeros(n, bool)
    wrong[rng.permutation(n)[: round(part * n)]] = True
    x = rng.normal(size=(n, *right.shape)).astype(np.float32)
    x *= sigma
    others = []
    for k, pose in zip(np.flatnonzero(wrong), poses(kind, int(wrong.sum()), rng), strict=True):
        others.append(shape(pose))
        x[k] += others[-1]
    for k in np.flatnonzero(~wrong):
        x[k] += right
    return x, wrong, right, others


def limit(x: Array, right: Array, others: list[Array], sigma: float) -> Array:
    flat, aligned = x.reshape(len(x), -1), right.ravel()
    different = list({o.tobytes(): o.ravel() for o in others}.values())
    gaps = np.array(different, np.float32) - aligned.astype(np.float32)
    logs = flat @ gaps.T - 0.5 * np.array([(d**2).sum() - (aligned**2).sum() for d in different])
    return np.asarray(logsumexp(logs / sigma**2, axis=1))


def ncc(x: Array) -> Array:
    return -lv.scores.ncc(lv.as_stack(x)).values


def smooth_ncc(x: Array) -> Array:
    return ncc(np.stack([ndi.gaussian_filter(v, 2.0) for v in x]))


def template(x: Array, right: Array) -> Array:
    return -lv.scores.ncc(lv.as_stack(x), lv.as_stack(right.astype(np.float32))).values


def users(x: Array) -> Array:
    def rescaled(p: Array) -> Array:
        low, high = p.min((-2, -1), keepdims=True), p.max((-2, -1), keepdims=True)
        return np.asarray((p - low) / (high - low))

    flat = x.mean(1)
    return np.asarray(((rescaled(flat) - rescaled(flat.mean(0))) ** 2).mean((1, 2)))


def acryo_score(x: Array) -> Array | None:
    try:
        from acryo.alignment import ZNCCAlignment
    except ImportError:
        return None
    model = ZNCCAlignment(x.mean(0))
    return -np.array([float(model.score(v, np.array([0.0, 0, 0, 1]), np.zeros(3))) for v in x])


def area(score: Array | None, wrong: Array) -> float:
    if score is None:
        return np.nan
    statistic = scipy.stats.mannwhitneyu(score[wrong], score[~wrong]).statistic
    return float(statistic / wrong.sum() / (~wrong).sum())


def row(shape: Callable[[Array], Array], kind: str, sigma: float, args: Any) -> list[str]:
    areas, flags, seconds = [], [], []
    for seed in range(args.seeds):
        x, wrong, right, others = simulated(shape, kind, args.particles, sigma, 0.1, seed)
        start = time.perf_counter()
        result = lv.scores.screen(lv.as_stack(x))
        seconds.append(time.perf_counter() - start)
        scores = [
            limit(x, right, others, sigma), template(x, right), ncc(x), smooth_ncc(x), users(x),
            acryo_score(x), result.llr.values,
        ]  # fmt: skip
        areas.append([area(s, wrong) for s in scores])
        flagged = result.flagged.values
        flags.append(
            [
                (flagged & wrong).sum() / wrong.sum(),
                (flagged & ~wrong).sum() / max(1, flagged.sum()),
            ]
        )
    means, (hits, false) = np.mean(areas, 0), np.mean(flags, 0)
    cells = ["-" if np.isnan(m) else f"{m:.3f}" for m in means]
    least = f"{np.min(areas, 0)[-1]:.3f}"
    return [*cells, least, f"{hits:.0%}", f"{false:.0%}", f"{np.median(seconds):.1f}"]


def null(args: Any) -> None:
    """Print p-values and flags without misaligned particles."""
    rows = []
    for colour in (0.0, 0.7, 1.0):
        for sigma in args.sigmas:
            p, flagged = [], []
            for seed in range(args.seeds):
                rng = np.random.default_rng(100 + seed)
                x = rng.normal(size=(args.particles, *(args.box,) * 3)).astype(np.float32)
                if colour:
                    x = ndi.gaussian_filter(x, (0, colour, colour, colour))
                x = x * (sigma / x.std()) + cylinder(args.box, np.eye(3)[0])
                result = lv.scores.screen(lv.as_stack(x.astype(np.float32)))
                p.append(result.p_value.values)
                flagged.append(result.flagged.values.mean())
            tests = [scipy.stats.kstest(v, "uniform").pvalue for v in p]
            rows.append([
                "white" if not colour else f"Gaussian {colour} voxels", f"{sigma:g}",
                " ".join(f"{t:.2f}" for t in tests), f"{np.median(np.concatenate(p)):.3f}",
                f"{(np.concatenate(p) < 0.01).mean():.2%}", f"{np.max(flagged):.2%}",
            ])  # fmt: skip
    header = ["noise", "sigma", "KS test of p, per seed", "median p", "p < 0.01", "most flagged"]
    print(table(header, rows))


def ribosomes(path: Path) -> None:
    """Screen real particles, some of them rotated at random."""
    stack = lv.open(path).compute()
    rows = []
    for count in (1, 2, 4, 6):
        areas = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            wrong = np.zeros(len(stack), bool)
            wrong[rng.choice(len(stack), count, replace=False)] = True
            x = stack.values.copy()
            for k in np.flatnonzero(wrong):
                x[k] = rotated(
                    x[k], Rotation.random(random_state=int(rng.integers(999))).as_matrix()
                )
            result = lv.scores.screen(stack.copy(data=x))
            flagged = result.flagged.values
            areas.append([
                area(-result.ncc.values, wrong), area(smooth_ncc(x), wrong),
                area(result.llr.values, wrong), (flagged & wrong).mean() * len(x) / count,
                (flagged & ~wrong).sum(),
            ])  # fmt: skip
        means = np.mean(areas, 0)
        rows.append([f"{count} of {len(stack)}", *(f"{m:.3f}" for m in means[:3]),
                     f"{means[3]:.0%}", f"{means[4]:.1f}"])  # fmt: skip
    header = ["rotated", "ncc", "smooth ncc", "screen", "of these flagged", "others flagged"]
    print(table(header, rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", default=["cylinder", "hollow", "blob"])
    parser.add_argument("--wrong", nargs="+", default=["lying", "tilted"])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[6, 10, 15])
    parser.add_argument("--particles", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--map", type=Path)
    parser.add_argument("--null", action="store_true")
    parser.add_argument("--ribosomes", type=Path)
    args = parser.parse_args()
    if args.ribosomes:
        return ribosomes(args.ribosomes)
    if args.null:
        return null(args)
    header = ["shape", "wrong", "sigma", "limit", "template", "ncc", "smooth ncc", "user", "acryo",
              "screen", "least of seeds", "found at FDR 5 %", "false of flagged", "s"]  # fmt: skip
    rows = []
    for name in args.shapes:
        shape = shape_of(name, args.box, args.map)
        for kind in args.wrong:
            for sigma in args.sigmas:
                rows.append([name, kind, f"{sigma:g}", *row(shape, kind, sigma, args)])
                print(rows[-1], flush=True)
    print(table(header, rows))


if __name__ == "__main__":
    main()
