"""Which particles are wrong: references, rivals and their likelihoods, out of all rows at once."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening import hypotheses as hypotheses_kernels
from lazyvol.kernels.screening import mixture
from lazyvol.kernels.screening import reference as common
from lazyvol.kernels.screening.fourier_coefficients import Band, rows_of, volumes
from lazyvol.kernels.screening.fourier_rotation import in_plane, rotations

Array = np.ndarray[Any, np.dtype[Any]]

#: what is found for each particle, and the angles that turn the reference into it
FACTS = ("llr", "p_value", "flagged", "probability", "contrast", "noise", "best_hypothesis")
ANGLES = ("rot", "tilt", "psi")
COLUMNS = (*FACTS, *ANGLES)
#: times the reference is made anew, without those that look wrong
ROUNDS = 3
#: imagined particles per hypothesis beside the right one: all turns together, others each
TURNS, EACH = 5.0, 1.0
#: frequencies where less than this part of the reference is signal are left out
TELLING = 0.02
#: standard errors by which particles have to confirm the references that the others make
CONFIRMED = 3.0
#: particles that the noise spectrum counts for beside those whose variance is seen
IMAGINED = 100.0
#: least and most folds by which shares of hypotheses are taken from other particles, and particles
#: times folds: to leave out one in 24 of 600 cost 0.001 of the area under the ROC curve
SHARES, LEFT_OUT = (24, 128), 80_000
#: largest variance of contrasts
VARIED = 0.25
#: rows this much shorter than most are of volumes that do not vary
FLAT = 1e-4


@dataclass
class _Judged:
    """Inner products with the hypotheses of a particle's fold, and what follows from them."""

    rivals: hypotheses_kernels.Rivals
    t: Array
    q: Array
    level: Array
    spread: float
    prior: Array
    share: Array
    found: Array
    crossed: tuple[Array, Array] = (np.empty(0), np.empty(0))

    @property
    def logs(self) -> Array:
        return mixture.likelihood(self.t, self.q, self.level[:, None], self.spread)

    @property
    def ratios(self) -> Array:
        """Log likelihood ratios, by the shares of other folds."""
        folds = _share_folds(len(self.t))
        return np.asarray(mixture.ratio(self.logs, self.share)[np.arange(len(folds)), folds])


@dataclass(frozen=True)
class Given:
    """What is known beforehand: rows of templates, a mask on the cube, measured frequencies."""

    templates: Array
    mask: Array | None = None
    measured: Array | None = None


def screened(
    rows: Array, given: Given, *, band: Band, turns: int, other: bool, rate: float
) -> Array:
    """(particle, column) out of rows of particles (see ``bands``).

    Particles with a number that is not finite, or without variation, get NaN, and are flagged.
    """
    table = np.full((len(rows), len(COLUMNS)), np.nan)
    table[:, COLUMNS.index("flagged")] = 1.0
    table[:, COLUMNS.index("best_hypothesis")] = hypotheses_kernels.EMPTY
    good = _tells(rows)
    kept = rows if good.all() else rows[good]
    if len(kept) >= 2:
        table[good] = _table(*_judged(kept, given, band, turns, other), rate, band.planar)
    return table


def _tells(rows: Array) -> Array:
    """Which rows are finite and vary."""
    power = np.einsum("kn,kn->k", rows, rows, dtype=np.float64)
    finite = np.isfinite(power)
    typical = np.median(power[finite]) if finite.any() else 0.0
    found: Array = finite & (power > FLAT**2 * typical)
    return found


def _judged(
    rows: Array, given: Given, band: Band, turns: int, other: bool
) -> tuple[_Judged | None, Array]:
    """The last of several rounds; None where particles have nothing in common."""
    folds, right = common.folds_of(len(rows)), np.ones(len(rows))
    scale, judged = np.ones(len(rows)), None
    spread = in_plane if band.planar else rotations
    grid = spread(turns) if turns else np.empty((0, 3, 3))
    measured = np.ones(len(band.index), bool) if given.measured is None else given.measured
    for n in range(ROUNDS):
        made = common.references(rows, right, scale, folds, measured, band)
        if n == 0:
            scale = common.gains(rows, made.noise, measured)
            made = common.references(rows, right, scale, folds, measured, band)
        if not made.signal.any():
            return None, scale
        left = ROUNDS - 1 - n
        judged = _round(rows, right, scale, folds, made, given, band, grid, other, left)
        if judged is None:
            return None, scale
        right = _trusted(judged.found[:, 0])
    return judged, scale


