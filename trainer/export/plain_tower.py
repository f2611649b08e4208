"""Towers of rows without histories are exported as they are."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from shardrec.models.base import Recommender
from shardrec.models.inputs import DenseFeatures, PooledEmbeddings


class _Tower(nn.Module):
    def __init__(self, model: Recommender) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> Any:
        names = [n for n, i in self.model.inputs.items() if i.read == "always"]
        return self.model.task.prediction(self.model(**dict(zip(names, tensors, strict=True))))


def exported_tower(model: Recommender) -> Any:
    tower = _Tower(copy.deepcopy(model).cpu().float().eval())
    examples = []
    for declared in model.inputs.values():
        if declared.read != "always":
            continue
        if isinstance(declared, DenseFeatures):
            examples.append(torch.zeros(3, len(declared.features)))
        else:
            assert isinstance(declared, PooledEmbeddings)
            dims = [t.embedding_dim for t in declared.tables.values()]
            examples.append(torch.zeros(3, sum(dims)) if declared.concat else torch.zeros(3, len(dims), dims[0]))
    shapes = tuple({0: Dim("rows")} for _ in examples)
    with torch.no_grad():
        return torch.export.export(tower, tuple(examples), dynamic_shapes=(shapes,), strict=False)
