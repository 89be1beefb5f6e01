"""The memory of a screening."""

import numpy as np

from lazyvol.kernels.screening import p_values, reference
from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.hypotheses import POSE_BATCH, Poses
from lazyvol.kernels.screening.measured import BATCH


def screening_bytes(
    n: int, n_templates: int, n_rotations: int, band: Band, *, per_particle: bool = False,
    transfer: bool = False,
) -> int:  # fmt: skip
    """Return the bytes of ``screen.screen_spectra`` besides its input, in its largest phase.

    ``per_particle``: each particle may have its own weights; ``transfer``: they may be transfer
    functions, for which spectra are converted.
    """
    folds = int(reference.cross_validation_folds(n).max()) + 1
    hypotheses = 4 + len(Poses.grid(np.empty((n_rotations, 3, 3)), band)) + n_templates
    lasting = (2.3 * 4 + 4.2 * transfer + 1.2 * per_particle) * n * band.size
    lasting += 8 * hypotheses * 7 * n
    lasting += 4 * band.size * (3 * hypotheses + 2 * POSE_BATCH * (folds + 2))
    coarse = int(np.prod(band.coarse_shape))
    padded = 8 * 8 * coarse  # complex64, twice as long along each axis
    squares = 12 * band.size * BATCH
    rotating = (folds + 3) * (3 * padded + 40 * coarse)
    simulating = 8 * hypotheses * (6 * hypotheses + p_values.POOL)
    return int(lasting + max(squares, rotating, simulating))
