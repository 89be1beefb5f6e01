"""Wrong values of every option of every operation give a result or a LazyvolError."""

import inspect
import re
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

import lazyvol as lv
from lazyvol.errors import LabelError, LazyvolError, OptionError
from tests.arguments.test_arguments import TOPICS
from tests.oracles import required

S = lv.as_stack(np.random.default_rng(0).random((2, 5, 5, 6)))
V = S.isel(k=0, drop=True)
F = V > 0.4
DISTANCES = lv.clustering.distances(S)
TREE = lv.clustering.linkage(DISTANCES)
RAGGED = lv.masks.select(S, F)
LABELS = lv.masks.label(F)
KEPT = lv.measure.table(V, LABELS, what=("count",))["count"] > 1
EACH = S.mean(("z", "y", "x"))
SHAPE = (5, 5, 6)

#: valid arguments of each operation; by default its first parameter is a stack
NEEDED: dict[str, dict[str, Any]] = {
    "clustering.clusters": {"tree": TREE, "n": 2}, "clustering.condensed": {"matrix": DISTANCES},
    "clustering.linkage": {"matrix": DISTANCES}, "clustering.components": {"stack": S, "n": 1},
    "density.blocks": {"array": V, "size": 1}, "density.block_mean": {"array": V, "size": 1},
    "density.local": {"array": V, "size": 2},
    "density.points": {"positions": np.ones((5, 3)), "like": SHAPE},
    "derivatives.structure_tensor": {"volume": V, "sigma": 1.0},
    "derivatives.structure_tensor_eigenvalues": {"volume": V, "sigma": 1.0},
    "filters.convolve": {"stack": V, "kernel": [1.0, 2.0]},
    "filters.correlate": {"stack": V, "kernel": [1.0, 2.0]},
    "filters.bandpass": {"stack": V, "shortest": 3.0},
    "filters.gaussian": {"stack": V, "sigma": 1.0},
    "filters.percentile": {"stack": V, "q": 50.0, "size": 3},
    "filters.rank": {"stack": V, "number": 1, "size": 3},
    **{f"filters.{n}": {"stack": V, "size": 3}
       for n in ("maximum", "median", "minimum", "uniform", "grey_erosion", "grey_dilation",
                 "grey_opening", "grey_closing", "white_tophat", "black_tophat",
                 "morphological_gradient", "morphological_laplace")},
    "fourier.shift": {"stack": S, "shifts": (0, 1, 0)},
    "masks.apply": {"stack": S, "mask": F}, "masks.select": {"points": S, "mask": F},
    **{f"masks.{n}": {"array": S, "mask": F} for n in ("mean", "sum", "var")},
    **{f"masks.{n}": {"mask": F}
       for n in ("close", "dilate", "erode", "fill_holes", "open", "label")},
    "masks.distance_transform": {"mask": F},
    "filters.reconstruct": {"seed": S - 0.1, "mask": S},
    "masks.propagate": {"seeds": F, "mask": F},
    "masks.remove_small_objects": {"mask": F, "min_size": 2},
    "masks.frame": {"ragged": RAGGED, "k": 0}, "masks.pad": {"ragged": RAGGED},
    "measure.table": {"stack": S, "labels": LABELS},
    "measure.select": {"labels": LABELS, "condition": KEPT},
    **{f"{t}.box": {"like": SHAPE, "size": 3.0} for t in ("masks", "synthetic")},
    **{f"{t}.sphere": {"like": SHAPE, "radius": 2.0} for t in ("masks", "synthetic")},
    **{f"{t}.cylinder": {"like": SHAPE, "radius": 2.0, "length": 3.0}
       for t in ("masks", "synthetic")},
    "plots.alpha_sweep": {"metrics": xr.Dataset({"ncc": ("alpha", [0.0, 1])}, {"alpha": [0.0, 1]})},
    "plots.correlation": {"curve": xr.Dataset({"correlation": ("z", [1.0, 0.5])})},
    "plots.dendrogram": {"tree": TREE}, "plots.density": {"blocks": V},
    "plots.fsc": {"curve": lv.scores.fsc(V, V)}, "plots.histogram": {"values": EACH},
    "plots.scores": {"values": EACH},
    **{f"plots.{n}": {"volume": V} for n in ("orthogonal", "projection", "slices")},
    "projections.slab": {"stack": V, "dim": "z", "start": 0.0, "stop": 3.0},
    "registration.align": {"stack": S.chunk(k=1), "reference": "average", "angles": 90.0},
    "registration.rotate": {"stack": S, "rotations": 30.0},
    "registration.shift": {"stack": S, "shifts": (0, 1, 0)},
    "scores.screen": {"stack": S.chunk(k=1)},
    "scores.correlation": {"a": S, "b": V}, "scores.fsc": {"a": V, "b": V},
    "scores.profile": {"stack": V}, "stats.quantile": {"stack": S, "q": 0.5},
    "synthetic.circle": {"like": SHAPE, "radius": 2.0},
    "synthetic.correlated_noise": {"like": SHAPE, "length": 2.0},
    "synthetic.elastic": {"stack": V, "alpha": 1.0, "sigma": 1.0},
    "synthetic.grid_lines": {"like": SHAPE, "spacing": 3.0, "thickness": 1.0},
    "synthetic.membrane": {"like": SHAPE, "thickness": 1.0},
    "synthetic.noise": {"like": SHAPE}, "synthetic.wedge": {"like": SHAPE},
    "synthetic.particles": {"template": SHAPE, "n": 2, "radius": 2.0, "length": 4.0, "sigma": 1.0},
    "transform.affine": {"stack": S, "matrix": np.eye(3)},
    "transform.map_coordinates": {"stack": S, "coordinates": np.ones((3, 4))},
    "unmixing.mix": {"image": V, "matrix": np.eye(6)},
    "unmixing.unmix": {"mixed": V, "matrix": np.eye(6)},
}  # fmt: skip

