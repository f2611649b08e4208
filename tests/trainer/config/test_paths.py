"""Every path of a run file is one of the folder where the command runs, wherever workers and later commands run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardrec.trainer.config.load import load
from shardrec.trainer.config.paths import absolute, located
from shardrec.trainer.config.stages import resolve_stages

DATA = {
    "path": "here/data",
    "schema": "here/schema.yaml",
    "train": ["here/a", "here/b/*.parquet"],
    "validation": "here/v",
    "test": "s3://bucket/here",
    "negatives": {"items": "here/items.parquet"},
}
RUN = {"run": "here/run", "import_from": "here/models", "model": "fm"}


def texts(document: Any) -> Iterator[str]:
    """All values of a document that are text."""
    if isinstance(document, dict):
        document = list(document.values())
    if isinstance(document, list | tuple):
        for value in document:
            yield from texts(value)
    elif isinstance(document, str):
        yield document


@pytest.mark.parametrize("source", ["here/first", {"run": "here/first"}, [{"run": "here/first"}]], ids=str)
def test_all_paths_of_a_run_file_are_absolute(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = [{"name": "a", "data": DATA}, {"name": "b", "init_from": source}]
    for document in (RUN | {"data": DATA, "init_from": source}, RUN | {"data": DATA, "stages": stages}):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
        config = load("run.yaml")
        for one in (config, *resolve_stages(config).values()):
            paths = [text for text in texts(yaml.safe_load(one.dump())) if "here" in text]
            assert len(paths) > len(DATA)
            assert {path for path in paths if not path.startswith(f"{tmp_path}/here")} == {"s3://bucket/here"}


def test_a_configuration_that_was_changed_in_python_is_located_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | {"data": {"path": "here/data"}}))
    changed = load("run.yaml").model_copy(update={"run": "there"})
    assert located(changed).run == str(tmp_path / "there")
    assert located(located(changed)) == located(changed)
    assert absolute(("a", "file:///b")) == (str(tmp_path / "a"), "file:///b")
