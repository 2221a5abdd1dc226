"""SOFT and SOFT++: attention by a Gaussian kernel, without softmax, in linear time.

Jiachen Lu, Junge Zhang, Xiatian Zhu, Jianfeng Feng, Tao Xiang, Li Zhang. Softmax-free
Linear Transformers. 2022. arXiv:2207.03341. First: Jiachen Lu et al. SOFT: Softmax-free
Transformer with Linear Complexity. 2021. arXiv:2110.11945. Official code:
github.com/fudan-zvg/SOFT (commit d3febc3).

  kappa(a, b) = exp(-|a - b|^2 / 2)
  P = kappa(q, landmarks) (T, M),  A = kappa(landmarks, landmarks) (M, M)
  out = P inverse(A) P^T V                    SOFT
  out = P (d inverse(A) d) P^T V              SOFT++, d = diag(rowsum(A))^-1/2

Queries are also the keys: the kernel matrix of all tokens, for which P inverse(A) P^T
stands (Nystrom's method), is symmetric and positive semi-definite. Its rows do not sum
to 1. The inverse is Newton's, with an exact gradient: see `attnjax.core.inverse`. By
default it takes as many steps as M landmarks need, however similar; the authors take
20, which do not reach the inverse on smooth images: `PUBLISHED`.

Cost: O(T M (H + V) N + 2 I M^3 N) time for I iterations, 25 for M = 16, 29 for M = 49;
memory O(T H N) in "xla",
O(T M H N) in "reference".

Axes: B batch, T tokens, S the axes of the grid, M landmarks, N heads, H head size, V
value size, D model width.

Not here: the networks that detect and segment.
"""

from attnjax.variants.linear.soft.attention import (
  CASES,
  IMPLEMENTATIONS,
  PUBLISHED,
  attend,
  gaussian,
  reference,
)
from attnjax.variants.linear.soft.backbone import PARAMETERS, SIZES, Model
from attnjax.variants.linear.soft.layer import Block, Layer

__all__ = [
  "CASES",
  "FORMS",
  "GROWTH",
  "IMPLEMENTATIONS",
  "LAYER",
  "PARAMETERS",
  "PUBLISHED",
  "SIZES",
  "Block",
  "Layer",
  "Model",
  "attend",
  "gaussian",
  "reference",
  "scaled",
]
FORMS = ("sequence", "image", "backbone")
LAYER = {"dim": 32, "heads": 4, "kernel": 3}
GROWTH = 1.0


def scaled(shape: tuple[int, ...]) -> dict[str, int]:
  """Returns options under which GROWTH holds: 49 landmarks for any number of tokens."""
  return {"ratio": max(1, shape[0] // (7 if len(shape) > 1 else 49))}
