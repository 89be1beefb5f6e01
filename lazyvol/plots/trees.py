"""Trees of clusters."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy.cluster import hierarchy

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.ops.clustering import clusters
from lazyvol.plots.canvas import BLUE, CYCLE, GREY, new_axes, tidy
from lazyvol.stack import STACK

#: most leaves in a picture: beyond, labels are smaller than print; scipy draws by recursion too
MOST = 200


@operation(dims={"tree": (("merge", "column"),)})
def dendrogram(
    tree: xr.Dataset | xr.DataArray,
    *,
    distance: float | None = None,
    labels: str = STACK,
    leaves: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Computes a tree of clusters and draws it: its leaves in a row, merges at their distance.

    Parameters
    ----------
    tree
        What ``clustering.linkage`` gives, or its array (merge, column).
    distance
        Where the tree is cut, drawn as a line. Each cluster of
        ``clustering.clusters(tree, distance=...)`` has a colour of its own, of six in turn; what
        lies above the cut is grey.
    labels
        Coordinate along k that names the leaves; ``"k"`` counts them from 0 where there is none.
    leaves
        Most leaves to draw, from 2 to 200. Of a larger tree the last merges are drawn: a leaf
        ``(23)`` is then what 23 particles have become by earlier ones, and the axis says so.
    ax
        Axes to draw on; those of a new figure by default.

    Raises
    ------
    LabelError
        If ``tree`` is no tree of ``clustering.linkage``, or an option does not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> stack = lv.as_stack(np.array([0.0, 9.0, 1.0, 8.5]).reshape(4, 1, 1, 1))
    >>> ax = plots.dendrogram(lv.clustering.linkage(lv.clustering.distances(stack)), distance=3)
    >>> [t.get_text() for t in ax.get_xticklabels()], ax.get_legend().get_texts()[0].get_text()
    (['1', '3', '0', '2'], 'cut at 3: 2 clusters')
    """
    table = _table(tree).compute()
    values = np.asarray(table.values, np.float64)
    _require_tree(values)
    if not 2 <= leaves <= MOST:
        raise LabelError(f"a picture of a tree has 2 to {MOST} leaves, got {leaves=}")
    names, number = _names(tree, labels, len(values) + 1), _clusters(table, values, distance)
    drawn = hierarchy.dendrogram(
        values, p=leaves, truncate_mode="lastp", no_plot=True, link_color_func=str
    )
    shown = drawn["leaves"]
    ax = tidy(ax or new_axes(float(np.clip(0.07 * len(shown), 6.4, 14.0)), 3.4))
    _links(ax, drawn, [_colour(number, int(node)) for node in drawn["color_list"]])
    sizes = values[:, 3].astype(int)
    _leaves(ax, [names[i] if i < len(names) else f"({sizes[i - len(names)]})" for i in shown])
    if distance is not None:
        _cut(ax, distance, [_colour(number, i) for i in shown], int(number.max()) + 1)
    ax.set_xlabel(_words(labels, len(shown), len(names)))
    ax.set_ylabel("distance")
    return ax


def _table(tree: xr.Dataset | xr.DataArray) -> xr.DataArray:
    if isinstance(tree, xr.Dataset) and "tree" in tree:
        return tree["tree"]
    if isinstance(tree, xr.DataArray):
        return tree
    known = sorted(map(str, tree)) if isinstance(tree, xr.Dataset) else type(tree).__name__
    raise LabelError(f"a tree is what clustering.linkage gives, got {known}")


def _require_tree(values: np.ndarray) -> None:
    """Refuse what no linkage is: other shapes, nodes that are not there or merge twice."""
    if values.ndim != 2 or values.shape[1] != 4 or not len(values):
        raise LabelError(
            f"a tree is (merge, 4), got {values.shape}; make one with clustering.linkage"
        )
    joined, sizes = values[:, :2], np.r_[np.ones(len(values) + 1), values[:, 3]]
    whole = np.isfinite(values).all() and (joined == np.rint(joined)).all()
    if not (
        whole
        and hierarchy.is_valid_linkage(values)
        and (sizes[joined.astype(int)].sum(1) == values[:, 3]).all()
    ):
        raise LabelError(
            "a tree joins two clusters that are there in each row, (left, right, distance, size), "
            "and these are no such rows; make one with clustering.linkage"
        )


def _clusters(table: xr.DataArray, values: np.ndarray, distance: float | None) -> np.ndarray:
    """Cluster that each node lies in; -1 for one that joins several, -2 for all without a cut."""
    n = len(values) + 1
    number = np.full(n + len(values), -2)
    if distance is None:
        return number
    number[:n] = clusters(table, distance=distance).values
    for node, (left, right) in enumerate(values[:, :2].astype(int), n):
        number[node] = number[left] if number[left] == number[right] else -1
    return number


def _colour(number: np.ndarray, node: int) -> str:
    own = int(number[node])
    return {-2: BLUE, -1: GREY}.get(own) or CYCLE[own % len(CYCLE)]


def _cut(ax: Axes, distance: float, colours: list[str], count: int) -> None:
    """The line of the cut, and leaves in the colours of their clusters."""
    words = f"cut at {distance:.4g}: {count} cluster{'s' if count > 1 else ''}"
    ax.axhline(distance, color=GREY, lw=1.1, ls=(0, (4, 3)), label=words)
    # above the axes: anywhere inside, some tree has a branch
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    for label, colour in zip(ax.get_xticklabels(), colours, strict=True):
        label.set_color(colour)


def _links(ax: Axes, drawn: dict[str, list[list[float]]], colours: list[str]) -> None:
    """Merges as brackets; the leaves stand at 0, 1, 2, ..."""
    places = (np.array(drawn["icoord"]) - 5) / 10
    heights = np.array(drawn["dcoord"])
    ax.add_collection(LineCollection(list(np.stack([places, heights], -1)), colors=colours, lw=1.2))
    ax.set_xlim(-0.8, len(places) + 0.8)
    ax.set_ylim(0, 1.05 * heights.max() or 1.0)


def _leaves(ax: Axes, words: list[str]) -> None:
    """Labels of the leaves, upright where they are many."""
    size = float(np.clip(330 / len(words), 4, 8))
    ax.set_xticks(range(len(words)), words, fontsize=size)
    ax.tick_params(axis="x", length=0, rotation=90 if sum(map(len, words)) > 90 else 0)


def _names(tree: xr.Dataset | xr.DataArray, labels: str, n: int) -> list[str]:
    """Name of each particle: its value of a coordinate along k."""
    if labels in tree.coords and tree.coords[labels].dims == (STACK,):
        values = tree.coords[labels].values.tolist()
        return [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values]
    if labels != STACK:
        known = [str(c) for c, v in tree.coords.items() if v.dims == (STACK,)]
        raise LabelError(f"labels is a coordinate along {STACK!r}, among {known}, got {labels!r}")
    return [str(number) for number in range(n)]


def _words(labels: str, shown: int, n: int) -> str:
    """What stands below the leaves, and whether they are all."""
    name = "particle" if labels == STACK else labels
    if shown == n:
        return name
    return f"{name}, or (how many): the last {shown - 1} of {n - 1:,} merges"
