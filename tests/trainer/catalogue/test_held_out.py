"""Held-out items are those of positive rows, without what is known of the user."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from shardrec.trainer.catalogue import held_out as module
from shardrec.trainer.catalogue.held_out import read_held_out
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import user_layout
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
