"""A fuzzer that sees which lines a case reaches makes the next cases of those that reached new ones.

It is atheris (`pip install atheris`), and its cases are bytes: every draw of a case takes the next few. A case that
ends in a traceback is kept beside the corpus as `crash-...`; the same command with that file's path tries it again.
"""

import argparse
import random
import sys
from pathlib import Path

try:
    import atheris
except ImportError:  # no test needs it
    sys.exit("tests.fuzzing.guided needs atheris: pip install atheris")

with atheris.instrument_imports(include=["shardrec"]):
    from tests.fuzzing.doors import DOORS
from tests.fuzzing.drawn_bytes import DrawnBytes

BEGINNINGS = 50
"""Cases that a corpus begins with."""


def main() -> None:
    """Fuzzes one door for so many seconds; ends with the first case that ends in a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing.guided", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=DOORS)
    parser.add_argument("--seconds", type=int, default=3600)
    parser.add_argument("--corpus", type=Path, required=True, help="a folder, gone on from")
    parser.add_argument("cases", nargs="*", help="files of cases to try, and nothing else")
    given = parser.parse_args()
    corpus = given.corpus / given.name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in range(BEGINNINGS):
        (corpus / f"seed-{seed}").write_bytes(random.Random(seed).randbytes(512))
    door = DOORS[given.name]
    limits = [
        f"-max_total_time={given.seconds}",
        "-timeout=60",
        "-rss_limit_mb=8000",
        "-max_len=1024",
        "-len_control=0",
    ]
    words = [sys.argv[0], *limits, f"-artifact_prefix={given.corpus}/{given.name}-", *(given.cases or [str(corpus)])]
    atheris.Setup(words, lambda data: door(DrawnBytes(data)), internal_libfuzzer=True)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
