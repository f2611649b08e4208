"""`trainer.deterministic`: the same bits for any number of threads; what has no such form is refused by its name."""

from pathlib import Path

import pytest
import torch

from shardrec.data_pipeline.errors import UserError
from shardrec.models.kernels.threads import kernel_threads
from shardrec.trainer.benchmarks.gpu_check.sections.every_model import run_files_of_every_model
from shardrec.trainer.config.load import load
from shardrec.trainer.launch.backends import launch
from shardrec.trainer.launch.deterministic import deterministic
from shardrec.trainer.run_folder.folder import RunFolder
from tests.trainer.recorded import assert_same_checkpoint, recording_worker

MODELS = ("deepfm", "dlrm", "autoint", "din", "bst", "sasrec")  # all but dlrm and autoint differ otherwise, with two
STEPS = 2


def test_the_same_bits_for_any_number_of_threads(tmp_path: Path) -> None:
    files = run_files_of_every_model(tmp_path)
    for name in MODELS:
        checkpoints = []
        for threads in (1, 2, 3):
            overrides = [
                *(f"run={tmp_path}/{name}-{threads}", f"launch.threads={threads}", "launch.device=cpu"),
                *("trainer.deterministic=true", f"trainer.max_steps={STEPS}", "trainer.epochs=99"),
                *("data.global_batch_size=1024", "data.lanes=1"),
            ]
            config = load(files[name], overrides)
            launch(recording_worker, config, RunFolder.create(config, resume=False))
            checkpoints.append(Path(config.run, f"checkpoints/step-{STEPS}"))
        for other in checkpoints[1:]:
            assert_same_checkpoint(checkpoints[0], other)


def test_kernels_keep_their_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with deterministic(torch.device("cpu")), deterministic(torch.device("cpu")):
            assert (torch.get_num_threads(), kernel_threads()) == (1, 3)
        assert (torch.get_num_threads(), kernel_threads()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_an_operation_without_such_a_form_is_named() -> None:
    """As on a GPU, by torch's own words."""
    said = "histc_cuda does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms"
    with (
        pytest.raises(UserError, match=r"trainer.deterministic: histc_cuda has no form on cuda that .*leave it out"),
        deterministic(torch.device("cuda")),
    ):
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError(said)
    assert not torch.are_deterministic_algorithms_enabled()
