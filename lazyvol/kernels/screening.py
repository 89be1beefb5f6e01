"""Which particles are wrong: references, rivals and their likelihoods, out of all rows at once."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lazyvol.kernels import references as common
from lazyvol.kernels import rivals, suspects
from lazyvol.kernels.bands import Band, rows_of, volumes
from lazyvol.kernels.orientations import rotations

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
#: largest variance of contrasts
VARIED = 0.25
#: rows this much shorter than most are of volumes that do not vary
FLAT = 1e-4


@dataclass
class _Judged:
    """Inner products with the hypotheses of a particle's fold, and what follows from them."""

    rivals: rivals.Rivals
    t: Array
    q: Array
    level: Array
    spread: float
    prior: Array
    share: Array
    found: Array
    excess: Array
    trusted: Array

    @cached_property
    def crossed(self) -> tuple[Array, Array]:
        """Inner products of all hypotheses, and covariances of what noise adds to a particle's."""
        rows = self.rivals.rows.astype(np.float64)
        return rows @ rows.T, (rows * self.excess) @ rows.T

    @property
    def logs(self) -> Array:
        return suspects.likelihood(self.t, self.q, self.level[:, None], self.spread)

    @property
    def ratios(self) -> Array:
        """Log likelihood ratios, by shares that do not count the particle itself."""
        own = suspects.others_shares(self.share, self.found, self.prior)
        return suspects.ratio(self.logs, own)


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
    table[:, COLUMNS.index("best_hypothesis")] = rivals.EMPTY
    good = _tells(rows)
    kept = rows if good.all() else rows[good]
    if len(kept) >= 2:
        table[good] = _table(*_judged(kept, given, band, turns, other), rate)
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
    grid = rotations(turns) if turns else np.empty((0, 3, 3))
    for n in range(ROUNDS):
        made = common.references(rows, right, scale, folds, band)
        if n == 0:
            scale = common.gains(rows, made.noise)
            made = common.references(rows, right, scale, folds, band)
        if not made.signal.any():
            return None, scale
        last = n >= ROUNDS - 2
        judged = _round(rows, right, scale, folds, made, given, band, grid, other and last)
        if judged is None:
            return None, scale
        right = judged.trusted = _trusted(judged, right)
    return judged, scale


def _round(
    rows: Array, right: Array, scale: Array, folds: Array, made: common.References,
    given: Given, band: Band, grid: Array, other: bool,
) -> _Judged | None:  # fmt: skip
    telling = made.gain > TELLING
    if given.measured is not None:
        telling &= given.measured
    kept = np.flatnonzero(telling)
    both = np.concatenate([kept, kept + len(made.noise)])
    white = (1 / np.sqrt(np.tile(made.taken[kept], 2))).astype(np.float32)
    seen = rows[:, both]
    seen *= white
    seen /= scale[:, None].astype(np.float32)
    solid = _masked(made, given.mask, seen, right, folds, white, both, band)
    turn = rivals.different_turns(solid[1:3], grid, white, kept, band)
    templates = _templates(given.templates, solid[0], white, both, band)
    found = rivals.compared(
        seen, folds, np.delete(solid, (1, 2), axis=0), turn, templates, white, kept, band
    )
    judged = _judge(*found, right, scale)
    if judged is None:
        return None
    judged.excess = np.tile(made.noise[kept] / made.taken[kept], 2)
    if other:
        snr = np.tile(made.signal[kept] / made.taken[kept], 2)
        judged = _with_other_kind(judged, seen, folds, snr)
    return judged


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
    t = rivals.products(seen, own[:, None].astype(np.float32))[:, 0]
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
    alike = rows @ own > rivals.ALIKE * norm * strong
    rows *= (np.where(alike, 0.0, strong / norm))[:, None]
    return rows.astype(np.float32)


