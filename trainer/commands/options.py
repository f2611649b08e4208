"""Options and arguments that several commands have, each declared once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="the run file", show_default=False)]
RunPath = Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="the folder of an earlier run", show_default=False)]
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
