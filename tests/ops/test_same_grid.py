"""Operations on two stacks require equal positions, units and names of particles."""

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.same_grid import require_same_grid

SHAPE = (4, 5, 6, 8)
A = np.random.default_rng(3).normal(size=SHAPE)
FLAGS = np.random.default_rng(4).random(SHAPE[1:]) > 0.4


def stack(unit: str = "angstrom", size: float = 2.0) -> xr.DataArray:
    return lv.as_stack(A, voxel_size=size, unit=unit)


def flags(unit: str = "angstrom", size: float = 2.0) -> xr.DataArray:
    return lv.as_stack(FLAGS, voxel_size=size, unit=unit)


LEFT, RIGHT = {"x": slice(0, 4)}, {"x": slice(4, 8)}

BESIDE = {
    "stats": lambda s, m: lv.stats.mean(s, "x", mask=m),
    "describe": lambda s, m: lv.stats.describe(s, "x", mask=m),
    "quantile": lambda s, m: lv.stats.quantile(s, 0.5, "x", mask=m),
    "histogram": lambda s, m: lv.stats.histogram(s, mask=m),
    "projections": lambda s, m: lv.projections.mean(s, mask=m),
    "slab": lambda s, m: lv.projections.slab(s, "z", 0, 99, mask=m),
    "masks.mean": lambda s, m: lv.masks.mean(s, m),
    "apply": lambda s, m: lv.masks.apply(s, m),
    "select": lambda s, m: lv.masks.select(s, m),
    "threshold": lambda s, m: lv.masks.threshold(s, mask=m),
    "center": lambda s, m: lv.intensity.center(s, mask=m),
    "equalise": lambda s, m: lv.intensity.equalise(s, mask=m),
    "display": lambda s, m: lv.intensity.display(s, mask=m),
    "distances": lambda s, m: lv.clustering.distances(s, mask=m),
    "components": lambda s, m: lv.clustering.components(s, 1, mask=m),
    "b": lambda s, m: lv.clustering.distances(s, s.isel(k=0, drop=True).copy(data=m * 1.0)
                                              .assign_coords(m.coords).expand_dims(k=1)),
    "ncc": lambda s, m: lv.scores.ncc(s, mask=m),
    "against": lambda s, m: lv.scores.mse(s, m * 1.0),
    "correlation": lambda s, m: lv.scores.correlation(s, m * 1.0),
    "fsc": lambda s, m: lv.scores.fsc(s.isel(k=0), m * 1.0),
    "shifts": lambda s, m: lv.registration.shifts(s, mask=m),
    "reference": lambda s, m: lv.registration.shifts(s, m * 1.0),
    "wedge": lambda s, m: lv.registration.average(s, wedge=m),
    "align": lambda s, m: lv.registration.align(s, "average", 90.0, mask=m * 1.0),
    "screen": lambda s, m: lv.scores.screen(s, mask=m),
    "average": lambda s, m: lv.scores.screen(s, average=m * 1.0),
}  # fmt: skip


@pytest.mark.parametrize("chunks", [None, 2])
@pytest.mark.parametrize("op", BESIDE.values(), ids=BESIDE)
def test_masks_of_another_crop_are_refused(op, chunks):
    first, mask = stack().isel(LEFT), flags().isel(RIGHT)
    first = first if chunks is None else first.chunk(k=chunks)
    with pytest.raises(LabelError, match=r"positions along 'x' .* 0 to 6 angstrom and 8 to 14"):
        op(first, mask)


def agree(a: xr.DataArray, b: xr.DataArray) -> bool:
    try:
        require_same_grid(a, b)
    except LabelError:
        return False
    return True


def test_unlabelled_masks_fit_any_unit_and_crops_are_found():
    for unit, size in (("angstrom", 2.0), ("voxel", 1.0)):
        first, plain = stack(unit, size), lv.as_stack(FLAGS)
        assert agree(first, plain)
        assert agree(plain, first)
        assert agree(first.isel(RIGHT), plain.isel(RIGHT))
        assert not agree(first.isel(LEFT), plain.isel(RIGHT))
    assert agree(stack().isel(RIGHT), lv.as_stack(FLAGS[..., 4:], dims=("z", "y", "x")))
    assert not agree(
        stack("voxel", 1.0).isel(RIGHT), lv.as_stack(FLAGS[..., 4:], dims=("z", "y", "x"))
    )


@pytest.mark.parametrize(("offset", "fits"), [(0.0019, True), (0.0021, False), (-0.0021, False)])
def test_positions_agree_within_a_part_of_a_voxel(offset, fits):
    moved = flags().assign_coords(x=("x", flags().x.values + offset, flags().x.attrs))
    assert agree(stack(), moved) == fits


