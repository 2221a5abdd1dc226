"""Joint attention of the streams with their low-rank terms, and a layer for images."""

import dataclasses
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import pooling, positions
from attnjax.nn import projections
from attnjax.variants.local.scale_dit.attention import IMPLEMENTATIONS, attend
from attnjax.variants.local.scale_dit.layout import Layout
from attnjax.variants.local.scale_dit.lora import TokenLoRA

FORMS = ("image",)
AXES = 4  # nothing, rows, columns, text: each turns a quarter of a head


class JointAttention(nnx.Module):
  """Self-attention of [text; image; low-resolution image] with one set of weights.

  Args:
    dim: D.
    heads: N, which divides D into heads that 8 divides.
    rank: of the low-rank terms on low-resolution tokens.
    alpha: of those.
    lora_noise: of those, see `TokenLoRA`.
    rope_theta: of the rotary positions; 0 for none.
    ask_low: whether there are results of the low-resolution tokens too. Otherwise
      their queries are not made, and only keys and values have low-rank terms.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    heads: int = 4,
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
    self.heads, self.theta, self.impl = heads, rope_theta, impl
    self.ask_low = ask_low

  def __call__(
    self, x: Float[Array, "B T D"], layout: Layout, *, anchor_scale: int = 0
  ) -> Float[Array, "B t D"]:
    """The attention's output of all tokens, or of text and image if not `ask_low`.

    Args:
      x: the tokens, as the layout says.
      layout: where they lie.
      anchor_scale: as in `Layout.positions`.
    """
    q, k, v = self.project(x, layout, anchor_scale=anchor_scale)
    return self.merge(attend(q, k, v, layout=layout, impl=self.impl), x, layout)

  def project(
    self, x: Float[Array, "B T D"], layout: Layout, *, anchor_scale: int = 0
  ) -> tuple[Array, Array, Array]:
    """Returns the rotated queries (B, t, N, H) and keys, and the values, of tokens."""
    flags, ids = layout.streams() == 2, layout.positions(anchor_scale)
    asking = layout.tokens if self.ask_low else layout.tokens - layout.low
    q = self._split(self.query(x[:, :asking], flags[:asking]))
    k, v = (self._split(part(x, flags)) for part in (self.key, self.value))
    return rotate(q, ids[:asking], self.theta), rotate(k, ids, self.theta), v

  def merge(self, out: Array, x: Array, layout: Layout) -> Float[Array, "B t D"]:
    """Returns the projection of all heads' results (B, t, N, H) for tokens x."""
    y = out.astype(x.dtype).reshape(*out.shape[:2], -1)
    return self.out(y, layout.streams()[: out.shape[1]] == 2)

  def _split(self, y):
    return y.reshape(*y.shape[:2], self.heads, -1)


class Layer(nnx.Module):
  """The streams for one image: its means over cells are its low resolution.

  The image's tokens see their neighbours and all means. Only keys and values of means
  are needed, so that only those have low-rank terms.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D into heads that 8 divides.
    window: side of a window.
    ratio: side of the cells.
    kind: of the neighbours, "sliding" or "window".
    rank: of the low-rank terms.
    alpha: of those.
    lora_noise: of those, see `TokenLoRA`.
    rope_theta: of the rotary positions; 0 for none.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    window: int = 16,
    ratio: int = 4,
    kind: str = "sliding",
    rank: int = 16,
    alpha: float = 16.0,
    lora_noise: float = 0.0,
    rope_theta: float = 2000.0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    if ratio < 1:
      raise ValueError(f"ratio = {ratio}: it must be at least 1")
    self.attention = JointAttention(
      dim,
      heads=heads,
      rank=rank,
      alpha=alpha,
      lora_noise=lora_noise,
      rope_theta=rope_theta,
      ask_low=False,
      impl=impl,
      rngs=rngs,
    )
    self.window, self.ratio, self.kind = (window, window), ratio, kind
    self.layout(1, 1)  # its checks

  def layout(self, rows: int, columns: int) -> Layout:
    """Where the tokens of an image of that grid lie."""
    low = -(-rows // self.ratio), -(-columns // self.ratio)
    return Layout((rows, columns), low, window=self.window, kind=self.kind)

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of the image's tokens in the layout's order, then the means'.

    Queries (B, T, N, H) are those of the tokens; keys and values also of the means.
    """
    tokens = contexts.accept(x, context, form="image")
    layout = self.layout(*x.shape[1:3])
    streams, scale = self._streams(tokens.x, layout), self.ratio
    return Heads(*self.attention.project(streams, layout, anchor_scale=scale), tokens)

  def mix(self, heads: Heads) -> Float[Array, "B T N E"]:
    """Returns `attend` of the heads, in the layout's order."""
    layout, impl = self.layout(*heads.tokens.x.shape[1:3]), self.attention.impl
    return attend(heads.q, heads.k, heads.v, layout=layout, impl=impl)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B R C D"]:
    """Returns the projection of all heads' results, on the grid of the image."""
    x = heads.tokens.x
    layout = self.layout(*x.shape[1:3])
    y = self.attention.merge(out, x, layout)
    return y[:, np.argsort(layout.places())].reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B R C D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """What each token takes of each, row by row; a mean's share is its tokens'."""
    heads, layout = self.project(x, **context), self.layout(*x.shape[1:3])
    eye = jnp.eye(layout.high, dtype=jnp.float32).reshape(1, *x.shape[1:3], -1)
    eye = self._streams(eye, layout)[:, :, None]
    eye = jnp.broadcast_to(eye, (*heads.v.shape[:-1], layout.high))
    out = self.mix(dataclasses.replace(heads, v=eye))
    return out[:, np.argsort(layout.places())].swapaxes(1, 2)

  def _streams(self, x, layout):
    """The tokens (B, T + L, D): the image's and the means, in the layout's order."""
    flat, low = (
      y.reshape(y.shape[0], -1, y.shape[-1]) for y in (x, pooling.means(x, self.ratio))
    )
    parts = flat[:, layout.places()], low[:, layout.low_places()]
    return jnp.concatenate(parts, axis=1)


def rotate(
  x: Float[Array, "B T N H"], ids: np.ndarray, theta: float = 2000.0
) -> Float[Array, "B T N H"]:
  """Rotary positions on several axes: each turns its own share of a head.

  Args:
    x: queries or keys.
    ids: (T, A), as of `Layout.positions`; 2 A divides H.
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
