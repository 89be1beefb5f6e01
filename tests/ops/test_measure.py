"""Tables of objects: shapes, shared labels, missing labels, memory, reads, and files."""

import dask
import dask.array as da
import dask_image.ndmeasure as ndmeasure
import numpy as np
import pandas as pd
import pytest
import scipy.ndimage as ndi
import xarray as xr
from skimage.measure import regionprops_table
from skimage.morphology import remove_small_objects

import lazyvol as lv
from lazyvol.errors import BudgetError, LabelError
from lazyvol.plan.graph.lazy_array import source_array
from tests.ops.test_every_op import refuse
from tests.sources import CountingSource, elements_read

VOXEL = (3.0, 2.0, 1.5)
SHAPE = (3, 17, 19, 23)
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=SHAPE).astype(np.float32)
LABELS = np.stack([ndi.label(ndi.gaussian_filter(v, 1.5) > 0.05)[0] for v in VALUES])
EVERY = (
    "count", "volume", "sum", "mean", "var", "std", "min", "max", "median", "minimum_position",
    "maximum_position", "center_of_mass", "centroid", "bbox", "histogram", "inertia_tensor",
    "inertia_tensor_eigvals", "principal_axes",
)  # fmt: skip
HISTOGRAM = {"bins": 7, "range": (-1.5, 2.0)}


def labelled(array, voxel=VOXEL):
    return lv.as_stack(array, voxel_size=voxel[-min(3, np.ndim(array)) :], unit="nanometer")


STACK, OBJECTS = labelled(VALUES), labelled(LABELS)


def of_skimage(values, labels, spacing, names):
    """Return properties of regionprops_table, vectors as arrays."""
    table = regionprops_table(labels, values, properties=names, spacing=spacing)
    columns = {n: [c for c in table if c == n or c.startswith(f"{n}-")] for n in names}
    return {n: np.stack([table[c] for c in result], -1).squeeze() for n, result in columns.items()}


@pytest.mark.parametrize("ndim", [2, 3])
def test_shapes_are_those_of_skimage(ndim):
    index = (0, 8)[: 4 - ndim]
    values, labels = VALUES[index], ndi.label(LABELS[index] > 0)[0]
    table = lv.measure.table(labelled(values), labelled(labels), what=EVERY, **HISTOGRAM)
    names = ("label", "area", "num_pixels", "bbox", "centroid", "centroid_weighted",
             "inertia_tensor", "inertia_tensor_eigvals", "intensity_mean",
             "intensity_std")  # fmt: skip
    expected = of_skimage(values.astype(float), labels, VOXEL[-ndim:], names)
    ours = {
        "label": table.label, "area": table["volume"], "num_pixels": table["count"],
        "bbox": table["bbox"], "centroid": table["centroid"],
        "inertia_tensor": table["inertia_tensor"], "intensity_mean": table["mean"],
        "centroid_weighted": table["center_of_mass"], "intensity_std": table["std"],
        "inertia_tensor_eigvals": table["inertia_tensor_eigvals"],
    }  # fmt: skip
    for name, result in ours.items():
        shape = (len(labels) and result.sizes["obs"], -1)
        np.testing.assert_allclose(
            result.values.reshape(shape), expected[name].reshape(shape), rtol=2e-5, atol=1e-9,
            err_msg=name,
        )  # fmt: skip
    assert table["volume"].attrs["units"] == f"nanometer^{ndim}"


def test_principal_axes_diagonalize_the_inertia_tensor():
    table = lv.measure.table(STACK, OBJECTS, what=EVERY, **HISTOGRAM)
    axes, values = table["principal_axes"].values, table["inertia_tensor_eigvals"].values
    rotated = np.einsum("nij,njk,nlk->nil", axes, table["inertia_tensor"].values, axes)
    expected = values[:, ::-1, None] * np.eye(3)  # the longest extent has the least inertia
    np.testing.assert_allclose(rotated, expected, atol=1e-9 * values.max())


def test_statistics_are_those_of_dask_image():
    values, labels = (da.from_array(a[0], (17, 19, 12)) for a in (VALUES, LABELS))
    index = np.arange(1, LABELS[0].max() + 1)
    table = lv.measure.table(labelled(values), labelled(labels), what=EVERY, **HISTOGRAM)
    theirs = {
        "var": ndmeasure.variance, "median": ndmeasure.median,
        "center_of_mass": ndmeasure.center_of_mass,
        "maximum_position": ndmeasure.maximum_position,
    }  # fmt: skip
    first = index[:3]
    for name, function in theirs.items():
        expected = np.asarray(function(values, labels, first).compute())
        unit = VOXEL if name in ("center_of_mass", "maximum_position") else 1
        result = table[name].isel(obs=slice(0, 3)).values
        np.testing.assert_allclose(result, expected * unit, rtol=1e-5, err_msg=name)
    counts = np.stack(ndi.histogram(VALUES[0], -1.5, 2.0, 7, LABELS[0], index))
    np.testing.assert_array_equal(table["histogram"], counts)


