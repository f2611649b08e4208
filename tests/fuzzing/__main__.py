"""`python -m tests.fuzzing NAME --cases N`: tries N broken inputs; every one that ends in a traceback is printed."""

import argparse
import random
import sys
import traceback

from tests.fuzzing.doors import DOORS


def main() -> int:
    """Returns the exit status: 1 where any case ended in a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzzing")
    parser.add_argument("name", choices=DOORS)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    given = parser.parse_args()
    failed = 0
    for seed in range(given.first, given.first + given.cases):
        try:
            DOORS[given.name](random.Random(seed))
        except Exception:
            failed += 1
            print(f"--- seed {seed}")
            traceback.print_exc(file=sys.stdout)
    print(f"{given.cases} cases of {given.name}, {failed} tracebacks")
    return int(failed > 0)


sys.exit(main())
