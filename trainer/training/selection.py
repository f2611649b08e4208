"""Selection says which metric of an evaluation decides what the best step is."""

from collections.abc import Mapping

from shardrec.data_pipeline.errors import UserError
from shardrec.models.undefined import Undefined


def selecting_metric(
    metrics: Mapping[str, float], directions: Mapping[str, bool], *, wanted: str | None, before: str | None
) -> str | None:
    """Returns the metric to select by; None where the rows define none that could be.

    directions: of the metrics that can be, the task's own choice first: whether larger is better. wanted: what the run
    file names. before: what an earlier evaluation of the run went by.

    Without `wanted` it is the task's own choice; where the rows do not define that, as of one class, it is the first
    loss that they define. Raises UserError where they do not define what is wanted.
    """
    if wanted is not None:
        value = metrics[wanted]
        if isinstance(value, Undefined):
            raise UserError(
                f"trainer: {wanted!r} decides what is best, but the validation rows do not define it: {value.reason}; "
                f"select by another metric{_defined(metrics, directions)}, or evaluate on other rows"
            )
        return wanted
    losses = [name for name, larger_is_better in directions.items() if not larger_is_better]
    earlier = [] if before is None else [before]
    candidates = [name for name in (*earlier, *list(directions)[:1], *losses) if name in metrics]
    return next((name for name in candidates if not isinstance(metrics[name], Undefined)), None)


def _defined(metrics: Mapping[str, float], directions: Mapping[str, bool]) -> str:
    """Names some metrics that there are."""
    names = [name for name in directions if name in metrics and not isinstance(metrics[name], Undefined)]
    return f" ({', '.join(names)})" if names else ""