def test_units_and_voxel_sizes_must_agree():
    assert not agree(stack(), flags("nm"))
    assert not agree(stack(), flags(size=2.1))
    assert not agree(stack("voxel", 1.0), flags("voxel", 2.0))
    lone = {"x": slice(0, 1)}
    assert not agree(stack().isel(x=[3]), flags().isel(x=[2]))
    assert agree(stack().isel(lone), flags().isel(lone))


def test_reversed_and_irregular_positions():
    back = {"x": slice(None, None, -1)}
    assert not agree(stack(), flags().isel(back))
    assert agree(stack().isel(back), flags().isel(back))
    some = {"x": [0, 1, 5]}
    assert agree(stack().isel(some), flags().isel(some))
    assert not agree(stack().isel(some), flags().isel(x=[0, 2, 5]))


def test_names_of_particles_must_agree():
    named = stack().assign_coords(k=[3, 4, 5, 6])
    assert agree(named, named.isel(k=slice(None)))
    assert agree(named, stack())
    assert not agree(named, named.isel(k=[0, 1, 3, 2]))
    with pytest.raises(LabelError, match="labels 'k' of both must be equal, got 5 and 6 at"):
        lv.scores.mse(named, named.isel(k=[0, 1, 3, 2]), leave_one_out=False)
    described = stack().assign_coords(
        particle=("k", ["a", "b", "c", "d"]), half=("k", [0, 1, 0, 1])
    )
    assert not agree(described, described.isel(k=[1, 0, 2, 3]))
    assert agree(
        described, described.assign_coords(half=("k", [1, 0, 1, 0]))
    )  # repeated, so no names
    assert agree(described, described.assign_coords(particle=("k", ["a", "a", "c", "d"])))
    angles = xr.DataArray(np.zeros((4, 3)), {"k": [6, 5, 4, 3]}, ("k", "angle"))
    with pytest.raises(LabelError, match="rotations must fit the stack: labels 'k'"):
        lv.registration.rotate(named, angles)


def test_distances_accept_stacks_of_different_particles():
    named = stack().assign_coords(k=[3, 4, 5, 6])
    other = stack().assign_coords(k=[7, 8, 9, 10])
    np.testing.assert_allclose(lv.clustering.distances(named, other).values.diagonal(), 0)


def test_channels_must_be_in_the_same_order():
    image = xr.DataArray(A[0], dims=("z", "y", "x")).rename(z="channel")
    image = image.assign_coords(channel=list("abcde"))
    with pytest.raises(LabelError, match="labels 'channel'"):
        lv.scores.mse(image, image.isel(channel=[4, 3, 2, 1, 0]), dim=("y", "x"))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, m: lv.scores.ncc(s, m),
        lambda s, m: lv.scores.compare(s, m, metrics=("mse", "cosine")),
        lambda s, m: lv.scores.correlation(s, m),
        lambda s, m: lv.scores.profile(s, m),
        lambda s, m: lv.scores.screen(s, average=m),
        lambda s, m: lv.registration.shifts(s, m),
        lambda s, m: lv.registration.align(s, m, 30.0),
    ],
)
def test_masks_in_the_place_of_volumes_are_refused(call):
    with pytest.raises(LabelError, match="must hold numbers as the stack does, got dtype=bool"):
        call(stack(), flags())


@pytest.mark.parametrize(
    "call",
    [
        lambda s, m: lv.scores.correlation(s, s[0], mask=m),
        lambda s, m: lv.scores.profile(s, mask=m),
        lambda s, m: lv.scores.ncc(s, mask=m),
        lambda s, m: lv.registration.align(s, s[0], 30.0, mask=2 * m).ncc.values,
        lambda s, m: lv.registration.align(s, s[0], 30.0, mask=m * np.nan).ncc.values,
    ],
)
def test_numbers_in_the_place_of_masks_are_refused(call):
    with pytest.raises(LabelError, match=r"^\w+: mask must be (boolean|from 0 to 1), got"):
        call(stack(), flags().astype(float))


def test_binary_outcomes_are_what_probabilities_are_compared_with():
    chance = stack().copy(data=np.clip(A / 8 + 0.5, 0.01, 0.99))
    chance.attrs.clear()
    expected = -np.where(FLAGS, np.log(chance), np.log1p(-chance)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(lv.scores.bce(chance, flags()), expected)


def test_differences_of_values_in_different_units_are_refused():
    volts, millivolts = (stack().assign_attrs(units=unit) for unit in ("V", "mV"))
    for op in (lv.scores.mse, lv.scores.rmse):
        with pytest.raises(LabelError, match="values in the stack's unit 'V', got 'mV'"):
            op(volts, millivolts)
    np.testing.assert_allclose(lv.scores.ncc(volts, millivolts), 1.0)
