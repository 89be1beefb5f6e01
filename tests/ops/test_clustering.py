"""Distances, trees, clusters and components: edge cases, accuracy, reads and memory."""

import subprocess
import sys
import textwrap

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster import hierarchy
from scipy.spatial.distance import cdist, pdist, squareform

import lazyvol as lv
from lazyvol.errors import BudgetError, LabelError, OptionError
from lazyvol.kernels.linalg import pairwise_distances
from lazyvol.ops._covariance import BLAS_BYTES
from lazyvol.plan import pairwise, regions
from lazyvol.plan.graph.lazy_array import recipe_of, source_array
from lazyvol.plan.reductions import partition
from tests.paths import DATA, ROOT
from tests.rows.clustering import decomposition
from tests.sources import READS, OnesSource, elements_read
from tests.strategies import MORE, chunkings, labelled, masks, stored, values

C = lv.clustering

SCIPY = {"euclidean": "euclidean", "cosine": "cosine", "ncc": "correlation"}


def foreign(array: np.ndarray, grid: object) -> xr.DataArray:
    """Return a stack whose blocks are computed by dask, not by lazyvol."""
    return labelled(da.from_array(array, chunks=grid).map_blocks(np.copy, dtype=array.dtype))


def flat(a: np.ndarray) -> np.ndarray:
    return a.reshape(len(a), -1).astype(np.float64)


def exact(a: np.ndarray) -> np.ndarray:
    """Return Euclidean distances from differences, in long double."""
    x = a.reshape(len(a), -1).astype(np.longdouble)
    return np.array([[np.sqrt(((p - q) ** 2).sum()) for q in x] for p in x])


# distances -------------------------------------------------------------------------------------


@given(chunkings(), st.sampled_from(tuple(SCIPY)), st.integers(1, 9))
@MORE
def test_distances_of_computed_blocks_equal_scipys(grid, metric, columns):
    array = values("float64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "FOREIGN_TASK", 12000 * columns)  # squares of one volume and more
        patch.setattr(pairwise, "COLUMNS", columns)
        distances = C.distances(foreign(array, grid), metric=metric).compute()
    expected = cdist(flat(array), flat(array), SCIPY[metric])
    np.testing.assert_allclose(distances.values, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(distances.values, distances.values.T)
    assert not np.diagonal(distances.values).any()


@given(
    st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(3, 11), st.integers(3, 13)),
    st.integers(1, 7), st.integers(1, 7), st.sampled_from([64, 2**14]), st.booleans(),
)  # fmt: skip
@MORE
def test_distances_of_stored_volumes_equal_scipys(chunks, workers, columns, tile, other):
    array = values("float64")
    stack = stored(array, chunks)
    second = stored(array[2:6] + 1, chunks) if other else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "SMALL", 0)
        patch.setattr(pairwise, "TILE", tile)
        patch.setattr(pairwise, "COLUMNS", columns)
        patch.setattr(pairwise_distances, "STRETCH_BYTES", 8 * 64 * 14)
        with lv.limited(None, workers=workers):
            distances = C.distances(stack, second)
    expected = cdist(flat(array), flat(array[2:6] + 1 if other else array))
    np.testing.assert_allclose(distances.values, expected, rtol=1e-12, atol=1e-14)


@given(masks(), st.sampled_from(("euclidean", "ncc")))
@MORE
def test_only_voxels_in_the_mask_count(mask, metric):
    array = values("float64")
    if mask.ndim == 4:
        with pytest.raises(LabelError, match="dims of a volume"):
            C.distances(labelled(array), mask=mask)
        return
    inside = np.broadcast_to(mask.values, array.shape[1:])
    distances = C.distances(stored(array, (2, 5, 6, 13)), metric=metric, mask=mask).values
    if not inside.any():
        assert (distances == 0).all() if metric == "euclidean" else np.isnan(distances).all()
        return
    with np.errstate(invalid="ignore"):
        expected = cdist(array[:, inside], array[:, inside], SCIPY[metric])
    if inside.sum() > 1:
        np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("offset", [0.0, 1e4, -3e7])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_near_duplicates_keep_their_digits(dtype, offset):
    """Squares of nearly equal volumes cancel: 16 digits of 1e4^2 leave none of 1e-9^2."""
    rng = np.random.default_rng(1)
    base = (rng.normal(size=(5, 7, 11)) + offset).astype(dtype)
    steps = [0, 1e-9, 1e-6, 1e-3, 0.1, 1.0]
    array = np.stack([base + (s * rng.normal(size=base.shape)).astype(dtype) for s in steps])
    array = array.astype(dtype)
    array[1, 2, 3, 4] = np.nextafter(array[0, 2, 3, 4], np.asarray(np.inf, dtype))
    distances = C.distances(lv.as_stack(array.astype(np.float64))).values
    np.testing.assert_allclose(distances, exact(array).astype(np.float64), rtol=1e-13)
    single = C.distances(lv.as_stack(array)).values
    np.testing.assert_allclose(single, exact(array).astype(dtype), rtol=16 * np.finfo(dtype).eps)


