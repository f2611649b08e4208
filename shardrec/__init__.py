"""Trains recommenders whose ID tables outgrow a machine: `shardrec train RUN.yaml`, or from Python.

    import shardrec

    config = shardrec.load("run.yaml", ["trainer.epochs=3"])    # or a dictionary of the same form
    print(shardrec.plan(config))                                # where each table would live
    summary = shardrec.train(config)                            # on the workers that the run file names
    model = shardrec.open(summary.run_folder)                   # the best checkpoint, in this process
    scores = model.predict(frame)                               # a pandas frame, a pyarrow.Table or files
    found = shardrec.tune("run.yaml", trials=40)                # settings searched for, by validation rows

Models of one's own are made of `Recommender`, `Fields`, `PooledEmbeddings`, `SequenceEmbeddings`, `DenseFeatures`,
`ModelConfig` and `PointwiseConfig`. Nothing heavy is loaded until it is used.

- `__main__.py`: `python -m shardrec`, the same as `shardrec`
- `trainer/`, `sharding/`, `models/`, `data_pipeline/`: the four layers, as links to the folders beside this one
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardrec.data_pipeline.errors import UserError
    from shardrec.models.base import ModelConfig, PointwiseConfig, Recommender
    from shardrec.models.fields import Fields
    from shardrec.models.inputs import DenseFeatures, PooledEmbeddings, SequenceEmbeddings
    from shardrec.models.undefined import Undefined
    from shardrec.trainer.api.export import export
    from shardrec.trainer.api.load import load
    from shardrec.trainer.api.plan import Machines, plan
    from shardrec.trainer.api.report import report
    from shardrec.trainer.api.summary import Summary
    from shardrec.trainer.api.train import train
    from shardrec.trainer.api.trained_model import TrainedModel, open
    from shardrec.trainer.api.tune import Tuning, tune
    from shardrec.trainer.checkpoints.calibration import Calibration
    from shardrec.trainer.config.sections import RunConfig
    from shardrec.trainer.export.loader import Bundle, RowError
    from shardrec.trainer.scoring.curves import Curves

__version__ = "0.1.0"

_HOMES = {
    "load": "trainer.api.load",
    "train": "trainer.api.train",
    "open": "trainer.api.trained_model",
    "plan": "trainer.api.plan",
    "export": "trainer.api.export",
    "Bundle": "trainer.export.loader",
    "RowError": "trainer.export.loader",
    "tune": "trainer.api.tune",
    "Tuning": "trainer.api.tune",
    "Machines": "trainer.api.plan",
    "report": "trainer.api.report",
    "RunConfig": "trainer.config.sections",
    "Calibration": "trainer.checkpoints.calibration",
    "Curves": "trainer.scoring.curves",
    "Summary": "trainer.api.summary",
    "TrainedModel": "trainer.api.trained_model",
    "Recommender": "models.base",
    "ModelConfig": "models.base",
    "PointwiseConfig": "models.base",
    "Fields": "models.fields",
    "PooledEmbeddings": "models.inputs",
    "SequenceEmbeddings": "models.inputs",
    "DenseFeatures": "models.inputs",
    "Undefined": "models.undefined",
    "UserError": "data_pipeline.errors",
}
"""Where each name is at home, so that importing one loads no other."""

__all__ = [
    "Bundle",
    "Calibration",
    "Curves",
    "DenseFeatures",
    "Fields",
    "Machines",
    "ModelConfig",
    "PointwiseConfig",
    "PooledEmbeddings",
    "Recommender",
    "RowError",
    "RunConfig",
    "SequenceEmbeddings",
    "Summary",
    "TrainedModel",
    "Tuning",
    "Undefined",
    "UserError",
    "export",
    "load",
    "open",
    "plan",
    "report",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'shardrec' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"shardrec.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
