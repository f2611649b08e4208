"""The order of rows in groups is that of a plain loop, whatever the bids, the reserve and the ties are."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.calibration import Calibration
from shardrec.trainer.ranking.ordering import Ordering

STEPS = Calibration(method="isotonic", x=[0.2, 0.4, 0.6], y=[0.1, 0.1, 0.5])


def scored(rows: int = 200) -> pa.Table:
    draw = np.random.default_rng(0)
    return pa.table(
        {
            "row": np.arange(rows) + 40,
            "request": [f"r{i}" for i in draw.integers(0, 12, rows)],
            "price": draw.integers(0, 5, rows) / 4,
            "prediction": draw.choice(np.float32([0.1, 0.3, 0.35, 0.5, 0.7]), rows),
        }
    )


def by_loop(table: pa.Table, ordering: Ordering, calibration: Calibration | None) -> list[dict[str, Any]]:
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        p = np.float64(row["prediction"])
        pctr = float(p if calibration is None else calibration(np.array([p]))[0])
        made = {"request": row["request"], "row": row["row"], "pctr": pctr, "raw": float(p), "score": pctr}
        if ordering.bid is None:
            made["price"] = row["price"]
        else:
            made |= {"bid": row["price"], "ecpm": 1000 * pctr * row["price"], "score": 1000 * pctr * row["price"]}
        if ordering.reserve is None or made["score"] >= ordering.reserve:
            groups.setdefault(row["request"] if ordering.group else None, []).append(made)
        else:
            groups.setdefault(row["request"] if ordering.group else None, [])
    found = []
    for rows in groups.values():
        rows.sort(key=lambda made: (-made["score"], -made["raw"], made["row"]))
        for rank, made in enumerate(rows[: ordering.top], start=1):
            del made["raw"]
            found.append(made | {"rank": rank})
    return found


@pytest.mark.parametrize("calibration", [None, STEPS])
@pytest.mark.parametrize(
    "ordering",
    [
        Ordering(),
        Ordering(group="request"),
        Ordering(group="request", bid="price", reserve=100.0, top=3),
        Ordering(bid="price", top=50),
    ],
)
def test_rows_are_ordered_as_by_a_loop(ordering: Ordering, calibration: Calibration | None) -> None:
    found = ordering.ordered(scored(), calibration).to_pylist()
    expected = by_loop(scored(), ordering, calibration)
    assert [row["row"] for row in found] == [row["row"] for row in expected]
    assert len(found) > 20
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other)


def test_a_reserve_may_leave_nothing() -> None:
    assert len(Ordering(bid="price", reserve=1e9).ordered(scored())) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reserve": 1.0}, "--reserve: a least price needs bids"),
        ({"bid": "price", "reserve": -1.0}, "--reserve: found -1, expected an eCPM of 0 or more"),
        ({"top": 0}, "--top: found 0, expected 1 or more"),
        ({"top": 2.5}, "--top: found 2.5, expected 1 or more"),
        ({"bid": 3}, "--bid: found 3, expected the name of a column"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Ordering(**settings)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("price", [1.0, None, 2.0], "row 8 has no bid in column 'price', expected 0 or more"),
        ("price", [1.0, 2.0, -0.5], "row 9 has a bid of -0.5"),
        ("price", [float("nan"), 2.0, 1.0], "row 7 has a bid of nan"),
        ("price", [1.0, 1e307, 1.0], "row 8 has a bid of 1e.307"),  # for a thousand impressions it is infinite
        ("price", ["1", "2", "3"], "--bid: column 'price' is string, expected numbers"),
        ("request", ["a", None, "b"], "--group: row 8 has no 'request'"),
        ("request", [[1], [2], [3]], "--group: column 'request' is list<.*>, expected one value a row"),
        ("prediction", [0.5, 0.5, float("nan")], "scores row 9 as NaN"),
    ],
)
def test_rows_that_have_no_place(column: str, values: list[Any], message: str) -> None:
    table = pa.table({"row": [7, 8, 9], "request": [1, 1, 2], "price": [1, 2, 3], "prediction": [0.1, 0.2, 0.3]})
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    with pytest.raises(UserError, match=message):
        Ordering(group="request", bid="price").ordered(table)
