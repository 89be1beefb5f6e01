"""Dendrograms of trees of clusters."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy.cluster import hierarchy

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.ops.clustering import clusters
from lazyvol.plots.canvas import BLUE, CYCLE, GREY, new_axes, style_curve
from lazyvol.stack import STACK

#: most leaves of a dendrogram: labels of more are illegible, and scipy recurses once per level
MAX_LEAVES = 200


@operation(dims={"tree": (("merge", "column"),)})
def dendrogram(
    tree: xr.Dataset | xr.DataArray,
    *,
    distance: float | None = None,
    labels: str = STACK,
    leaves: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Computes and draws a tree of clusters, with merges at the height of their distance.

    Parameters
    ----------
    tree
        A tree as ``clustering.linkage`` returns it, or its array (merge, column).
    distance
        Distance at which to cut the tree, drawn as a line, in the unit of the distances. Each
        cluster of ``clustering.clusters(tree, distance=...)`` gets one of six colours; merges above
        the cut are grey.
    labels
        Coordinate along k that names the leaves; ``"k"`` numbers them from 0 if there is none.
    leaves
        Largest number of leaves to draw, from 2 to 200. Of a larger tree only the last merges are
        drawn, and a leaf ``(23)`` is a cluster of 23 particles from earlier merges.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The tree, with a legend if it is cut.

    Raises
    ------
    LabelError
        If ``tree`` is no tree, ``labels`` no coordinate along k, or a number out of its range.

    References
    ----------
    ``scipy.cluster.hierarchy.dendrogram``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> stack = lv.as_stack(np.array([0.0, 9.0, 1.0, 8.5]).reshape(4, 1, 1, 1))
    >>> ax = plots.dendrogram(lv.clustering.linkage(lv.clustering.distances(stack)), distance=3)
    >>> [t.get_text() for t in ax.get_xticklabels()], ax.get_legend().get_texts()[0].get_text()
    (['1', '3', '0', '2'], 'cut at 3: 2 clusters')
    """
    rows = _tree_rows(tree).compute()
    values = np.asarray(rows.values, np.float64)
    _require_tree(values)
    if not 2 <= leaves <= MAX_LEAVES:
        raise LabelError(
            f"dendrogram: leaves must be 2 to {MAX_LEAVES}, got {leaves}; the last merges of a "
            f"larger tree are drawn"
        )
    names = _leaf_names(tree, labels, len(values) + 1)
    cluster = _clusters_of_nodes(rows, values, distance)
    drawn = hierarchy.dendrogram(
        values, p=leaves, truncate_mode="lastp", no_plot=True, link_color_func=str
    )
    nodes = drawn["leaves"]
    ax = style_curve(ax or new_axes(float(np.clip(0.07 * len(nodes), 6.4, 14.0)), 3.4))
    _draw_merges(ax, drawn, [_colour(cluster, int(node)) for node in drawn["color_list"]])
    sizes = values[:, 3].astype(int)
    _label_leaves(ax, [names[i] if i < len(names) else f"({sizes[i - len(names)]})" for i in nodes])
    if distance is not None:
        _draw_cut(ax, distance, [_colour(cluster, i) for i in nodes], int(cluster.max()) + 1)
    ax.set_xlabel(_axis_text(labels, len(nodes), len(names)))
    ax.set_ylabel("distance")
    return ax


def _tree_rows(tree: xr.Dataset | xr.DataArray) -> xr.DataArray:
    """Return the array (merge, column) of a tree."""
    if isinstance(tree, xr.Dataset) and "tree" in tree:
        return tree["tree"]
    if isinstance(tree, xr.DataArray):
        return tree
    raise LabelError(
        f"dendrogram: tree must be a Dataset with 'tree', got one of {sorted(map(str, tree))}; "
        f"make one with clustering.linkage"
    )