def test_equal_volumes_are_0_apart_and_small_angles_have_digits():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(3, 5, 7))
    rotated = base + 1e-7 * rng.normal(size=base.shape)
    stack = lv.as_stack(np.stack([base, base, 3 * base, rotated]))
    for metric in ("euclidean", "cosine", "ncc", "tanimoto"):
        distances = C.distances(stack, metric=metric).values
        assert distances[0, 1] == 0
        assert not np.diagonal(distances).any()
    x, y = (v.astype(np.longdouble).ravel() for v in (base, rotated))
    x, y = x / np.sqrt((x * x).sum()), y / np.sqrt((y * y).sum())
    angle = float(((x - y) ** 2).sum() / 2)
    assert C.distances(stack, metric="cosine").values[0, 3] == pytest.approx(angle, rel=1e-6)


def test_ncc_distance_ignores_offset_and_contrast():
    rng = np.random.default_rng(9)
    base = rng.normal(size=(3, 5, 7))
    near = base + 1e-6 * rng.normal(size=base.shape)
    distances = C.distances(lv.as_stack(np.stack([base, near + 50, 3 * base - 7])), metric="ncc")
    expected = C.distances(lv.as_stack(np.stack([base, near])), metric="ncc").values[0, 1]
    assert 0 < expected < 1e-11
    assert distances.values[0, 1] == pytest.approx(expected, rel=1e-3)
    assert distances.values[0, 2] < 1e-15


def test_ncc_of_data_far_from_0_is_accurate():
    array = values("float64") + 1e6
    distances = C.distances(lv.as_stack(array), metric="ncc").values
    expected = 1 - np.corrcoef(flat(values("float64")))
    np.testing.assert_allclose(distances, expected, atol=1e-9)


def test_distances_from_zero_and_constant_volumes_are_nan():
    array = values("float64").copy()
    array[3] = 0
    array[4] = 0.1  # whose mean is not 0.1
    result = {m: C.distances(lv.as_stack(array), metric=m).values for m in ("cosine", "ncc")}
    assert np.isnan(result["cosine"][3]).all()
    assert np.isfinite(result["cosine"][4, :3]).all()
    assert np.isnan(result["ncc"][3:5]).all()
    assert C.distances(lv.as_stack(0 * array), metric="tanimoto").values.max() == 0
    assert C.distances(lv.as_stack(array > 1e9), metric="jaccard").values.max() == 0


def test_nan_affects_its_own_volume_alone():
    array = values("float32").copy()
    array[2, 1, 1, 1] = np.nan
    for metric in ("euclidean", "cosine", "ncc", "tanimoto"):
        distances = C.distances(lv.as_stack(array), metric=metric).values
        assert np.isnan(distances[2]).all()
        assert np.isnan(distances[:, 2]).all()
        assert np.isfinite(np.delete(np.delete(distances, 2, 0), 2, 1)).all()


@pytest.mark.parametrize("dtype", [">f4", ">i2", "int64", "bool"])
def test_other_types_and_layouts(dtype):
    array = (np.arange(7 * 5 * 11 * 13).reshape(7, 5, 11, 13) % 17).astype(dtype)
    fortran = np.asfortranarray(array)
    expected = cdist(flat(array), flat(array))
    for a in (array, fortran):
        distances = C.distances(labelled(a))
        assert distances.dtype == (np.float32 if array.dtype.kind == "f" else np.float64)
        np.testing.assert_allclose(distances.values, expected, rtol=1e-6)


def test_tables_images_and_channels_are_volumes_too():
    array = values("float64")
    table = xr.DataArray(flat(array), dims=("k", "feature"))
    permuted = lv.as_stack(array).rename(z="channel").transpose("x", "k", "channel", "y")
    for stack in (table, permuted):
        np.testing.assert_allclose(C.distances(stack).values, cdist(flat(array), flat(array)))
    assert C.distances(table.isel(feature=slice(0, 0))).values.max() == 0
    assert C.distances(table.isel(k=slice(0, 0))).shape == (0, 0)
    assert C.distances(table.isel(k=[3])).values.tolist() == [[0.0]]


