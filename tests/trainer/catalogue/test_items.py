"""A catalogue has the items of training rows and those of a file, each once."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import DenseFeature, IdFeature
from shardrec.data_pipeline.features.hashing import hash_strings
from shardrec.data_pipeline.features.id_transforms import Identity, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.catalogue.items import Catalogue
from shardrec.trainer.config.load import load
from shardrec.trainer.retrieval.key_names import KeyNames
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


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The run file of rows whose items and genres preparation made numbers of; item 0 is one that no vocabulary has."""
    data, features = tmp_path / "data", []
    (data / "train").mkdir(parents=True)
    for feature, values in (("item", ["a", "b", "c"]), ("genre", ["x", "y"])):
        ids = Identity(num_ids=len(values) + 1, prepared=Vocabulary(path=f"{feature}.parquet", size=len(values)))
        pq.write_table(pa.table({"value": values}), data / f"{feature}.parquet")
        features.append(IdFeature(name=feature, ids=ids, role="item"))
    user = IdFeature(name="user", ids=Identity(num_ids=3), role="user")
    Schema(features=(user, *features, DenseFeature(name="price", role="item"))).save(data / "schema.yaml")
    rows = {"user": [0, 1, 2], "item": [0, 1, 2], "genre": [1, 1, 2], "price": [1.0, 2.0, 3.0], "label": [1.0] * 3}
    pq.write_table(pa.table(rows), data / "train/0.parquet")
    raw = {"item": ["new", "b", "c", "newer"], "genre": ["y", "x", "z", "x"], "price": [4.0, 5.0, 6.0, 7.0]}
    pq.write_table(pa.table(raw), tmp_path / "raw.parquet")
    return tmp_path / "run.yaml"


def listed_in(run: Path, items: str, **settings: bool) -> Catalogue:
    data = {"catalogue": {"items": str(run.parent / items), **settings}}
    return Catalogue.of(Blueprint(load(run_file(run, run.parent / "data", data=data))))


def test_items_as_before_preparation_keep_their_names(prepared: Path) -> None:
    catalogue = listed_in(prepared, "raw.parquet", raw=True)
    assert catalogue.names.to_pylist() == [None, "a", "b", "new", "c", "newer"]
    assert catalogue.rows.column("genre").to_pylist() == [1, 1, 1, 2, 0, 1]
    assert catalogue.rows.column("price").to_pylist() == [1, 2, 5, 4, 6, 7]
    named = catalogue.named()
    assert (named.names.to_pylist(), named.trained) == (["a", "b", "new", "c", "newer"], 2)
    names = KeyNames("item", named.values)
    assert named.positions(names.ids(["newer", "c"], pa.int64(), "--similar")).tolist() == [4, 3]
    seen = KeyNames(
        "item",
        named.values,
        (IdFeature(name="item", ids=Vocabulary(path="item.parquet", size=3)), str(prepared.parent / "data")),
    )
    assert named.positions(seen.in_files(pa.array(["new", "a", "nowhere"]), pa.int64(), "seen")).tolist() == [2, 0, -1]


def test_items_without_a_name_are_refused_where_names_are_needed(prepared: Path) -> None:
    rows = pa.table({"item": [3, 9], "genre": [1, 2], "price": [1.0, 2.0]})
    pq.write_table(rows, prepared.parent / "numbers.parquet")
    catalogue = listed_in(prepared, "numbers.parquet")
    assert catalogue.names.to_pylist() == [None, "a", "b", "c", None]
    with pytest.raises(UserError, match=r"item 9 is no number of the vocabulary.*data.catalogue.raw: true"):
        catalogue.named()
    with pytest.raises(UserError, match=r"is string.*are read by data.catalogue.raw: true"):
        listed_in(prepared, "raw.parquet")
    raw = pq.read_table(prepared.parent / "raw.parquet")
    pq.write_table(pa.concat_tables([raw, raw.slice(3)]), prepared.parent / "twice.parquet")
    with pytest.raises(UserError, match="item 'newer' is there twice"):
        listed_in(prepared, "twice.parquet", raw=True)


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
