"""A catalogue has the items of training rows and those of a file, each once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.hashing import hash_strings
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.config.load import load
from shardrec.trainer.session.blueprint import Blueprint
from tests.trainer.catalogue.small_catalogue import ITEMS, NEW, run_file


def test_items_of_training_and_of_the_file(catalogue: Catalogue, shop: Path) -> None:
    train = pq.read_table(shop / "train").to_pylist()
    listed = pq.read_table(shop / "items.parquet").to_pylist()
    trained, ids = {row["item"] for row in train}, catalogue.ids.to_pylist()
    assert len(ids) == len(set(ids)) == len(catalogue)
    assert set(ids[: catalogue.trained]) == trained
    assert ids[catalogue.trained :] == [row["item"] for row in listed if row["item"] not in trained]
    table_rows = hash_strings(catalogue.ids[: catalogue.trained]) % 64
    assert (np.diff(table_rows) >= 0).all()
    counted = Counter(row["item"] for row in train if row["label"] > 0)
    assert catalogue.counts.tolist() == [counted[item] for item in ids]
    by_frequency = [ids[place] for place in catalogue.popularity]
    assert [counted[item] for item in by_frequency] == sorted(counted[item] for item in ids)[::-1]


def test_the_file_has_the_last_word_on_features(shop: Path, tmp_path: Path) -> None:
    listed = pq.read_table(shop / "items.parquet")
    dear = listed.set_column(listed.column_names.index("price"), "price", pa.array(np.full(len(listed), 9, np.float32)))
    pq.write_table(dear, tmp_path / "items.parquet")
    data = {"catalogue": str(tmp_path / "items.parquet")}
    rows = Catalogue.of(Blueprint(load(run_file(tmp_path / "run.yaml", shop, data=data)))).rows.to_pylist()
    named = set(listed.column("item").to_pylist())
    assert {row["item"] for row in rows if row["price"] == 9} == named
    assert len(rows) == ITEMS + NEW


def refused(shop: Path, folder: Path, items: pa.Table) -> str:
    pq.write_table(items, folder / "items.parquet")
    data = {"catalogue": str(folder / "items.parquet")}
    with pytest.raises(UserError) as error:
        Catalogue.of(Blueprint(load(run_file(folder / "run.yaml", shop, data=data))))
    return str(error.value).replace(str(folder), "HERE")


def test_files_of_items_that_are_refused(shop: Path, tmp_path: Path) -> None:
    items = pq.read_table(shop / "items.parquet")
    twice = pa.concat_tables([items, items.slice(3, 1)])
    assert refused(shop, tmp_path, twice).startswith("HERE/items.parquet: item 'i23' is there twice; data.catalogue")
    assert "column 'price'" in refused(shop, tmp_path, items.drop_columns(["price"]))
    nameless = items.set_column(0, "item", pa.array([None, *items.column("item").to_pylist()[1:]]))
    assert "row 0 has no item" in refused(shop, tmp_path, nameless)
    for values in ([1] * len(items), [[1]] * len(items)):
        numbered = items.set_column(0, "item", pa.array(values))
        assert "of other types than those of the training rows: column 'item'" in refused(shop, tmp_path, numbered)
    broken = items.set_column(1, "genre", pa.array(np.full(len(items), 77)))
    assert "HERE/items.parquet, row 0" in refused(shop, tmp_path, broken)


def test_which_feature_the_item_is(shop: Path, tmp_path: Path) -> None:
    data = {"catalogue": {"item": "colour"}}
    with pytest.raises(UserError, match=r"^data.catalogue.item: unknown id feature 'colour'"):
        Catalogue.of(Blueprint(load(run_file(tmp_path / "run.yaml", shop, data=data))))
    data = {"catalogue": {"item": "genre"}}
    genres = Catalogue.of(Blueprint(load(run_file(tmp_path / "run.yaml", shop, data=data))))
    assert sorted(genres.ids.to_pylist()) == [0, 1, 2]