def test_two_stacks_of_different_types_and_numbers():
    a, b = values("float32"), values("int16")[:3]
    distances = C.distances(labelled(a), labelled(b))
    assert distances.dtype == np.float64
    np.testing.assert_allclose(distances.values, cdist(flat(a), flat(b)), rtol=1e-12)
    assert "score" in distances.coords


def test_each_volume_is_read_as_often_as_the_plan_says():
    array = np.random.default_rng(3).normal(size=(60, 8, 8, 8)).astype(np.float32)
    stack = stored(array, (3, 8, 8, 8))
    token = recipe_of(stack.data).token
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "HOLD", 4 * pairwise_distances.STRETCH_BYTES + BLAS_BYTES + 2**17)
        READS[token].clear()
        distances = C.distances(stack)
        planned = lv.explain(distances).bytes_read
        np.testing.assert_allclose(distances.values, cdist(flat(array), flat(array)), rtol=1e-6)
    assert elements_read(token) * 4 == planned
    assert array.nbytes < planned <= 12 * array.nbytes
    READS[token].clear()
    C.distances(stack).compute()
    assert elements_read(token) == array.size  # all of it fits: once


def test_a_slice_of_the_matrix_and_its_tasks():
    stack = stored(values("float32"), (1, 5, 6, 13))
    distances = C.distances(stack)
    assert lv.explain(distances).tasks <= 2
    np.testing.assert_array_equal(distances[2, 4:].values, distances.values[2, 4:])


def test_5000_volumes_of_64_fit_a_gibibyte():
    source = OnesSource((5000, 64, 64, 64))
    grid = tuple(
        regions.uniform_chunks(n, c) for n, c in zip(source.shape, source.chunks, strict=True)
    )
    stack = lv.as_stack(source_array(source, grid))
    with lv.limited("1GiB", workers=2):
        plan = lv.explain(C.distances(stack), memory="1GiB", workers=2)
    assert plan.peak_bytes <= 2**30
    assert plan.tasks < 200
    assert plan.passes <= 20
    with pytest.raises(BudgetError, match="must be at least"):
        lv.explain(C.distances(stack), memory="130MiB", workers=2)


