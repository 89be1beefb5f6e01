"""Stacks with names like those of a result, with unusable positions, or with several units."""

from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LabelError

A = np.random.default_rng(0).normal(size=(4, 5, 6, 7))
STACK = lv.as_stack(A, voxel_size=(4.0, 2.0, 1.5), unit="angstrom")
VOLUME = STACK.isel(k=0, drop=True)
SPATIAL = ("z", "y", "x")

#: results of several arrays, by name
SETS: dict[str, Callable[[xr.DataArray], xr.Dataset]] = {
    "describe": lambda s: lv.stats.describe(s, SPATIAL),
    "histogram": lambda s: lv.stats.histogram(s, bins=4, dim=SPATIAL),
    "histogram of a range": lambda s: lv.stats.histogram(s, bins=4, range=(-2, 2), dim=SPATIAL),
    "correlation": lambda s: lv.scores.correlation(s, VOLUME),
    "profile": lv.scores.profile,
    "compare": lv.scores.compare,
    "halves": lv.scores.halves,
    "select": lambda s: lv.masks.select(s, VOLUME > 0),
    "components": lambda s: lv.clustering.components(s, 1),
    "linkage": lambda s: lv.clustering.linkage(lv.clustering.distances(s)),
    "average": lv.registration.average,
    "align": lambda s: lv.registration.align(s, VOLUME, 180.0, finest=None),
    "whitening": lambda s: lv.intensity.whitening(s, over=s.dims[-1], keep=1),
}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_results_replace_coordinates_of_their_names(name, lazy):
    stack = STACK.chunk(k=1) if lazy else STACK
    wanted = dask.compute(SETS[name](stack))[0]
    facts = {n: ("k", np.arange(4.0) + 100) for n in (*wanted, *wanted.dims) if n not in STACK.dims}
    result = dask.compute(SETS[name](stack.assign_coords(facts)))[0]
    assert set(result) == set(wanted)
    for variable in wanted:
        np.testing.assert_array_equal(result[variable].values, wanted[variable].values)


@pytest.mark.parametrize(
    ("dim", "op"),
    [
        ("axis", lv.derivatives.gradient),
        ("axis_other", lv.derivatives.hessian),
        ("eigen", lv.derivatives.hessian_eigenvalues),
        ("axis", lambda s: lv.registration.shifts(s, VOLUME)),
        ("bin", SETS["histogram"]),
        ("edge", SETS["histogram of a range"]),
        ("quantile", lambda s: lv.stats.quantile(s, (0.1, 0.5), "z")),
    ],
)
def test_a_dim_that_the_result_adds_is_refused(dim, op):
    for stack in (STACK, STACK.chunk(k=1)):
        with pytest.raises(LabelError, match=f"must not have the dim.*{dim}.*rename"):
            op(stack.rename(k=dim))


#: operations that measure along x
MEASURED: dict[str, Callable[[xr.DataArray], Any]] = {
    "gaussian": lambda s: lv.filters.gaussian(s, 2.0),
    "gradient": lambda s: lv.derivatives.gradient(s, dim="x"),
    "bandpass": lambda s: lv.filters.bandpass(s, 4.0, dim="x"),
    "shift": lambda s: lv.registration.shift(s, {"x": 1.5}),
    "sphere": lambda s: lv.synthetic.sphere(s, radius=3.0),
    "slab": lambda s: lv.projections.slab(s, "x", 0.0, 4.0),
    "points": lambda s: lv.density.points(np.ones((2, 3)), like=s),
}


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("positions", [list("abcdefg"), np.arange(7).astype("M8[s]")])
def test_positions_must_be_numbers(name, positions):
    stack = STACK.assign_coords(x=("x", positions, {"units": "angstrom"}))
    with pytest.raises(LabelError, match=r"'x' must hold positions in numbers.*assign"):
        MEASURED[name](stack)


def test_positions_with_nan_have_no_spacing():
    stack = STACK.assign_coords(x=("x", [0, 1, 2, np.nan, 4, 5, 6], {"units": "angstrom"}))
    with pytest.raises(LabelError, match="must have equal steps"):
        lv.filters.gaussian(stack, 2.0)


#: operations with lengths or rotations across several dims
LENGTHS: dict[str, Callable[[xr.DataArray], Any]] = {
    "gaussian": lambda s: lv.filters.gaussian(s, 2.0),
    "gradient": lv.derivatives.gradient,
    "bandpass": lambda s: lv.filters.bandpass(s, 9.0),
    "rotate": lambda s: lv.registration.rotate(s, 20.0),
    "shift": lambda s: lv.registration.shift(s, (1.0, 1.0, 1.0)),
    "shifts": lv.registration.shifts,
    "average": lambda s: lv.registration.average(s, rotations=20.0),
    "align": lambda s: lv.registration.align(s, "average", 90.0),
    "sphere": lambda s: lv.synthetic.sphere(s, radius=3.0),
    "cylinder": lambda s: lv.masks.cylinder(s, radius=2.0, length=4.0),
    "wedge": lv.synthetic.wedge,
    "elastic": lambda s: lv.synthetic.elastic(s, 3.0, 3.0),
    "correlated_noise": lambda s: lv.synthetic.correlated_noise(s, 3.0),
    "dilate": lambda s: lv.masks.dilate(s > 0, radius=3.0),
    "fsc": lambda s: lv.scores.fsc(s.isel(k=0, drop=True), s.isel(k=1, drop=True)),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths_need_one_unit(name):
    stack = STACK.assign_coords(z=STACK.z.assign_attrs(units="nm"))
    with pytest.raises(LabelError, match=r"must have one unit of length along.*'nm'"):
        LENGTHS[name](stack)
    LENGTHS[name](STACK)


def test_lengths_by_dim_are_in_the_unit_of_each():
    stack = STACK.assign_coords(z=STACK.z.assign_attrs(units="nm"))
    sigma = {"z": 4.0, "y": 2.0, "x": 1.5}
    result, plain = (lv.filters.gaussian(s, sigma).values for s in (stack, STACK))
    np.testing.assert_array_equal(result, plain)


def test_shifts_points_and_angles_must_be_in_the_unit_of_the_stack():
    measured = lv.registration.shifts(lv.as_stack(A))  # in voxels
    with pytest.raises(LabelError, match="unit of the stack's positions, angstrom, got voxel"):
        lv.registration.shift(STACK, measured)
    with pytest.raises(LabelError, match="positions, voxel, got angstrom"):
        lv.registration.shift(lv.as_stack(A), measured.assign_attrs(units="angstrom"))
    places = xr.DataArray(np.ones((2, 3)), dims=("point", "axis"), attrs={"units": "voxel"})
    with pytest.raises(LabelError, match="unit of the grid's 'z', angstrom, got voxel"):
        lv.density.points(places, like=STACK)
    turns = xr.DataArray(np.ones(4), dims="k", attrs={"units": "radian"})
    with pytest.raises(LabelError, match="rotations must be in degrees, got radian"):
        lv.registration.rotate(STACK, turns)
