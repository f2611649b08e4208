"""A checkpoint with a moved tower: what differs from the one that it came from, and that training starts from it."""

from pathlib import Path

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.trainer.checkpoints.contents import checkpoint_contents
from shardrec.trainer.checkpoints.moved_tower import save_moved_tower
from shardrec.trainer.checkpoints.saved_model import SavedModel
from shardrec.trainer.checkpoints.tower_file import model_tensors, saved_tower
from shardrec.trainer.run_folder.folder import RunFolder
from tests.trainer.recorded import tower, train, whole_tables
from tests.trainer.small_run import run_file, write_data

SHORT = {"epochs": 1, "max_steps": 3, "tensorboard": False, "evaluation": {"every_epochs": None}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("moved")
    path = run_file(folder / "run.yaml", write_data(folder / "data", rows=800), trainer=SHORT)
    train(path)
    return RunFolder.open(path.with_suffix(""))


def parameters(saved: SavedModel) -> dict[str, torch.Tensor]:
    return model_tensors(saved_tower(saved.path, saved.content))


def a_weight(saved: SavedModel) -> tuple[str, torch.Tensor]:
    return max(parameters(saved).items(), key=lambda item: item[1].numel())


def test_all_else_is_as_it_was_and_the_next_run_starts_from_it(run: RunFolder, tmp_path: Path) -> None:
    saved = SavedModel.of(run)
    name, before = a_weight(saved)
    at = save_moved_tower(run, saved, {name: before + 0.25}, saved.step + 2)
    assert run.steps() == [saved.step, saved.step + 2]
    assert checkpoint_contents(at)["step"] == saved.step + 2  # every byte is checked
    there, here = whole_tables(saved.path), whole_tables(at)
    assert all(torch.equal(there[t][n], here[t][n]) for t in there for n in there[t])
    tensors, moved = tower(saved.path), tower(at)
    changed = {key for key in tensors if not torch.equal(tensors[key], moved[key])}
    assert tensors.keys() == moved.keys() and changed == {f"tower/model.{name}"}  # its optimizer's state stays
    first = saved.content["tables"][0]["file"]
    assert (at / first).stat().st_ino == (saved.path / first).stat().st_ino  # not copied

    again = run_file(
        tmp_path / "again.yaml",
        run.path.parent / "data",
        trainer=SHORT | {"max_steps": 1},
        init_from={"run": str(run.path)},
        optimizer={"tower": {"name": "adam", "learning_rate": 1e-9}},
    )
    train(again)
    started = parameters(SavedModel.of(RunFolder.open(again.with_suffix(""))))[name]
    assert torch.allclose(started, before + 0.25, atol=1e-6)


def test_what_does_not_fit_is_refused_with_nothing_left_behind(run: RunFolder) -> None:
    saved, there = SavedModel.of(run, run.steps()[0]), run.steps()
    name, before = a_weight(saved)
    for wrong, step, line in (
        ({name: before[:1]}, 90, f"{name} as"),
        ({"nothing": before}, 90, "no such parameter"),
        ({name: before * float("nan")}, 90, "not finite"),
        ({name: before}, saved.step, "choose a later step"),
    ):
        with pytest.raises(UserError, match=line):
            save_moved_tower(run, saved, wrong, step)
    assert run.steps() == there and not list(run.checkpoints.glob(".step-90*"))
