"""Held-out items are those of positive rows, without what is known of the user."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.models.undefined import Undefined
from shardrec.trainer.catalogue import held_out as module
from shardrec.trainer.catalogue.evaluation import CatalogueScorer
from shardrec.trainer.catalogue.held_out import read_held_out
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import user_layout
from shardrec.trainer.config.catalogue import CatalogueEvaluation
from shardrec.trainer.session.session import Session
from tests.trainer.catalogue.lists_by_hand import pairs_of


@pytest.mark.parametrize("joined", [1, 1 << 20])
def test_equals_sets(
    session: Session, catalogue: Catalogue, shop: Path, joined: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOINED_ROWS", joined)
    known = [str(shop / "train"), str(shop / "validation")]
    found = read_held_out(session.blueprint, catalogue, str(shop / "test"), known, user_layout(session))
    wanted, seen = pairs_of(shop / "test"), pairs_of(shop / "train")
    for user, items in pairs_of(shop / "validation").items():
        seen.setdefault(user, set()).update(items)
    ids = catalogue.ids.to_pylist()
    first = list(dict.fromkeys(row["user"] for row in pq.read_table(shop / "test").to_pylist() if row["label"] > 0))
    assert found.users.ids[0].tolist() == first
    for place, user in enumerate(first):
        of_user = found.items.slice(place, place + 1).positions
        left_out = found.known.slice(place, place + 1).positions
        assert {ids[p] for p in of_user} == (wanted[user] - seen.get(user, set())) & set(ids)
        assert {ids[p] for p in left_out} == seen.get(user, set())
        assert found.counts[place] == len(wanted[user] - seen.get(user, set()))


def test_rows_of_which_nothing_is_held_out(session: Session, catalogue: Catalogue, shop: Path, tmp_path: Path) -> None:
    """Where no row is a positive there are no users; ids of another type than the run's are an error."""
    rows, file = pq.read_table(shop / "test"), str(tmp_path / "rows.parquet")
    label = rows.column_names.index("label")
    pq.write_table(rows.set_column(label, "label", [np.zeros(len(rows), np.float32)]), file)
    found = read_held_out(session.blueprint, catalogue, file, [str(shop / "train")], user_layout(session))
    assert len(found) == found.users.rows == 0 and not len(found.known.positions)
    of_lists = CatalogueScorer(session, CatalogueEvaluation()).metrics("data", file)
    assert of_lists["users"] == 0 and isinstance(of_lists["recall@20"], Undefined)
    numbered = str(tmp_path / "numbered.parquet")
    pq.write_table(rows.set_column(rows.column_names.index("item"), "item", [np.arange(len(rows))]), numbered)
    with pytest.raises(UserError, match=r"numbered\.parquet: column 'item' is int64, expected string"):
        read_held_out(session.blueprint, catalogue, numbered, [], user_layout(session))
