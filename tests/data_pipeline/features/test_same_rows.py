"""Whether ids of one run mean the rows of another's table: what may grow, and what only looks alike."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrec.data_pipeline.errors import UserError
from shardrec.data_pipeline.features.feature_kinds import FeatureCross, IdFeature, IdListFeature
from shardrec.data_pipeline.features.id_transforms import Cross, Hash, Identity, Vocabulary
from shardrec.data_pipeline.features.same_rows import check_same_rows
from shardrec.data_pipeline.features.schema import Schema
from shardrec.trainer.config.load import load
from shardrec.trainer.run_folder.folder import RunFolder
from shardrec.trainer.training.train_run import train_run
from tests.trainer.small_run import SCHEMA, run_file, write_data
from tests.trainer.stage_files import ALL_OF_AN_FM, FM, FNN, chain

LETTERS = Vocabulary(path="v.parquet", size=3)


def feature(made: Hash | Vocabulary | Cross | None, num_ids: int | None = None, **settings) -> IdFeature:
    """One that preparation has made so."""
    rows = num_ids or (made.num_rows if made else 9)
    return IdFeature(name="x", ids=Identity(num_ids=rows, prepared=made), **settings)


def of_cross(*columns: str, num_ids: int = 9) -> Cross:
    return Cross(columns=columns, num_ids=num_ids)


def plain(num_ids: int, **settings) -> IdFeature:
    return feature(None, num_ids, **settings)


def crossed(*features: IdFeature) -> IdFeature:
    return IdFeature(name="y", ids=FeatureCross(features=features, num_ids=9))


MANY = IdListFeature(name="z", ids=Identity(num_ids=4), weights="w")


def of_lists(*features: IdFeature | IdListFeature, max_length: int | None = None) -> IdListFeature:
    return IdListFeature(name="y", ids=FeatureCross(features=features, num_ids=9), max_length=max_length)


@pytest.mark.parametrize(
    ("known", "wanted", "right"),
    [
        (plain(9), plain(12), True),
        (plain(9, missing="row"), plain(12), False),
        (plain(9), plain(12).model_copy(update={"name": "z"}), False),
        (feature(Hash(num_ids=9)), feature(Hash(num_ids=9)), True),
        (feature(Hash(num_ids=9)), feature(Hash(num_ids=12)), False),
        (feature(Hash(num_ids=9)), feature(Hash(num_ids=9, seed=1)), False),
        (feature(Hash(num_ids=9)), plain(12), False),
        (plain(9), feature(Hash(num_ids=12)), False),
        (feature(Hash(num_ids=9)), feature(Vocabulary(path="v.parquet", size=11)), False),
        (feature(of_cross("a", "b")), feature(of_cross("a", "c")), False),
        (feature(of_cross("a", "b")), feature(of_cross("a", "b", num_ids=12)), False),
        (crossed(plain(9), plain(4)), crossed(plain(9), plain(4)), True),
        (crossed(plain(9), plain(4)), crossed(plain(12), plain(4)), False),
        (of_lists(plain(9), MANY), of_lists(plain(9), MANY, max_length=3), True),
        (of_lists(plain(9), MANY), crossed(plain(9), plain(4)), True),  # one id each: the same rows
        (of_lists(plain(9), MANY), of_lists(MANY, plain(9)), False),
    ],
    ids=str,
)
def test_only_ids_that_nothing_prepared_may_grow(known: IdFeature, wanted: IdFeature, right: bool) -> None:
    if right:
        check_same_rows(known, "/there", wanted, "/here")
        return
    with pytest.raises(UserError, match="would mean other rows") as error:
        check_same_rows(known, "/there", wanted, "/here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "settings", "right"),
    [
        (["a", "b", "c"], {}, True),
        (["b", "a", "c"], {}, False),
        (["a", "b", "c", "d"], {}, True),
        (["a", "b", "c", "d"], {"missing": "row"}, False),
        (["d", "a", "b", "c"], {}, False),
        (["a", "b"], {}, False),
        ([1, 2, 3], {}, False),
        (None, {}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "raw"])
def test_vocabularies_are_told_by_their_values(
    values: list | None, settings: dict, right: bool, prepared: bool, tmp_path: Path
) -> None:
    """By what is declared of them only where one is not there."""

    def read(size: int) -> IdFeature:
        made, missing = LETTERS.model_copy(update={"size": size}), len(settings)
        return feature(made, made.num_rows + missing) if prepared else IdFeature(name="x", ids=made, **settings)

    for folder, of in (("old", ["a", "b", "c"]), ("new", values)):
        (tmp_path / folder).mkdir()
        if of is not None:
            pq.write_table(pa.table({"value": of}), tmp_path / folder / LETTERS.path)
    known, wanted = read(3), read(3 if values is None else len(values))
    arguments = known, str(tmp_path / "old"), wanted, str(tmp_path / "new")
    if right:
        check_same_rows(*arguments)
        check_same_rows(crossed(known, known), arguments[1], crossed(known, known), arguments[1])
        if values == ["a", "b", "c", "d"]:
            with pytest.raises(UserError, match="would mean other rows"):
                check_same_rows(crossed(known, known), arguments[1], crossed(wanted, wanted), arguments[3])
    else:
        with pytest.raises(UserError, match=r"would mean other rows.*v\.parquet.*old, now .*new\)"):
            check_same_rows(*arguments)


def test_a_stage_on_data_that_were_prepared_otherwise(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", rows=300)
    for name, num_ids in (("fm", 301), ("fnn", 400)):
        user = IdFeature(name="user", ids=Identity(num_ids=num_ids, prepared=Hash(num_ids=num_ids)))
        Schema.model_validate(SCHEMA.model_dump() | {"features": (user, *SCHEMA.features[1:])}).save(
            tmp_path / f"{name}.yaml"
        )
    fm = {"name": "fm", "model": FM, "data": {"schema": str(tmp_path / "fm.yaml")}}
    fnn = {"name": "fnn", "model": FNN, "data": {"schema": str(tmp_path / "fnn.yaml")}}
    path = chain(tmp_path, "run", data, fm, fnn | {"init_from": [{"stage": "fm", **ALL_OF_AN_FM}]})
    with pytest.raises(UserError, match=r"ids of feature 'user' would mean other rows than before .*num_ids=400"):
        train_run(load(path), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_keeps_vocabularies_of_prepared_rows(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", rows=10)
    made = Identity(num_ids=301, prepared=Vocabulary(path="vocabularies/user.parquet", size=300))
    gone = Identity(num_ids=97, prepared=Vocabulary(path="vocabularies/item.parquet", size=96))
    others = tuple(f for f in SCHEMA.features if f.name not in ("user", "item"))
    features = (IdFeature(name="user", ids=made), IdFeature(name="item", ids=gone), *others)
    Schema.model_validate(SCHEMA.model_dump() | {"features": features}).save(data / "schema.yaml")
    (data / "vocabularies").mkdir()
    (data / "vocabularies/user.parquet").write_bytes(b"as it is")
    folder = RunFolder.create(load(run_file(tmp_path / "run.yaml", data)), resume=False)
    assert [path.name for path in (folder.path / "vocabularies").iterdir()] == ["user.parquet"]
    assert (folder.path / "vocabularies/user.parquet").read_bytes() == b"as it is"
