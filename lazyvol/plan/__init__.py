"""The waist: regions, recipes, the five verbs, the budget. The one place that builds graphs.

From an operation to its values:

- ``verbs`` turn labelled stacks and a kernel into a *recipe* over those of the stacks
  (``recipe``: what a step asks of its parents and makes of them; ``pointwise``, ``stencils``,
  ``selecting``, ``ragged``, ``pairs``, ``stitching``, ``padding``, ``folding`` are the kinds).
- ``lazy`` makes it a plain dask array whose layer holds the recipe (``layers``), a task per block.
- ``graphs`` reads the recipe of any dask array back out of its graph, through what dask and xarray
  put on top (``elementwise``, ``selections``). The rest is foreign: its blocks are handed to tasks.
- ``optimize`` lets dask compute arrays by their recipes, however they are asked for.
- ``evaluate`` makes a region: each step once, over the hull of what is asked of it; it plays the
  same schedule with numbers for ``budget``, ``halos`` and ``explain``.
"""
