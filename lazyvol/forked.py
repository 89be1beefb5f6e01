"""Load the modules of all tasks once, in the process that workers of local clusters fork from."""

from importlib import import_module
from pkgutil import iter_modules

import numba

import lazyvol.io.save_result
import lazyvol.ops
import lazyvol.plan.on_cluster

for _topic in iter_modules(lazyvol.ops.__path__):
    import_module(f"lazyvol.ops.{_topic.name}")


def _one() -> int:
    return 1


numba.njit(_one)()  # the first call of a compiled function fills numba's tables: 0.4 s of CPU time
