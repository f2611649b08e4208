"""A plan is printed as a table of its tables: by rank where there are few ranks, else by table."""

from collections.abc import Iterable, Sequence
from statistics import median

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import printable
from shardrec.sharding.planning.plan import Plan, TablePlan
from shardrec.sharding.planning.row_memory import described_memory

FEW_RANKS = 4
"""Ranks that a report has columns for; of more it tells the shards of each table, and how the ranks compare."""

_BARS, _BAR_WIDTH = 6, 40  # a histogram's, the width in characters
_DESCRIBED = ("table", "rows", "dim", "dtype", "optimizer", "placement")


def plan_text(plan: Plan) -> str:
    """Returns a plan in plain text: each table's rows, dim, dtype, optimizer and placement, then what is where.

    That is rows and bytes on each rank; of more than `FEW_RANKS` ranks the shards of each table and the ranks that
    have them, and below the table how the ranks' memory compares.
    """
    text = _ranks_in_columns(plan) if plan.world_size <= FEW_RANKS else _shards_in_columns(plan)
    return text + "".join(f"{line}\n" for line in (*_host_memory_lines(plan), *plan.notes, *_exchange_lines(plan)))


def in_runs(ranks: Iterable[int], most: int = 6) -> str:
    """Returns ranks as `0-3, 7`; of more than `most` runs the first ones."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:most]]
    return ", ".join(texts + ["..."] * (len(runs) > most))


def _ranks_in_columns(plan: Plan) -> str:
    ranks = range(plan.world_size)
    lines = [[*_DESCRIBED] + [f"rank {r}: rows" for r in ranks] + [f"rank {r}: bytes" for r in ranks]]
    for table in plan.tables.values():
        row_counts = [f"{table.rows_on(r):,}" for r in ranks]
        lines.append([*_described(table), *row_counts, *(readable(table.bytes_on(r)) for r in ranks)])
    if plan.id_map_bytes:
        blank = [""] * (len(_DESCRIBED) - 1 + len(ranks))
        lines.append(["id maps", *blank, *[readable(plan.id_map_bytes) for _ in ranks]])
    row_counts = [f"{sum(table.rows_on(r) for table in plan.tables.values()):,}" for r in ranks]
    sizes = [readable(size) for size in plan.bytes_per_rank]
    lines.append(["total", _all_rows(plan), "", "", "", "", *row_counts, *sizes])
    text = _aligned(lines, left={0, 3, 4, 5})
    return f"{text}\nmemory for tables: {readable(plan.memory_per_rank)} a rank, {plan.world_size} rank(s)\n"


def _shards_in_columns(plan: Plan) -> str:
    lines = [[*_DESCRIBED, "shards", "a shard", "in all", "on ranks"]]
    for table in plan.tables.values():
        by_rank = table.bytes_by_rank
        ranks = "all" if len(by_rank) == plan.world_size else in_runs(by_rank)
        sizes = [readable(table.largest_shard), readable(sum(by_rank.values()))]
        lines.append([*_described(table), f"{len(table.shards):,}", *sizes, ranks])
    if share := plan.id_map_bytes:
        maps = ["", f"{plan.world_size:,}", readable(share), readable(share * plan.world_size), "all"]
        lines.append(["id maps", "", "", "", "", *maps])
    lines.append(["total", _all_rows(plan), "", "", "", "", "", "", readable(sum(plan.bytes_per_rank)), ""])
    return "\n".join([_aligned(lines, left={0, 3, 4, 5, 9}), *_compared_ranks(plan), ""])


def _compared_ranks(plan: Plan) -> list[str]:
    """Returns lines about the ranks' memory: one if it is alike on all, else the extremes and a histogram."""
    sizes = plan.bytes_per_rank
    least, most = min(sizes), max(sizes)
    of_memory = f"of {readable(plan.memory_per_rank)} for tables, {plan.world_size} ranks"
    if readable(least) == readable(most):
        return [f"memory of a rank: {readable(most)} on all, {of_memory}"]
    extremes = [f"{readable(size)} (rank {sizes.index(size)})" for size in (least, most)]
    lines = [f"memory of a rank: {extremes[0]} to {extremes[1]}, median {readable(int(median(sizes)))}, {of_memory}"]
    bars: dict[int, list[int]] = {}
    for rank, size in enumerate(sizes):
        bars.setdefault(min(_BARS - 1, (size - least) * _BARS // (most - least)), []).append(rank)
    fullest = max(map(len, bars.values()))
    histogram = [
        [
            "",
            _span(sizes[r] for r in ranks),
            "#" * max(1, len(ranks) * _BAR_WIDTH // fullest),
            f"{len(ranks)} rank(s): {in_runs(ranks)}",
        ]
        for _, ranks in sorted(bars.items())
    ]
    return lines + _aligned(histogram, left={0, 1, 2, 3}).splitlines()


def _host_memory_lines(plan: Plan) -> list[str]:
    """Returns a line on the tables that lie in host memory, and how much of it they take; none without such tables."""
    outside = [p.table for p in plan.tables.values() if p.table.memory != "device"]
    if not outside:
        return []
    names = ", ".join(f"{printable(t.name)}: {described_memory(t)}" for t in outside)
    return [f"rows in host memory: {names}; {_span(plan.host_bytes)} of each host"]


def _exchange_lines(plan: Plan) -> list[str]:
    """Returns a line on numbers that are rounded on their way; none where they are not."""
    if plan.exchange == "fp32" or plan.world_size == 1:
        return []
    vectors = "vectors as fp16, gradients" if plan.exchange == "fp16" else "vectors and gradients"
    return [f"exchange: {vectors} as bf16"]


def _described(plan: TablePlan) -> list[str]:
    table = plan.table
    assert table.optimizer is not None
    numbers = [f"{table.num_embeddings:,}", str(table.embedding_dim)]
    return [printable(table.name), *numbers, table.dtype, table.optimizer.name, plan.placement]


def _all_rows(plan: Plan) -> str:
    return f"{sum(p.table.num_embeddings for p in plan.tables.values()):,}"


def _span(sizes: Iterable[int]) -> str:
    """Returns `9.6 GiB to 10.3 GiB`, or one of them where they read alike."""
    ordered = sorted(sizes)
    return " to ".join(dict.fromkeys((readable(ordered[0]), readable(ordered[-1]))))


def _aligned(lines: Sequence[Sequence[str]], left: set[int]) -> str:
    """Returns lines of cells in columns, those numbered in `left` set to the left."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