def _round(
    rows: Array, right: Array, scale: Array, folds: Array, made: common.References,
    given: Given, band: Band, grid: Array, other: bool, left: int,
) -> _Judged | None:  # fmt: skip
    """Hypotheses out of references, and what speaks for them, with as many rounds ``left``."""
    kept = np.flatnonzero(made.gain > TELLING)
    both = np.concatenate([kept, kept + len(made.noise)])
    white = (1 / np.sqrt(np.tile(made.taken[kept], 2))).astype(np.float32)
    seen = np.take(rows, both, axis=1)  # in rows: products are 6 times faster than by columns
    seen *= white
    seen /= scale[:, None].astype(np.float32)
    solid = _masked(made, given.mask, seen, right, folds, white, both, band)
    turn = hypotheses_kernels.different_turns(solid[1:3], grid, white, kept, band)
    templates = _templates(given.templates, solid[0], white, both, band)
    found = hypotheses_kernels.compared(
        seen, folds, np.delete(solid, (1, 2), axis=0), turn, templates, white, kept, band
    )
    judged = _judge(*found, right, scale)
    if judged is None:
        return None
    if other and left < 2:
        snr = np.tile(made.signal[kept] / made.taken[kept], 2)
        judged = _with_other_kind(judged, seen, folds, snr)
    if not left:
        judged.crossed = _crossed(judged, made.noise, white, both, band)
    return judged


def _crossed(
    judged: _Judged, noise: Array, white: Array, both: Array, band: Band
) -> tuple[Array, Array]:
    """Inner products of all hypotheses, and covariances of what noise adds to a particle's.

    Noise was faded at the faces of the box, and its mean taken out: its frequencies are not quite
    independent. What the references of folds have more of than that of all is noise of their own.
    """
    rows = judged.rivals.rows
    gram = _gram(rows)
    whole = np.zeros((len(rows), band.size), np.float32)
    whole[:, both] = rows * white
    faded = common.faded(whole, band)
    faded *= np.sqrt(np.tile(noise, 2)).astype(np.float32)
    covariance = _gram(faded)
    covariance += np.diag(np.maximum(judged.q.mean(0) - np.diag(gram), 0))
    return gram, covariance


def _gram(rows: Array) -> Array:
    """Inner products of rows, summed in float64."""
    parts = (rows[:, n : n + 1024].astype(np.float64) for n in range(0, rows.shape[1], 1024))
    return np.asarray(sum(part @ part.T for part in parts))


def _masked(
    made: common.References, mask: Array | None, seen: Array, right: Array, folds: Array,
    white: Array, both: Array, band: Band,
) -> Array:  # fmt: skip
    """Volumes of the references within the mask given, or the one found where it helps.

    It helps where the references explain more of the particles that they are not made of.
    """
    plain = volumes(made.rows, band)
    masks = [mask] if mask is not None else [np.ones(band.cube), made.mask]
    tried = [common.standing(plain, m, band) for m in masks]
    return max(tried, key=lambda v: _explained(v, seen, right, folds, white, both, band))


def _explained(
    solid: Array, seen: Array, right: Array, folds: Array, white: Array, both: Array, band: Band
) -> float:
    own = rows_of(solid[3:], band)[:, both] * white
    t = hypotheses_kernels.products(seen, own[:, None].astype(np.float32))[:, 0]
    q = (own**2).sum(1)[folds]
    return float(max((right * t).sum(), 0) ** 2 / max((right * q).sum(), 1e-300))


def _templates(templates: Array, solid: Array, white: Array, both: Array, band: Band) -> Array:
    """Rows of templates, as strong as the reference; those that are like it are 0."""
    if not len(templates):
        return np.empty((0, len(white)), np.float32)
    standing = common.standing(volumes(templates, band), np.ones(band.cube), band)
    rows = rows_of(standing, band)[:, both] * white
    own = rows_of(solid, band)[both] * white
    norm = np.maximum(np.linalg.norm(rows, axis=1), 1e-300)
    strong = float(np.linalg.norm(own))
    alike = rows @ own > hypotheses_kernels.ALIKE * norm * strong
    rows *= (np.where(alike, 0.0, strong / norm))[:, None]
    return rows.astype(np.float32)


