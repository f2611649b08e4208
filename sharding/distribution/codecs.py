"""Codecs make numbers smaller where vectors and their gradients go from rank to rank.

TorchRec calls them around its collectives. Its own, of FBGEMM, are not used: on gloo they put fp16 in bf16's place, and
they clamp what is too large for fp16, so that a run that diverges would go on with wrong numbers. TorchRec takes sums
over ranks in the smaller numbers; our own exchange takes them in fp32.
"""

from typing import Any

import torch
from torch import Tensor
from torchrec.distributed.types import CommOp, QuantizedCommCodec, QuantizedCommCodecs

from shardrec.sharding.planning.exchange import Exchange


class HalfCodec(QuantizedCommCodec[None]):
    """fp32 numbers go as numbers of two bytes, rounded to nearest."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def encode(self, input_tensor: Tensor, ctx: None = None) -> Tensor:
        """Returns what is sent."""
        return input_tensor.to(self._dtype)

    def decode(self, input_grad: Tensor, ctx: None = None) -> Tensor:
        """Returns what was received, in fp32."""
        return input_grad.float()

    @property
    def quantized_dtype(self) -> torch.dtype:
        """Returns the dtype of what is sent."""
        return self._dtype

    def calc_quantized_size(self, input_len: int, ctx: None = None) -> int:
        """Returns how many numbers are sent: as many as there are."""
        return input_len

    def create_context(self) -> None:
        """Returns nothing: encoding and decoding share no state."""

    def padded_size(
        self, input_tensor: Tensor, dim_per_rank: list[int], my_rank: int, qcomm_ctx: Any
    ) -> tuple[int, int]:
        """Returns the columns of what is sent, and of the padding among them: none."""
        return input_tensor.shape[-1], 0


VECTOR_NUMBERS: dict[Exchange, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
GRADIENT_NUMBERS: dict[Exchange, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.bfloat16}
"""What vectors and their gradients travel as; None: as they are."""


def codecs(exchange: Exchange) -> dict[str, QuantizedCommCodecs] | None:
    """Returns the codecs of all collectives of vectors, in TorchRec's form; None: numbers go as they are."""
    there, back = VECTOR_NUMBERS[exchange], GRADIENT_NUMBERS[exchange]
    if there is None or back is None:
        return None
    return {op.name: QuantizedCommCodecs(HalfCodec(there), HalfCodec(back)) for op in CommOp}
