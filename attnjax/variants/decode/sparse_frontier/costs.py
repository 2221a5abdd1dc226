"""Costs of sparse attention: a prompt's FLOPs, and the numbers that a step reads."""

import math
from typing import Any, NamedTuple

import numpy as np

from attnjax.contract import check_known

PHASES = ("prefill", "decode")


class Size(NamedTuple):
  """A language model, as costs see it.

  Attributes:
    layers: n.
    width: d.
    heads: h, query heads.
    kv_heads: key/value heads.
    head_size: d_h.
    mlp: f, the width between the matrices of a gated MLP.
    vocab: |V|.
  """

  layers: int
  width: int
  heads: int
  kv_heads: int
  head_size: int
  mlp: int
  vocab: int


def isoflops(
  size: Size, length, sparsity=0.0, phase: str = "prefill", *, batch=64, indexing=0.0
) -> Any:
  """Computes the cost of a phase: (model, sparsity) pairs of equal cost compare.

  arXiv:2504.17768, version 3. With density = 1 - sparsity and a context of L tokens

    prefill  FLOPs    B (2 L d + n [2 L d (2 d + 2 d_h kv) + density h L^2 (4 d_h + 3)]
                      + 2 n L f (3 d + 1) + 2 L d |V|)
    decode   numbers  n (4 d^2 + 3 d f) + d (|V| + 1) + B 2 n L d_h kv density

  Args:
    size: of the model.
    length: L; as all numbers, an array or one.
    sparsity: share of the attention that is left out.
    phase: one of PHASES; "decode" is one step of the batch.
    batch: B, rows.
    indexing: of the method, in the phase's unit: `vertical_slash_flops`, `quest_reads`.

  Raises:
    ValueError: for an unknown phase, and a sparsity that is no share.
  """
  check_known("phase", phase, PHASES)
  n, d, h, kv, d_h, f, V = (np.float64(x) for x in size)
  L, s, B = (np.asarray(x, np.float64) for x in (length, sparsity, batch))
  if ((s < 0) | (s > 1)).any():
    raise ValueError(f"sparsity = {sparsity}; it is a share, from 0 to 1")
  if phase == "decode":
    weights = n * (4 * d**2 + 3 * d * f) + d * (V + 1)
    return weights + B * 2 * n * L * d_h * kv * (1 - s) + indexing
  projections = 2 * L * d * (2 * d + 2 * d_h * kv)
  attention = (1 - s) * h * L**2 * (4 * d_h + 3)
  ends = 2 * L * d + 2 * L * d * V
  return B * (ends + n * (projections + attention) + 2 * n * L * f * (3 * d + 1)) + (
    indexing
  )


def vertical_slash_flops(
  size: Size, length, *, window=256, verticals=512, slashes=512, batch=64
) -> Any:
  """Computes the FLOPs by which vertical-slash finds its keys in a prompt.

  B n h (2 d_h L a + 5 L a + 2 L log2 L + 64 L (verticals + slashes)).

  Args:
    size: of the model.
    length: L.
    window: a, last queries.
    verticals: number of keys.
    slashes: number of distances.
    batch: B.
  """
  L = np.asarray(length, np.float64)
  scores = 2 * size.head_size * L * window + 5 * L * window
  chosen = 2 * L * np.log2(L) + 64 * L * (verticals + slashes)
  return batch * size.layers * size.heads * (scores + chosen)


def quest_reads(size: Size, length, *, page=16, batch=64) -> Any:
  """Computes the numbers by which Quest finds its pages at a step.

  2 B n kv d_h L / page: the least and the greatest key of each page.

  Args:
    size: of the model.
    length: L.
    page: tokens of a page.
    batch: B.
  """
  L = np.asarray(length, np.float64)
  return 2 * batch * size.layers * size.kv_heads * size.head_size * L / page


def block_sparsity(length: int, *, block: int = 16, blocks: int = 64) -> float:
  """Returns the share of causal blocks that block-sparse attention leaves out.

  Args:
    length: tokens of the prompt.
    block: tokens of a block.
    blocks: K, key blocks of a query block.
  """
  n = math.ceil(length / block)
  K = min(blocks, n)
  return 1 - (K * (K + 1) / 2 + (n - K) * K) / (n * (n + 1) / 2)


def blocks_of_sparsity(length: int, sparsity: float, *, block: int = 16) -> int:
  """Returns the number of key blocks, 3 or more, whose sparsity is the nearest.

  Args:
    length: tokens of the prompt.
    sparsity: that is wanted.
    block: tokens of a block.
  """
  low, high = 3, max(math.ceil(length / block), 3)
  while low < high:  # the first number that is not sparser than is wanted
    middle = (low + high) // 2
    if block_sparsity(length, block=block, blocks=middle) > sparsity:
      low = middle + 1
    else:
      high = middle
  return min(
    (max(low - 1, 3), low),
    key=lambda blocks: abs(
      block_sparsity(length, block=block, blocks=blocks) - sparsity
    ),
  )


def crossed_sparsity(seen: Any, lengths: Any = None) -> np.ndarray:
  """Returns the share of causal pairs that a prompt's queries do not see, (B, N).

  Args:
    seen: bool, (B, N, T, T), as `seen` gives it.
    lengths: (B,), tokens of each row; T if None.
  """
  seen = np.asarray(seen)
  T = seen.shape[2]
  lengths = np.full(len(seen), T) if lengths is None else np.asarray(lengths)
  real = np.arange(T) < lengths[:, None, None, None]
  pairs = lengths * (lengths + 1) / 2
  found = (seen & real & real.swapaxes(2, 3)).sum(axis=(2, 3))
  return 1 - found / np.maximum(pairs, 1)[:, None]


def pareto(costs: Any, scores: Any) -> np.ndarray:
  """Returns which (cost, score) no other one beats: as cheap, and better, or cheaper.

  Args:
    costs: (M,).
    scores: (M,), the greater the better.
  """
  cost, score = np.asarray(costs, float), np.asarray(scores, float)
  cheap, good = cost[:, None] >= cost, score[:, None] <= score
  strict = (cost[:, None] > cost) | (score[:, None] < score)
  return ~(cheap & good & strict).any(axis=1)
