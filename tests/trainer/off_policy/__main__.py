"""`python -m tests.trainer.off_policy [LOGS] [ROWS]` prints bias and coverage of estimates over simulated logs."""

import sys

from tests.trainer.off_policy.simulated import World, judge, snips_slope


def main(logs: int = 1000, rows: int = 2000) -> None:
    """Prints a line for each estimator."""
    truth, judged = World().value, judge(logs, rows, resamples=1000)
    print(f"{logs:,} logs of {rows:,} rows; the policy is worth {truth:.5f}")
    for name in judged.values:
        bias, error = judged.bias(name, truth)
        print(
            f"{name:<14} bias {bias:+.6f} +- {error:.6f}   inside the 95 % interval: {judged.inside[name]:.1%} "
            f"(normal {judged.inside_normal[name]:.1%})"
        )
    print(f"snips: bias falls as n^{snips_slope((25, 50, 100, 200, 400), 100_000):.2f}")


main(*map(int, sys.argv[1:]))
