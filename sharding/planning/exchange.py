"""An exchange carries vectors from rank to rank, and their gradients back, as numbers of one kind."""

from typing import Literal

Exchange = Literal["fp32", "bf16", "fp16"]
"""`fp16`: vectors alone; their gradients, whose small numbers fp16 lacks, go back as bf16."""

EXCHANGED_BYTES: dict[Exchange, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number on its way."""
