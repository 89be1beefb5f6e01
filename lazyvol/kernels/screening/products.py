"""Inner products of particles with whitened spectra, at the frequencies that were measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.kernels.screening.measured import Measured

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Products:
    """Inner products of particles with the hypotheses of their folds, (particle, hypothesis).

    ``t`` are those of particles with hypotheses; ``q`` those of the hypotheses with themselves and
    ``c`` those with the reference, at the frequencies that were measured in the particle.
    """

    t: Array
    q: Array
    c: Array

    @classmethod
    def of(cls, data: Array, measured: Measured, spectra: Array, references: Array) -> "Products":
        """Return the products with (fold, hypothesis, number)."""
        n = len(data)
        q = measured.energies(frequency_products(spectra, spectra), n)
        c = measured.energies(frequency_products(spectra, references[:, None]), n)
        return cls(fold_products(data, spectra), q, c)

    @classmethod
    def joined(cls, parts: Sequence["Products"]) -> "Products":
        """Return the products with the hypotheses of all parts."""
        columns = ([getattr(p, name) for p in parts] for name in ("t", "q", "c"))
        return cls(*(np.concatenate(c, axis=1, dtype=np.float32) for c in columns))

    def scaled(self, strength: float) -> "Products":
        """Return the products with hypotheses of another strength."""
        return Products(self.t * strength, self.q * strength**2, self.c * strength**2)


def frequency_products(a: Array, b: Array) -> Array:
    """Return the product of two spectra at each frequency, real and imaginary parts together."""
    half = a.shape[-1] // 2
    return np.asarray(a[..., :half] * b[..., :half] + a[..., half:] * b[..., half:])


def overlaps(measured: Measured, spectra: Array, n: int) -> Array:
    """Return the inner products of (fold, row, number), as measured in each of ``n`` particles.

    They are (particle, row, row).
    """
    count = spectra.shape[1]
    first, second = np.triu_indices(count)
    result = np.empty((n, count, count))
    energies = measured.energies(frequency_products(spectra[:, first], spectra[:, second]), n)
    result[:, first, second] = result[:, second, first] = energies
    return result


def fold_products(data: Array, spectra: Array) -> Array:
    """Return inner products of particles with (fold, hypothesis, number) of their own folds.

    Folds take turns (``reference.cross_validation_folds``), so that slices need no copies.
    """
    products = np.empty((len(data), spectra.shape[1]))
    for f, of_fold in enumerate(spectra):
        products[f :: len(spectra)] = data[f :: len(spectra)] @ of_fold.T
    return products
