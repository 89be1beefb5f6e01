"""False alarms and finds of ``scores.screen`` on particles with a missing wedge each.

    PYTHONPATH=. python bench/bench_screening_wedges.py [--particles 60] [--seed 1] [--told]

Particles (24^3) are measured from -60 to 60 degrees in their own orientations and rotated back
(``tests/subtomograms.py``). The wedge is found in them, or with ``--told`` passed with the
orientations. First with nothing wrong, in ways that users meet; then with 15 % wrong, next to the
correlation with the average, plain and after a Gaussian of 1.5 voxels.
"""

import argparse
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import scipy.stats
from bench_screening_auc import area
from side_by_side import table

import lazyvol as lv
from tests import subtomograms

NOTHING_WRONG: dict[str, dict[str, Any]] = {
    "sigma 0.3": {"sigma": 0.3}, "sigma 1.5": {"sigma": 1.5}, "sigma 2.5": {"sigma": 2.5},
    "misaligned by 3 degrees, 0.5 voxels": {"sigma": 0.5, "degrees": 3.0, "voxels": 0.5},
    "misaligned by 8 degrees, 1 voxel": {"sigma": 0.5, "degrees": 8.0, "voxels": 1.0},
    "contrast, noise +-30 %": {"sigma": 0.7, "contrast": 0.3, "level": 0.3, "offset": 3.0},
    "noise through 0.7 voxels, linear": {"sigma": 0.7, "colour": 0.7, "order": 1},
    "noise through 1 voxel, linear": {"sigma": 0.7, "colour": 1.0, "order": 1},
}  # fmt: skip
WRONG = ("rotated", "shifted", "flipped", "noise", "gold", "neighbour", "membrane", "species")


def options(particles: subtomograms.Particles, told: bool) -> dict[str, Any]:
    return {"wedge": (-60.0, 60.0), "orientations": particles.angles} if told else {}


def null_rows(args: Any) -> list[list[str]]:
    rows = []
    for name, how in NOTHING_WRONG.items():
        particles = subtomograms.particles(args.particles, seed=args.seed, **how)
        result = lv.scores.screen(lv.as_stack(particles.values), **options(particles, args.told))
        p = result.p_value.values
        rows.append([
            name, str(int(result.flagged.sum())), f"{scipy.stats.kstest(p, 'uniform').pvalue:.2f}",
            f"{(p < 0.01).mean():.1%}", str(int((result.wedge == 3).sum())),
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def wrong_rows(args: Any) -> list[list[str]]:
    rows = []
    for wrong in WRONG:
        particles = subtomograms.particles(args.particles, 1.0, args.seed, wrong=wrong, part=0.15)
        bad, stack = particles.wrong, lv.as_stack(particles.values)
        result = lv.scores.screen(stack, **options(particles, args.told))
        smooth = lv.as_stack(ndi.gaussian_filter(particles.values, (0, 1.5, 1.5, 1.5)))
        scores = (-result.ncc.values, -lv.scores.ncc(smooth).values, result.llr.values)
        names = np.array(result.best_hypothesis.attrs["flag_meanings"].split())
        flagged = result.flagged.values
        reasons = names[result.best_hypothesis.values[flagged & bad]].tolist()
        counted = ", ".join(f"{reasons.count(r)} {r}" for r in sorted(set(reasons)))
        rows.append([
            wrong, *(f"{area(s, bad):.3f}" for s in scores),
            f"{(flagged & bad).sum()} of {bad.sum()}", str(int((flagged & ~bad).sum())), counted,
        ])  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--told", action="store_true")
    args = parser.parse_args()
    null, wrong = null_rows(args), wrong_rows(args)
    print(table(["nothing wrong", "flagged", "KS test of p", "p < 0.01", "wedge unclear"], null))
    header = ["wrong", "ncc", "smooth ncc", "screen", "found", "others flagged", "reasons"]
    print(table(header, wrong))


if __name__ == "__main__":
    main()
