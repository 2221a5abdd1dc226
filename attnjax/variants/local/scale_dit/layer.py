"""Joint attention of the streams with their low-rank terms, and a layer for images."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core import pooling, positions
from attnjax.nn import projections, unseen
from attnjax.variants.local.scale_dit.attention import IMPLEMENTATIONS, attend
from attnjax.variants.local.scale_dit.layout import Layout

FORMS = ("image",)
AXES = 4  # nothing, rows, columns, text: each turns a quarter of a head
_INIT = nnx.initializers.normal(0.02)


class TokenLoRA(nnx.Module):
  """linear(x), and on some tokens alpha / rank B A x.

  Edward J. Hu et al. LoRA. arXiv:2106.09685.

  Args:
    below: width of x.
    dim: of the result.
    rank: of the term; there is none if 0.
    alpha: its weight is alpha / rank.
    noise: standard deviation of B at the start; zeros, so that the term begins at
      nothing, if 0.
    bias: of the linear map.
    rngs: for the parameters.
  """

  def __init__(
    self,
    below: int,
    dim: int,
    *,
    rank: int = 16,
    alpha: float = 16.0,
    noise: float = 0.0,
    bias: bool = False,
    rngs: nnx.Rngs,
  ):
    if rank < 0:
      raise ValueError(f"rank = {rank}: it must be at least 0")
    self.linear = nnx.Linear(below, dim, use_bias=bias, kernel_init=_INIT, rngs=rngs)
    gaussian, unit = (
      nnx.initializers.normal(1 / max(rank, 1)),
      nnx.initializers.normal(1),
    )
    first, second = rngs.params(), rngs.params()
    self.down = nnx.Param(gaussian(first, (below, rank))) if rank else None
    self.up = nnx.Param(noise * unit(second, (rank, dim))) if rank else None
    self.factor = alpha / max(rank, 1)

  def __call__(
    self, x: Float[Array, "B T D"], tokens: Bool[np.ndarray, "T"]
  ) -> Float[Array, "B T E"]:
    """The result; `tokens` are those with the term, known when a program is traced."""
    y, chosen = self.linear(x), np.flatnonzero(tokens)
    if self.down is None or self.up is None or not chosen.size:
      return y
    # Streams lie one after the other: the term is made from the first to the last.
    first, last = chosen[0], chosen[-1] + 1
    down, up = (part[...].astype(x.dtype) for part in (self.down, self.up))
    term = self.factor * (x[:, first:last] @ down @ up)
    term = jnp.where(tokens[first:last, None], term, 0)
    return y + jnp.pad(term, ((0, 0), (first, x.shape[1] - last), (0, 0)))


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
    flags, ids = layout.streams() == 2, layout.positions(anchor_scale)
    asking = layout.tokens if self.ask_low else layout.tokens - layout.low
    q = self._heads(self.query(x[:, :asking], flags[:asking]))
    k, v = (self._heads(part(x, flags)) for part in (self.key, self.value))
    q, k = rotate(q, ids[:asking], self.theta), rotate(k, ids, self.theta)
    y = attend(q, k, v, layout=layout, impl=self.impl)
    y = y.astype(x.dtype).reshape(*y.shape[:2], -1)
    return self.out(y, flags[:asking])

  def _heads(self, y):
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
    mode: of the neighbours, "sliding" or "window".
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
    mode: str = "sliding",
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
    self.window, self.ratio, self.mode = (window, window), ratio, mode
    self.layout(1, 1)  # its checks

  def layout(self, rows: int, columns: int) -> Layout:
    """Where the tokens of an image of that grid lie."""
    low = -(-rows // self.ratio), -(-columns // self.ratio)
    return Layout((rows, columns), low, window=self.window, mode=self.mode)

  def __call__(self, x: Float[Array, "B R C D"], *, index=0) -> Float[Array, "B R C D"]:
    """The same shape as x."""
    del index  # the same at every depth
    if 0 in x.shape:
      return unseen.nothing(self, x)
    layout, flat = self.layout(*x.shape[1:3]), x.reshape(x.shape[0], -1, x.shape[-1])
    low = pooling.means(x, self.ratio).reshape(x.shape[0], -1, x.shape[-1])
    order = layout.places()
    parts = flat[:, order], low[:, layout.low_places()]
    tokens = jnp.concatenate(parts, axis=1)
    y = self.attention(tokens, layout, anchor_scale=self.ratio)
    return y[:, np.argsort(order)].reshape(x.shape)


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
