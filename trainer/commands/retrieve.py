"""`shardrec retrieve` and `vectors`: items for users and like an item, and what these are found by."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from shardrec.trainer.commands.options import Chosen, RunPath, of_a_run

Data = Annotated[list[str] | None, typer.Option(help="files of rows of users' features, histories, contexts")]
Users = Annotated[
    list[str] | None, typer.Option(metavar="ID,ID", help="users, by the last row that the run has of each; *: all")
]
Similar = Annotated[list[str] | None, typer.Option(metavar="ID,ID", help="items, to each of which others are alike")]
Raw = Annotated[
    bool, typer.Option("--raw", help="rows of files are as they were before preparation, with ids as people call them")
]
Index = Annotated[
    Literal["exact", "approximate", "hnsw", "ivf"],
    typer.Option(help="approximate (needs faiss): a graph up to a million items, an inverted file beyond"),
]


@of_a_run
def retrieve(
    run_folder: RunPath,
    chosen: Chosen,
    out: Annotated[Path, typer.Option(help="a new folder for the lists, as Parquet", show_default=False)],
    data: Data = None,
    users: Users = None,
    similar: Similar = None,
    n: Annotated[int, typer.Option("--n", help="items a list")] = 10,
    seen: Annotated[
        list[str] | None, typer.Option(help="leave out the user's items of `train`, or of files of users and items")
    ] = None,
    index: Index = "exact",
    index_set: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="m, ef_construction, ef_search of hnsw; lists, probes of ivf"),
    ] = None,
    raw: Raw = False,
    keys: Annotated[list[str] | None, typer.Option(help="columns of --data to keep; default: the user's")] = None,
) -> None:
    """Makes a list of the best items for each user, or of the items like an item, out of the whole catalogue."""
    from shardrec.data_pipeline.declared.comma_lists import names_in

    with chosen.started_early(run_folder, "shardrec.trainer.retrieval.retrieve"):
        from shardrec.trainer.retrieval.index_settings import IndexSettings
        from shardrec.trainer.retrieval.requests import Request
        from shardrec.trainer.retrieval.retrieve import retrieve_rows

        settings = IndexSettings.parse(tuple(index_set or ()))
        request = Request(n, tuple(seen or ()), index, settings, tuple(keys or ()), raw, raw)
        asked, alike = (tuple(name for text in given or () for name in names_in(text)) for given in (users, similar))
        result = retrieve_rows(
            run_folder, out, request, data=tuple(data or ()), users=asked, similar=alike, **chosen.arguments
        )  # fmt: skip
    if result["recall"]:
        typer.echo(result["recall"])
    typer.echo(
        f"{result['queries']} lists out of {result['items']} items, {result['rows']} rows in all, by step "
        f"{result['step']} -> {out}"
    )


@of_a_run
def vectors(
    run_folder: RunPath,
    chosen: Chosen,
    out: Annotated[Path, typer.Option(help="a new folder for items/ and users/, as Parquet", show_default=False)],
    data: Data = None,
    users: Users = None,
    raw: Raw = False,
) -> None:
    """Writes the vectors of all items, and of users, whose dot products rank items as the model does."""
    from shardrec.data_pipeline.declared.comma_lists import names_in
    from shardrec.data_pipeline.errors import UserError

    if data and users:
        raise UserError("vectors: name one of --data ROWS and --users IDS")
    with chosen.started_early(run_folder, "shardrec.trainer.retrieval.write_vectors"):
        from shardrec.trainer.retrieval.write_vectors import write_vectors

        asked = tuple(name for text in users or ("*",) for name in names_in(text))
        result = write_vectors(run_folder, out, data=tuple(data or ()), users=asked, raw=raw, **chosen.arguments)
    typer.echo(
        f"{result['items']} items and {result['users']} users, vectors of {result['dim']}, by step {result['step']} "
        f"-> {out}"
    )