def _judge(
    hypotheses: hypotheses_kernels.Rivals, t: Array, q: Array, right: Array, scale: Array
) -> _Judged | None:
    """Likelihoods of all hypotheses: contrasts are as they are among the particles.

    None where particles do not hold the references that the others make.
    """
    level = _levels(t[:, 0], q[:, 0], right, scale)
    seen, due = (right * level * t[:, 0]).sum(), (right * level**2 * q[:, 0]).sum()
    if seen < CONFIRMED * np.sqrt(due):
        return None
    strength = float(seen / due)
    hypotheses.rows *= np.float32(strength)
    hypotheses.right *= np.float32(strength)
    t, q = t * strength, q * strength**2
    spread = _spread(t[:, 0] / level, q[:, 0], right, level)
    kinds = hypotheses.kind
    prior = np.full(len(kinds), EACH)
    prior[kinds == hypotheses_kernels.TURNED] = TURNS / max(
        1, (kinds == hypotheses_kernels.TURNED).sum()
    )
    prior[0] = 0.0
    logs = mixture.likelihood(t, q, level[:, None], spread)
    share, found = mixture.shares(logs, prior, _share_folds(len(t)))
    return _Judged(hypotheses, t, q, level, spread, prior, share, found)


def _levels(t: Array, q: Array, right: Array, scale: Array) -> Array:
    """Contrast of each particle as far as its noise tells it.

    Either the signal is as strong in all of them (then less beside stronger noise), or signal and
    noise were scaled together: what explains more of the particles.
    """
    alone = np.median(scale) / scale

    def explained(level: Array) -> float:
        return float((right * level * t).sum() ** 2 / (right * level**2 * q).sum())

    return alone if explained(alone) > explained(np.ones_like(alone)) else np.ones_like(alone)


def _spread(t: Array, q: Array, right: Array, level: Array) -> float:
    """Variance of contrasts about their level, beyond what noise does."""
    weight = right * q**2
    own = (t / q - 1) ** 2 - 1 / (q * level**2)
    return float(np.clip((weight * own).sum() / max(weight.sum(), 1e-300), 0, VARIED))


def _with_other_kind(judged: _Judged, seen: Array, folds: Array, snr: Array) -> _Judged:
    """The same with a second kind of particle, where there is one."""
    old = judged.rivals
    even = seen if (judged.level == 1).all() else seen / judged.level.astype(np.float32)[:, None]
    share = judged.share[_share_folds(len(seen))]
    means = hypotheses_kernels.other_kind(
        even, old.right, judged.logs, share, snr, folds, judged.spread
    )
    if means is None:
        return judged
    more = hypotheses_kernels.Rivals(
        np.r_[old.kind, hypotheses_kernels.OTHER],
        np.concatenate([old.turn, np.eye(3)[None]]),
        np.concatenate([old.rows, means.mean(0, keepdims=True)]),
        old.right,
    )
    t = np.c_[judged.t, hypotheses_kernels.products(seen, means[:, None])]
    q = np.c_[judged.q, (means.astype(np.float64) ** 2).sum(1)[folds]]
    prior = np.r_[judged.prior, EACH]
    logs = mixture.likelihood(t, q, judged.level[:, None], judged.spread)
    share, probable = mixture.shares(logs, prior, _share_folds(len(t)))
    return replace(judged, rivals=more, t=t, q=q, prior=prior, share=share, found=probable)


def _table(judged: _Judged | None, scale: Array, rate: float, planar: bool) -> Array:
    table = np.full((len(scale), len(COLUMNS)), np.nan)
    column = {name: table[:, n] for n, name in enumerate(COLUMNS)}
    column["noise"][:] = scale
    column["flagged"][:] = 0.0
    if judged is None:
        column["llr"][:], column["p_value"][:], column["probability"][:] = 0.0, 1.0, 0.0
        column["best_hypothesis"][:] = hypotheses_kernels.RIGHT
        return table
    column["llr"][:] = judged.ratios
    column["p_value"][:] = _p_values(judged)
    unlikely = mixture.rejected(column["p_value"], rate)
    column["flagged"][:] = unlikely & (column["llr"] > 0)  # an odd right one is still a right one
    column["probability"][:] = 1 - judged.found[:, 0]
    column["contrast"][:] = judged.t[:, 0] / judged.q[:, 0]
    _explain(judged, column, planar)
    return table


def _trusted(right: Array) -> Array:
    """Weight of each particle in the next references, by its probability of being right.

    Only those that are rather wrong lose any: to weigh all by how well they fit the references
    makes the next ones out of their own noise.
    """
    return np.where(right < 0.5, right, 1.0)


def _p_values(judged: _Judged) -> Array:
    """p-values by the mean inner products of right particles, taken from the particles.

    A filtered reference falls short of the truth, and by a different part where it is turned.
    """
    (means, noise), right = judged.crossed, judged.found[:, 0]
    means = means.copy()
    means[0] = (right / judged.level) @ judged.t / right.sum()
    return mixture.p_values(
        judged.ratios, _share_folds(len(right)), means, judged.q.mean(0),
        _as_seen(noise, means[0], judged, right), judged.share, judged.level, judged.spread,
    )  # fmt: skip


