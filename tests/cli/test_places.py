"""Commands on URLs: read from a bucket, written into one."""

import numpy as np
import pytest

import lazyvol as lv
from lazyvol.cli import main
from tests.io.buckets import bucket_server


@pytest.fixture(scope="module")
def bucket():
    with bucket_server() as server:
        yield server


@pytest.fixture
def stack(bucket, monkeypatch):
    """A stack in the bucket, whose server is named by the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.options["endpoint"])
    stack = lv.synthetic.noise((5, 7, 11, 13), seed=1)
    lv.save(stack, "s3://stack/in.zarr", overwrite=True)
    return stack


def test_a_result_goes_from_bucket_to_bucket(stack, capsys):
    assert main(["stats", "var", "s3://stack/in.zarr", "s3://stack/var.zarr"]) == 0
    np.testing.assert_array_equal(lv.open("s3://stack/var.zarr"), lv.stats.var(stack))
    assert main(["stats", "var", "s3://stack/in.zarr", "s3://stack/var.zarr"]) == 1
    assert "overwrite" in capsys.readouterr().err


def test_info_and_convert_take_urls(stack, capsys, tmp_path):
    assert main(["info", "s3://stack/in.zarr"]) == 0
    assert "s3://stack/in.zarr" in capsys.readouterr().out
    assert main(["convert", "s3://stack/in.zarr", str(tmp_path / "out.zarr")]) == 0
    np.testing.assert_array_equal(lv.open(tmp_path / "out.zarr"), stack)


def test_a_url_that_does_not_exist_is_named(bucket, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.options["endpoint"])
    assert main(["info", "s3://stack/none.zarr"]) == 1
    assert "s3://stack/none.zarr" in capsys.readouterr().err


def test_verify_names_faults_and_fails(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((4, 70, 8, 8)))
    assert main(["convert", f"{tmp_path}/a.npy", f"{tmp_path}/a.zarr", "--pyramid"]) == 0
    assert (tmp_path / "a.zarr/levels/1/zarr.json").is_file()
    assert main(["verify", f"{tmp_path}/a.zarr"]) == 0
    assert "0 faults" in capsys.readouterr().out
    assert main(["info", f"{tmp_path}/a.zarr"]) == 0
    assert "manifest    yes" in capsys.readouterr().out
    (tmp_path / "a.zarr/0/c/0/0/0/0").unlink()
    assert main(["verify", f"{tmp_path}/a.zarr"]) == 1
    shown = capsys.readouterr()
    assert "missing" in shown.out
    assert "not as they were written" in shown.err
