"""Ids go in and come out as people call them: values of a vocabulary, strings, and 64-bit ids of dynamic tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import shardrec
from shardrec.data_pipeline.features.feature_kinds import IdFeature
from shardrec.data_pipeline.features.id_transforms import Identity, Raw, Vocabulary
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.retrieval.key_names import KeyNames
from tests.trainer.small_run import run_file

USERS = ["ann", "bob", "cy", "dee"]
ITEMS = [-(2**62), -5, 0, 2**62, 12, 13]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users are numbers that preparation made of names; items are any integers, in a dynamic table."""
    folder = tmp_path_factory.mktemp("names")
    data = folder / "data"
    (data / "vocabularies").mkdir(parents=True)
    pq.write_table(pa.table({"value": USERS}), data / "vocabularies/user.parquet")
    user = Identity(num_ids=5, prepared=Vocabulary(path="vocabularies/user.parquet", size=4))
    features = (IdFeature(name="user", ids=user, role="user"), IdFeature(name="item", ids=Raw(), role="item"))
    Schema(features=features).save(data / "schema.yaml")
    draw = np.random.default_rng(0)
    number, item = draw.integers(1, 5, 240), draw.integers(0, 6, 240)
    label = ((number + item) % 2 == 0).astype(np.float32)
    rows = pa.table({"user": number, "item": np.array(ITEMS)[item], "label": label})
    for split in ("train", "validation"):
        (data / split).mkdir()
        pq.write_table(rows, data / split / "0.parquet")
    file = run_file(
        folder / "run.yaml", data, model={"name": "mf", "embedding_dim": 4}, tables={"item": {"dynamic": {"rows": 64}}}
    )
    content = file.read_text()
    file.write_text(content.replace("  mlp:\n    dropout: 0.1\n    hidden:\n    - 16\n    - 8\n", ""))
    return Path(shardrec.train(shardrec.load(file), quiet=True).run_folder)


def test_ids_of_lists_are_raw_values(run: Path) -> None:
    with shardrec.open(run) as model:
        lists = model.retrieve(users=["cy", "ann"], n=6)
        everyone = model.retrieve(users="*", n=1)
        alike = model.similar([-(2**62), "12"], n=5)
        vectors = model.vectors()
        rows = pa.table({"user": np.repeat([3, 1], 6), "item": np.tile(ITEMS, 2)})
        scores = model.predict(rows)["prediction"].to_numpy()
        with pytest.raises(shardrec.UserError, match=r"^users: 'eve' is not in the vocabulary of 'user'"):
            model.retrieve(users=["eve"])
        with pytest.raises(shardrec.UserError, match=r"^ids: found 'x', expected integers"):
            model.similar([12, "x"])
    assert lists["user"].to_pylist() == ["cy"] * 6 + ["ann"] * 6
    for at in (0, 6):
        order = np.argsort(-scores[at : at + 6], kind="stable")
        assert lists["item"].to_pylist()[at : at + 6] == [ITEMS[i] for i in order]
    assert sorted(everyone["user"].to_pylist()) == USERS
    assert sorted(vectors["item"].to_pylist()) == sorted(ITEMS)
    assert sorted(alike["similar"].to_pylist()[:5]) == sorted(set(ITEMS) - {-(2**62)})
    assert alike["item"].to_pylist()[5:] == [12] * 5


def test_what_was_shown_is_left_out_by_the_ids_that_lists_have(run: Path, tmp_path: Path) -> None:
    """Files of the same pairs by numbers, and by names in any order with others', say the same."""
    with shardrec.open(run) as model:
        shown = model.retrieve(users=["cy", "ann"], n=2)
        pq.write_table(shown, tmp_path / "named.parquet")
        others = pa.table({"user": ["eve", None, "dee"], "item": [12, 12, 99]})
        pq.write_table(others, tmp_path / "others.parquet")
        numbers = pa.array([USERS.index(user) + 1 for user in shown["user"].to_pylist()], pa.int16())
        pq.write_table(shown.set_column(1, "user", numbers), tmp_path / "numbers.parquet")
        lists = model.retrieve(users=["cy", "ann", "dee"], n=6, seen=[str(tmp_path / "named.parquet")])
        more = [str(tmp_path / name) for name in ("others.parquet", "named.parquet")]
        assert model.retrieve(users=["cy", "ann", "dee"], n=6, seen=more) == lists
        by_number = model.retrieve(users=["cy", "ann", "dee"], n=6, seen=[str(tmp_path / "numbers.parquet")])
        pq.write_table(pa.table({"user": ["cy"], "item": ["12"]}), tmp_path / "strings.parquet")
        with pytest.raises(shardrec.UserError, match="column 'item' is string, expected int64, as the run's rows have"):
            model.retrieve(users=["cy"], seen=[str(tmp_path / "strings.parquet")])
    pairs = [list(zip(of["user"].to_pylist(), of["item"].to_pylist(), strict=True)) for of in (shown, lists, by_number)]
    assert pairs[1] == pairs[2] and not set(pairs[0]) & set(pairs[1])
    assert [user for user, _ in pairs[1]] == ["cy"] * 4 + ["ann"] * 4 + ["dee"] * 6


def test_numbers_without_a_name_have_none(tmp_path: Path) -> None:
    names = KeyNames("user", pa.array(USERS))
    assert names.named(pa.array([1, 4, 0, 5])).to_pylist() == ["ann", "dee", None, None]
    assert names.ids(["dee"], pa.int32(), "--users").to_pylist() == [4]
    assert KeyNames("user").ids([7], pa.string(), "--users").to_pylist() == ["7"]
