"""Lists of a small shop are those of plain loops over the model's own vectors and scores, by command and in Python."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import shardrec
from shardrec.data_pipeline.features.hashing import hash_array
from tests.trainer.catalogue.small_catalogue import ITEMS, NEW, USERS, pairs, run_file, write_shop
from tests.trainer.command_line import refused
from tests.trainer.command_line import shardrec as command

Row = dict[str, Any]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop, with the hour of a visit, and users who have not been there yet."""
    folder = write_shop(tmp_path_factory.mktemp("shop") / "data")
    for path in folder.glob("*/*.parquet"):
        write_with_hours(path)
    schema = yaml.safe_load((folder / "schema.yaml").read_text())
    schema["features"].append({"kind": "dense", "name": "hour", "role": "user"})
    schema["features"][0]["ids"]["num_ids"] = USERS + 5
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    return folder


def write_with_hours(path: Path) -> None:
    rows = pq.read_table(path)
    hours = np.random.default_rng(0).random(len(rows)).astype(np.float32)
    pq.write_table(rows.append_column("hour", pa.array(hours)), path, row_group_size=50)


@pytest.fixture(scope="module")
def run(shop: Path) -> Path:
    file = run_file(shop.parent / "run.yaml", shop, trainer={"epochs": 4})
    return Path(shardrec.train(shardrec.load(file), quiet=True).run_folder)


@pytest.fixture(scope="module")
def model(run: Path) -> shardrec.TrainedModel:
    return shardrec.open(run)


def seen_by(user: int, split: str = "train") -> set[str]:
    users, items = pairs()[split]
    return {f"i{i:02d}" for u, i in zip(users, items, strict=True) if u == user}


def best(vector: np.ndarray, items: list[Row], n: int, without: set[str] = frozenset()) -> list[tuple[str, float]]:  # type: ignore[assignment]
    scored = [(row["item"], float(np.dot(vector, row["vector"]))) for row in items if row["item"] not in without]
    return sorted(scored, key=lambda pair: -pair[1])[:n]


def assert_lists(found: pa.Table, expected: list[list[tuple[str, float]]], column: str = "item") -> None:
    """Rows are one list after the other, each with ranks from 1."""
    assert found["rank"].to_pylist() == [rank for lists in expected for rank in range(1, len(lists) + 1)]
    assert found[column].to_pylist() == [name for lists in expected for name, _ in lists]
    scores = [score for lists in expected for _, score in lists]
    np.testing.assert_allclose(found["score"].to_numpy(), scores, rtol=1e-4, atol=1e-6)


