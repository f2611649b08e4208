"""`trainer.precision: auto` is settled where a run begins: bf16 on chips that multiply it fast, else fp32."""

import time
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from shardrec.trainer.config.sections import RunConfig
from shardrec.trainer.launch.environment import Environment

FAST = 1.5
"""From which ratio of the rates on bf16 is taken.

Cores with units for bf16 multiply it at twice the rate of fp32 (AVX-512's) or more (AMX's), measured as 1.8 at least;
those without take longer than for fp32, 0.2 to 0.4. No chip is near the bound, so that a run's choice is no draw.
"""
_SHAPE = (512, 256, 256)  # rows, columns in, columns out
_ROUNDS = 16
_SECONDS = 0.3  # after which no round begins


def settled(config: RunConfig, environment: Environment, say: Callable[[str], None] = lambda line: None) -> RunConfig:
    """Returns the configuration with a precision in the place of `auto`. All workers call it alike.

    They take rank 0's, and where that is `auto`, bf16 if all of them are fast at it; then rank 0 says why.
    """
    precision = environment.broadcast(config.trainer.precision)
    if precision == "auto":
        ratio = min(environment.gather(bf16_to_fp32(environment.device)))
        precision = "bf16" if ratio >= FAST else "fp32"
        if environment.leads:
            say(f"shardrec: trainer.precision auto: {precision}, since {_reason(environment, ratio)}")
    return config.with_precision(precision)


def bf16_to_fp32(device: torch.device) -> float:
    """Returns how many times as fast as fp32 products, as the run makes them, bf16's are.

    On a CPU that is measured, of one thread by its own clock, which other programs leave alone; a GPU has units for
    bf16, which count as fast, or none.
    """
    if device.type == "cuda":
        return 2.0 if torch.cuda.is_bf16_supported(including_emulation=False) else 1.0  # of the current one
    rows, columns_in, columns_out = _SHAPE
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, columns_in, generator=generator) for n in (rows, columns_out))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _ratio((x, weight), (x.bfloat16(), weight.bfloat16()))
    finally:
        torch.set_num_threads(threads)


def _ratio(*factors: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Returns the first product's time in shares of the second's, each the least of rounds in turns."""
    least = [float("inf")] * len(factors)
    ends = time.perf_counter() + _SECONDS
    for turn in range(_ROUNDS):
        if turn > 1 and time.perf_counter() > ends:
            break
        for product, (x, weight) in enumerate(factors):
            began = time.thread_time()
            linear(x, weight)
            least[product] = min(least[product], time.thread_time() - began)
    first, second = least
    return first / second


def _reason(environment: Environment, ratio: float) -> str:
    workers = environment.world_size
    if environment.device.type == "cuda":
        who = "the GPU" if workers == 1 else "all GPUs" if ratio >= FAST else "a GPU"
        return f"{who} {'has' if workers == 1 or ratio < FAST else 'have'} {'' if ratio >= FAST else 'no '}units for it"
    where = "here" if workers == 1 else f"on the slowest of {workers} workers"
    return f"bf16 products take {1 / ratio:.2f} of the time of fp32's {where}"
