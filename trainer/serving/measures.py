"""What Prometheus is told: requests, rows, times, batches, and which bundle answers, summed over all workers.

Each worker counts in files of a folder that the supervisor made and named in the environment, so that any of them can
answer for all, also for those that are gone.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)


class Measures:
    """Measures of one worker. At most one of them is made in a process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._requests = Counter("shardrec_requests", "Requests answered", ["endpoint", "status"], registry=registry)
        self._seconds = Histogram(
            "shardrec_request_seconds", "Time from a request's head to its answer", ["endpoint"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._rows = Counter("shardrec_rows", "Rows and candidates asked for", ["endpoint"], registry=registry)
        self._batch_rows = Histogram("shardrec_batch_rows", "Rows scored together", buckets=ROWS, registry=registry)
        self._batch_requests = Histogram(
            "shardrec_batch_requests", "Requests scored together", buckets=ROWS, registry=registry
        )
        self._in_hand = Gauge(
            "shardrec_requests_in_hand", "Requests being answered", multiprocess_mode="livesum", registry=registry
        )
        self._serving = Gauge(
            "shardrec_bundle_workers", "Workers that answer from a bundle", ["bundle"],
            multiprocess_mode="livesum", registry=registry,
        )  # fmt: skip
        self._reloads = Counter("shardrec_reloads", "Bundles asked for while serving", ["outcome"], registry=registry)
        self._series: dict[tuple[str, int], tuple[Counter, Histogram, Counter]] = {}

    def answered(self, endpoint: str, status: int, seconds: float, rows: int) -> None:
        """Counts a request that was answered."""
        of_all, timed, of_rows = self._of(endpoint, status)
        of_all.inc()
        timed.observe(seconds)
        of_rows.inc(rows)

    def _of(self, endpoint: str, status: int) -> tuple[Counter, Histogram, Counter]:
        """Returns the series of an endpoint and a status, looked up once: that takes longer than counting."""
        if (endpoint, status) not in self._series:
            self._series[endpoint, status] = (
                self._requests.labels(endpoint, str(status)),
                self._seconds.labels(endpoint),
                self._rows.labels(endpoint),
            )
        return self._series[endpoint, status]

    def batch(self, rows: int, requests: int) -> None:
        """Counts a batch."""
        self._batch_rows.observe(rows)
        self._batch_requests.observe(requests)

    def in_hand(self, requests: int) -> None:
        """Says how many requests are being answered."""
        self._in_hand.set(requests)

    def serves(self, bundle: str, instead_of: str | None = None) -> None:
        """Says which bundle answers from now on, and which one no longer does."""
        if instead_of is not None:
            self._serving.labels(instead_of).set(0)
        self._serving.labels(bundle).set(1)

    def reloaded(self, outcome: str) -> None:
        """Counts a bundle that was asked for: `ok` or `refused`."""
        self._reloads.labels(outcome).inc()


def exposition() -> bytes:
    """Returns the figures of all workers, in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
