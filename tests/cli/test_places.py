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
