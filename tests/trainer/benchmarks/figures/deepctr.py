"""DeepCTR-Torch's models on prepared data: the training step alone, and end to end as its documentation trains.

Its environment holds `torch deepctr-torch pyarrow pyyaml requests`. Models have what ours have: dim 16, an MLP of
400-400-400, three cross layers, attention of 64-16; neither L2 nor dropout; Adam, fp32. The last line is JSON:

    python tests/trainer/benchmarks/figures/deepctr.py DATA --model deepfm
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

DIM, MLP, ATTENTION, LONGEST = 16, (400, 400, 400), (64, 16), 50
HISTORIES = {"item": "item_history", "category": "category_history"}
MODELS = ("lr", "fm", "deepfm", "dcn", "wide_deep", "ipnn", "afm", "din", "dien")


def build(model: str, num_ids: dict[str, int], dense: list[str]) -> Any:
    """Returns a compiled model of so many ids by feature."""
    from deepctr_torch import models
    from deepctr_torch.inputs import DenseFeat, SparseFeat, VarLenSparseFeat

    columns = [SparseFeat(n, ids, DIM) for n, ids in num_ids.items()] + [DenseFeat(n, 1) for n in dense]
    common: dict[str, Any] = {"l2_reg_embedding": 0.0, "device": "cpu"}
    linear = {**common, "l2_reg_linear": 0.0}
    deep = {"dnn_hidden_units": MLP}
    if model in ("din", "dien"):  # ids of histories begin at 1: 0 is padding
        columns = [SparseFeat(n, ids + 1, DIM) for n, ids in num_ids.items()]
        for name in num_ids:
            of_item = SparseFeat(f"hist_{name}", num_ids[name] + 1, DIM, embedding_name=name)
            columns.append(VarLenSparseFeat(of_item, LONGEST, length_name="length"))
    match model:
        case "lr":
            made = models.DeepFM(columns, [], use_fm=False, dnn_hidden_units=(), **linear)
        case "fm":
            made = models.DeepFM(columns, columns, dnn_hidden_units=(), **linear)
        case "deepfm":
            made = models.DeepFM(columns, columns, **deep, **linear)
        case "dcn":
            made = models.DCN(columns, columns, cross_num=3, l2_reg_cross=0.0, **deep, **linear)
        case "wide_deep":
            made = models.WDL(columns, columns, **deep, **linear)
        case "ipnn":
            made = models.PNN(columns, **deep, **common)
        case "afm":
            made = models.AFM(columns, columns[: len(num_ids)], attention_factor=16, l2_reg_att=0.0, **linear)
        case "din":
            made = models.DIN(
                columns, list(num_ids), att_hidden_size=ATTENTION, att_activation="Dice", **deep, **common
            )
        case "dien":
            made = models.DIEN(columns, list(num_ids), gru_type="AUGRU", att_hidden_units=ATTENTION, **deep, **common)
    made.compile("adam", "binary_crossentropy", metrics=[])
    return made


def read(data: Path, num_ids: dict[str, int], dense: list[str], histories: bool) -> tuple[dict[str, Any], Any]:
    """Returns the training rows as `fit` takes them; histories are padded."""
    import numpy as np
    import pyarrow.parquet as pq

    lists = list(HISTORIES.values()) if histories else []
    table = pq.read_table(data / "train", columns=[*num_ids, *dense, *lists, "label"])
    columns = {n: table[n].to_numpy() for n in (*num_ids, *dense)}
    if histories:
        columns = {n: c + 1 for n, c in columns.items()}
        for name, history in HISTORIES.items():
            ragged = table[history].combine_chunks()
            lengths = ragged.value_lengths().to_numpy()
            padded = np.zeros((len(table), LONGEST), np.int32)
            padded[np.arange(LONGEST) < lengths[:, None]] = ragged.flatten().to_numpy() + 1
            columns[f"hist_{name}"], columns["length"] = padded, lengths
    return columns, table["label"].to_numpy().astype("float32")


def timed_steps(model: Any, columns: dict[str, Any], labels: Any, batch: int, seconds: float) -> float:
    """Returns the median seconds of the body of `fit`'s loop, on ready tensors."""
    import numpy as np
    import torch

    names = [c if c.ndim > 1 else c[:, None] for c in (columns[f] for f in model.feature_index)]
    rows = min(len(labels), 16 * batch) // batch * batch
    inputs = torch.from_numpy(np.concatenate([c[:rows] for c in names], -1)).float().split(batch)
    targets = torch.from_numpy(labels[:rows]).split(batch)
    model.train()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 8 or time.perf_counter() - began < seconds:
        at = time.perf_counter()
        predicted = model(inputs[len(taken) % len(inputs)]).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, targets[len(taken) % len(inputs)], reduction="sum")
        total = loss + model.get_regularization_loss() + model.aux_loss
        loss.item(), total.item()
        total.backward()
        model.optim.step()
        taken.append(time.perf_counter() - at)
    return statistics.median(taken[4:])  # memory is still being taken from the system in the first ones


def fitted_rate(model: Any, columns: dict[str, Any], labels: Any, batch: int, steps: int) -> float:
    """Returns the seconds a step of `fit` on arrays in memory, after the first."""
    stamps: list[float] = []
    inner = model.optim.step

    def stepped(*arguments: Any, **settings: Any) -> Any:
        result = inner(*arguments, **settings)
        stamps.append(time.perf_counter())
        return result

    model.optim.step = stepped
    rows = steps * batch
    model.fit({n: c[:rows] for n, c in columns.items()}, labels[:rows], batch_size=batch, epochs=1, verbose=0)
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def peak_bytes() -> int:
    """Returns the largest resident size that this process has had."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def main() -> None:
    """Measures one model and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="a folder made by `shardrec prepare`")
    parser.add_argument("--model", choices=MODELS, default="deepfm")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0, help="that steps in memory are timed for")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(given.threads))
    import torch
    import yaml

    torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    features = yaml.safe_load((given.data / "schema.yaml").read_text())["features"]
    num_ids = {f["name"]: f["ids"]["num_ids"] for f in features if f["kind"] == "id"}
    dense = [f["name"] for f in features if f["kind"] == "dense"]
    with contextlib.redirect_stdout(io.StringIO()):
        model = build(given.model, num_ids, dense)
        began = time.perf_counter()
        columns, labels = read(given.data, num_ids, dense, given.model in ("din", "dien"))
        reading = time.perf_counter() - began
        step = timed_steps(model, columns, labels, given.batch, given.seconds)
        fit = fitted_rate(model, columns, labels, given.batch, max(4, min(20, int(given.seconds / step))))
    figures = {
        "model": given.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_milliseconds": 1e3 * step,
        "step_samples_per_second": given.batch / step,
        "end_to_end_samples_per_second": 1 / (reading / len(labels) + fit / given.batch),
        "peak_memory_bytes": peak_bytes(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
