"""Results of a screening besides its scores: averages without the flagged, FSC, masks, files."""

from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import xarray as xr
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.errors import LabelError, TargetExistsError
from lazyvol.screening.output import FILES, for_mrc
from lazyvol.screening.thumbnails import chosen, coarse, thumbnails
from lazyvol.screening.volumes import (
    kept_averages,
    masked_fsc,
    object_mask,
    resolution,
    weighted_averages,
)
from tests import subtomograms
from tests.screening.examples import BAD, N, result, stack


def test_averages_leave_out_the_flagged():
    values, good = stack().values.astype(np.float64), np.arange(BAD, N)
    expected = {"kept_average": good, "kept_half1": good[good % 2 == 0],
                "kept_half2": good[good % 2 == 1]}  # fmt: skip
    assert result().kept == tuple(good)
    for name, positions in expected.items():
        np.testing.assert_allclose(
            result().volumes[name], values[positions].mean(0), rtol=1e-4, atol=1e-5
        )
    assert result().half_sets.sizes == (30, 30)
    assert result().half_sets.kept == (27, 28)
    np.testing.assert_array_equal(result().average, result().volumes["kept_average"])


def test_correlations_of_kept_halves_are_those_of_their_averages():
    values, good = stack(), np.arange(BAD, N)
    first, second = (values.isel(k=good[good % 2 == h]).mean("k") for h in (0, 1))
    expected = lv.scores.fsc(first, second)
    np.testing.assert_allclose(result().fsc["kept"], expected, rtol=1e-3, atol=1e-4)
    assert list(result().fsc) == ["all", "kept", "all_masked", "kept_masked"]


def test_no_average_is_made_of_a_half_set_without_kept_particles(tmp_path):
    half = np.where(np.arange(N) < BAD, 1, 2)
    result = lv.screening.screen(stack().assign_coords(half=("k", half)), tmp_path)
    assert set(result.flagged) == set(range(BAD))
    assert "kept_average" not in result.volumes
    assert list(result.fsc) == ["all", "all_masked"]
    np.testing.assert_array_equal(result.average, result.volumes["average"])
    assert "no average without" in (tmp_path / "report.html").read_text("utf-8")


def sphere(like: xr.DataArray, radius: float, soft: float = 0.0) -> xr.DataArray:
    return lv.masks.sphere(like, radius=radius, soft=soft).compute()


def spheres(seed: int) -> xr.DataArray:
    """Return noise of a band with a sphere in it."""
    noise = np.random.default_rng(seed).normal(size=(32, 32, 32))
    volume = lv.as_stack(noise, voxel_size=2.0, unit="angstrom")
    return volume + 8.0 * sphere(volume, 16.0)


def test_a_mask_does_not_correlate_noise():
    volumes = [spheres(n) for n in (1, 2)]
    noise = [v - 8.0 * sphere(v, 16.0) for v in volumes]
    mask = sphere(volumes[0], 20.0, soft=8.0)
    plain = lv.scores.fsc(*noise)
    assert np.abs(masked_fsc(*noise, mask, plain).values[4:]).mean() < 0.1
    plain = lv.scores.fsc(volumes[0], volumes[0])
    np.testing.assert_allclose(masked_fsc(volumes[0], volumes[0], mask, plain), 1.0, atol=1e-6)


def test_the_correction_lowers_the_correlation_that_a_sharp_mask_brings():
    halves = [spheres(n) for n in (1, 2)]
    mask = sphere(halves[0], 9.0)
    biased = lv.scores.fsc(*(v * mask for v in halves)).values
    corrected = masked_fsc(*halves, mask, lv.scores.fsc(*halves)).values
    assert biased[-6:].mean() > 0.3
    assert corrected[-6:].mean() < 0.15


def test_the_mask_covers_the_object_alone():
    volume = spheres(3)
    mask = object_mask(volume, 8.0)
    inside = sphere(volume, 14.0) > 0.5
    outside = sphere(volume, 28.0) < 0.5
    assert mask.values[inside.values].min() > 0.9
    assert mask.values[outside.values].max() < 0.1
    assert 0.0 <= float(mask.min()) <= float(mask.max()) <= 1.0


@pytest.mark.parametrize("length", [0.0, 8.0, np.inf])
def test_a_mask_is_found_for_any_resolution(length):
    assert 0 < float(object_mask(spheres(3), length).mean()) < 1


def test_thumbnails_are_low_passed_samples_with_the_centre():
    noise = lv.as_stack(np.random.default_rng(0).normal(size=(3, 70, 33, 20)), voxel_size=2.0)
    small = coarse(noise, 14.0)
    assert small.shape == (3, 23, 17, 20)
    assert {float(small[d][n]) for d, n in (("z", 11), ("y", 8), ("x", 10))} == {70.0, 32.0, 20.0}
    expected = lv.filters.bandpass(noise, 14.0)[:, 2::3, ::2, :]
    np.testing.assert_allclose(small, expected)


