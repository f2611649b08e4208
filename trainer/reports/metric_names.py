"""Metrics on a page: which come first, what they are called, and which direction is better."""

from collections.abc import Iterable

from shardrec.trainer.run_folder.summaries import shown

SMALLER_IS_BETTER = ("log_loss", "normalized_entropy", "rmse", "mae", "td_error", "error", "squared_error")
LARGER_IS_BETTER = ("auc", "gauc", "average_precision", "accuracy", "mrr")
_TITLES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "Log loss",
    "rmse": "RMSE",
    "mae": "MAE",
    "mrr": "MRR",
}


POPULAR = "popular_"
_BESIDE = {POPULAR: "most popular", "new_": "new items"}
"""Prefix of what a list of something else than the model's, or of some items, measures -> what is measured."""


def titled(name: str) -> str:
    """Returns a metric's name as headings have it."""
    for prefix, what in _BESIDE.items():
        if "@" in name and name.startswith(prefix):
            return f"{titled(name.removeprefix(prefix))}, {what}"
    if "@" in name:
        kind, _, k = name.partition("@")
        return f"{kind.upper() if kind in ('hr', 'ndcg', 'mrr') else kind.capitalize()}@{k}"
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def leading_first(names: Iterable[str], leading: str | None) -> list[str]:
    """Returns the metrics that people look at, the one that selects first; all of them where none is well known.

    Of lists of several lengths it has one: that of the metric that selects, else the longest. Those of the whole
    catalogue come before what is measured of rows.
    """
    names = list(names)
    chosen = shown(names) or [name for name in names if name != "rows"]
    lists = [name for name in chosen if "@" in name and not name.startswith(tuple(_BESIDE))]
    lengths = {name.partition("@")[2] for name in lists}
    length = (leading or "").partition("@")[2]
    if length not in lengths:
        length = max(lengths, key=lambda k: (len(k), k), default="")
    lists = [name for name in lists if name.endswith(f"@{length}")]
    rows = [name for name in chosen if "@" not in name]
    of_catalogue = any(name.startswith("coverage@") for name in lists)
    return sorted([*lists, *rows] if of_catalogue else [*rows, *lists], key=lambda name: name != leading)


def larger_is_better(name: str) -> bool | None:
    """Says which direction of a metric is better; None where neither is, or nobody knows."""
    if "@" in name or name in LARGER_IS_BETTER:
        return True
    return False if name in SMALLER_IS_BETTER else None
