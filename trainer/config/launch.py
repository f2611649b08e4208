"""`launch:` of a run file says where a run's workers run, and what its plans know of them."""

from typing import Any, Literal

from pydantic import Field, field_validator

from shardrec.data_pipeline.declared.declaration import Place
from shardrec.data_pipeline.declared.sizes import parse_bytes
from shardrec.trainer.config.resources import WorkerResources
from shardrec.trainer.config.section import Section
from shardrec.trainer.config.worker_counts import WorkerCounts


class Rates(Section):
    """A worker's rates are in bytes/s; None is what is usual for its device."""

    row_bandwidth: float | None = Field(default=None, gt=0, description="reading rows of tables")
    local_bandwidth: float | None = Field(default=None, gt=0, description="to the workers of its machine")
    host_bandwidth: float | None = Field(default=None, gt=0, description="to other machines")
    latency: float | None = Field(default=None, gt=0, description="seconds that an exchange takes at least")
    bus_bandwidth: float | None = Field(default=None, gt=0, description="of a GPU reading rows in host memory")


class LaunchConfig(Section):
    """Says where a run's workers run. `workers: null` is one a GPU, or one process with all cores without GPUs.

    Two numbers are the fewest and the most, on a Ray cluster that may shrink and grow meanwhile.
    """

    workers: WorkerCounts | None = None
    backend: Literal["auto", "in_process", "ray"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(
        default=None, gt=0, le=4096, description="of each worker; default: cores / workers of a machine"
    )
    address: Place | None = Field(default=None, description="of a Ray cluster; default: RAY_ADDRESS, else a local Ray")
    timeout: float = Field(default=120.0, gt=0, le=30 * 86_400, description="seconds that a collective may take")
    start_timeout: float = Field(
        default=600.0, gt=0, le=30 * 86_400, description="seconds that workers wait for room on a Ray cluster"
    )
    retries: int = Field(
        default=2, ge=0, lt=2**31, description="times in a row that Ray restarts the workers from one checkpoint"
    )
    resize_interval: float = Field(
        default=60.0, gt=0, le=30 * 86_400, description="seconds between looks for room for more workers"
    )
    memory: int | None = Field(
        default=None, gt=0, lt=2**63, description="bytes for tables on one machine; default: measured"
    )
    resources: WorkerResources = Field(default=WorkerResources(), description="what each worker asks Ray for")
    rates: Rates = Field(default=Rates(), description="what plans weigh placements by, as `bench sharding` measures it")

    @property
    def is_elastic(self) -> bool:
        """Returns whether the number of workers may change while the run lasts."""
        return self.fewest_workers != self.most_workers

    @property
    def fewest_workers(self) -> int | None:
        """Returns the fewest workers that the run file allows; None where it says nothing."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most_workers(self) -> int | None:
        """Returns the most workers that the run file allows; None where it says nothing."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        return parse_bytes(value)
