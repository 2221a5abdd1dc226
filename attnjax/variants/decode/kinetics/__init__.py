"""Kinetics: costs of test-time compute that count memory, and block top-k decoding.

Ranajoy Sadhukhan, Zhuoming Chen, Haizhong Zheng, Yang Zhou, Emma Strubell, Beidi Chen.
Kinetics: Rethinking Test-Time Scaling Laws. 2025. arXiv:2506.05333. Official code:
github.com/Infini-AI-Lab/Kinetics, commit af7fa57. Training-free.

Costs of n trials of G tokens after C of a prompt, P parameters, d = head size times
layers, s tokens of a block, b tokens that a query reads, 2 bytes a number:

  dense    compute 2 n P G + 2 n (2 C + G) G N d     memory 2 (2 C + n G) G K d
  top-k    compute 2 n P G + 4 n R N d               memory 4 n R K d
  blocks   as top-k, + n floor((2 C + G) / s) G N d  + floor((2 C + n G) / s) G K d
  R = sum of min(C + t, b) over t = 1 .. G,   eFLOPs = compute + 562.5 memory
  coverage of n among m samples, r right: 1 - binom(m - r, n) / binom(m, n)

The law, from the abstract: below a size of the model a budget is best spent on the
size, above it on tokens and trials; with sparse attention it buys more of these.
The released cost of top-k has a sign wrong, and both sparse ones are wrong where b >
C + G; `reads` has the right sum and theirs.

At a step of decoding, for each key head, n tokens so far:

  score[j]  mean over the group's query heads of q . (mean key of block j)
  blocks    from the token `sink` on, as many as fit before the last `local` tokens
  read      the first `sink`, the k blocks of the largest scores, all after the blocks

A row of at most sink + local + k s tokens, rounded up to a multiple of s, is read
whole, and so is everything in the first layer. s = 1 is top-k of tokens. The prompt is
dense, no key is dropped, and blocks begin in each document's first tokens.

Cost: n / s + sink + k s + local keys read at a step, against n; memory 1 / s more than
the keys', for float32 sums of each block's keys. Costs of generation: none.

Axes: B batch, S cached tokens, N query heads, K key/value heads, H head size, M tokens
that are read.

Not here: a fused kernel of a decoding step, and Kinetics' curves of AIME.
"""

from attnjax.variants.decode.kinetics import costs
from attnjax.variants.decode.kinetics.costs import (
  INTENSITY,
  Cost,
  Size,
  block_topk,
  coverage,
  dense,
  eflops,
  frontier,
  qwen3,
  reads,
  topk,
  truncated,
)
from attnjax.variants.decode.kinetics.policy import Policy
from attnjax.variants.decode.kinetics.selection import (
  CASES,
  IMPLEMENTATIONS,
  attend,
  attend_places,
  block_scores,
  pooled_logits,
  reference,
  select_blocks,
)

FORMS = ("policy",)
POLICY = {"blocks": 1, "block": 2, "local": 2, "sink": 1}
COVERING = {"blocks": 12, "block": 2, "local": 2, "sink": 1}

__all__ = [
  "CASES",
  "COVERING",
  "FORMS",
  "IMPLEMENTATIONS",
  "INTENSITY",
  "POLICY",
  "Cost",
  "Policy",
  "Size",
  "attend",
  "attend_places",
  "block_scores",
  "block_topk",
  "costs",
  "coverage",
  "dense",
  "eflops",
  "frontier",
  "pooled_logits",
  "qwen3",
  "reads",
  "reference",
  "select_blocks",
  "topk",
  "truncated",
]