#: wrong values by name
WRONG: dict[str, Any] = {
    "None": None, "text": "x", "object": object(), "list": [], "mapping": {}, "nan": np.nan,
    "-1": -1, "1.5": 1.5, "1j": 1j, "array": np.array([1, 2]), "nothing": "", "bool": True,
    "words": {"z": "a"}, "mixed": [1, "a"], "ragged": [[1], [2, 3]],
    "inf": np.inf, "dataset": xr.Dataset(), "numbered": {1: 2}, "bytes": b"z",
    "delayed": dask.delayed(2), "lazy": da.from_array(np.ones(3)), "1e-308": 1e-308,
    "plane": np.ones((2, 3)), "labelled plane": xr.DataArray(np.ones((2, 3)), dims=("q", "r")),
}  # fmt: skip
#: more of them, for the campaign
ODD: dict[str, Any] = {
    "-inf": -np.inf, "0": 0, "nan nan nan": np.full(3, np.nan), "date": datetime(2020, 1, 1),
    "date64": np.datetime64("2020-01-01"), "duration": np.timedelta64(3, "s"),
    "no date": np.datetime64("NaT"), "2**63": 2**63, "-2**63-1": -(2**63) - 1, "2**70": 2**70,
    "10**400": 10**400, "1e308": 1e308, "5e-324": 5e-324, "1e30": 1e30, "-0.0": -0.0,
    "digits": "1", "point": "1.5", "word nan": "nan", "2 numbers": (1, 2), "3 numbers": (1, 1, 1),
    "4 numbers": (1, 2, 3, 4), "lists": [[1, 2], [3, 4]], "set": {1, 2}, "buffer": bytearray(b"1"),
    "0 axes": np.array(2.0), "nan of 0 axes": np.array(np.nan), "1 element": np.array([2.0]),
    "float128": np.longdouble(1.5), "uint64": np.uint64(3), "flag": np.bool_(True),
    "fraction": Fraction(3, 2), "decimal": Decimal("1.5"), "range": range(3),
    "lazy number": da.from_array(np.array(2.0)), "z": {"z": 1}, "k": {"k": 1}, "q": {"q": 1},
    "z None": {"z": None}, "z True": {"z": True}, "z digits": {"z": "1"}, "z nan": {"z": np.nan},
    "z array": {"z": np.ones(2)}, "z 10**9": {"z": 10**9}, "z tuple": {"z": (1, 2)},
    "two names": ("z", "y"), "z twice": ("z", "z"), "no name": (), "name k": "k",
    "cube": np.ones((2, 2, 2)), "flags": np.array([True, False]), "names": np.array(["z", "y"]),
    "objects": np.array([None, 1], object), "no numbers": np.array([]), "masked": np.ma.masked,
    "masked array": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
    "dots": ..., "slice": slice(0, 2), "path": Path("x"), "series": pd.Series([1.0]),
    "frame": pd.DataFrame({"a": [1.0]}), "NA": pd.NA, "index": pd.Index([1, 2]),
    "record": np.zeros(2, [("a", "f4")]), "flags of 3": (True, True, True), "zeros": (0, 0, 0),
    "long text": "a" * 10_000, "lines": "a\nb", "reversed": V.transpose("x", "y", "z"),
    "whole volume": V.astype(int), "NaN volume": V * np.nan, "empty volume": V[:0],
    "False volume": V > 9, "complex volume": V + 1j, "lazy volume": V.chunk(2),
}  # fmt: skip


