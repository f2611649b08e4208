"""The kernels of layers are a library."""

from pathlib import Path

from shardrec.models.kernels.sources import KernelSources

TOWERS = KernelSources(
    "towers",
    Path(__file__).parent,
    "compute what lies between a tower's products",
    "towers are computed by torch operations alone",
    fused=True,
)
