"""A screening that is killed continues: in either read of the stack, and while it writes."""

import pytest

import lazyvol as lv
from lazyvol import errors
from tests.io.killed_runs import Counter, ForkServer, save, small_tasks, write_input

#: tiles that are in work when a run of two threads is killed
IN_WORK = 2


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a screening that nothing disturbed, and its number of tiles."""
    folder, count = tmp_path_factory.mktemp("undisturbed"), Counter()
    write_input(folder)
    with small_tasks(count):
        save("screening", str(folder))
    return folder, count.calls


def results(folder):
    """The bytes of all results without the records of time and path."""
    files = {p.name: p.read_bytes() for p in (folder / "out").iterdir()}
    assert files.pop("report.html")
    assert files.pop("run.json")
    return files


@pytest.mark.parametrize("share", [0.2, 0.8, "before the second text"])
def test_a_killed_screening_repeats_the_tiles_in_work_alone(share, undisturbed, tmp_path, server):
    whole, tiles = undisturbed
    write_input(tmp_path)
    in_reads = isinstance(share, float)
    last = round(share * tiles) if in_reads else tiles + 1
    assert server.killed("screening", tmp_path, last, "" if in_reads else share)
    count = Counter()
    with small_tasks(count):
        with pytest.raises(errors.TargetExistsError, match="continue it by resume=True"):
            save("screening", str(tmp_path))
        with pytest.raises(errors.TargetExistsError, match=r"fdr of screen was .*, now it is"):
            save("screening", str(tmp_path), resume=True, fdr=0.1)
        save("screening", str(tmp_path), resume=True)
        assert tiles - last < count.calls <= tiles - last + 1 + IN_WORK
        assert results(tmp_path) == results(whole)
        count.calls = 0
        with pytest.raises(errors.TargetExistsError, match="complete results"):
            save("screening", str(tmp_path), resume=True)
    assert not count.calls


def test_a_refused_input_leaves_nothing(tmp_path):
    write_input(tmp_path)
    stack = lv.open(tmp_path / "in.npy")
    with pytest.raises(errors.LabelError, match="NaN"):
        lv.screening.screen(stack.where(stack.k != 3), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
