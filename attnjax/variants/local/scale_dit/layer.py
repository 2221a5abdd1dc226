"""The layer: an image, and its means over cells as the low resolution."""

import dataclasses
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.grids import pooling
from attnjax.variants.local.scale_dit.attention import attend
from attnjax.variants.local.scale_dit.joint import JointAttention
from attnjax.variants.local.scale_dit.layout import Layout

FORMS = ("image",)


class Layer(nnx.Module):
  """`JointAttention` of one image and its means over cells as the low resolution.

  The image's tokens see their neighbours and all means. The means have keys and values
  only, so that only these have low-rank terms.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D into heads that 8 divides.
    window: side of a window.
    ratio: side of the cells.
    kind: of the neighbourhoods, "sliding" or "window".
    qk_norm: as in `JointAttention`.
    rank: of the low-rank terms.
    alpha: of the low-rank terms.
    lora_noise: as `noise` of `TokenLoRA`.
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
    qk_norm: bool = True,
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
      qk_norm=qk_norm,
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
    """Returns the layout of an image of that grid, without text."""
    low = -(-rows // self.ratio), -(-columns // self.ratio)
    return Layout((rows, columns), low, window=self.window, kind=self.kind)

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads of the image's tokens in the layout's order, then the means'.

    The queries (B, T, N, H) leave out the means.
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
    """Returns the projection of all heads' outputs, on the grid of the image."""
    x = heads.tokens.x
    layout = self.layout(*x.shape[1:3])
    y = self.attention.merge(out, x, layout)
    return y[:, np.argsort(layout.places())].reshape(x.shape)

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B R C D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns the tokens' weights, row by row; a mean's tokens share its weight."""
    heads, layout = self.project(x, **context), self.layout(*x.shape[1:3])
    eye = jnp.eye(layout.high, dtype=jnp.float32).reshape(1, *x.shape[1:3], -1)
    eye = self._streams(eye, layout)[:, :, None]
    eye = jnp.broadcast_to(eye, (*heads.v.shape[:-1], layout.high))
    out = self.mix(dataclasses.replace(heads, v=eye))
    return out[:, np.argsort(layout.places())].swapaxes(1, 2)

  def _streams(self, x, layout):
    """Returns the tokens (B, T + L, D) of image and means, in the layout's order."""
    flat, low = (
      y.reshape(y.shape[0], -1, y.shape[-1]) for y in (x, pooling.means(x, self.ratio))
    )
    parts = flat[:, layout.places()], low[:, layout.low_places()]
    return jnp.concatenate(parts, axis=1)