def _require_tree(values: np.ndarray) -> None:
    """Raise LabelError for other shapes, and for nodes that do not exist yet or merge twice."""
    if values.ndim != 2 or values.shape[1] != 4 or not len(values):
        raise LabelError(
            f"dendrogram: tree must be (merge, 4), got {values.shape}; make one with "
            f"clustering.linkage"
        )
    merged, sizes = values[:, :2], np.r_[np.ones(len(values) + 1), values[:, 3]]
    are_nodes = np.isfinite(values).all() and (merged == np.rint(merged)).all()
    if not (
        are_nodes
        and hierarchy.is_valid_linkage(values)
        and (sizes[merged.astype(int)].sum(1) == values[:, 3]).all()
    ):
        raise LabelError(
            "dendrogram: tree must merge two existing clusters in each row (left, right, distance, "
            "size), got other rows; make one with clustering.linkage"
        )


def _clusters_of_nodes(
    rows: xr.DataArray, values: np.ndarray, distance: float | None
) -> np.ndarray:
    """Return the cluster of each node; -1 if it merges several, -2 for all without a cut."""
    n = len(values) + 1
    cluster = np.full(n + len(values), -2)
    if distance is None:
        return cluster
    cluster[:n] = clusters(rows, distance=distance).values
    for node, (left, right) in enumerate(values[:, :2].astype(int), n):
        cluster[node] = cluster[left] if cluster[left] == cluster[right] else -1
    return cluster


def _colour(cluster: np.ndarray, node: int) -> str:
    """Return the colour of a node by its cluster."""
    number = int(cluster[node])
    return {-2: BLUE, -1: GREY}.get(number) or CYCLE[number % len(CYCLE)]


def _draw_cut(ax: Axes, distance: float, colours: list[str], count: int) -> None:
    """Draw the line of the cut, and colour the leaves by their clusters."""
    text = f"cut at {distance:.4g}: {count} cluster{'s' if count > 1 else ''}"
    ax.axhline(distance, color=GREY, lw=1.1, ls=(0, (4, 3)), label=text)
    # above the axes, as any place inside may hold a branch
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    for label, colour in zip(ax.get_xticklabels(), colours, strict=True):
        label.set_color(colour)


def _draw_merges(ax: Axes, drawn: dict[str, list[list[float]]], colours: list[str]) -> None:
    """Draw merges as brackets over leaves at 0, 1, 2, ..."""
    positions = (np.array(drawn["icoord"]) - 5) / 10
    heights = np.array(drawn["dcoord"])
    ax.add_collection(
        LineCollection(list(np.stack([positions, heights], -1)), colors=colours, lw=1.2)
    )
    ax.set_xlim(-0.8, len(positions) + 0.8)
    ax.set_ylim(0, 1.05 * heights.max() or 1.0)


def _label_leaves(ax: Axes, labels: list[str]) -> None:
    """Label the leaves, vertically if there is much text."""
    size = float(np.clip(330 / len(labels), 4, 8))
    ax.set_xticks(range(len(labels)), labels, fontsize=size)
    ax.tick_params(axis="x", length=0, rotation=90 if sum(map(len, labels)) > 90 else 0)


def _leaf_names(tree: xr.Dataset | xr.DataArray, labels: str, n: int) -> list[str]:
    """Return the name of each particle: its value of a coordinate along k."""
    if labels in tree.coords and tree.coords[labels].dims == (STACK,):
        values = tree.coords[labels].values.tolist()
        return [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
    if labels != STACK:
        known = [str(c) for c, v in tree.coords.items() if v.dims == (STACK,)]
        raise LabelError(
            f"dendrogram: labels must name a coordinate along {STACK!r}, among {known}, got "
            f"{labels!r}; assign one with .assign_coords"
        )
    return [str(number) for number in range(n)]


def _axis_text(labels: str, shown: int, n: int) -> str:
    """Return the label of the axis, with the number of merges if only some are drawn."""
    name = "particle" if labels == STACK else labels
    if shown == n:
        return name
    return f"{name}, or (how many): the last {shown - 1} of {n - 1:,} merges"
