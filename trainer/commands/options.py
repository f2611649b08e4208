"""Options and arguments that several commands have, each declared once."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="the run file", show_default=False)]


def run_path(text: str) -> Path:
    """Returns a path as it is, and of the URI of a run in a store its mirror on this machine."""
    if "://" not in text:
        return Path(text)
    from shardrec.data_pipeline.stores.mirrors import local  # loads pyarrow

    return local(text)


RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_FOLDER", help="the folder or URI of an earlier run", show_default=False, parser=run_path
    ),
]
Variant = Annotated[
    str | None, typer.Option(metavar="NAME", help="one of the run file's variants, or the name of a model")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="override a key of the run file")]
LaunchOverrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="of the launch, such as launch.threads=1")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress bar")]
AsJson = Annotated[bool, typer.Option("--json", help="print one line of JSON, with all numbers")]
BestStep = Annotated[int | None, typer.Option("--step", help="which checkpoint; default: the best, else the last")]
NewestStep = Annotated[int | None, typer.Option("--step", help="which checkpoint; default: the newest")]
Trust = Annotated[
    bool, typer.Option("--trust", help="import the model's code and use the Ray cluster that the run folder names")
]
RowKind = Annotated[
    Literal["int8"] | None,
    typer.Option(help="hold tables' rows as int8, where that is smaller; default: as trained, with optimizer state"),
]


@dataclass(frozen=True)
class Chosen:
    """What commands on a trained run have in common: its checkpoint, how tables are held, its launch, whom to trust."""

    step: int | None
    rows: Literal["int8"] | None
    overrides: tuple[str, ...]
    trust: bool
    quiet: bool

    @property
    def arguments(self) -> dict[str, Any]:
        """Returns what the functions behind the commands take of it, by their names for it."""
        return {"step": self.step, "overrides": self.overrides, "rows": self.rows, "quiet": self.quiet}

    def started_early(self, run_folder: Path, module: str) -> AbstractContextManager[None]:
        """Starts what the run's workers will need, as `started_early` does."""
        from shardrec.trainer.config.model_settings import check_models
        from shardrec.trainer.config.trust import trust_folders
        from shardrec.trainer.launch.early_start import started_early
        from shardrec.trainer.run_folder.folder import RunFolder

        if self.trust:
            trust_folders(run_folder)
        config = RunFolder.open(run_folder).config(self.overrides)
        return started_early([config.launch], module, partial(check_models, [config]))


def _chosen(
    step: BestStep = None,
    rows: RowKind = None,
    overrides: Overrides = None,
    trust: Trust = False,
    quiet: Quiet = False,
) -> Chosen:
    return Chosen(step, rows, tuple(overrides or ()), trust, quiet)


def of_a_run(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command whose parameter `chosen` is told by options, the last ones that it has."""
    own, shared = inspect.signature(command), inspect.signature(_chosen).parameters

    @wraps(command)
    def called(**given: Any) -> None:
        chosen = _chosen(**{name: given.pop(name) for name in shared})
        command(**given, chosen=chosen)

    parameters = [*(p for name, p in own.parameters.items() if name != "chosen"), *shared.values()]
    called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
    return called
