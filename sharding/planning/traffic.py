"""Traffic is who sends how many bytes to whom: from all ranks to one or a host, to every other, in a ring."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardrec.sharding.planning.topology import Topology

Numbers = NDArray[np.float64]


@dataclass
class Traffic:
    """Traffic is the bytes that each rank [W] sends and receives, within its host and to other ones.

    apart: what each sends and receives within its host when nothing else is on its way, before the rest or after it.
    """

    local_sent: Numbers
    local_received: Numbers
    far_sent: Numbers
    far_received: Numbers
    apart: Numbers | float = 0.0

    @classmethod
    def none(cls, ranks: int) -> "Traffic":
        """Returns no traffic."""
        return cls(*(np.zeros(ranks) for _ in range(4)))

    def __iadd__(self, other: "Traffic") -> "Traffic":
        for name in ("local_sent", "local_received", "far_sent", "far_received", "apart"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def plus(self, other: "Traffic") -> "Traffic":
        """Returns the sum of both."""
        total = Traffic.none(len(self.local_sent))
        total += self
        total += other
        return total

    @property
    def back(self) -> "Traffic":
        """Returns the same bytes the other way."""
        return Traffic(self.local_received, self.local_sent, self.far_received, self.far_sent, self.apart)

    def local_seconds(self, topology: Topology) -> Numbers:
        """Returns the seconds [W] that bytes within the host take."""
        return (self.local_bytes + self.apart) / topology.local_bandwidth

    def far_seconds(self, topology: Topology) -> Numbers:
        """Returns the seconds [W] that bytes between hosts take."""
        return self.far_bytes / topology.host_bandwidth

    def seconds(self, topology: Topology) -> Numbers:
        """Returns the seconds [W] of both, which run at the same time, but for what goes apart."""
        together = np.maximum(self.local_bytes / topology.local_bandwidth, self.far_seconds(topology))
        return together + self.apart / topology.local_bandwidth

    @property
    def received(self) -> Numbers:
        """Returns the bytes [W] received from anywhere."""
        return self.local_received + self.far_received + self.apart

    @property
    def local_bytes(self) -> Numbers:
        """Returns the bytes [W] sent or received within the host, the larger of the two."""
        return np.maximum(self.local_sent, self.local_received)

    @property
    def far_bytes(self) -> Numbers:
        """Returns the bytes [W] sent or received between hosts, the larger of the two."""
        return np.maximum(self.far_sent, self.far_received)


def gather(topology: Topology, owner: int, size: float) -> Traffic:
    """Returns the traffic of `size` bytes from every rank to one."""
    ranks, local = topology.world_size, topology.local_world_size
    beside = np.arange(ranks) // local == owner // local
    traffic = Traffic.none(ranks)
    traffic.local_sent = np.where(beside, size, 0.0)
    traffic.far_sent = np.where(beside, 0.0, size)
    traffic.local_sent[owner] = 0.0
    traffic.local_received[owner] = traffic.local_sent.sum()
    traffic.far_received[owner] = traffic.far_sent.sum()
    return traffic


def to_host(topology: Topology, host: int, size: float) -> Traffic:
    """Returns the traffic of `size` bytes from every rank to each rank of one host."""
    ranks, there = topology.world_size, topology.ranks_of(host)
    beside = np.isin(np.arange(ranks), there)
    traffic = Traffic.none(ranks)
    traffic.local_sent = traffic.local_received = np.where(beside, (len(there) - 1) * size, 0.0)
    traffic.far_sent = np.where(beside, 0.0, len(there) * size)
    traffic.far_received = np.where(beside, (ranks - len(there)) * size, 0.0)
    return traffic


def summed_by_host(topology: Topology, host: int, size: float) -> Traffic:
    """Returns the traffic of `size` bytes on each rank of one host, summed there, of which every rank gets its part.

    The sums are scattered over the host's ranks, each of which sends to the ranks of its place on the other hosts.
    """
    ranks, there = topology.world_size, topology.ranks_of(host)
    beside = np.isin(np.arange(ranks), there)
    traffic, part = Traffic.none(ranks), size / ranks
    traffic.far_sent = np.where(beside, (topology.hosts - 1) * part, 0.0)
    traffic.far_received = np.where(beside, 0.0, part)
    traffic.apart = np.where(beside, size * (len(there) - 1) / len(there), 0.0)
    return traffic


def everywhere(topology: Topology, size: float) -> Traffic:
    """Returns the traffic of `size` bytes from every rank to every other."""
    ranks, local = topology.world_size, topology.local_world_size
    near, far = np.full(ranks, (local - 1) * size), np.full(ranks, (ranks - local) * size)
    return Traffic(near, near, far, far)


def ring(topology: Topology, size: float) -> Traffic:
    """Returns the traffic of a reduce-scatter or all-gather of `size` bytes a rank; an all-reduce is both."""
    ranks, local = topology.world_size, topology.local_world_size
    passed = size * (ranks - 1) / ranks
    links = 1.0 / local if ranks > local else 0.0
    near, far = np.full(ranks, passed * (1 - links)), np.full(ranks, passed * links)
    return Traffic(near, near, far, far)
