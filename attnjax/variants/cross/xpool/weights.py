"""The parameters of X-Pool's pooling."""

import dataclasses
from typing import Any

import jax

from attnjax.core.exported import serializable


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
  """Holds the linear maps, x @ matrix + bias, and the layer norms.

  Attributes:
    query: (D, D), of the text; the outputs of the heads stand one after the other.
    query_bias: (D,).
    key: (D, D), of the frames.
    key_bias: (D,).
    value: (D, D), of the frames.
    value_bias: (D,).
    out: (D, D), of the concatenated heads.
    out_bias: (D,).
    linear: (D, D), of the residual branch.
    linear_bias: (D,).
    norm_scale: (3, D), of LN1 of text and frames, LN2 and LN3.
    norm_bias: (3, D).
  """

  query: Any
  query_bias: Any
  key: Any
  key_bias: Any
  value: Any
  value_bias: Any
  out: Any
  out_bias: Any
  linear: Any
  linear_bias: Any
  norm_scale: Any
  norm_bias: Any


MATRICES = ("query", "key", "value", "out", "linear")
EPSILON = 1e-5  # of the layer norms
