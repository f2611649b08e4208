"""In a folder with files called as our layers are, a run on Ray imports ours, and a model of the user's own theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.trainer.small_run import run_file, write_data

MODEL = """
from models.taste import DIM
from shardrec import Fields, PointwiseConfig, PooledEmbeddings, Recommender


class Own(Recommender):
    def __init__(self, fields: Fields, config: PointwiseConfig) -> None:
        tables = fields.tables(embedding_dim=DIM)
        super().__init__(inputs={"field": PooledEmbeddings(tables)}, task=config.build_task(fields.schema))

    def forward(self, field):
        return field.sum((1, 2))
"""
BY_COMMAND = "import sys; from shardrec.trainer.cli import main; sys.argv = ['shardrec', 'train', 'run.yaml']; main()"
BY_IMPORT = """
import shardrec, signal
before = signal.getsignal(signal.SIGINT)
print(shardrec.train("run.yaml").world_size, signal.getsignal(signal.SIGINT) == before)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a user's own, with a run file beside what it is called like us."""
    home = tmp_path_factory.mktemp("own")
    write_data(home / "data", rows=600)
    for name in ("trainer.py", "sharding.py"):
        (home / name).write_text("raise ImportError('this is not shardrec')\n")
    for name in ("models", "data_pipeline"):
        (home / name).mkdir()
        (home / name / "__init__.py").touch()
    (home / "models/taste.py").write_text("DIM = 3\n")
    (home / "own.py").write_text(MODEL)
    launch = {"workers": 2, "threads": 1}
    path = run_file(home / "run.yaml", home / "data", launch=launch, trainer={"max_steps": 2, "epochs": 1})
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(content | {"model": "own:Own"}))
    return home


@pytest.mark.parametrize(("code", "printed"), [(BY_COMMAND, "on 2 worker(s)"), (BY_IMPORT, "2 True")])
def test_two_ray_workers(folder: Path, code: str, printed: str) -> None:
    """The working directory is first on sys.path, as for `python -m shardrec`; Ctrl-C is afterwards as it was."""
    content = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump(content | {"run": str(folder / f"run-{len(code)}")}))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert printed in ended.stdout
