"""`launch.resources` of a run file says what each of a run's workers asks Ray for, and how they lie on its machines."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from shardrec.data_pipeline.declared.declaration import Name
from shardrec.data_pipeline.declared.sizes import parse_bytes

Amount = Annotated[float, Field(gt=0, le=1 << 20)]
RAYS_OWN = frozenset({"CPU", "GPU", "TPU", "memory", "object_store_memory"})


class WorkerResources(BaseModel):
    """Says what each worker asks Ray for. Where no Ray runs the workers, nobody is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus: Amount | None = Field(default=None, description="of each worker; default: 1, with device cuda 0")
    gpus: int | None = Field(default=None, gt=0, le=1024, description="of each worker; default: 1 with device cuda")
    memory: int | None = Field(default=None, gt=0, lt=2**63, description="bytes that Ray sets aside for each worker")
    custom: dict[Name, Amount] = Field(default={}, description="resources that nodes were started with, by name")
    strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        default="PACK", description="few machines, or many; strictly: one machine, or as many as workers"
    )

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: Any) -> Any:
        return parse_bytes(value)

    @field_validator("custom")
    @classmethod
    def _not_rays_own(cls, custom: dict[str, float]) -> dict[str, float]:
        if own := sorted(RAYS_OWN & custom.keys()):
            raise ValueError(f"{own[0]} is a resource of Ray's own; set it by cpus, gpus or memory")
        if parts := sorted(name for name, amount in custom.items() if amount > 1 and amount % 1):
            raise ValueError(f"{custom[parts[0]]:g} of {parts[0]}: above 1, Ray deals in whole numbers")
        return custom

    @field_validator("cpus")
    @classmethod
    def _whole(cls, cpus: float | None) -> float | None:
        if cpus and cpus > 1 and cpus % 1:
            raise ValueError(f"found {cpus:g}: above 1, Ray deals in whole numbers")
        return cpus

    def of_worker(self, *, use_gpu: bool) -> dict[str, float]:
        """Returns what a worker asks for, by Ray's names. Raises ValueError for GPUs that it would not compute on."""
        if self.gpus is not None and not use_gpu:
            raise ValueError(f"gpus: {self.gpus}, but device is cpu; leave gpus out, or set launch.device to cuda")
        cpus = self.cpus or (0.0 if use_gpu else 1.0)
        gpus = float(self.gpus or 1) if use_gpu else 0.0
        found = {"CPU": cpus, "GPU": gpus, "memory": float(self.memory or 0)} | self.custom
        return {name: amount for name, amount in found.items() if amount}
