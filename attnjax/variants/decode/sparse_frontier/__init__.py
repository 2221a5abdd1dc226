"""The Sparse Frontier: six sparse patterns of a prompt and of a cache, and their costs.

Piotr Nawrot, Robert Li, Renjie Huang, Sebastian Ruder, Kelly Marchisio, Edoardo M.
Ponti. The Sparse Frontier: Sparse Attention Trade-offs in Transformer LLMs. 2025.
arXiv:2504.17768. Official code: github.com/PiotrNawrot/sparse-frontier, commit 31d86c1.
Training-free. Costs are of the paper's version 3; the code has no analysis.

A[n] is causal softmax attention of the last a queries, weights of float32. Of a prompt
of T tokens, for each query head:

  block_sparse    blocks of b tokens; R = mean q . mean k; the block itself, the one
                  before it, the first one, then the greatest R, K blocks in all
  vertical_slash  keys by the column sums of A, the first 4 always; distances t - s by
                  the sums of A along them, the nearest 64 always; a query sees the
                  chosen keys, and those at the chosen distances
  flexprefill     likewise; as many as carry a share alpha of A, but not fewer than 512

Of a cache, for each key head, the prompt dense:

  quest           pages of 16 tokens, with the least and the greatest of their keys;
                  bound = sum_d max(q_d least_d, q_d greatest_d), over a key head's
                  query heads together (`share_pages`) or each; the greatest bounds of
                  the pages before the current one, and the current one
  snapkv          once after the prompt: I = mean over 21 neighbours of the sum of A
                  over queries, in the mean of a key head's query heads; the last 128
                  and the first 4 keys, then the greatest I, C in all; later keys stay
  ada_snapkv      I of the greatest A; each key head the max(C / 5, 128 + 4) greatest,
                  then what is greatest over all key heads, C K in all

`costs` has the FLOPs of a prompt and the numbers that a step reads, `statistics` the
largest safe sparsity and a logit-linear law: both tests are ours. A sum of weights
along a distance is over all of the last queries that have a key there; the catalogue's
"fully inside" is not what the code does. Slashes are exact here, `rounded` = 64 is the
authors' kernel but for keys by which it joins neighbouring ranges.

Cost: choosing takes (T / b)^2 N H, a T N H, T / 16 N H a step, a T N H once; attention
what is seen, by blocks of 128 x 128 in a prompt, whose mask is T x T booleans a head.

Axes: B batch, T prompt tokens, S cached tokens, W last queries, N query heads, K
key/value heads, G choices, P pages, H head size.

Not here: a fused gather of verticals, lists of slashes without their mask, gathered
verticals in the step of a prompt under a policy, kernels of a step, memory freed by
what SnapKV drops, joined ranges of the authors' kernel, the paper's models and tasks.
"""

from attnjax.variants.decode.sparse_frontier import (
  compression,
  costs,
  pages,
  patterns,
  statistics,
)
from attnjax.variants.decode.sparse_frontier.cases import CASES
from attnjax.variants.decode.sparse_frontier.decoding import attend_kept, attend_pages
from attnjax.variants.decode.sparse_frontier.definition import (
  reference,
  reference_attend_kept,
  reference_attend_pages,
)
from attnjax.variants.decode.sparse_frontier.prefill import IMPLEMENTATIONS, attend
from attnjax.variants.decode.sparse_frontier.prompts import (
  METHODS,
  BlockSparse,
  FlexPrefill,
  VerticalSlash,
)
from attnjax.variants.decode.sparse_frontier.quest import Quest
from attnjax.variants.decode.sparse_frontier.snapkv import AdaSnapKV, SnapKV

FORMS = ("policy",)
POLICIES = {"quest": Quest, "snapkv": SnapKV, "ada_snapkv": AdaSnapKV, **METHODS}
_CROSS = {"window": 4, "first": 1, "near": 2}
_KEEP = {"window": 3, "pool": 3, "local": 1, "first": 1}
POLICY = {
  "quest": {"budget": 3, "page": 3},
  "snapkv": {"capacity": 3, **_KEEP},
  "ada_snapkv": {"capacity": 3, "room": 6, **_KEEP},
  "block_sparse": {"block": 2, "blocks": 3},
  "vertical_slash": {"verticals": 2, "slashes": 3, **_CROSS},
  "flexprefill": {"alpha": 0.3, "least": 2, **_CROSS},
}
COVERING = {
  "quest": {"budget": 24, "page": 3},
  "snapkv": {"capacity": 24, **_KEEP},
  "ada_snapkv": {"capacity": 24, **_KEEP},
  "block_sparse": {"block": 2, "blocks": 12},
  "vertical_slash": {"verticals": 24, "slashes": 24, **_CROSS},
  "flexprefill": {"least": 24, **_CROSS},
}

__all__ = [
  "CASES",
  "COVERING",
  "FORMS",
  "IMPLEMENTATIONS",
  "METHODS",
  "POLICIES",
  "POLICY",
  "AdaSnapKV",
  "BlockSparse",
  "FlexPrefill",
  "Quest",
  "SnapKV",
  "VerticalSlash",
  "attend",
  "attend_kept",
  "attend_pages",
  "compression",
  "costs",
  "pages",
  "patterns",
  "reference",
  "reference_attend_kept",
  "reference_attend_pages",
  "statistics",
]
