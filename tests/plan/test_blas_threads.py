"""One BLAS thread inside tasks, however tasks overlap."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import pytest
from threadpoolctl import ThreadpoolController, threadpool_info

from lazyvol.plan.execution import single_blas_thread


def blas_threads():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _three_threads():
    """Three BLAS threads, set by a thread that is gone, so that it holds nothing."""
    original = set_by_a_thread(3)
    yield
    set_by_a_thread(None, original)


def set_by_a_thread(limit, restored=None):
    applied = []

    def work():
        limits = restored or ThreadpoolController().limit(limits=limit, user_api="blas")
        if restored:
            limits.restore_original_limits()
        applied.append(limits)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    return applied[0]


def test_the_limit_holds_inside_and_is_lifted_after():
    assert blas_threads() == {3}
    with single_blas_thread():
        assert blas_threads() == {1}
        with single_blas_thread():
            pass
        assert blas_threads() == {1}
    assert blas_threads() == {3}


def test_it_is_lifted_after_an_error():
    with pytest.raises(ValueError, match="x"), single_blas_thread():
        raise ValueError("x")
    assert blas_threads() == {3}


def test_the_last_of_many_threads_lifts_it():
    inside = Barrier(4)

    def task(_):
        with single_blas_thread():
            inside.wait()
            return blas_threads()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(task, range(8))) == [{1}] * 8
    assert blas_threads() == {3}


def test_another_thread_than_the_first_lifts_it():
    first_in, second_in, first_out = Event(), Event(), Event()

    def first():
        with single_blas_thread():
            first_in.set()
            second_in.wait(5)
        first_out.set()

    def second():
        first_in.wait(5)
        with single_blas_thread():
            second_in.set()
            first_out.wait(5)
            counts.append(blas_threads())

    counts = []
    with ThreadPoolExecutor(2) as pool:
        for task in [pool.submit(first), pool.submit(second)]:
            task.result()
        assert counts == [{1}]
        assert blas_threads() == {3}