def operations() -> dict[str, Any]:
    result = {}
    for topic in TOPICS:
        module = import_module(f"lazyvol.{topic}" if topic == "plots" else f"lazyvol.ops.{topic}")
        result |= {f"{topic}.{n}": getattr(module, n) for n in module.__all__}
    return result


OPS = operations()


def needed(name: str) -> dict[str, Any]:
    first = next(iter(inspect.signature(OPS[name]).parameters))
    volumes = ("derivatives", "projections")
    own = {first: V if name.partition(".")[0] in volumes else S, **required(name)}
    return NEEDED.get(name) or own


def needed_stack(name: str) -> Any:
    """Return the stack or volume of real numbers that an operation takes first, else None."""
    first = next(iter(needed(name).values()))
    return (
        first
        if isinstance(first, xr.DataArray) and first.ndim > 2 and first.dtype != bool
        else None
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPS)
def test_wrong_values_give_a_result_or_a_refusal(name):
    OPS[name](**needed(name))
    give_odd_values(name, WRONG)


@pytest.mark.campaign
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPS)
def test_campaign_of_odd_values(name):
    give_odd_values(name, ODD)


HIDDEN = np.random.default_rng(1).random(S.shape) > 0.8
HIDDEN[:, 2, 2, 2] = False
#: operations on stacks or volumes of real numbers
ON_NUMBERS = [n for n in OPS if n.partition(".")[0] != "plots" and needed_stack(n) is not None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ON_NUMBERS)
def test_values_under_a_numpy_mask_have_no_influence(name):
    stack = needed_stack(name)
    first = next(iter(needed(name)))
    others = {n: v for n, v in needed(name).items() if n != first}
    hidden = HIDDEN[(0,) * (4 - stack.ndim)]
    results = []
    for junk in (0.0, 1e6):
        masked = np.ma.masked_array(np.where(hidden, junk, stack.values), hidden)
        try:
            results.append(dask.compute(OPS[name](**{first: masked}, **others))[0])
        except LabelError as error:
            results.append(str(error))
    if isinstance(results[0], str):
        assert "mask" in results[0] or "finite" in results[0] or "NaN" in results[0]
        assert results[0] == results[1]
    elif isinstance(results[0], dict):
        for key in results[0]:
            xr.testing.assert_equal(results[0][key], results[1][key])
    else:
        xr.testing.assert_equal(results[0], results[1])


