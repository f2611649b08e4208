"""The commands of `shardrec prepare` share their options, how shares are written, and what is printed."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shardrec.data_pipeline.declared.comma_lists import numbers_in
from shardrec.data_pipeline.errors import UserError, shortened
from shardrec.data_pipeline.prepare.steps.option_values import FILE_ROWS, ROW_GROUP_ROWS

if TYPE_CHECKING:
    from shardrec.data_pipeline.prepare.steps.preparation import Report
    from shardrec.data_pipeline.prepare.steps.text import TextFormat
    from shardrec.data_pipeline.prepare.steps.writer import Split

SourcePath = Annotated[Path, typer.Argument(help="Input file, folder, or quoted glob; plain or gzip.")]
FolderPath = Annotated[Path, typer.Argument(help="Folder with the data set's files, plain or gzip.")]
Out = Annotated[Path, typer.Argument(help="Folder to make: train/, validation/, test/, vocabularies/, schema.yaml.")]
Validation = Annotated[list[Path] | None, typer.Option(help="File, folder or glob that is the validation split.")]
Test = Annotated[list[Path] | None, typer.Option(help="File, folder or glob that is the test split.")]
Fractions = Annotated[
    str | None,
    typer.Option(
        help="Shares of train,validation,test in SOURCE. Default 0.8,0.1,0.1; all train where --validation or --test "
        "files are given."
    ),
]
MOST = 2**31 - 1
"""The largest number of rows, of a history, or of what is drawn for each row."""

MinCount = Annotated[int, typer.Option(min=1, max=2**62, help="Values rarer than this in training rows share row 0.")]
HashIds = Annotated[
    int | None, typer.Option("--hash", min=1, max=2**62, help="Hash each field to so many rows, no vocabulary.")
]
NegativeRate = Annotated[float, typer.Option(min=0, max=1, help="Share of the training negatives that is kept.")]
Seed = Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Of splits and of negatives, sampled or left out.")]
Workers = Annotated[int, typer.Option(min=1, help="Input files read at a time, through a local Ray if more than 1.")]
NoValidation = Annotated[bool, typer.Option("--no-validation", help="Keep those rows for training.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace prepared data in OUT.")]
RowGroupRows = Annotated[int, typer.Option(min=1, max=MOST, help="Rows per Parquet row group.")]
FileRows = Annotated[int, typer.Option(min=1, max=2**62, help="Most rows per Parquet file.")]


Command = Callable[..., None]


def writes(*, workers: bool = False, row_group_rows: int = ROW_GROUP_ROWS) -> Callable[[Command], Command]:
    """Returns what makes a command whose parameter `output`, an `Output`, is told by an argument and the last options.

    workers: whether files are read side by side. row_group_rows: its default.
    """

    def told(
        out: Out,
        workers: Workers = 1,
        overwrite: Overwrite = False,
        row_group_rows: RowGroupRows = row_group_rows,
        file_rows: FileRows = FILE_ROWS,
    ) -> Any:
        from shardrec.data_pipeline.prepare.steps.preparation import Output

        return Output(out, overwrite, workers, row_group_rows, file_rows)

    def made(command: Command) -> Command:
        own, shared = inspect.signature(command), dict(inspect.signature(told).parameters)
        if not workers:
            del shared["workers"]

        @wraps(command)
        def called(**given: Any) -> None:
            output = told(**{name: given.pop(name) for name in shared})
            command(**given, output=output)

        out = shared["out"]
        parameters = [out if name == "output" else p for name, p in own.parameters.items()]
        parameters += [p for p in shared.values() if p is not out]
        called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return called

    return made


def shares(text: str | None) -> "dict[Split, float] | None":
    """Returns split -> share for `0.8,0.1,0.1`. Raises UserError for anything else."""
    from shardrec.data_pipeline.prepare.steps.writer import SPLITS

    if text is None:
        return None
    try:
        fractions = numbers_in(text, float)
    except ValueError:
        fractions = []
    shared_out = all(0 <= f <= 1 for f in fractions) and abs(sum(fractions) - 1) <= 1e-6
    if len(fractions) != 3 or fractions[0] == 0 or not shared_out:
        raise UserError(
            f"--fractions: found {shortened(text)!r}, expected train,validation,test summing to 1, such as 0.8,0.1,0.1"
        )
    return dict(zip(SPLITS, fractions, strict=True))


def text_format(delimiter: str, columns: str | None) -> "TextFormat":
    """Returns how a delimited file is written; columns: `user,item`, of one without a header line.

    Raises UserError for a delimiter that cannot be one.
    """
    from pydantic import ValidationError

    from shardrec.data_pipeline.declared.declaration import first_problem
    from shardrec.data_pipeline.prepare.steps.text import TextFormat

    try:
        return TextFormat(
            delimiter=delimiter.replace("\\t", "\t"),
            header=columns is None,
            columns=tuple(columns.split(",")) if columns else None,
        )
    except ValidationError as error:
        raise UserError(f"--delimiter: {first_problem(error)}") from None


def progress(line: str) -> None:
    """Prints how far a preparation is."""
    typer.echo(line, err=True)


def show(report: "Report") -> None:
    """Prints the summary of a finished preparation."""
    typer.echo(str(report))