def test_thumbnails_of_the_second_class_and_of_templates():
    particles = stack()
    hypothesis = np.where(np.arange(N) < 3, "second_class", "empty")
    table = result().scores.assign(best_hypothesis=("k", hypothesis))
    templates = particles.isel(k=[7, 8]).rename(k="template").drop_vars(["file", "tomogram"])
    shown = thumbnails(particles, table, result().volumes, templates, 0.0)
    assert set(shown.references) == {
        "average", "kept_average", "second_class", "template_0", "template_1"
    }  # fmt: skip
    for name, expected in (("second_class", particles[:3].mean("k")), ("template_1", particles[8])):
        np.testing.assert_allclose(shown.references[name], coarse(expected, 10.0), atol=1e-5)
    few = thumbnails(particles, table, result().volumes, None, 0.0, memory=64 * 11 * 9 * 11 * 13)
    assert 0 < len(few.positions) <= 11


@pytest.mark.parametrize("flagged", [0, 3, 50, 100])
@pytest.mark.parametrize("most", [1, 20, 99, 100])
def test_the_least_consistent_and_the_borderline_are_chosen(flagged, most):
    llr = np.random.default_rng(0).permutation(np.arange(100.0))
    table = xr.Dataset(
        {"llr": ("k", llr), "ncc": ("k", llr), "flagged": ("k", llr >= 100 - flagged)}
    )
    positions = chosen(table, most)
    assert len(positions) <= most
    assert np.argmax(llr) in positions
    if 20 <= most < 100 and 0 < flagged < 100:
        assert {100 - flagged, 99 - flagged} <= set(llr[positions])


def test_files_are_written_and_read_by_other_programs(tmp_path):
    written = result().save(tmp_path)
    assert {str(p) for p in tmp_path.iterdir()} == set(written.files)
    assert {p.name for p in tmp_path.iterdir()} <= set(FILES)
    assert len(written.files) == 6 + 2 + 2 + 1
    for name, volume in result().volumes.items():
        with mrcfile.open(tmp_path / f"{name}.mrc") as file:
            np.testing.assert_array_equal(file.data, volume)
            assert file.voxel_size.tolist() == (5.0, 4.0, 4.0)
    kept, flagged = (lv.io.particles(tmp_path / f"{n}.star") for n in ("kept", "flagged"))
    assert kept.k.values.tolist() == list(range(BAD, N))
    assert flagged.k.values.tolist() == list(range(BAD))
    for name in ("llr", "p_value", "ncc", "best_hypothesis", "angles_rot", "tomogram", "flagged"):
        values = (
            result().scores.angles.sel(angle="rot")
            if name == "angles_rot"
            else (result().scores[name])
        )
        np.testing.assert_array_equal(np.r_[flagged[name].values, kept[name].values], values)
    curves = lv.io.particles(tmp_path / "scores.csv")
    assert curves.best_hypothesis.values.tolist() == result().scores.best_hypothesis.values.tolist()
    with pytest.raises(TargetExistsError, match="already holds"):
        result().save(tmp_path)


def test_results_of_an_earlier_run_do_not_stay(tmp_path):
    result().save(tmp_path)
    (tmp_path / "mine.txt").write_text("not ours")
    fewer = replace(result(), volumes=result().volumes[["average", "variance", "mask"]])
    fewer.save(tmp_path, overwrite=True)
    names = {p.name for p in tmp_path.iterdir()}
    assert {"mine.txt", "average.mrc", "report.html"} <= names
    assert not [n for n in names if n.startswith("kept_")]


def test_volumes_of_any_positions_fit_in_mrc():
    volume = lv.as_stack(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), voxel_size=2.0,
                         unit="angstrom")  # fmt: skip
    turned = for_mrc(volume.isel(y=slice(None, None, -1)))
    assert turned.identical(volume.drop_attrs(deep=False))
    assert not set(for_mrc(lv.as_stack(volume.values)).coords)


def test_a_result_describes_itself():
    text = repr(result())
    assert text.startswith("ScreenResult of particles.zarr\n")
    assert "flagged     5 of 60 at FDR 0.05" in text
    for name in ("kept_average", "p_value", "without the flagged"):
        assert name in text
    html = result()._repr_html_()
    assert "<table>" in html
    assert "5 of 60" in html


def test_the_resolution_improves_without_the_flagged():
    assert resolution(result().fsc["kept"]) <= resolution(result().fsc["all"])


STAR = """data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
1 4.0

data_particles

loop_
_rlnTomoName #1
_rlnAngleRot #2
_rlnOpticsGroup #3
_rlnRandomSubset #4
"""


def test_lists_hold_the_rows_and_columns_of_the_input(tmp_path):
    rows = [f"TS_{n % 4} {n}.50 1 {1 + n // 30}" for n in range(N)]
    (tmp_path / "in.star").write_text(STAR + "\n".join(rows) + "\n")
    plain = stack().drop_vars(["file", "tomogram"])
    result = lv.screening.screen(plain, tmp_path / "out", particles=tmp_path / "in.star")
    assert result.half_sets.by_coordinate
    assert result.scores.tomogram.values.tolist() == [f"TS_{n % 4}" for n in range(N)]
    for name, positions in (("kept", result.kept), ("flagged", sorted(result.flagged))):
        text = (tmp_path / "out" / f"{name}.star").read_text()
        assert "data_optics" in text
        assert "_rlnAngleRot #2" in text
        lines = text.rstrip().splitlines()[-len(positions) :]
        assert [" ".join(line.split()[:4]) for line in lines] == [rows[p] for p in positions]
        listed = lv.io.particles(tmp_path / "out" / f"{name}.star")
        np.testing.assert_array_equal(listed.llr, result.scores.llr[list(positions)])


