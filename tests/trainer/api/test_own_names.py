"""In a folder with files called as our layers are, a run on Ray imports ours, and a model of the user's own theirs.

By the command this is tested where a run on Ray is killed, in `training/test_resume.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests import ROOT
from tests.trainer.small_run import run_file, write_data, write_names_of_layers

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
BY_IMPORT = """
import shardrec, signal
before = signal.getsignal(signal.SIGINT)
print(shardrec.train("run.yaml").world_size, signal.getsignal(signal.SIGINT) == before)
"""


def test_a_ray_worker(tmp_path: Path) -> None:
    """The working directory is first on sys.path; Ctrl-C is afterwards as it was."""
    write_names_of_layers(tmp_path)
    (tmp_path / "models/taste.py").write_text("DIM = 3\n")
    (tmp_path / "own.py").write_text(MODEL)
    launch = {"workers": 1, "backend": "ray", "threads": 1}
    data = write_data(tmp_path / "data", rows=600)
    path = run_file(tmp_path / "run.yaml", data, launch=launch, trainer={"max_steps": 2, "epochs": 1})
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": "own:Own"}))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BY_IMPORT]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "1 True" in ended.stdout
