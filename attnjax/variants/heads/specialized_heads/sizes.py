"""The sizes of a layer by formula: parameters and FLOPs of its parts."""

from collections.abc import Mapping


def parameters(
  dim: int, heads: int, head_dim: int, hidden: int, *, bias: bool = False
) -> dict[str, int]:
  """Returns the number of parameters of each part of a layer.

  Args:
    dim: D.
    heads: N; 1 after pruning, without a router.
    head_dim: H.
    hidden: F of the expander.
    bias: whether the projections have one.
  """
  return {
    "qkv": 3 * heads * head_dim * (dim + bias),
    "router": dim * heads if heads > 1 else 0,
    "expander": hidden * (head_dim + 1) + dim * (hidden + 1),
  }


def flops(
  tokens: int,
  dim: int,
  heads: int,
  head_dim: int,
  hidden: int,
  *,
  granularity: str = "sequence",
) -> dict[str, int]:
  """Returns the FLOPs of the matrix products of a row, of each part of a layer.

  A multiplication and an addition are two; pairs of tokens count whole.

  Args:
    tokens: T of the row.
    dim: D.
    heads: N; 1 after pruning.
    head_dim: H.
    hidden: F.
    granularity: "sequence": one head is computed; "token": all of them.
  """
  computed = heads if granularity == "token" else 1
  reads = tokens if granularity == "token" else 1
  return {
    "qkv": 2 * 3 * tokens * dim * computed * head_dim,
    "router": 2 * reads * dim * heads if heads > 1 else 0,
    "attention": 2 * 2 * tokens * tokens * computed * head_dim,
    "expander": 2 * tokens * hidden * (head_dim + dim),
  }


def dense(dim: int, hidden: int) -> int:
  """Returns the parameters of a layer of BERT, with biases and two norms."""
  attention, norms = 4 * dim * (dim + 1), 4 * dim
  return attention + hidden * (dim + 1) + dim * (hidden + 1) + norms


def total(parts: Mapping[str, int]) -> int:
  """Returns the sum of all parts."""
  return sum(parts.values())
