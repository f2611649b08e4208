"""What an exported bundle holds, and what its check found, in a few lines."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def lines(manifest: Mapping[str, Any], out: Path) -> Iterator[str]:
    """Yields what `shardrec export` prints, by a bundle's `bundle.json`."""
    run, tables, check = manifest["run"], manifest["tables"].values(), manifest["check"]
    rows, kinds = sum(table["rows"] for table in tables), sorted({table["dtype"] for table in tables})
    size = f"{len(tables)} tables with {rows:,} rows as {', '.join(kinds)}"
    yield f"model {run['model']}, step {run['step']}, {size} -> {out}"
    yield f"programs: {', '.join(program['file'] for program in manifest['programs'].values())}"
    if "onnx_difference" in manifest:
        yield f"tower.onnx: predicts within {manifest['onnx_difference']:.2g} of torch, on drawn inputs"
    if "catalogue" in manifest:
        yield f"retrieves: {manifest['catalogue']['items']:,} items of {manifest['catalogue']['dim']} columns"
        yield from _left_out(manifest["catalogue"]["unnamed"])
    if manifest.get("lists_left_out"):
        yield f"makes no lists of items, which need the items: {manifest['no_shared_space']}"
    if not check["rows"]:
        yield f"not checked: {check['why']}"
        return
    found = f"differ from the trained model's by {check['largest_difference']:.2g} at most (bound {check['bound']:g})"
    yield f"checked: scores of {check['rows']:,} {check['split']} rows {found}"
    if "auc" in check:
        yield f"auc of these rows: {check['auc']:.5f}, of the trained model {check['trained_auc']:.5f}"


def _left_out(unnamed: Mapping[str, int]) -> Iterator[str]:
    """Yields a line for each reason for which items are in no list."""
    if count := unnamed["trained"]:
        yield f"left out of lists: {count:,} number(s) of training rows whose items the vocabulary lacks"
    if count := unnamed["new"]:
        yield (
            f"left out of lists: {count:,} item(s) of data.catalogue whose numbers are not the vocabulary's, so that "
            "nothing tells what they are called; train with data.catalogue.raw: true and items as before preparation"
        )