def _judge(
    hypotheses: rivals.Rivals, t: Array, q: Array, right: Array, scale: Array
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
    prior[kinds == rivals.TURNED] = TURNS / max(1, (kinds == rivals.TURNED).sum())
    prior[0] = 0.0
    logs = suspects.likelihood(t, q, level[:, None], spread)
    share, found = suspects.shares(logs, prior)
    excess = np.ones(hypotheses.rows.shape[1])
    return _Judged(hypotheses, t, q, level, spread, prior, share, found, excess, right)


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
    means = rivals.other_kind(even, old.right, judged.logs, judged.share, snr, folds, judged.spread)
    if means is None:
        return judged
    more = rivals.Rivals(
        np.r_[old.kind, rivals.OTHER],
        np.concatenate([old.turn, np.eye(3)[None]]),
        np.concatenate([old.rows, means.mean(0, keepdims=True)]),
        old.right,
    )
    t = np.c_[judged.t, rivals.products(seen, means[:, None])]
    q = np.c_[judged.q, (means.astype(np.float64) ** 2).sum(1)[folds]]
    prior = np.r_[judged.prior, EACH]
    logs = suspects.likelihood(t, q, judged.level[:, None], judged.spread)
    share, probable = suspects.shares(logs, prior)
    return replace(judged, rivals=more, t=t, q=q, prior=prior, share=share, found=probable)


def _table(judged: _Judged | None, scale: Array, rate: float) -> Array:
    table = np.full((len(scale), len(COLUMNS)), np.nan)
    column = {name: table[:, n] for n, name in enumerate(COLUMNS)}
    column["noise"][:] = scale
    column["flagged"][:] = 0.0
    if judged is None:
        column["llr"][:], column["p_value"][:], column["probability"][:] = 0.0, 1.0, 0.0
        column["best_hypothesis"][:] = rivals.RIGHT
        return table
    column["llr"][:] = judged.ratios
    column["p_value"][:] = _p_values(judged, judged.trusted, suspects.DRAWS)
    column["flagged"][:] = suspects.rejected(column["p_value"], rate)
    column["probability"][:] = 1 - judged.found[:, 0]
    column["contrast"][:] = judged.t[:, 0] / judged.q[:, 0]
    _explain(judged, column)
    return table


def _trusted(judged: _Judged, before: Array) -> Array:
    """Weight of each particle among the right ones.

    Its probability, but all are trusted as far as their p-values do not show as many wrong ones:
    where hypotheses can hardly be told apart, shares drift, and to leave out those that happen to
    fit worse makes the others fit too well.
    """
    doubt, found = 1 - judged.found[:, 0], before
    for _ in range(2):
        shown = suspects.at_least_wrong(_p_values(judged, found, suspects.DRAWS // 4))
        found = 1 - doubt * min(1.0, shown / max(float(doubt.sum()), 1e-9))
    return found


def _p_values(judged: _Judged, trusted: Array, draws: int) -> Array:
    """p-values by the mean inner products of right particles, taken from the particles.

    A filtered reference falls short of the truth, and by a different part where it is turned.
    """
    means, noise = (a.copy() for a in judged.crossed)
    means[0] = (trusted / judged.level) @ judged.t / trusted.sum()
    noise = _as_seen(noise, means[0], judged, trusted)
    return suspects.p_values(
        judged.ratios, means, judged.q.mean(0), noise, judged.share,
        judged.level, judged.spread, draws,
    )  # fmt: skip


def _as_seen(noise: Array, mean: Array, judged: _Judged, trusted: Array) -> Array:
    """A covariance with variances drawn to those among the particles, as far as their number tells.

    Noise whose spectrum is very steep is not quite independent between frequencies: variances
    were up to 1.9 times what independence says.
    """
    due, level = np.diag(noise), judged.level[:, None]
    apart = trusted @ (judged.t - level * mean) ** 2 / trusted.sum()
    apart -= judged.spread * np.square(level * mean).mean(0)
    ratio = np.divide(apart, due, out=np.ones_like(due), where=due > 0)
    many = trusted.sum()
    root = np.sqrt((many * np.maximum(ratio, 0.25) + IMAGINED) / (many + IMAGINED))
    return np.asarray(noise * root * root[:, None])


def _explain(judged: _Judged, column: dict[str, Array]) -> None:
    """Best hypothesis of each particle, by kinds, and the angles of the best turn."""
    kinds = judged.rivals.kind
    codes = np.unique(kinds)
    total = np.stack([judged.found[:, kinds == c].sum(1) for c in codes], axis=1)
    total[column["flagged"] > 0, 0] = 0.0
    column["best_hypothesis"][:] = codes[total.argmax(1)]
    turned = np.flatnonzero(kinds == rivals.TURNED)
    at = np.flatnonzero(column["best_hypothesis"] == rivals.TURNED)
    if len(at):
        best = turned[judged.found[np.ix_(at, turned)].argmax(1)]
        about_xyz = judged.rivals.turn[best][:, ::-1, ::-1]
        angles = Rotation.from_matrix(about_xyz).as_euler("ZYZ", degrees=True)
        for n, name in enumerate(ANGLES):
            column[name][at] = angles[:, n]


def memory(n: int, templates: int, turns: int, band: Band) -> int:
    """Bytes that ``screened`` takes beside its rows: what stays, and the largest of its phases."""
    folds, hypotheses = int(common.folds_of(n).max()) + 1, 4 + turns + templates
    stays = 2.3 * 4 * n * band.size + 8 * hypotheses * 6 * n
    stays += 4 * band.size * (3 * hypotheses + 2 * rivals.TOGETHER * (folds + 2))
    cube = int(np.prod(band.cube))
    padded = 8 * 8 * cube  # complex64, twice as long along each axis
    spectra = 8 * band.size * common.PIECE
    turned = (folds + 3) * (3 * padded + 40 * cube)
    drawn = 8 * hypotheses * (6 * hypotheses + 5 * suspects.DRAWS // 10)
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


def finish(state: dict[str, Array]) -> dict[str, Array]:
    """Columns by name."""
    found = {name: state["table"][..., n] for n, name in enumerate(COLUMNS)}
    angles = np.stack([found.pop(name) for name in ANGLES], axis=-1)
    return {**found, "angles": angles}