def give_odd_values(name: str, values: dict[str, Any]) -> None:
    """Fail unless each value of each option gives a result, or an error of one line that starts
    with an operation."""
    base, op = needed(name), OPS[name]
    for option in inspect.signature(op).parameters:
        if option == "ax" and name.startswith("plots."):
            continue
        for kind, value in values.items():
            try:
                op(**{**base, option: value})
            except LazyvolError as error:
                message = str(error)
                fits = re.match(r"\w+: ", message) and "\n" not in message and len(message) <= 340
                assert fits, f"{option}={kind}: {message!r}"
            except Exception as error:
                pytest.fail(f"{option}={kind}: {error!r}")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lv.filters.gaussian(V, "a"), "sigma must be a finite number, a mapping.*got 'a'"),
        (lambda: lv.filters.gaussian(V, {"z": np.nan}), "sigma must be .*got {'z': nan}"),
        (lambda: lv.filters.gaussian(V, True), "sigma must be .*got True"),
        (lambda: lv.filters.uniform(V, 2.0), "size must be a whole number, .*got 2.0"),
        (lambda: lv.stats.mean(V, "z", skipna=1), "skipna must be True or False, got 1"),
        (lambda: lv.stats.var(V, "z", ddof=True), "ddof must be a whole number, got True"),
        (lambda: lv.registration.shift(V, (0, 0, 0), order=1.0), "order must be one of 1, 3, "
                                                                 "'fourier', got 1.0"),
        (lambda: lv.stats.histogram(V, range=(0, 1, 2)), "range must be 2 finite numbers or None"),
        (lambda: lv.scores.profile(V, transform=3), "transform must be a function, a text or None"),
        (lambda: lv.synthetic.noise(SHAPE, dtype="x"), "dtype must be a float type"),
        (lambda: lv.stats.describe(S, statistics="mean"), "statistics must be a sequence of texts"),
        (lambda: lv.intensity.whiten(S, fitted="a"), "fitted must be a Dataset or None, got 'a'"),
        (lambda: lv.plots.slices(V, ax=3), "ax must be an Axes or None, got 3"),
    ],
)  # fmt: skip
def test_refusals_name_the_option_the_rule_and_the_value(call, message):
    with pytest.raises(OptionError, match=rf"^\w+: {message}"):
        call()


