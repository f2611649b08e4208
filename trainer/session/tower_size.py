"""A tower's size is found before its memory is taken, by making the model on torch's meta device, where nothing is."""

from collections.abc import Callable

import torch

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Recommender
from shardrec.sharding.planning.fit import PlanError
from shardrec.sharding.planning.topology import available_memory
from shardrec.trainer.config.sections import TowerOptimizer

_MOMENTS = {"sgd": 0, "adagrad": 1, "rmsprop": 1, "adam": 2}


def check_tower_size(make: Callable[[], Recommender], optimizer: TowerOptimizer) -> None:
    """Raises PlanError where the tower that `make` makes, its gradient and its optimizer's state fit no memory here.

    A model that cannot be made on the meta device, as one of a user's own may be, passes.
    """
    remedy = "choose smaller layers in `model`, or fewer features"
    try:
        with torch.device("meta"):
            model = make()
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "overflow" in str(error):  # of the bytes of one tensor
            raise PlanError(f"not enough memory: the tower would have a layer of more than 8 EiB; {remedy}") from None
        return
    count = sum(parameter.numel() for parameter in model.parameters())
    copies = 2 + _MOMENTS[optimizer.name] + optimizer.has_momentum
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) * copies
    size += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    memory = available_memory()
    if size > memory:
        raise PlanError(
            f"not enough memory: the tower would have {count:,} parameters, which take {readable(size)} with their "
            f"gradient and the state of {optimizer.name}, and this machine has {readable(memory)}; {remedy}"
        )
