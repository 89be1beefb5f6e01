"""The commands ``plots``: a picture of a file, with the options of the functions."""

import numpy as np
import pytest
from matplotlib.image import imread

import lazyvol as lv
from lazyvol.cli import main
from lazyvol.cli.plots import app


@pytest.fixture
def stack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(6, 7, 8, 9)).astype(np.float32)
    lv.save(lv.as_stack(values, voxel_size=2.0, unit="angstrom"), "s.zarr")
    lv.save(lv.as_stack(values[0], voxel_size=2.0, unit="angstrom"), "v.zarr")
    lv.save(lv.scores.ncc(lv.as_stack(values)), "ncc.zarr")


@pytest.mark.parametrize(
    "tokens",
    ["slices v.zarr o.png --n 4", "orthogonal v.zarr o.png --at z=4", "montage s.zarr o.png",
     "projection v.zarr o.png --reduce max", "scores ncc.zarr o.png --threshold 0.1"],
)  # fmt: skip
def test_a_picture_is_written(stack, tokens, capsys):
    assert main(["plots", *tokens.split()]) == 0
    assert imread("o.png").std() > 0
    assert main(["plots", *tokens.split()]) == 1
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["plots", *tokens.split(), "--overwrite"]) == 0


def test_every_plot_is_a_command_and_wrong_ones_are_one_line(stack, capsys):
    for name in lv.plots.__all__:
        assert callable(app[name.replace("_", "-")].default_command)
    assert main(["plots", "slices", "v.zarr", "o.txt"]) == 2
    assert "--out must end in one of .png, .svg, .pdf" in capsys.readouterr().err
    assert main(["plots", "slices", "v.zarr", "o.png", "--cmap", "no"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