@pytest.mark.parametrize("chunks", [(1, 17, 19, 23), (2, 5, 19, 7), (3, 17, 4, 23)])
def test_blocks_do_not_change_a_bit(chunks):
    whole = lv.measure.table(STACK, OBJECTS, what=EVERY, **HISTOGRAM)
    # a fold of so few values is one task, unless the limit of a task is lowered
    values, labels = da.from_array(VALUES, chunks), da.from_array(LABELS, (3, 8, 8, 23))
    with lv.limited("120MiB", workers=3):
        parts = lv.measure.table(labelled(values), labelled(labels), what=EVERY, **HISTOGRAM)
    assert all(isinstance(v.data, da.Array) for n, v in parts.items() if n != "row_size")
    xr.testing.assert_identical(parts.compute(), whole)


def test_states_of_several_tasks_are_merged(monkeypatch):
    monkeypatch.setattr("lazyvol.plan.reductions.partition.SMALL", 0)
    labels = np.where(LABELS[0] > 0, LABELS[0] * 7, 0)
    values, numbers = (labelled(da.from_array(a, (4, 19, 23))) for a in (VALUES[0], labels))
    with lv.limited(None, workers=4):
        lazy = lv.measure.table(values, numbers, what=EVERY, **HISTOGRAM)
        assert any("merge" in str(k) or "leaf" in str(k) for k in lazy["mean"].data.dask)
        merged = lazy.compute()
    whole = lv.measure.table(STACK[0], labelled(labels), what=EVERY, **HISTOGRAM)
    xr.testing.assert_identical(merged, whole.drop_vars("k", errors="ignore"))


def test_labels_may_be_shared_given_and_missing():
    shared = lv.measure.table(STACK, OBJECTS[0], what=("count", "mean", "bbox"), index=(2, 3, 99))
    assert shared.row_size.values.tolist() == [3, 3, 3]
    row = shared.isel(obs=slice(3, 6))
    expected = [*ndi.mean(VALUES[1], LABELS[0], (2, 3)), np.nan]
    np.testing.assert_allclose(row["mean"], expected, rtol=1e-6)
    assert row["count"].values[-1] == 0
    assert not row["bbox"].values[-1].any()
    assert row["frame"].values.tolist() == [1, 1, 1]
    none = lv.measure.table(STACK, OBJECTS * 0)
    assert none.sizes["obs"] == 0
    assert none.row_size.values.tolist() == [0, 0, 0]


def test_nothing_is_computed_if_labels_are_named():
    lazy = labelled(da.from_array(LABELS, chunks=(1, 9, 9, 9)))
    with dask.config.set(scheduler=refuse):
        table = lv.measure.table(STACK, lazy, what=("median",), index=(1, 2))
        kept = lv.measure.select(lazy, table["median"] > 0)
    assert isinstance(kept.data, da.Array)


@pytest.mark.parametrize("skipna", [False, True])
def test_nan_is_kept_or_left_out(skipna):
    values, labels = np.array([[[1, np.nan, 3, 5, 7]]]), np.array([[[1, 1, 1, 2, 2]]])
    what = ("count", "mean", "min", "median", "maximum_position", "center_of_mass")
    table = lv.measure.table(values, labels, what=what, skipna=skipna)
    first = table.isel(obs=0)
    expected = (2, 1, 2, 2, 1.5) if skipna else (np.nan,) * 5
    names = ("mean", "min", "median", "maximum_position", "center_of_mass")
    result = [np.ravel(first[n].values)[-1] for n in names]
    np.testing.assert_array_equal(result, expected)
    assert table["count"].values.tolist() == [3, 2]
    assert table["mean"].values[1] == 6


def test_infinite_values_and_wide_integers():
    table = lv.measure.table(
        np.array([[[2**63 - 1, -(2**63), 5, 7]]]), np.array([[[1, 1, 2, 2]]]), what=("min", "max")
    )
    assert table["max"].values.tolist() == [2**63 - 1024, 7]
    assert table["min"].values.tolist() == [-(2**63), 5]
    infinite = np.array([[[np.inf, 1.0, 2.0]]])
    table = lv.measure.table(infinite, np.array([[[1, 1, 2]]]), what=("mean", "max", "sum"))
    assert table["mean"].values.tolist() == [np.inf, 2.0]


