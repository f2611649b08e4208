"""A batch's distinct ids, bucket by bucket: in the order in which an id map and the ranks that share it want them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from shardrec.models.dynamic_ids import BucketGeometry
from shardrec.sharding.dynamic.set_cache import bucket_of
from shardrec.sharding.kernels.id_map import distinct_ids
from shardrec.sharding.kernels.library import library
from shardrec.sharding.tables.draws import mixed


@dataclass(frozen=True)
class Distinct:
    """The distinct ids [n] of a batch [N], those of a bucket side by side, and how often each is to be counted [n].

    inverse: [N] which of them each id of the batch is. starts: [buckets + 1] where each bucket's ids begin.
    """

    ids: Tensor
    counts: Tensor
    inverse: Tensor
    starts: Tensor


def distinct(geometry: BucketGeometry, ids: Tensor, times: Tensor | None = None, *, compiled: bool = True) -> Distinct:
    """Returns the distinct ones of ids [N] int64; times: [N] int64, how often each is to be counted (None: once).

    compiled: False keeps to torch operations where there is a compiled kernel. In which order ids of one bucket come
    depends on it.
    """
    if compiled and ids.device.type == "cpu" and library() is not None:
        return Distinct(*distinct_ids(geometry.buckets, ids, times))
    words = mixed(ids.clone()).bitwise_xor_(torch.iinfo(torch.int64).min)  # signed, in the order of unsigned hashes
    words, inverse, counts = words.unique(return_inverse=True, return_counts=True)
    if times is not None:
        counts = torch.zeros_like(words).index_add_(0, inverse, times)
    found = words.scatter_(0, inverse, ids)  # equal ones to the same place
    buckets = torch.arange(geometry.buckets + 1, device=ids.device)
    return Distinct(found, counts, inverse, torch.searchsorted(bucket_of(geometry, found), buckets))
