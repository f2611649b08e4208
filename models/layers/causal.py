"""Causal blocks let each event of a sequence attend to itself and to those before it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from shardrec.models.layers.transformer import LengthBucket, LengthBuckets, TransformerLayer


class CausalBlock(TransformerLayer):
    """S' = S + Dropout(MH(LayerNorm(S))), S' + Dropout(W2 Dropout(relu(W1 LayerNorm(S') + b1)) + b2).

    Kang & McAuley, ICDM 2018, eqs. 2-6, with the normalisations before what is added (section III-C). MH: per head,
    softmax(Q K^T / sqrt(d)) V over a row's positions up to the query's own.
    """

    causal = True

    def forward(self, x: Tensor, buckets: LengthBuckets) -> tuple[Tensor, tuple[Tensor, ...]]:
        """[M, E] in the buckets' order -> [M, E], and each bucket's attention, [rows, heads, width, width]."""
        if not x.shape[0]:
            return x, ()
        attended, weights = self._attend(self.attended_norm(x), buckets)
        x = x + self.dropout(self.output(attended))
        return x + self.dropout(self.down(self.dropout(F.relu(self.up(self.norm(x)))))), weights

    def padded_rows(self, x: Tensor) -> Tensor:
        """Runs over padded rows, which end with their padding: no live slot looks at it. [B, L, E] -> [B, L, E]."""
        normed = self.attended_norm(x)
        query, key, value = (
            layer(normed).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        score = torch.matmul(query * self.scale, key.transpose(2, 3)).masked_fill(later, -torch.inf)
        x = x + self.output(torch.matmul(torch.softmax(score, -1), value).transpose(1, 2).flatten(2))
        return x + self.down(F.relu(self.up(self.norm(x))))

    def mask_of(self, bucket: LengthBucket) -> Tensor:
        """Returns 0 where a position may be attended to and else -inf: [rows, 1, width, width]."""
        later = torch.full((bucket.width, bucket.width), -torch.inf, device=bucket.mask.device).triu(1)
        return bucket.mask + later