def test_memory_stays_within_the_budget(tmp_path):
    """A quarter of the stack fits; two tasks run at once, in a separate process."""
    rng = np.random.default_rng(5)
    lv.save(lv.as_stack(rng.normal(size=(100, 56, 56, 56)).astype("f4")), tmp_path / "s.zarr")
    script = f"""
        import ctypes, pathlib, lazyvol as lv
        from tests.plan.memory_of_rows import status
        lv.clustering.distances(lv.open({str(tmp_path / "s.zarr")!r})[:4, :8]).compute()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        with lv.limited("210MiB", workers=2):
            distances = lv.clustering.distances(lv.open({str(tmp_path / "s.zarr")!r}))
            planned = lv.explain(distances).peak_bytes
            distances.compute()
        print(status("VmHWM") - before, planned)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert process.returncode == 0, process.stderr
    peak, planned = map(int, process.stdout.split())
    assert peak <= planned <= 210 * 2**20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "manhattan"}, "metric must be one of"),
        ({"metric": "jaccard"}, "boolean volumes"),
        ({"mask": lv.as_stack(np.ones((5, 11, 13)))}, "mask must be boolean"),
        ({"mask": lv.as_stack(np.ones((4, 11, 13), bool))}, "lengths"),
        ({"b": lv.as_stack(values("float32")).isel(z=slice(0, 2))}, "lengths 5 and 2"),
        ({"b": lv.as_stack(values("float32")[:, 0], dims=("k", "y", "x"))}, "equal dims"),
    ],
)
def test_invalid_volumes_and_metrics_are_refused(options, message):
    with pytest.raises((LabelError, OptionError), match=message):
        C.distances(lv.as_stack(values("float32")), **options)


def test_unsupported_stacks_are_refused():
    with pytest.raises(LabelError, match="must not have the dim 'k_other'"):
        C.distances(lv.as_stack(np.ones((2, 3)), dims=("k", "k_other")))
    with pytest.raises(LabelError, match="along 'k'"):
        C.distances(lv.as_stack(np.ones((2, 3, 4))))
    with pytest.raises(LabelError, match="real numbers"):
        C.distances(lv.as_stack(np.ones((2, 3, 4, 5), complex)))
    with pytest.raises(LabelError, match="must be a labelled"):
        C.distances(2.0)


# trees -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["single", "complete", "average", "weighted", "ward"])
def test_a_square_matrix_is_taken_as_distances(method):
    array = values("float64")
    matrix = C.distances(labelled(array))
    expected = hierarchy.linkage(pdist(flat(array)), method)
    for form in (matrix, C.condensed(matrix)):
        np.testing.assert_allclose(C.linkage(form, method).tree.values, expected, rtol=1e-12)
    with pytest.warns(hierarchy.ClusterWarning):
        trap = hierarchy.linkage(matrix.values, method)
    assert not np.allclose(trap[:, 2], expected[:, 2])


def broken(edit) -> xr.DataArray:
    matrix = squareform(pdist(flat(values("float64"))))
    edit(matrix)
    return xr.DataArray(matrix, dims=("k", "k_other"))


def put(row: int, column: int, value: float):
    def edit(matrix):
        matrix[row, column] = value

    return edit


@pytest.mark.parametrize("verb", [C.condensed, C.linkage])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put(2, 5, 1.0), r"at \(2, 5\)"),
        (put(3, 3, 1.0), "1 at 3 on the diagonal"),
        (put(1, 4, np.nan), r"nan at \(1, 4\)"),
        (put(1, 4, np.inf), r"inf at \(1, 4\)"),
        (put(6, 0, -3.0), r"-3 at \(6, 0\)"),
    ],
)
def test_invalid_distance_matrices_are_refused(verb, edit, message):
    with pytest.raises((LabelError, OptionError), match=message):
        verb(broken(edit))


def test_rounding_errors_of_a_matrix_are_accepted():
    def edit(matrix):
        matrix[0, 1] *= 1 + 1e-15
        matrix[2, 2] = 1e-14

    C.linkage(broken(edit))


def test_a_lazy_matrix_is_checked_when_it_is_computed():
    lazy = C.condensed(broken(put(2, 5, 1.0)).chunk({"k": 2}))
    with pytest.raises(LabelError, match=r"make one with clustering\.linkage"):
        lv.clustering.clusters(xr.Dataset({"distance": ("merge", [1.0])}), n=1)
    with pytest.raises(LabelError, match="symmetric"):
        lazy.compute()


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 4)), "square"),
        (np.ones(7), r"n \(n - 1\) / 2 distances if it is condensed, got 7"),
        (np.ones(0), "two volumes or more"),
        (np.ones((2, 2, 2)), "square"),
    ],
)
def test_matrices_of_wrong_shape_are_refused(matrix, message):
    with pytest.raises((LabelError, OptionError), match=message):
        C.linkage(xr.DataArray(matrix))


def test_methods_are_scipys():
    with pytest.raises((LabelError, OptionError), match="method must be one of"):
        C.linkage(C.distances(labelled(values("float32"))), "mean")


def test_coordinates_of_particles_are_kept_by_clusters():
    stack = labelled(values("float32"))
    tree = C.linkage(C.distances(stack))
    assert tree.column.values.tolist() == ["left", "right", "distance", "size"]
    clusters = C.clusters(tree, n=3)
    assert clusters.score.identical(stack.score.drop_vars("session").assign_coords(session="a7"))
    assert len(np.unique(clusters)) == 3
    plain = C.clusters(tree.tree, n=3)
    np.testing.assert_array_equal(plain.values, clusters.values)


def test_clusters_by_distance_and_by_number():
    stack = lv.as_stack(np.array([0.0, 10.0, 0.5, 10.2, 50.0]).reshape(5, 1, 1, 1))
    tree = C.linkage(C.distances(stack))
    assert C.clusters(tree, distance=1.0).values.tolist() == [0, 1, 0, 1, 2]
    assert C.clusters(tree, n=2).values.tolist() == [0, 0, 0, 0, 1]
    assert C.clusters(tree, n=5).values.tolist() == [0, 1, 2, 3, 4]
    assert C.clusters(tree, distance=0).values.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "n or distance must be given"),
        ({"n": 2, "distance": 1.0}, "n or distance must be given"),
        ({"n": 0}, "1 to 7"),
        ({"n": 8}, "1 to 7"),
        ({"distance": np.nan}, "0 or more"),
    ],
)
def test_invalid_cuts_are_refused(options, message):
    tree = C.linkage(C.distances(labelled(values("float32"))))
    with pytest.raises((LabelError, OptionError), match=message):
        C.clusters(tree, **options)
    with pytest.raises(LabelError, match="tree must be"):
        C.clusters(tree.tree[:, :2], n=2)


# components ------------------------------------------------------------------------------------


def checked(result: xr.Dataset, x: np.ndarray, n: int, rtol: float) -> None:
    expected = decomposition(x, n)
    for name in ("scores", "variance", "ratio", "average"):
        scale = abs(expected[name]).max()
        got = result[name].values.reshape(expected[name].shape)
        np.testing.assert_allclose(got, expected[name], atol=rtol * scale)
    volumes = result.volumes.values.reshape(n, -1)
    np.testing.assert_allclose(volumes, expected["volumes"], atol=rtol)


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_many_small_volumes_are_decomposed_by_their_voxels(offset):
    rng = np.random.default_rng(6)
    table = rng.normal(size=(300, 20)) * np.linspace(5, 1, 20) + offset
    stack = lv.as_stack(table.reshape(300, 1, 4, 5))
    for chunks in ((300, 1, 4, 5), (77, 1, 3, 2)):
        lazy = foreign(stack.values, chunks).drop_attrs()
        checked(C.components(lazy, 4).compute(), table, 4, 1e-9 if offset else 1e-12)


def test_few_large_volumes_are_decomposed_by_their_distances():
    array = values("float64") * np.linspace(9, 1, 7)[:, None, None, None] + 1e5
    with pytest.MonkeyPatch.context() as patch, lv.limited(None, workers=3):
        patch.setattr(partition, "SMALL", 0)
        for stack in (labelled(array), stored(array, (2, 5, 6, 13)), foreign(array, (3, 2, 4, 7))):
            checked(C.components(stack, 3).compute(), flat(array), 3, 1e-8)


def test_components_reconstruct_the_stack():
    rng = np.random.default_rng(7)
    table = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 60)) + 4
    stack = lv.as_stack(table.reshape(12, 3, 4, 5))
    pca = C.components(stack, 6)  # of which three exist
    assert not pca.scores.values[:, 3:].any()
    assert not pca.volumes.values[3:].any()
    again = pca.average + xr.dot(pca.scores, pca.volumes, dim="component")
    np.testing.assert_allclose(again.transpose(*stack.dims), stack, atol=1e-10)
    assert pca.ratio.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("count", [7, 900])
def test_components_of_masked_voxels(count):
    rng = np.random.default_rng(8)
    array = rng.normal(size=(count, 3, 5, 7)) * rng.uniform(0.5, 3, size=(3, 5, 7))
    flags = rng.random((5, 7)) < 0.5
    array[:, :, ~flags] = np.nan if count == 7 else 1e3
    mask = lv.as_stack(flags, dims=("y", "x"))
    pca = C.components(lv.as_stack(array), 3, mask=mask)
    expected = decomposition(array[:, :, flags].reshape(count, -1), 3)
    np.testing.assert_allclose(pca.scores.values, expected["scores"], atol=1e-9)
    assert not pca.volumes.values[:, :, ~flags].any()
    inside = pca.volumes.values[:, :, flags].reshape(3, -1)
    np.testing.assert_allclose(inside, expected["volumes"], atol=1e-9)


def test_a_nan_makes_all_components_nan():
    array = values("float32").copy()
    array[0, 0, 0, 0] = np.nan
    pca = C.components(lv.as_stack(array), 2)
    assert np.isnan(pca.scores.values).all()
    assert C.components(lv.as_stack(np.ones((4, 2, 3, 5))), 2).ratio.values.tolist() == [0, 0]


def test_components_are_read_in_two_passes():
    stack = stored(values("float32"), (2, 5, 6, 13))
    plan = lv.explain(C.components(stack, 2))
    assert plan.passes == 2
    assert plan.tasks < 40


@pytest.mark.parametrize("n", [0, 7])
def test_too_many_components_are_refused(n):
    with pytest.raises(LabelError, match="n must be 1 to 6"):
        C.components(labelled(values("float32")), n)
    with pytest.raises(LabelError, match="along 'k'"):
        C.components(lv.as_stack(np.ones((2, 3, 4))), 1)


def test_coordinates_and_units_of_components():
    pca = C.components(labelled(values("float32")), 2)
    assert pca.scores.attrs["units"] == "e"
    assert pca.variance.attrs["units"] == "e^2"
    assert "units" not in pca.volumes.attrs
    assert pca.volumes.x.attrs["units"] == "angstrom"
    assert "score" in pca.scores.coords
    assert {pca[name].dtype for name in pca} == {np.dtype("float32")}


# real ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "cryoet_warp_70s").is_dir(), reason="no shared/data here")
def test_ribosomes_against_scipy():
    stack = lv.open(DATA / "cryoet_warp_70s" / "subtomos_aligned.mrc")
    table = flat(stack.values)
    for metric, name in SCIPY.items():
        expected = cdist(table, table, name)
        np.fill_diagonal(expected, 0)
        distances = C.distances(stack, metric=metric)
        np.testing.assert_allclose(distances.values, expected, atol=1e-6 * expected.max())
    checked(C.components(stack, 3).compute(), table, 3, 1e-4)