@pytest.mark.parametrize(
    ("call", "plain"),
    [
        (lambda: lv.filters.gaussian(V, np.float32(1.5)), lambda: lv.filters.gaussian(V, 1.5)),
        (lambda: lv.filters.gaussian(V, {np.str_("z"): np.float64(1)}),
         lambda: lv.filters.gaussian(V, {"z": 1})),
        (lambda: lv.filters.gaussian(V, np.array(1.5)), lambda: lv.filters.gaussian(V, 1.5)),
        (lambda: lv.filters.gaussian(V, xr.DataArray(1.5)), lambda: lv.filters.gaussian(V, 1.5)),
        (lambda: lv.filters.uniform(V, np.int64(3), mode=np.str_("wrap")),
         lambda: lv.filters.uniform(V, 3, mode="wrap")),
        (lambda: lv.stats.mean(S, np.str_("z"), skipna=np.bool_(True)),
         lambda: lv.stats.mean(S, "z", skipna=True)),
        (lambda: lv.stats.mean(S, np.array(["z", "y"])), lambda: lv.stats.mean(S, ("z", "y"))),
        (lambda: lv.stats.mean(S, {"y", "z"}), lambda: lv.stats.mean(S, ("z", "y"))),
        (lambda: lv.stats.quantile(S, np.array([0.1, 0.5])),
         lambda: lv.stats.quantile(S, (0.1, 0.5))),
        (lambda: lv.stats.quantile(S, (q for q in (0.1, 0.5))),
         lambda: lv.stats.quantile(S, (0.1, 0.5))),
        (lambda: lv.stats.norm(S, ord=np.inf), lambda: lv.stats.norm(S, ord=float("inf"))),
        (lambda: lv.registration.shift(V, np.array([0, 1, 0]), order=np.int8(1)),
         lambda: lv.registration.shift(V, (0, 1, 0), order=1)),
        (lambda: lv.intensity.display(V, limits=[0, np.float32(1)]),
         lambda: lv.intensity.display(V, limits=(0, 1))),
        (lambda: lv.masks.sphere(np.array(SHAPE), radius=np.int16(2)).compute(),
         lambda: lv.masks.sphere(SHAPE, radius=2).compute()),
        (lambda: lv.synthetic.noise(SHAPE, dtype=np.float64).compute(),
         lambda: lv.synthetic.noise(SHAPE, dtype="float64").compute()),
    ],
)  # fmt: skip
def test_numpy_scalars_equal_python_scalars(call, plain):
    xr.testing.assert_identical(call(), plain())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lv.filters.gaussian(V, (1.0, 2.0)), r"gaussian: sigma must .*got 2 values"),
        (lambda: lv.filters.gaussian(V, {"q": 1.0}), "gaussian: sigma must name"),
        (lambda: lv.filters.median(V, np.ones((2, 3), int)), "median: size .*shape .2, 3."),
        (lambda: lv.registration.shift(S, {"q": 1.0}), "shift: shifts must name"),
        (lambda: lv.density.local(V, 2**30), "local: size must reach 1048576 voxels or less"),
        (lambda: lv.derivatives.hessian(V, sigma=1e6), "hessian: sigma and truncate must reach"),
        (
            lambda: lv.derivatives.structure_tensor(V, sigma=1e300),
            "structure_tensor: sigma and",
        ),
        (lambda: lv.derivatives.vesselness(V, alpha=1e-200), "vesselness: alpha must be positive"),
        (lambda: lv.registration.align(S, S[0], 90.0, finest=1e-9), "align: finest must be"),
        (lambda: lv.synthetic.elastic(V, 1e9, 1.0), "elastic: alpha must displace by 64 voxels"),
        (lambda: lv.plots.slices(V[:0]), "slices: volume must have one voxel or more along 'z'"),
        (lambda: lv.stats.mean(S, "q" * 5000), r"mean: dim must .* \.\.\. .*'x'"),
        (lambda: lv.masks.threshold(V, 10**400), "threshold: method must be"),
        (lambda: lv.masks.sphere((), radius=2.0), "sphere: like must have 1 to 4 lengths"),
        (lambda: lv.masks.sphere((-1, 2, 2), radius=2.0), r"sphere: like must .*got .-1, 2, 2"),
        (lambda: lv.transform.affine(V, V * np.nan), "affine: matrix must .*got a DataArray with"),
        (lambda: lv.intensity.center(V, dim=()), "center: dim must name one dim or more"),
        (lambda: lv.intensity.whitening(S, keep=9), "whitening: keep must be from 1 to 1"),
        (
            lambda: lv.scores.profile(V, transform=int),
            "profile: transform must .*which raised Type",
        ),
        (lambda: lv.scores.profile(V, confidence=2.0), "profile: confidence must be between 0"),
        (lambda: lv.scores.profile(V, mask=V.values), "profile: mask must be boolean"),
        (
            lambda: lv.synthetic.correlated_noise(SHAPE, 1e9),
            "correlated_noise: length must reach",
        ),
        (
            lambda: lv.synthetic.particles(SHAPE, 10**9, radius=2.0, length=4.0, sigma=1.0),
            "particles: n must be a number of particles from 0 to",
        ),
    ],
)
def test_refusals_in_an_operation_name_it_too(call, message):
    with pytest.raises((LabelError, OptionError), match=rf"^{message}") as refusal:
        call()
    assert len(str(refusal.value)) < 600