def test_small_objects_are_removed():
    table = lv.measure.table(OBJECTS, OBJECTS, what=("count",))
    kept = lv.measure.select(OBJECTS, table["count"] >= 20)
    expected = np.stack([remove_small_objects(v, max_size=19) for v in LABELS])
    np.testing.assert_array_equal(kept, expected)
    lazy = lv.measure.select(labelled(da.from_array(LABELS, (1, 5, 9, 23))), table["count"] >= 20)
    np.testing.assert_array_equal(lazy.compute(), expected)
    shuffled = (table["count"] >= 20).isel(obs=RNG.permutation(table.sizes["obs"]))
    np.testing.assert_array_equal(lv.measure.select(OBJECTS, shuffled), expected)


def test_one_read_measures_everything():
    source = CountingSource(VALUES, (1, 17, 19, 23), "measured")
    stack = labelled(source_array(source, ((1, 1, 1), (17,), (19,), (23,))))
    table = lv.measure.table(stack, OBJECTS, what=EVERY, **HISTOGRAM)
    assert elements_read(source.token) == 0
    dask.compute(table)
    assert elements_read(source.token) == VALUES.size


def test_memory_that_is_too_small_is_refused():
    values = lv.as_stack(da.zeros((128, 128, 128), chunks=64))
    labels = lv.as_stack(da.ones((128, 128, 128), chunks=64, dtype=np.int32))
    with lv.limited("130MiB", workers=1):
        assert lv.measure.table(values, labels, what=("mean",)).sizes["obs"] == 1
        with pytest.raises(BudgetError, match="memory must be at least"):
            lv.measure.table(values, labels, what=("median",))
        every = lv.as_stack(da.arange(1, 128**3 + 1, chunks=64**3).reshape((128, 128, 128)))
        with pytest.raises(BudgetError, match="memory must"):
            lv.measure.table(values, every, what=("mean",))


def test_tables_are_saved_as_csv_star_and_zarr(tmp_path):
    stack = STACK.assign_coords(tomogram=("k", ["a", "b", "c"]))
    table = lv.measure.table(stack, OBJECTS, what=("count", "mean", "bbox", "centroid"))
    plain = table.drop_attrs()
    lv.save(plain.assign(row_size=table.row_size), tmp_path / "t.csv")
    rows = pd.read_csv(tmp_path / "t.csv")
    assert list(rows)[:4] == ["obs", "label", "frame", "tomogram"]
    np.testing.assert_array_equal(rows["bbox_stop_x"], table["bbox"].sel(edge="stop", axis="x"))
    assert (rows["tomogram"] == np.array(["a", "b", "c"])[table.frame]).all()
    lv.save(table, tmp_path / "t.zarr")
    again = lv.open(tmp_path / "t.zarr")
    xr.testing.assert_equal(again.compute().drop_vars("k", errors="ignore"), table)
    lv.save(plain.assign(row_size=table.row_size), tmp_path / "t.star")
    assert "centroid_z" in (tmp_path / "t.star").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": ()}, "what must name some of"),
        ({"what": ("area",)}, "what must name some of .*leave out"),
        ({"labels": STACK}, "labels must be whole numbers"),
        ({"labels": OBJECTS.isel(z=0, drop=True)}, "labels must have the dims"),
        ({"what": ("histogram",)}, "range must be given"),
        ({"bins": -1}, "bins must be a whole number of 1 or more, got -1"),
        ({"index": (0, 1)}, "index must hold labels"),
        ({"index": (2, 1)}, "index must hold labels"),
        ({"stack": STACK.expand_dims("t")}, "at most one more"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(LabelError, match=f"table: .*{message}"):
        lv.measure.table(**{"stack": STACK, "labels": OBJECTS} | arguments)


def test_conditions_that_do_not_fit_are_refused():
    table = lv.measure.table(OBJECTS, OBJECTS, what=("count",))
    for wrong in (table["count"], (table["count"] > 1).drop_vars("label"), OBJECTS > 0):
        with pytest.raises(LabelError, match="select: condition must"):
            lv.measure.select(OBJECTS, wrong)


def test_extremes_of_booleans_are_booleans():
    result = lv.measure.table(STACK > 0, OBJECTS, what=("min", "max"))
    assert result["min"].dtype == result["max"].dtype == bool
