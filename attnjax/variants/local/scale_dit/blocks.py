"""The blocks of the transformer: text with its own weights, and one set for all."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnjax.nn import projections
from attnjax.variants.local.scale_dit.attention import attend
from attnjax.variants.local.scale_dit.joint import JointAttention, Norms, rotate
from attnjax.variants.local.scale_dit.layout import Layout
from attnjax.variants.local.scale_dit.lora import TokenLoRA
from attnjax.variants.local.scale_dit.modulation import Triple, norm

# For text, image and low resolution: shift, scale and gate of each part of a block.
Modulations = Sequence[Sequence[Triple]]


class DoubleBlock(nnx.Module):
  """Joint attention, then an MLP; the text has weights of its own.

    x = x + gate1 attend((1 + scale1) norm x + shift1)
    x = x + gate2 feed((1 + scale2) norm x + shift2)

  Args:
    dim: D.
    heads: N.
    hidden: width of the MLPs.
    lora: `rank`, `alpha` and `noise` of `TokenLoRA`, on low-resolution tokens.
    rope_theta: as in `JointAttention`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    hidden: int,
    lora: dict[str, Any],
    rope_theta: float,
    impl: str,
    rngs: nnx.Rngs,
  ):
    self.attention = JointAttention(
      dim,
      heads=heads,
      own_text=True,
      rank=lora["rank"],
      alpha=lora["alpha"],
      lora_noise=lora["noise"],
      rope_theta=rope_theta,
      impl=impl,
      rngs=rngs,
    )
    self.feed = Feed(dim, hidden, lora=lora, rngs=rngs)
    self.text_feed = Feed(dim, hidden, lora=lora | {"rank": 0}, rngs=rngs)

  def __call__(
    self,
    x: Float[Array, "B T D"],
    layout: Layout,
    modulations: Modulations,
    *,
    anchor_scale: int = 0,
  ) -> Float[Array, "B T D"]:
    """Returns the tokens after the block, in the layout's order."""
    first, second = ([parts[i] for parts in modulations] for i in (0, 1))
    y = self.attention(modulated(x, layout, first), layout, anchor_scale=anchor_scale)
    x = added(x, y, layout, first)
    y, low = modulated(x, layout, second), layout.streams() == 2
    text, rest = y[:, : layout.text], y[:, layout.text :]
    parts = (
      self.text_feed(text, low[: layout.text]),
      self.feed(rest, low[layout.text :]),
    )
    return added(x, jnp.concatenate(parts, axis=1), layout, second)


class SingleBlock(nnx.Module):
  """Attention and an MLP side by side, with one map before both and one after.

    y = (1 + scale) norm x + shift;  q, k, v, a, b = W y
    x = x + gate (V [attend(q, k, v); silu(a) * b])

  The arguments are those of `DoubleBlock`.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int,
    hidden: int,
    lora: dict[str, Any],
    rope_theta: float,
    impl: str,
    rngs: nnx.Rngs,
  ):
    size = projections.head_size(dim, heads)
    self.enter = TokenLoRA(dim, 3 * dim + 2 * hidden, **lora, rngs=rngs)
    self.leave = TokenLoRA(dim + hidden, dim, **lora, rngs=rngs)
    self.norms = Norms(size, rngs=rngs)
    self.heads, self.theta, self.impl = heads, rope_theta, impl

  def __call__(
    self,
    x: Float[Array, "B T D"],
    layout: Layout,
    modulations: Modulations,
    *,
    anchor_scale: int = 0,
  ) -> Float[Array, "B T D"]:
    """Returns the tokens after the block, in the layout's order."""
    B, T, D = x.shape
    own, low = [parts[0] for parts in modulations], layout.streams() == 2
    y = self.enter(modulated(x, layout, own), low)
    q, k, v = (
      part.reshape(B, T, self.heads, -1) for part in jnp.split(y[..., : 3 * D], 3, -1)
    )
    ids = layout.positions(anchor_scale)
    q, k = (rotate(part, ids, self.theta) for part in self.norms(q, k))
    out = attend(q, k, v, layout=layout, impl=self.impl).astype(x.dtype)
    parts = out.reshape(B, T, D), gated(y[..., 3 * D :])
    y = self.leave(jnp.concatenate(parts, axis=-1), low)
    return added(x, y, layout, own)


class Feed(nnx.Module):
  """leave(silu(a) * b), (a, b) = enter(x), with low-rank terms on some tokens."""

  def __init__(self, dim: int, hidden: int, *, lora: dict[str, Any], rngs: nnx.Rngs):
    self.enter = TokenLoRA(dim, 2 * hidden, **lora, rngs=rngs)
    self.leave = TokenLoRA(hidden, dim, **lora, rngs=rngs)

  def __call__(
    self, x: Float[Array, "B T D"], tokens: Bool[np.ndarray, "T"]
  ) -> Float[Array, "B T D"]:
    """Returns the MLP's output; `tokens` flags those with the terms, and is static."""
    return self.leave(gated(self.enter(x, tokens)), tokens)


def gated(x: Float[Array, "B T E"]) -> Float[Array, "B T C"]:
  """Computes silu of the first half of the channels, times the second half."""
  gate, up = jnp.split(x, 2, axis=-1)
  return jax.nn.silu(gate) * up


def modulated(x: Array, layout: Layout, triples: Sequence[Triple]) -> Array:
  """Computes (1 + scale) norm(x) + shift, with the scale and shift of each stream."""
  return _each(lambda part, own: (1 + own[1]) * part + own[0], norm(x), layout, triples)


def added(x: Array, y: Array, layout: Layout, triples: Sequence[Triple]) -> Array:
  """Computes x + gate y, with the gate of each stream."""
  return x + _each(lambda part, own: own[2] * part, y, layout, triples)


def _each(function, x, layout, triples):
  parts = jnp.split(x, [layout.text, layout.text + layout.high], axis=1)
  changed = [function(part, own) for part, own in zip(parts, triples)]
  return jnp.concatenate(changed, axis=1).astype(x.dtype)
