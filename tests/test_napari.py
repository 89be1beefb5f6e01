"""Layers for napari: values, levels, scale, units and names, and the reader of its plugin."""

import sys
from importlib import import_module

import numpy as np
import pytest
import xarray as xr
import yaml

import lazyvol as lv
from lazyvol.napari_layers import layer_data
from tests.paths import ROOT

A = np.random.default_rng(3).normal(size=(2, 7, 12, 14)).astype("f4")
STACK = lv.as_stack(A, voxel_size=(4.0, 2.0, 2.0), unit="angstrom", name="dna")


class Viewer:
    """A viewer with the methods of napari's that add layers."""

    def __init__(self) -> None:
        self.layers = []

    def add_image(self, values, *, name, scale, translate, units, axis_labels, **options):
        self.layers.append((values, name, scale, translate, units, axis_labels, options))

    def add_labels(self, values, *, name, scale, translate, units, axis_labels, **options):
        assert np.issubdtype(values.dtype, np.integer)
        self.add_image(values, name=name, scale=scale, translate=translate, units=units,
                       axis_labels=axis_labels, labels=True, **options)  # fmt: skip


def test_a_store_with_levels_is_one_lazy_multiscale_layer(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.COARSEST", 4)
    lv.save(STACK, tmp_path / "a.zarr", pyramid=True)
    viewer = Viewer()
    assert lv.to_napari(lv.open(tmp_path / "a.zarr"), viewer=viewer) is viewer
    [(levels, name, scale, translate, units, labels, options)] = viewer.layers
    assert [level.shape for level in levels] == [A.shape, (2, 7, 6, 7), (2, 4, 3, 4)]
    np.testing.assert_array_equal(levels[0][1, 3], A[1, 3])
    assert np.allclose(levels[1][1, 3, 0, 0], A[1, 3, :2, :2].mean())
    assert (name, options) == ("dna", {"multiscale": True})
    assert scale == (1, 4, 2, 2)
    assert translate == (0, 0, 0, 0)
    assert units == ("pixel", "angstrom", "angstrom", "angstrom")
    assert labels == ("k", "z", "y", "x")


def test_results_and_lower_levels_have_one_scale(tmp_path, monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.pyramid.COARSEST", 4)
    lv.save(STACK, tmp_path / "a.zarr", pyramid=True)
    lazy = lv.open(tmp_path / "a.zarr")
    part = lazy.isel(k=1, z=slice(2, None), x=slice(None, None, -1))
    [(values, options, kind)] = layer_data(part)
    np.testing.assert_array_equal(values, A[1, 2:, :, ::-1])
    assert (kind, options["scale"], options["translate"]) == ("image", (4, 2, -2), (8, 0, 26))
    [(values, options, _)] = layer_data(lv.open(tmp_path / "a.zarr/levels/1"))
    assert values.shape == (2, 7, 6, 7)
    assert options["scale"] == (1, 4, 4, 4)
    assert "multiscale" not in options


def test_masks_channels_colours_and_datasets():
    viewer = Viewer()
    lv.to_napari(xr.Dataset({"mask": STACK > 0, "score": STACK.isel(k=0)}), viewer=viewer)
    assert [(layer[1], layer[6]) for layer in viewer.layers] == [
        ("mask", {"labels": True}), ("score", {}),
    ]  # fmt: skip
    channels = STACK.rename(k="channel").assign_coords(channel=["dna", "actin"])
    [(values, options, _)] = layer_data(channels)
    assert values.shape == A.shape
    assert (options["channel_axis"], options["scale"]) == (0, (4, 2, 2))
    assert options["name"] == ["dna dna", "dna actin"]
    colours = lv.as_stack(np.zeros((3, 5, 6), "u1"), dims=("channel", "y", "x"))
    [(values, options, _)] = layer_data(colours)
    assert values.shape == (5, 6, 3)
    assert options["rgb"]
    assert options["units"] == ("pixel", "pixel")


def test_without_napari_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(lv.errors.FormatError, match=r"run pip install 'lazyvol\[napari\]'"):
        STACK.lv.to_napari()
    with pytest.raises(lv.errors.LabelError, match="must have the dims y and x"):
        lv.to_napari(STACK.isel(x=0))


def test_the_plugin_reads_files(tmp_path):
    manifest = yaml.safe_load((ROOT / "lazyvol/napari.yaml").read_text())
    [command] = manifest["contributions"]["commands"]
    module, name = command["python_name"].split(":")
    lv.save(STACK, tmp_path / "a.mrc")
    read = getattr(import_module(module), name)(str(tmp_path / "a.mrc"))
    [(values, options, kind)] = read(str(tmp_path / "a.mrc"))
    np.testing.assert_array_equal(values, A)
    assert (kind, options["scale"]) == ("image", (1, 4, 2, 2))
