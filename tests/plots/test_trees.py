"""Dendrograms: positions and heights of merges, colours of clusters, trees of any size."""

import re
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.cluster import hierarchy

import lazyvol as lv
from lazyvol import plots
from lazyvol.errors import LabelError, OptionError
from lazyvol.plots.canvas import BLUE, CYCLE, GREY

METHODS = ["single", "complete", "average", "ward", "centroid"]


def tree_of(n: int, method: str = "average", groups: int = 3) -> xr.Dataset:
    """Return the tree of points in the plane, in well separated groups."""
    points = np.random.default_rng(n).normal(size=(n, 2))
    points[:, 0] += 20.0 * (np.arange(n) % groups)
    stack = lv.as_stack(points.reshape(n, 1, 1, 2))
    return lv.clustering.linkage(lv.clustering.distances(stack), method)


def chain(n: int) -> xr.Dataset:
    """Return a tree in which each leaf merges with the cluster of all earlier ones."""
    merges = np.arange(n - 1)
    rows = np.stack([np.r_[0, n + merges[:-1]], merges + 1, 1.0 + merges, 2.0 + merges], 1)
    return xr.Dataset({"tree": (("merge", "column"), rows)})


def brackets(ax: Axes) -> list[tuple[tuple[float, ...], str]]:
    """Return the corners and colour of every merge drawn, sorted."""
    lines = ax.collections[0]
    corners = [tuple(p.vertices.round(6).T.ravel().tolist()) for p in lines.get_paths()]
    return sorted(zip(corners, map(to_hex, lines.get_colors()), strict=True))


def expected(values: np.ndarray, order: list[int], colour) -> list[tuple[tuple[float, ...], str]]:
    """Return the expected corners and colours from the rows of a tree and the order of leaves."""
    n = len(values) + 1
    place, height = {leaf: float(at) for at, leaf in enumerate(order)}, dict.fromkeys(range(n), 0.0)
    result = []
    for node, (a, b, top, _) in enumerate(values, n):
        left, right = sorted((int(a), int(b)), key=place.get)
        x = (place[left], place[left], place[right], place[right])
        y = (height[left], top, top, height[right])
        result.append((tuple(np.round([*x, *y], 6).tolist()), colour(node)))
        place[node], height[node] = (place[left] + place[right]) / 2, top
    return sorted(result)


