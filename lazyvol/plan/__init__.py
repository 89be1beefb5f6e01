"""The plan: from labelled stacks and a kernel to few, large, bounded tasks.

This is the design of the only package that builds dask graphs. Operations call *verbs*; a verb
turns its stacks into a *recipe*; a recipe becomes a plain dask array with one task per block; a
task reads the regions that its block needs from the store, computes every step of the chain on it,
and returns the block. No intermediate array is ever whole in memory, nothing is rechunked, and
nothing runs before ``compute`` or ``save`` (unless all inputs are numpy arrays: then the result is
one too).

Terms
-----
region
    A box of an array: one slice with step 1 per axis.
grid
    The chunk lengths of an array along each axis, as dask writes them; its blocks are regions.
recipe
    A lazy array that can produce any region of itself: one step over its parents. Leaves are
    stored arrays, arrays in memory, generated values, and foreign dask arrays.
source
    Stored data that can be read region by region: the protocol that format readers implement.
foreign array
    A dask array that lazyvol did not build; dask computes its blocks and passes them to our tasks.
verb
    One of six functions from stacks and a kernel to a result: ``blockwise`` (each block alone),
    ``stencil`` (each block with a halo), ``fold`` (streaming reduction), ``generate`` (values from
    position alone), ``ragged`` (unequal lengths with known sizes) and ``resample`` (each block from
    a box elsewhere in the stack).
halo
    The margin that a stencil needs around its block, in voxels before and after each axis.
state
    The named arrays that a fold updates tile by tile; states of several tasks are merged.
tile
    The region that a streaming task reads at once: a few stored chunks.
budget
    The bytes that a run may use, and the tasks that run at once.
step
    One stage of a run: all tasks that run one chain of kernels; a line of ``explain``.

From a call to an array
-----------------------
A verb checks the dims of its stacks, finds the recipe of each array (``recipe_of``), and builds a
recipe over them. ``deferred`` cuts the result into blocks that fit the budget and
returns a dask array whose graph has one layer, a ``RecipeLayer``; tasks are built only when a
scheduler asks for them. The array remembers the call that built it (its origin), so that ``refit``
can build it again under another budget. If all inputs are numpy arrays, the blocks are computed
immediately on this machine's threads, each in its place in the result.

Folds, pairwise matrices and connected blocks need several tasks per result, so they build a
``ResultLayer``: its blocks are foreign arrays for the recipes above. A fold is partitioned into
tasks that each stream through a box with one state; a tree of tasks merges the states.

From an array to a recipe
-------------------------
The graph alone defines an array, because users may apply any operation to it. ``reading`` looks up
the layer that bears the array's name. A recipe layer holds the recipe itself. Layers that dask and
xarray put on top of it (operators and ufuncs, transpositions, indexing, rechunking) are translated
into recipes, layer by layer. Anything else makes the array foreign. When dask optimises a graph
before it runs, ``optimize_graph`` replaces the requested arrays by the tasks of their recipes.

Evaluation
----------
A task evaluates the recipes below its region in topological order, without recursion. Regions that
several steps need of one parent are merged into their hull, so that every step runs once; values
are freed after their last use. The memory for a result is passed down through views, so that
the step below writes to it directly. Recipes travel inside tasks, never as tasks of their own.

Memory
------
``evaluate`` runs the same schedule on byte counts: the cost of a region. ``budget`` uses it to
make blocks smaller until all tasks that run at once fit, and raises BudgetError, with
the smallest sufficient amount, if none do. ``explain`` sums up the steps of a run: passes, bytes,
tasks, peak. Tests hold the measured peak of every operation to this number.

Writing ------- ``write`` submits one task per shard (on clusters, of results of many shards, one
for a few), in waves of 10,000; each evaluates its region  and passes it to a sink, which stores it
durably. Shards that a sink already has are skipped on resume. The tasks of folds keep their states
in the folder of the run, and continue from these (``checkpoints``).

Files
-----
``verbs``
    ``blockwise``, ``stencil``, ``fold``, ``generate``; arrays, dims and labels of stacks
``ragged``, ``resampled``, ``pairwise``, ``connected_blocks``
    one verb each with its recipe: ragged rows, blocks from boxes elsewhere, matrices of pairs,
    blocks with facts about others
``recipes/``
    ``base`` (Recipe, Source), ``leaves`` (with the blocks of foreign arrays that a task receives),
    ``blockwise``, ``stencil`` (with the borders of arrays), ``views`` (transposed, selected)
``reductions/``
    ``fold`` (Fold, and its task), ``partition`` (tasks and tiles), ``graph`` (tasks, merges)
``graph/``
    ``lazy_array`` and ``layers`` (recipes as dask arrays), ``reading`` with ``elementwise`` and
    ``indexing`` (dask arrays as recipes, when an array is used and when a graph is optimised)
``evaluate``, ``in_memory``, ``write``
    run recipes: one region in one task, a result of numpy arrays, a result on disk
``checkpoints``, ``checkpointed_graphs``, ``failures``
    states of tasks and of long kernels' steps on disk, from which a killed run continues; retries
``budget``, ``halo_cost``, ``explain``
    costs before anything runs
``regions``, ``execution``
    integer arithmetic on boxes; clients, limits of a caller, and threads
"""
