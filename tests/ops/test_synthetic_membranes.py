"""Membranes and grids at their positions; wedges against projections of rotated specimens."""

from itertools import permutations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import lazyvol as lv
from tests.oracles import VOXEL
from tests.strategies import SHAPE

synthetic = lv.synthetic


@pytest.mark.parametrize("tilt", [-50.0, 0.0, 25.0])
@pytest.mark.parametrize(("axis", "beam"), list(permutations("zyx", 2)))
def test_a_wedge_contains_the_frequencies_of_projections(tilt, axis, beam):
    """The transform of a projection of a rotated specimen is inside the mask."""
    shape, voxel = (12, 14, 18), dict(zip("zyx", (2.0, 1.5, 1.0), strict=True))
    like = lv.as_stack(np.zeros(shape), voxel_size=voxel)
    mask = synthetic.wedge(like, (tilt - 9, tilt + 9), axis=axis, beam=beam).values
    rotation = Rotation.from_rotvec(np.radians(tilt) * np.array([float(axis == d) for d in "xyz"]))
    across = next(d for d in "zyx" if d not in (axis, beam))
    along = rotation.inv().apply(
        [float(across == d) for d in "xyz"]
    )  # axis of the projection, in the specimen
    cycles = 0.8 / (2 * max(voxel.values())) * along[::-1]  # z, y, x
    steps = [1 / (n * voxel[d]) for n, d in zip(shape, "zyx", strict=True)]
    index = tuple(round(c / s) % n for c, s, n in zip(cycles, steps, shape, strict=True))
    assert mask[index] == 1
    mirrored = list(index)
    beam_axis = "zyx".index(beam)
    mirrored[beam_axis] = -mirrored[beam_axis] % shape[beam_axis]
    assert mask[tuple(mirrored)] == (tilt == 0 or mirrored[beam_axis] == index[beam_axis])


def test_a_wedge_keeps_real_volumes_real():
    volume = np.random.default_rng(0).normal(size=(8, 10, 11))
    mask = synthetic.wedge(volume.shape).values
    filtered = np.fft.ifftn(np.fft.fftn(volume) * mask)
    assert np.abs(filtered.imag).max() < 1e-12
    centred = synthetic.wedge(volume.shape, layout="centred").values
    np.testing.assert_array_equal(np.fft.fftshift(mask), centred)
    assert mask[0].all()
    assert synthetic.wedge(volume.shape, (-90, 90)).values.all()


def test_a_membrane_has_its_radius_and_thickness():
    like = lv.as_stack(np.zeros((40, 41, 42)), voxel_size=2.0, unit="nm")
    shell = synthetic.membrane(like, radius=30.0, thickness=8.0, leaflet=3.0)
    distance = np.sqrt(sum((like[d] - float(like[d][n // 2])) ** 2 for d, n in like.sizes.items()))
    inside = distance.where(shell.values > 0).values
    assert 26 <= np.nanmin(inside) < 27
    assert 33 < np.nanmax(inside) <= 34
    assert not shell.where((distance > 29.1) & (distance < 30.9), 0).any()
    curved = synthetic.membrane(like, radius=500.0, thickness=8.0, centre={"z": -460.0}).values
    assert curved[20, 20, 21] == 1
    assert curved.any(0).sum() == 41 * 42


def test_grids_cross_at_the_centre_and_may_have_walls():
    grid = synthetic.grid_lines((9, 10, 11), 4.0, 1.0, dim=("z", "y", "x")).values
    assert grid[4].all()
    assert grid[:, 5].all()
    assert grid[:, :, 5].all()
    assert not grid[2, 3, 3]
    assert synthetic.grid_lines((9, 10, 11), 4.0, 1.0, dim="x").values.sum() == 9 * 10 * 3


def test_any_region_of_a_structure_is_equal_to_the_bit():
    like = lv.as_stack(np.zeros(SHAPE[1:]), voxel_size=VOXEL)
    region = (slice(1, 4), slice(3, 9), slice(2, 13))
    for structure in (
        synthetic.membrane(like, radius=9.0, thickness=3.0, soft=2.0),
        synthetic.grid_lines(like, 5.0, 1.0, soft=1.0),
        synthetic.wedge(like),
        synthetic.wedge(like, beam="x", layout="centred"),
    ):
        np.testing.assert_array_equal(structure.data[region].compute(), structure.values[region])
