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


def titled(name: str) -> str:
    """Returns a metric's name as headings have it."""
    if "@" in name:
        kind, _, k = name.partition("@")
        return f"{kind.upper() if kind in ('hr', 'ndcg') else kind.capitalize()}@{k}"
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def leading_first(names: Iterable[str], leading: str | None) -> list[str]:
    """Returns the metrics that people look at, the one that selects first; all of them where none is well known."""
    names = list(names)
    chosen = shown(names) or [name for name in names if name != "rows"]
    return sorted(chosen, key=lambda name: name != leading)


def larger_is_better(name: str) -> bool | None:
    """Says which direction of a metric is better; None where neither is, or nobody knows."""
    if "@" in name or name in LARGER_IS_BETTER:
        return True
    return False if name in SMALLER_IS_BETTER else None