def test_a_list_of_other_particles_is_refused(tmp_path):
    (tmp_path / "in.star").write_text(STAR + "TS_1 1.0 1 1\n")
    with pytest.raises(LabelError, match="must list the 60 particles of the stack"):
        lv.screening.screen(stack(), tmp_path / "out", particles=tmp_path / "in.star")
    assert not (tmp_path / "out").exists()


def test_a_list_is_not_replaced_by_its_selection(tmp_path):
    rows = [f"TS_1 1.0 1 {1 + n % 2}" for n in range(N)]
    (tmp_path / "kept.star").write_text(STAR + "\n".join(rows) + "\n")
    with pytest.raises(TargetExistsError, match="particles must not be a result"):
        lv.screening.screen(stack(), tmp_path, particles=tmp_path / "kept.star", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.star"]


def test_a_table_of_dynamo_keeps_its_lines(tmp_path):
    rows = [" ".join([str(n), *["0"] * 25]) for n in range(N)]
    (tmp_path / "in.tbl").write_text("\n".join(rows) + "\n")
    plain = stack().drop_vars(["file", "tomogram"])
    result = lv.screening.screen(plain, tmp_path / "out", particles=tmp_path / "in.tbl")
    assert (tmp_path / "out" / "kept.tbl").read_text().splitlines() == [
        rows[k] for k in result.kept
    ]
    assert {"kept.csv", "flagged.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}
    assert {str(p) for p in (tmp_path / "out").iterdir()} == set(result.files)


def test_averages_are_weighted_by_the_measured_frequencies():
    """Particles that lay nearly alike: some frequencies were measured of few of them."""
    tilts = np.random.default_rng(0).normal(scale=0.4, size=(80, 3))
    rotations = Rotation.from_rotvec(tilts)
    particles = subtomograms.particles(80, 0.2, 5, box=16, rotations=rotations)
    flagged, half = np.arange(80) % 7 == 3, np.arange(80) % 2
    stack = lv.as_stack(particles.values)
    plain = lv.scores.halves(stack).compute()
    kept = kept_averages(stack, plain, flagged)
    options = {"wedge": (-60.0, 60.0), "orientations": particles.angles}
    averages, weighted = weighted_averages(plain, kept, stack, flagged, options)
    every = np.ones(80, bool)
    members = {
        "average": every, "first": half == 0, "second": half == 1, "kept_average": ~flagged,
        "kept_half1": ~flagged & (half == 0), "kept_half2": ~flagged & (half == 1),
    }  # fmt: skip
    volumes = averages.merge(weighted)
    for name, part in members.items():
        expected = compensated_by_scipy(particles.values[part], rotations[part])
        result = np.fft.fftshift(np.fft.fftn(volumes[name].values))
        inside = np.stack(np.indices(result.shape) - 8)
        inside = np.sqrt((inside**2).sum(0)) < 7  # beyond, masks are interpolated with their edge
        np.testing.assert_allclose(
            result[inside], expected[inside], atol=1e-4 * abs(expected).max(), err_msg=name
        )
    np.testing.assert_array_equal(averages.variance, plain.variance)
    truth = subtomograms.gaussians(16)
    before, after = (
        np.corrcoef(volume.values.ravel(), truth.ravel())[0, 1]
        for volume in (kept.kept_average, weighted.kept_average)
    )
    assert 1 - after < 0.7 * (1 - before)


def compensated_by_scipy(values: np.ndarray, rotations: Rotation) -> np.ndarray:
    """Return the spectrum of the mean of particles, divided by the mean of their rotated masks."""
    mask = np.fft.fftshift(subtomograms.measured_mask(values.shape[1]).astype("f8"))
    matrices = rotations.as_matrix()[:, ::-1, ::-1]
    covered = np.mean([subtomograms.rotated(mask, m, 1) for m in matrices], axis=0)
    spectrum = np.fft.fftshift(np.fft.fftn(values.mean(0, dtype="f8")))
    return spectrum / np.maximum(covered / covered.max(), 0.1)


@pytest.mark.parametrize("options", [{"wedge": "auto"}, {"wedge": None}, {"wedge": (-60.0, 60.0)}])
def test_averages_of_equal_or_unknown_wedges_are_plain_means(options):
    particles = stack()
    plain = lv.scores.halves(particles).compute()
    flagged = np.arange(particles.sizes["k"]) < 4
    kept = kept_averages(particles, plain, flagged)
    same = weighted_averages(plain, kept, particles, flagged, {"orientations": None} | options)
    assert same[0] is plain
    assert same[1] is kept
