"""Joint attention of the streams, with low-rank terms on low-resolution tokens."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.core import positions
from attnjax.nn import projections
from attnjax.variants.local.scale_dit.attention import IMPLEMENTATIONS, attend
from attnjax.variants.local.scale_dit.layout import Layout
from attnjax.variants.local.scale_dit.lora import TokenLoRA

AXES = 4  # zero, rows, columns, text: each rotates a quarter of a head
_INIT = nnx.initializers.normal(0.02)


class JointAttention(nnx.Module):
  """Self-attention of [text; image; low-resolution image].

  One set of weights serves all streams, as in the released model's later blocks, or the
  text has its own, as in its first blocks.

  Args:
    dim: D.
    heads: N, which divides D into heads that 8 divides.
    own_text: whether the text has projections and norms of its own.
    qk_norm: an RMS norm of each query and key head, before the rotation.
    rank: of the low-rank terms on low-resolution tokens.
    alpha: of the low-rank terms.
    lora_noise: as `noise` of `TokenLoRA`.
    rope_theta: of the rotary positions; 0 for none.
    ask_low: whether low-resolution tokens have outputs, too. Otherwise their queries
      are not computed, and only keys and values have low-rank terms.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int = 4,
    own_text: bool = False,
    qk_norm: bool = True,
    rank: int = 16,
    alpha: float = 16.0,
    lora_noise: float = 0.0,
    rope_theta: float = 2000.0,
    ask_low: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
    size = projections.head_size(dim, heads)
    if size % (2 * AXES):
      raise ValueError(f"head size {size}: {2 * AXES} must divide it, for {AXES} axes")

    if rank < 1:
      raise ValueError(f"rank = {rank}: it must be at least 1")

    def project(rank):
      return TokenLoRA(dim, dim, rank=rank, alpha=alpha, noise=lora_noise, rngs=rngs)

    asked = rank if ask_low else 0
    self.query, self.key, self.value, self.out = map(
      project, (asked, rank, rank, asked)
    )
    self.norms = Norms(size, rngs=rngs) if qk_norm else None
    self.text: Any = (
      TextStream(dim, heads, qk_norm=qk_norm, rngs=rngs) if own_text else None
    )
    self.heads, self.theta, self.impl = heads, rope_theta, impl
    self.ask_low = ask_low

  def __call__(
    self, x: Float[Array, "B T D"], layout: Layout, *, anchor_scale: int = 0
  ) -> Float[Array, "B t D"]:
    """Returns the outputs of all tokens, or of text and image if not `ask_low`.

    Args:
      x: the tokens in the layout's order.
      layout: the numbers and the order of the tokens.
      anchor_scale: as in `Layout.positions`.
    """
    q, k, v = self.project(x, layout, anchor_scale=anchor_scale)
    return self.merge(attend(q, k, v, layout=layout, impl=self.impl), x, layout)

  def project(
    self, x: Float[Array, "B T D"], layout: Layout, *, anchor_scale: int = 0
  ) -> tuple[Array, Array, Array]:
    """Returns the tokens' rotated queries (B, t, N, H) and keys, and their values."""
    flags, ids = layout.streams() == 2, layout.positions(anchor_scale)
    asking = layout.tokens if self.ask_low else layout.tokens - layout.low
    own = self._own(layout)
    q = _split(self.query(x[:, own:asking], flags[own:asking]), self.heads)
    k, v = (
      _split(part(x[:, own:], flags[own:]), self.heads)
      for part in (self.key, self.value)
    )
    if self.norms is not None:
      q, k = self.norms(q, k)
    if own:
      pairs = zip(self.text.project(x[:, :own]), (q, k, v))
      q, k, v = (jnp.concatenate(pair, axis=1) for pair in pairs)
    return rotate(q, ids[:asking], self.theta), rotate(k, ids, self.theta), v

  def merge(self, out: Array, x: Array, layout: Layout) -> Float[Array, "B t D"]:
    """Returns the projection of all heads' outputs (B, t, N, H) for tokens x."""
    y, own = out.astype(x.dtype).reshape(*out.shape[:2], -1), self._own(layout)
    z = self.out(y[:, own:], layout.streams()[own : out.shape[1]] == 2)
    return jnp.concatenate([self.text.out(y[:, :own]), z], axis=1) if own else z

  def _own(self, layout) -> int:
    """Returns the number of tokens, the first, that have weights of their own."""
    return 0 if self.text is None else layout.text


class Norms(nnx.Module):
  """RMS norms of query and key heads, each with a weight (H,) that all heads share."""

  def __init__(self, size: int, *, rngs: nnx.Rngs):
    self.query, self.key = (nnx.RMSNorm(size, epsilon=1e-6, rngs=rngs) for _ in "qk")

  def __call__(
    self, q: Float[Array, "B t N H"], k: Float[Array, "B T N H"]
  ) -> tuple[Array, Array]:
    """Returns the normalised queries and keys, in their types."""
    return self.query(q).astype(q.dtype), self.key(k).astype(k.dtype)


class TextStream(nnx.Module):
  """The text's own projections to queries, keys and values, norms and output."""

  def __init__(self, dim: int, heads: int, *, qk_norm: bool, rngs: nnx.Rngs):
    self.query, self.key, self.value, self.out = (
      nnx.Linear(dim, dim, use_bias=False, kernel_init=_INIT, rngs=rngs) for _ in "qkvo"
    )
    self.norms = Norms(dim // heads, rngs=rngs) if qk_norm else None
    self.heads = heads

  def project(self, x: Float[Array, "B E D"]) -> tuple[Array, Array, Array]:
    """Returns the normalised queries and keys (B, E, N, H), and the values."""
    q, k, v = (_split(f(x), self.heads) for f in (self.query, self.key, self.value))
    return (q, k, v) if self.norms is None else (*self.norms(q, k), v)


def _split(y, heads):
  return y.reshape(*y.shape[:2], heads, -1)


def rotate(
  x: Float[Array, "B T N H"], ids: np.ndarray, theta: float = 2000.0
) -> Float[Array, "B T N H"]:
  """Rotates each share of the heads by the positions on one of several axes.

  Args:
    x: queries or keys.
    ids: (T, A), as from `Layout.positions`; 2 A divides H.
    theta: of the frequencies of each share; 0 for no rotation.
  """
  if not theta:
    return x
  parts = jnp.split(x, ids.shape[1], axis=-1)
  turned = [
    positions.rotate(part, jnp.asarray(ids[:, axis]), theta=theta)
    for axis, part in enumerate(parts)
  ]
  return jnp.concatenate(turned, axis=-1)