def _as_seen(noise: Array, mean: Array, judged: _Judged, right: Array) -> Array:
    """A covariance with variances drawn to those among the particles, as far as their number tells.

    The spectrum of steep noise is that of the faded box, not quite that in its middle: variances
    were from 0.7 to 1.9 times what it says. What counts are differences from the first product.
    """
    basis = np.eye(len(mean))
    basis[1:, 0] = -1
    back = 2 * np.eye(len(mean)) - basis
    level, noise = judged.level[:, None], basis @ noise @ basis.T
    apart = right @ ((judged.t - level * mean) @ basis.T) ** 2 / right.sum()
    apart -= judged.spread * np.square(level).mean() * (basis @ mean) ** 2
    due, many = np.diag(noise), right.sum()
    ratio = np.divide(apart, due, out=np.ones_like(due), where=due > 0)
    whole = float((due * ratio).sum() / due.sum())
    kept = max(0.0, 1 - 2 / many / max(float(np.var(ratio)), 1e-300))
    ratio = whole + kept * (ratio - whole)
    root = np.sqrt((many * np.maximum(ratio, 0.25) + IMAGINED) / (many + IMAGINED))
    return np.asarray(back @ (noise * root * root[:, None]) @ back.T)


def _share_folds(n: int) -> Array:
    """Folds by which shares are taken: each leaves few out, and none tells of itself."""
    return np.arange(n) % min(n, int(np.clip(LEFT_OUT // n, *SHARES)))


def _explain(judged: _Judged, column: dict[str, Array], planar: bool) -> None:
    """Best hypothesis of each particle, by kinds, and the angles of the best turn."""
    kinds = judged.rivals.kind
    codes = np.unique(kinds)
    total = np.stack([judged.found[:, kinds == c].sum(1) for c in codes], axis=1)
    total[column["flagged"] > 0, 0] = 0.0
    column["best_hypothesis"][:] = codes[total.argmax(1)]
    turned = np.flatnonzero(kinds == hypotheses_kernels.TURNED)
    at = np.flatnonzero(column["best_hypothesis"] == hypotheses_kernels.TURNED)
    if len(at):
        best = turned[judged.found[np.ix_(at, turned)].argmax(1)]
        about_xyz = judged.rivals.turn[best][:, ::-1, ::-1]
        for name, angles in zip(ANGLES, _euler(about_xyz, planar), strict=True):
            column[name][at] = angles


def _euler(about_xyz: Array, planar: bool) -> Array:
    """rot, tilt and psi; of images rot alone, for scipy warns where tilt is 0."""
    turns = Rotation.from_matrix(about_xyz)
    if not planar:
        return np.asarray(turns.as_euler("ZYZ", degrees=True)).T
    rot = turns.as_rotvec(degrees=True)[:, 2]
    return np.stack([rot, np.zeros_like(rot), np.zeros_like(rot)])


def memory(n: int, templates: int, turns: int, band: Band) -> int:
    """Bytes that ``screened`` takes beside its rows: what stays, and the largest of its phases."""
    folds, hypotheses = int(common.folds_of(n).max()) + 1, 4 + turns + templates
    stays = 2.3 * 4 * n * band.size + 8 * hypotheses * 6 * n
    stays += 4 * band.size * (3 * hypotheses + 2 * hypotheses_kernels.TOGETHER * (folds + 2))
    cube = int(np.prod(band.cube))
    padded = 8 * 8 * cube  # complex64, twice as long along each axis
    spectra = 8 * band.size * common.PIECE
    turned = (folds + 3) * (3 * padded + 40 * cube)
    drawn = 8 * hypotheses * (6 * hypotheses + 5 * mixture.DRAWS // 10)
    drawn += 4 * mixture.DRAWS * (int(_share_folds(n).max()) + 8)
    return int(stays + max(spectra, turned, drawn))


def start(shape: tuple[int, ...]) -> dict[str, Array]:
    """Empty table."""
    return {"table": np.zeros((*shape, len(COLUMNS)))}


def update(state: dict[str, Array], axes: tuple[int, ...], block: Array) -> None:
    """Take in the whole table."""
    state["table"] += np.moveaxis(block, axes[0], -1)


def combine(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    """Both tables."""
    return {"table": a["table"] + b["table"]}


def finish(state: dict[str, Array], *, planar: bool = False) -> dict[str, Array]:
    """Columns by name; the angles of images are rot alone."""
    found = {name: state["table"][..., n] for n, name in enumerate(COLUMNS)}
    angles = [found.pop(name) for name in ANGLES]
    return {**found, "angles": angles[0] if planar else np.stack(angles, axis=-1)}