def words(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


@pytest.mark.parametrize("n", [2, 5, 17])
@pytest.mark.parametrize("method", METHODS)
def test_merges_are_drawn_over_their_clusters_at_their_distance(n, method):
    tree = tree_of(n, method)
    ax = plots.dendrogram(tree)
    order = [int(w) for w in words(ax)]
    assert sorted(order) == list(range(n))
    assert brackets(ax) == expected(tree.tree.values, order, lambda node: BLUE)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("particle", "distance")
    assert ax.get_legend() is None
    assert ax.get_xticks().tolist() == list(range(n))
    assert ax.get_ylim()[1] > tree.tree.values[:, 2].max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("distance", [0.0, 1.2, 5.0, 90.0])
def test_branches_have_the_colours_of_clusters(method, distance):
    tree = tree_of(19, method)
    values = tree.tree.values
    ax = plots.dendrogram(tree, distance=distance)
    number = hierarchy.fcluster(values, distance, "distance")
    seen = list(dict.fromkeys(number.tolist()))  # numbered by their first particles
    nodes = hierarchy.to_tree(values, rd=True)[1]

    def colour(node: int) -> str:
        owners = {seen.index(number[leaf]) for leaf in nodes[node].pre_order()}
        return GREY if len(owners) > 1 else CYCLE[owners.pop() % len(CYCLE)]

    order = [int(w) for w in words(ax)]
    assert brackets(ax) == expected(values, order, colour)
    assert [to_hex(t.get_color()) for t in ax.get_xticklabels()] == [colour(k) for k in order]
    (line,) = ax.lines
    assert list(line.get_ydata()) == [distance] * 2
    count = len(seen)
    message = f"cut at {distance:g}: {count} cluster{'s' * (count > 1)}"
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [message]


def test_a_large_tree_shows_its_last_merges_and_says_so():
    tree = tree_of(2000, groups=7).compute()
    ax = plots.dendrogram(tree, distance=10.0)
    shown = words(ax)
    assert len(shown) == 40
    assert sum(int(w[1:-1]) if w.startswith("(") else 1 for w in shown) == 2000
    tops = sorted(corners[5] for corners, _ in brackets(ax))
    np.testing.assert_allclose(tops, tree.tree.values[-39:, 2], atol=1e-6)
    assert ax.get_xlabel() == "particle, or (how many): the last 39 of 1,999 merges"
    assert "7 clusters" in ax.get_legend().get_texts()[0].get_text()
    above = [colour for corners, colour in brackets(ax) if corners[5] > 10]
    assert above == [to_hex(GREY)] * 6
    assert "(how many)" not in plots.dendrogram(tree_of(40)).get_xlabel()
    assert len(words(plots.dendrogram(tree, leaves=9))) == 9


def test_leaf_labels_do_not_overlap():
    for n in (5, 40, 120, 200):
        ax = plots.dendrogram(tree_of(n), leaves=200)
        ax.figure.canvas.draw()
        boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
        assert len(boxes) == n
        assert all(a.x1 <= b.x0 + 1 for a, b in pairwise(boxes))


def test_a_chain_of_thousands_is_drawn():
    ax = plots.dendrogram(chain(3000), leaves=200)
    assert len(brackets(ax)) == 199
    assert "(2801)" in words(ax)


def test_leaves_are_named_by_a_coordinate():
    tree = tree_of(5)
    facts = {
        "k": [10, 11, 12, 13, 14],
        "kind": ("k", list("abcde")),
        "ncc": ("k", np.arange(5) / 3),
    }
    named = tree.assign_coords(facts)
    order = [int(w) for w in words(plots.dendrogram(tree))]
    assert words(plots.dendrogram(named)) == [str(10 + k) for k in order]
    kinds = plots.dendrogram(named, labels="kind")
    assert words(kinds) == ["abcde"[k] for k in order]
    assert kinds.get_xlabel() == "kind"
    assert words(plots.dendrogram(named, labels="ncc")) == [f"{k / 3:.4g}" for k in order]
    with pytest.raises(LabelError, match=r"'kind', 'ncc'.*got 'merge'"):
        plots.dendrogram(named, labels="merge")
    with pytest.raises(LabelError, match="got 'column'"):
        plots.dendrogram(named, labels="column")


def test_the_array_of_a_tree_is_accepted_lazy_or_not():
    tree = tree_of(6)
    ax = plots.dendrogram(tree.tree)
    assert brackets(ax) == brackets(plots.dendrogram(tree.compute()))
    assert words(ax) == words(plots.dendrogram(tree))


def test_it_draws_on_its_own_figure_and_on_given_axes():
    ax = plots.dendrogram(tree_of(5))
    assert isinstance(ax.figure.canvas, FigureCanvasAgg)
    axes = Figure().add_subplot()
    assert plots.dendrogram(tree_of(5), distance=3.0, ax=axes) is axes
    assert len(axes.collections[0].get_paths()) == 4


def test_equal_volumes_merge_at_0_and_are_drawn():
    stack = lv.as_stack(np.ones((4, 1, 1, 2)))
    ax = plots.dendrogram(lv.clustering.linkage(lv.clustering.distances(stack)), distance=0.0)
    assert ax.get_ylim() == (0.0, 1.0)
    assert "1 cluster" in ax.get_legend().get_texts()[0].get_text()


PAIR = [0.0, 1.0, 1.0, 2.0]
GOOD = [PAIR, [2.0, 3.0, 4.5, 3.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((3, 3)), "(merge, 4), got (3, 3)"),
        (np.zeros((0, 4)), "(merge, 4), got (0, 4)"),
        (np.zeros(4), "(merge, 4), got (4,)"),
        (np.ones((4, 4)) - np.eye(4), "got other rows"),  # distances of four particles
        ([GOOD[0], [0.0, 2.0, 4.5, 3.0]], "got other rows"),  # 0 merges twice
        ([GOOD[0], [2.0, 4.0, 4.5, 3.0]], "got other rows"),  # 4 is not there yet
        ([GOOD[0], [2.0, 3.0, 4.5, 4.0]], "got other rows"),  # 2 + 1 are not 4
        ([PAIR, [2.0, 3.5, 2.0, 2.0], [4.0, 5.0, 3.0, 4.0]], "got other rows"),  # no node 3.5
        ([PAIR, [2.0, 3.0, 2.0, 2.0], [4.0, 5.0, 3.0, 3.0]], "got other rows"),  # 2 + 2 are not 3
        ([GOOD[0], [2.0, 3.0, -4.5, 3.0]], "got other rows"),
        ([GOOD[0], [2.0, 3.0, np.nan, 3.0]], "got other rows"),
    ],
)
def test_invalid_trees_are_refused(rows, message):
    values = np.asarray(rows)
    array = xr.DataArray(values, dims=("merge", "column")[: values.ndim])
    with pytest.raises(LabelError, match=re.escape(message)):
        plots.dendrogram(array)


def test_invalid_options_are_refused():
    good = xr.DataArray(np.array(GOOD), dims=("merge", "column"))
    assert len(words(plots.dendrogram(good))) == 3
    for options in ({"leaves": 1}, {"leaves": 201}, {"distance": -1.0}, {"distance": np.nan}):
        with pytest.raises((LabelError, OptionError), match=r"leaves|0 or more|a finite number"):
            plots.dendrogram(good, **options)
    assert len(words(plots.dendrogram(np.array(GOOD)))) == 3
    with pytest.raises(LabelError, match=r"a Dataset with 'tree', got"):
        plots.dendrogram(xr.Dataset({"scores": good}))
