"""A tower's size is found before its memory is taken, by making the model on torch's meta device, where nothing is."""

from collections.abc import Callable

import torch

from shardrec.data_pipeline.declared.sizes import readable
from shardrec.data_pipeline.errors import UserError
from shardrec.models.base import Recommender
from shardrec.sharding.planning.fit import PlanError
from shardrec.sharding.planning.topology import available_memory
from shardrec.trainer.config.sections import TowerOptimizer
from shardrec.trainer.session.parameter_optimizers import MOMENTS, optimizers_of


def check_tower_size(make: Callable[[], Recommender], optimizer: TowerOptimizer) -> None:
    """Raises PlanError where the tower that `make` makes, its gradient and its optimizer's state fit no memory here.

    Raises UserError where the optimizer names parameters that the tower has not. A model that cannot be made on the
    meta device, as one of a user's own may be, passes.
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
    parameters = dict(model.named_parameters())
    count = sum(parameter.numel() for parameter in parameters.values())
    optimizers = optimizers_of(parameters, optimizer)
    copies = {name: 2 + MOMENTS[its.name] + its.has_momentum for name, its in optimizers.items()}
    size = sum(p.numel() * p.element_size() * copies[name] for name, p in parameters.items())
    size += sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    memory, kinds = available_memory(), dict.fromkeys(its.name for its in optimizers.values())
    if size > memory:
        raise PlanError(
            f"not enough memory: the tower would have {count:,} parameters, which take {readable(size)} with their "
            f"gradient and the state of {' and '.join(kinds)}, and this machine has {readable(memory)}; {remedy}"
        )
