"""Vectors of items and users score as the model does, each made without the other's features."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.catalogue.vectors import item_side, item_vectors
from shardrec.trainer.retrieval.lists import vectors_of
from shardrec.trainer.session.session import Session


def test_scores_are_the_models(session: Session, catalogue: Catalogue, shop: Path) -> None:
    """Of items that training has: the model itself would look up the ids of others."""
    items = item_vectors(session, catalogue)
    assert items.dtype == torch.float32 and len(items) == len(catalogue)
    places = {item: place for place, item in enumerate(catalogue.ids.to_pylist())}
    rows = pq.read_table(shop / "test").to_pylist()
    validation = str(shop / "test")
    loader = session.loader(validation, labelled=False, absent=item_side(session))
    assert loader.columns == ("user",)
    users = torch.cat([vectors for vectors, _ in vectors_of(session, loader)])
    with session.scoring():
        batches = list(session.loader(validation).epoch(0))
        scores = torch.cat([session.forward(batch)[batch.live] for batch in batches])
    known = [n for n, row in enumerate(rows) if places.get(row["item"], len(places)) < catalogue.trained]
    assert 0 < len(known) < len(rows)
    products = (users[known] * items[[places[rows[n]["item"]] for n in known]]).sum(1)
    bias = session.model.bias
    torch.testing.assert_close(products + bias.detach(), scores[known])


def test_a_new_item_is_its_features_alone(session: Session, catalogue: Catalogue) -> None:
    """Its id's row, which training never changed, is not looked up: equal features make equal vectors."""
    rows = catalogue.rows.to_pylist()
    trained = rows[0]
    twin = dict(trained, item="i98"), dict(trained, item="i99")
    new = catalogue.rows.slice(0, 1).from_pylist([trained, *twin], schema=catalogue.rows.schema)
    changed = Catalogue(catalogue.item, catalogue.column, new, np.array([1, 0, 0]), trained=1)
    first, second, third = item_vectors(session, changed)
    assert torch.equal(second, third)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(first, item_vectors(session, catalogue)[0])