def test_lists_of_known_users_lack_what_they_have_seen(
    model: shardrec.TrainedModel, run: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = model.vectors().to_pylist()
    assert len(items) == ITEMS + NEW
    last: dict[int, Row] = {}
    for split in ("train", "validation"):
        last |= {row["user"]: row for row in pq.read_table(shop / split).to_pylist()}
    asked = [7, 3, 20]
    users = model.vectors(pa.Table.from_pylist([last[user] for user in asked]))
    assert users["user"].to_pylist() == asked
    vectors = users["vector"].to_pylist()
    everything = model.retrieve(users=asked, n=10**12)
    assert_lists(everything, [best(v, items, ITEMS + NEW) for v in vectors])
    unseen = [best(v, items, 5, seen_by(u)) for u, v in zip(asked, vectors, strict=True)]
    assert unseen != [best(v, items, 5) for v in vectors]
    found = model.retrieve(users=asked, n=5, seen="train")
    assert_lists(found, unseen)
    assert found["user"].to_pylist() == np.repeat(asked, 5).tolist()
    command(
        monkeypatch, "retrieve", run, "--users", "7,3", "--users", "20", "--n", 5, "--seen", "train",
        "--out", tmp_path / "lists", "--quiet",
    )  # fmt: skip
    assert pq.read_table(tmp_path / "lists").equals(found)
    log = pq.read_table(shop / "validation").select(["user", "item"])
    pq.write_table(log, tmp_path / "log.parquet")
    of_file = model.retrieve(users=asked, n=5, seen=tmp_path / "log.parquet")
    assert_lists(of_file, [best(v, items, 5, seen_by(u, "validation")) for u, v in zip(asked, vectors, strict=True)])


def test_a_list_is_in_the_order_of_the_models_scores(model: shardrec.TrainedModel, shop: Path) -> None:
    row = pq.read_table(shop / "train").to_pylist()[11]
    rows = [row | item for item in pq.read_table(shop / "train").select(["item", "genre", "price"]).to_pylist()]
    scores = model.predict(pa.Table.from_pylist(rows))["prediction"].to_pylist()
    by_item = {made["item"]: score for made, score in zip(rows, scores, strict=True)}
    found = model.retrieve(pa.Table.from_pylist([row]), n=ITEMS + NEW)["item"].to_pylist()
    old = [by_item[name] for name in found if name in by_item]
    assert len(old) == len(by_item) > 20 and old == sorted(old, reverse=True)


def test_a_user_who_was_not_there_at_training(
    model: shardrec.TrainedModel, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows have no item, and the hour of the moment."""
    rows = pa.table({"user": [USERS + 1] * 2, "hour": np.float32([0.1, 0.9]), "visit": ["a", "b"]})
    pq.write_table(rows, tmp_path / "rows.parquet")
    items = model.vectors().to_pylist()
    vectors = model.vectors(rows)["vector"].to_pylist()
    assert not np.allclose(vectors[0], vectors[1])
    found = model.retrieve(rows, n=4, keys="visit")
    assert_lists(found, [best(v, items, 4) for v in vectors])
    assert found["visit"].to_pylist() == ["a"] * 4 + ["b"] * 4
    out = tmp_path / "lists"
    command(
        monkeypatch, "retrieve", run, "--data", tmp_path / "rows.parquet", "--n", 4, "--keys", "visit", "--out", out
    )
    assert pq.read_table(out).equals(found)


def test_items_like_an_item(
    model: shardrec.TrainedModel, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directions = [
        row | {"vector": row["vector"] / np.linalg.norm(row["vector"])} for row in model.vectors().to_pylist()
    ]
    of = {row["item"]: row["vector"] for row in directions}
    asked = ["i03", "i34"]  # one of them new
    found = model.similar(asked, n=6)
    assert_lists(found, [best(of[name], directions, 6, {name}) for name in asked], "similar")
    assert found["item"].to_pylist() == np.repeat(asked, 6).tolist()
    command(monkeypatch, "retrieve", run, "--similar", "i03,i34", "--n", 6, "--out", tmp_path / "alike", "--quiet")
    assert pq.read_table(tmp_path / "alike").equals(found)


@pytest.mark.parametrize(
    ("index", "settings"), [("hnsw", ("ef_search=64",)), ("ivf", ("lists=4", "probes=4")), ("approximate", ())]
)
def test_an_approximate_index_says_its_recall(
    index: str,
    settings: tuple[str, ...],
    model: shardrec.TrainedModel,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of so few items they look at all, and so are exact, seen items or not."""
    pytest.importorskip("faiss")
    capsys.readouterr()
    words = [word for setting in settings for word in ("--index-set", setting)]
    arguments = ("--users", "*", "--n", 5, "--seen", "train", "--index", index, *words, "--out", tmp_path / "lists")
    command(monkeypatch, "retrieve", run, *arguments, "--quiet")
    said = capsys.readouterr().out.splitlines()[0]
    assert said.endswith("recall@5 1.0000 against the exact one, of 40 queries") and said.startswith("index ")
    assert all(setting in said for setting in settings)
    exact = model.retrieve(users="*", n=5, seen="train")
    found = pq.read_table(tmp_path / "lists")
    assert found.drop_columns("score").equals(exact.drop_columns("score"))


def test_an_index_that_looks_at_a_part_of_the_items_says_so() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("faiss")
    from shardrec.trainer.retrieval.index import build_index, recall
    from shardrec.trainer.retrieval.index_settings import IndexSettings

    generator = torch.Generator().manual_seed(0)
    items, queries = torch.randn(2000, 16, generator=generator), torch.randn(50, 16, generator=generator)
    few = build_index(items, "ivf", IndexSettings(lists=50, probes=1))
    all_lists = build_index(items, "ivf", IndexSettings(lists=50, probes=50))
    assert 0 < recall(few, items, queries, 10) < 0.9 < recall(all_lists, items, queries, 10)
    _, positions = few.search(queries, 2000)
    assert (positions == -1).any(dim=1).all()  # a list or two hold no 2000 items


def test_vectors_are_written_with_ids(
    model: shardrec.TrainedModel, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(monkeypatch, "vectors", run, "--out", tmp_path / "vectors", "--quiet")
    items, users = (pq.read_table(tmp_path / "vectors" / name) for name in ("items", "users"))
    assert items.equals(model.vectors()) and items["vector"].type == pa.list_(
        pa.float32(), items["vector"].type.list_size
    )
    assert len(users) == 40 and users.column_names == ["user", "vector"]
    named = {row["user"]: row["vector"] for row in users.to_pylist()}
    scores = model.retrieve(users=[5], n=1)
    of = {row["item"]: row["vector"] for row in items.to_pylist()}
    top = max(float(np.dot(named[5], vector)) for vector in of.values())
    assert scores["score"][0].as_py() == pytest.approx(top, rel=1e-5)


def test_a_model_without_a_shared_space(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its items are alike by their table rows; no list is made for users."""
    file = run_file(tmp_path / "run.yaml", shop)
    content = file.read_text().replace("name: two_tower", "name: deepfm").replace("  vector_dim: 6\n", "")
    file.write_text(content)
    run = shardrec.train(shardrec.load(file, ["data.features=[user, item, price]"]), quiet=True).run_folder
    line = refused(monkeypatch, "retrieve", run, "--users", 1, "--out", tmp_path / "lists", "--quiet")
    assert "model deepfm cannot retrieve items for users: its user and item vectors meet in an MLP" in line
    assert "retrieve --similar" in line
    assert "cannot retrieve" in refused(monkeypatch, "vectors", run, "--out", tmp_path / "lists", "--quiet")
    with shardrec.open(run) as model:
        rows = {row["id"]: np.array(row["vector"]) for row in model.table("item").to_pylist()}
        found = model.similar(["i05"], n=3)
        with pytest.raises(shardrec.UserError, match=r"^ids: item 'i34' is (in no training row|not in the cata)"):
            model.similar(["i34"])
    names = sorted({f"i{i:02d}" for i in pairs()["train"][1]})
    known = {name: rows[int(hash_array(pa.array([name]))[0] % 64)] for name in names}
    unit = {name: vector / np.linalg.norm(vector) for name, vector in known.items()}
    cosines = {name: float(vector @ unit["i05"]) for name, vector in unit.items() if name != "i05"}
    scores = found["score"].to_pylist()
    assert scores == pytest.approx(sorted(cosines.values(), reverse=True)[:3], rel=1e-5)
    assert [cosines[name] for name in found["similar"].to_pylist()] == pytest.approx(scores, rel=1e-5)


def test_what_cannot_be_retrieved_is_one_line(
    run: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lists"

    def line(*arguments: object) -> str:
        return refused(monkeypatch, "retrieve", run, "--out", out, "--quiet", *arguments)

    assert "name one of --data ROWS, --users IDS and --similar IDS" in line()
    assert "name one of" in line("--users", 1, "--similar", "i01")
    assert "--n: found 0, expected 1 or more" in line("--users", 1, "--n", 0)
    assert "found 'x7', expected integers, as column 'user' has" in line("--users", "x7")
    assert "no training or validation row of user 4000" in line("--users", "1,4000")
    assert "item 'i99' is not in the catalogue" in line("--similar", "i01,i99")
    assert "--seen: leaves out what a user has seen" in line("--similar", "i01", "--seen", "train")
    assert "nowhere" in line("--users", 1, "--seen", tmp_path / "nowhere")
    assert "items.parquet: unknown column 'user'" in line("--data", shop / "items.parquet")
    assert "--index-set: unknown setting 'probs'; did you mean 'probes'?" in line(
        "--users", 1, "--index", "ivf", "--index-set", "probs=3"
    )
    assert "expected NAME=NUMBER" in line("--users", 1, "--index-set", "probes")
    assert "it has no settings" in line("--users", 1, "--index-set", "m=32")
    of_graph = line("--users", 1, "--index", "hnsw", "--index-set", "probes=1")
    assert "probes: is no setting of the hnsw index: it has m, ef_construction, ef_search" in of_graph
    assert "--seen: `train` goes alone" in line("--users", 1, "--seen", "train", "--seen", shop / "test")
    assert "--keys: are columns of users' rows" in line("--similar", "i01", "--keys", "genre")
    assert line("--data", shop / "test", "--keys", "colour").endswith("hour (the command reads it)")
    assert "lists have a column of that name" in line("--data", shop / "test", "--keys", "item")
    nobody = pq.read_table(shop / "test").slice(0, 0)
    pq.write_table(nobody, tmp_path / "nobody.parquet")
    assert "nobody.parquet: no rows in it" in line("--data", tmp_path / "nobody.parquet")
    assert not out.exists()


def test_what_cannot_be_asked_in_python(model: shardrec.TrainedModel) -> None:
    assert model.similar("i03", n=2).equals(model.similar(["i03"], n=2))
    asked: list[tuple[dict[str, Any], str]] = [
        ({"users": [1], "n": 2.5}, "n: found 2.5, expected a whole number"),
        ({"users": 5}, "users: found a value of type int, expected a list"),
        ({"users": [1], "seen": pa.table({"user": [1]})}, "seen: found a value of type Table, expected a list"),
        ({"users": [1], "seen": ""}, "seen: found nothing in it"),
        ({"data": ""}, "data: found nothing in it"),
        ({"users": [1], "raw": True}, "raw=True: is about rows of data"),
    ]
    for arguments, message in asked:
        with pytest.raises(shardrec.UserError, match=message):
            model.retrieve(**arguments)
