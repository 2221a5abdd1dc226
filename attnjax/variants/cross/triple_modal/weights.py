"""The parameters of the co-attention and of the self-attention block."""

import dataclasses
from typing import Any

import jax

from attnjax.core.exported import serializable

KINDS = ("joint", "ring", "joint_mha")
STREAMS = ("mri", "pet", "clinical")


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
  """Holds the linear maps, x @ matrix + bias, of the three streams.

  Attributes:
    key: (3, D, D), a matrix for each stream.
    key_bias: (3, D).
    value: (3, D, D).
    value_bias: (3, D).
    out: (3, 2 D, D), of [x, context]; of "joint_mha" (3, D, D), of the context.
    out_bias: (3, D).
    absent: (3, D), the token that stands for each token of an absent stream.
    query: (3, D, D); None of "joint".
    query_bias: (3, D); None of "joint".
    joint: (3 D, D), of the streams side by side; None of "ring".
    joint_bias: (D,); None of "ring".
  """

  key: Any
  key_bias: Any
  value: Any
  value_bias: Any
  out: Any
  out_bias: Any
  absent: Any
  query: Any = None
  query_bias: Any = None
  joint: Any = None
  joint_bias: Any = None


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockWeights:
  """Holds the parameters of the self-attention block.

  Attributes:
    query: (D, D), as are `key`, `value` and `dense`.
    query_bias: (D,), as are the other biases.
    key: of the keys.
    key_bias: of the keys.
    value: of the values.
    value_bias: of the values.
    dense: of the concatenated heads.
    dense_bias: of the concatenated heads.
    norm_scale: (D,), of the layer norm.
    norm_bias: (D,).
  """

  query: Any
  query_bias: Any
  key: Any
  key_bias: Any
  value: Any
  value_bias: Any
  dense: Any
  dense_bias: Any
  norm_scale: Any
  norm_bias: Any


def shapes(kind: str, D: int) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of the parameters that a kind has."""
  found: dict[str, tuple[int, ...]] = {"key": (3, D, D), "key_bias": (3, D)}
  found |= {
    "value": (3, D, D),
    "value_bias": (3, D),
    "out": (3, 2 * D, D),
    "out_bias": (3, D),
  }
  found["absent"] = (3, D)
  if kind != "joint":
    found |= {"query": (3, D, D), "query_bias": (3, D)}
  if kind != "ring":
    found |= {"joint": (3 * D, D), "joint_bias": (D,)}
  if kind == "joint_mha":
    found["out"] = (3, D, D)
  return found


def check(weights: Weights, kind: str, D: int) -> None:
  """Raises ValueError if the parameters are not those of a kind and a width."""
  for name, want in shapes(kind, D).items():
    value = getattr(weights, name)
    if value is None or value.shape != want:
      got = None if value is None else value.shape
      raise ValueError(f"weights.{name} is {got}; kind {kind!r} has {want}, D = {D}")
