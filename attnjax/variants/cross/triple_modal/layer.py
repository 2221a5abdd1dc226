"""ITCFN's co-attention as a layer between three streams."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from attnjax.contract import Heads, Tokens, check_options
from attnjax.core.streams import Stream
from attnjax.variants.cross.triple_modal import coattention
from attnjax.variants.cross.triple_modal.coattention import IMPLEMENTATIONS
from attnjax.variants.cross.triple_modal.weights import (
  KINDS,
  STREAMS,
  Weights,
  shapes,
)


class Layer(nnx.Module):
  """Maps three streams (B, T, D) to their outputs, by name.

  Token t of each belongs together. An absent stream is one whose tokens are not valid;
  the learned token stands for each of them, and nobody sees their keys. Linear maps are
  drawn as torch draws them, those of "joint_mha" as its MultiheadAttention does.
  """

  refuses = {
    "positions": "tokens have no order: equal permutations of all permute them"
  }

  def __init__(
    self,
    dims: Mapping[str, int],  # D of each of STREAMS, all equal
    *,
    form: str = "cross",
    kind: str = "joint",  # who asks whom, one of KINDS
    heads: int = 1,  # N
    drop_rate: float = 0.1,  # of the weights, with a key
    impl: str = "auto",  # as in `attend`
    rngs: nnx.Rngs,
  ):
    check_options(kind=(kind, KINDS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if set(dims) != set(STREAMS) or len(set(dims.values())) != 1:
      raise ValueError(f"dims = {dict(dims)}: {', '.join(STREAMS)}, of one width")
    if not 0 <= drop_rate < 1:
      raise ValueError(f"drop_rate = {drop_rate}; it must be from 0 to below 1")
    D = dims[STREAMS[0]]
    coattention.head_size(D, heads)
    self.form, self.kind, self.heads = form, kind, heads
    self.drop_rate, self.impl = drop_rate, impl
    self.names = tuple(shapes(kind, D))
    for name, shape in shapes(kind, D).items():
      setattr(self, name, nnx.Param(_drawn(name, shape, kind, rngs)))

  def __call__(
    self,
    streams: Mapping[str, Stream],
    *,
    index: Any = 0,
    key: Key[Array, ""] | None = None,
  ) -> dict[str, Array]:
    """Returns the outputs of the streams; a key turns dropout on."""
    del index
    heads = self.project(streams)
    return self.merge(self.mix(heads, key=key), heads)

  def project(self, streams: Mapping[str, Stream]) -> Heads:
    """Returns queries, keys and values (B, 3, T, N, H); "joint" shares the queries.

    Raises:
      ValueError: if the streams do not have equal shapes.
      NotImplementedError: for positions.
    """
    given = [streams[name] for name in STREAMS]
    for stream in given:
      if stream.positions is not None:
        raise NotImplementedError("positions: " + self.refuses["positions"])
    sizes = [stream.x.shape for stream in given]
    if len(set(sizes)) != 1:
      raise ValueError(f"streams {sizes}: token t of each belongs together")
    x = jnp.stack([stream.x for stream in given], axis=1)
    real = None
    if any(stream.valid is not None for stream in given):
      real = jnp.stack([stream.real for stream in given], axis=1)
    x, q, k, v, seen = coattention.project(x, real, self.weights, self.kind, self.heads)
    return Heads(q, k, v, Tokens(x), {"valid": seen})

  def mix(self, heads: Heads, *, key: Key[Array, ""] | None = None) -> Array:
    """Returns `attend` of the heads, (B, 3, T, N, V)."""
    given = {"drop_rate": self.drop_rate, "key": key, "impl": self.impl}
    return coattention.attend(heads.q, heads.k, heads.v, **heads.seen, **given)

  def merge(self, out: Array, heads: Heads) -> dict[str, Array]:
    """Returns the outputs (B, T, D) of the streams."""
    y = coattention.merge(out, heads.tokens.x, self.weights, self.kind)
    return {name: y[:, m] for m, name in enumerate(STREAMS)}

  @property
  def weights(self) -> Weights:
    """Returns the parameters of the functions."""
    return Weights(**{name: getattr(self, name)[...] for name in self.names})


def _drawn(name, shape, kind, rngs):
  """Draws a parameter within 1 / sqrt(inputs), as torch does."""
  if name == "absent":
    return 0.02 * jax.random.normal(rngs.params(), shape)
  inner = kind == "joint_mha" and not name.startswith("joint")
  if inner and name.endswith("_bias"):
    return jnp.zeros(shape)
  inputs = shape[-1]
  if name in ("joint", "joint_bias"):
    inputs = 3 * shape[-1]
  elif name.startswith("out") and kind != "joint_mha":
    inputs = 2 * shape[-1]
  size = 1 / math.sqrt(inputs)
  if inner and name != "out":  # Glorot, of the three maps as one matrix
    size = math.sqrt(6 / (4 * shape[-1]))
  return jax.random.uniform(rngs.params(), shape, jnp.float32, -size, size)
