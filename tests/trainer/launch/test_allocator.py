"""Memory that a step frees stays with the process, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

from tests import ROOT

FAULTS = """
import resource, sys
from shardrec.trainer.launch.allocator import keep_freed_memory
print(int(keep_freed_memory()))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():  # two blocks that glibc would map anew each time, and give back
    a, b = b"1" * (48 << 20), b"2" * (48 << 20)
step()
before = faults()
step()
print(faults() - before)
"""


def found(**settings: str) -> tuple[int, int]:
    """Whether it took effect in a fresh process, and the page faults of its second step."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))} | settings
    run = subprocess.run(
        [sys.executable, "-c", FAULTS], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    settled, faults = map(int, run.stdout.split())
    return settled, faults


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about glibc")
def test_pages_are_faulted_in_once_unless_the_user_settled_it() -> None:
    settled, faults = found()
    if not settled:
        pytest.skip("the C library is not glibc")
    settled_here, faults_each_time = found(MALLOC_MMAP_THRESHOLD_="1048576")
    assert not settled_here
    assert 10 * faults < faults_each_time