def test_iterations_end_when_nothing_changes():
    for op in (lv.masks.dilate, lv.masks.close):
        xr.testing.assert_equal(op(F, iterations=10**9), op(F, iterations=20))


def test_whole_numbers_beyond_64_bits_are_floats():
    assert lv.masks.threshold(V, -(2**70)).all()
    assert not lv.masks.threshold(V, 2**64).any()


def test_narrow_gaussians_change_nothing():
    xr.testing.assert_equal(lv.filters.gaussian(V, 1e-300), V)
    xr.testing.assert_equal(
        lv.density.points(np.ones((1, 3)), like=(0, 2, 2)), lv.as_stack(np.zeros((0, 2, 2)))
    )


def test_axes_of_matplotlib_are_options():
    ax = Figure().add_subplot()
    assert lv.plots.fsc(lv.scores.fsc(V, V), ax=ax) is ax


def test_python_itself_refuses_missing_and_unknown_options():
    for call in (
        lambda: lv.filters.gaussian(V),
        lambda: lv.filters.gaussian(V, 1.0, sgima=2.0),
        lambda: lv.filters.gaussian(V, 1.0, stack=V),
        lambda: lv.filters.gaussian(V, 1.0, "wrap"),
    ):
        with pytest.raises(TypeError, match=r"gaussian\(\)"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": "zyx"}, "dims must name each of the 3 axes once, got 'zyx'"),
        ({"dims": ("z", "z", "x")}, "once, got"),
        ({"dims": ("z", "y")}, "once, got"),
        ({"dims": (0, 1, 2)}, "once, got"),
        ({"dims": 3}, "once, got 3"),
        ({"voxel_size": np.nan}, "voxel_size must be one positive number.*got nan"),
        ({"voxel_size": 0}, "positive number"),
        ({"voxel_size": (1.0, 2.0)}, "one for each of the spatial dims"),
        ({"voxel_size": {"k": 1.0}}, "mapping from them"),
        ({"voxel_size": "2"}, "got '2'"),
        ({"voxel_size": True}, "got True"),
        ({"unit": 3}, "unit must be a word"),
    ],
)
def test_invalid_labels_are_refused(options, message):
    with pytest.raises((LabelError, OptionError), match=f"as_stack: .*{message}"):
        lv.as_stack(np.ones((4, 5, 6)), **options)


@pytest.mark.parametrize("array", [None, "a.mrc", S, xr.Dataset(), [S, S], [[1], [2, 3]], ["a"]])
def test_only_numbers_are_labelled(array):
    with pytest.raises(LabelError, match="as_stack: array must"):
        lv.as_stack(array)


@pytest.mark.parametrize("shape", [(5, 5, 3), (9, 5, 6, 4), (5, 6, 7, 3)])
def test_a_colour_axis_is_not_taken_for_x(shape):
    with pytest.raises(LabelError, match="may be colours"):
        lv.as_stack(np.ones(shape))
    dims = ("k", "z", "y", "x")[4 - len(shape) :]
    assert lv.as_stack(np.ones(shape), dims=dims).dims == dims


@pytest.mark.parametrize("shape", [(3, 3, 3), (2, 4, 4, 4), (5, 4, 3), (5, 3), (5, 6, 5)])
def test_small_volumes_are_volumes(shape):
    assert lv.as_stack(np.ones(shape)).dims[-1] == "x"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lv.masks.threshold(V, bins=2**63 - 1), "threshold: bins must be"),
        (lambda: lv.stats.histogram(V, bins=2**30), "histogram: bins must be"),
        (lambda: lv.intensity.equalise(V, bins=2**30), "equalise: bins must be"),
        (lambda: lv.registration.shifts(S, S[0], upsample=10**6), "shifts: upsample must be"),
        (lambda: lv.transform.rescale(V, 1e308), "rescale: scale must be"),
    ],
)
def test_counts_that_need_more_memory_than_there_is_are_refused(call, message):
    with pytest.raises((LabelError, OptionError), match=f"^{message}"):
        call()
