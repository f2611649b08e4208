"""`trainer.tracking` of a run file says which experiment trackers get what a run records."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shardrec.data_pipeline.declared.declaration import Name

TRACKERS = ("mlflow", "wandb")


class _Tracker(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name | None = Field(default=None, description="of the run; default: its folder's")


class MlflowTracking(_Tracker):
    """Says where MLflow keeps a run."""

    uri: Name | None = Field(default=None, description="default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here")
    experiment: Name | None = Field(default=None, description="default: MLFLOW_EXPERIMENT_NAME, else shardrec")


class WandbTracking(_Tracker):
    """Says where Weights & Biases keeps a run."""

    project: Name | None = Field(default=None, description="default: WANDB_PROJECT, else shardrec")
    entity: Name | None = Field(default=None, description="default: WANDB_ENTITY, else the account's own")
    mode: Literal["online", "offline"] | None = Field(default=None, description="default: WANDB_MODE, else online")


class TrackingConfig(BaseModel):
    """Names the trackers that a run has: one name, a list of names, or a mapping of names to settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mlflow: MlflowTracking | None = None
    wandb: WandbTracking | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Takes names alone for trackers with default settings; a name that is none is an unknown key."""
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return {name: {} for name in names}
        return value

    @property
    def trackers(self) -> dict[str, dict[str, Any]]:
        """Returns the settings of each tracker that is asked for."""
        found: Mapping[str, _Tracker | None] = {name: getattr(self, name) for name in TRACKERS}
        return {name: settings.model_dump() for name, settings in found.items() if settings is not None}
