"""The layer: two sets of heads, each with its own projections."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.contract import check_known
from attnjax.core.pooling import means
from attnjax.nn import projections, unseen, windowed
from attnjax.variants.local.hilo.attention import IMPLEMENTATIONS, attend

FORMS = ("image",)
_INIT = nnx.initializers.truncated_normal(0.02)


class Layer(nnx.Module):
  """The official module: projections, `attend`, a projection for each kind of head.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    window: side of the windows; with 1 all heads are low.
    alpha: int(alpha N) heads are low.
    qkv_bias: of the projections to queries, keys and values.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    window: int = 2,
    alpha: float = 0.5,
    qkv_bias: bool = True,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if not 0 <= alpha <= 1:
      raise ValueError(f"alpha = {alpha}: it must be from 0 to 1")
    if window < 1:
      raise ValueError(f"window = {window}: it must be at least 1")
    size = projections.head_size(dim, heads)
    low = heads if window == 1 else int(heads * alpha)
    self.high = self._branch(dim, heads - low, size, qkv_bias, rngs)
    self.low = self._branch(dim, low, size, qkv_bias, rngs)
    self.window, self.impl = window, impl

  def __call__(
    self, x: Float[Array, "B H W D"], *, index: Int[Array, ""] | int = 0
  ) -> Float[Array, "B H W D"]:
    """The layer's result: the channels of the high heads, then of the low ones."""
    del index  # the same at every depth
    if 0 in x.shape:
      return unseen.nothing(self, x)
    heads = self._heads(x)
    out = attend(**heads, window=self.window, impl=self.impl).astype(x.dtype)
    high = 0 if self.high is None else self.high.out.kernel.shape[0]
    parts = []
    if self.high is not None:
      parts.append(self.high.out(out[..., :high, :]))
    if self.low is not None:
      parts.append(self.low.out(out[..., high:, :]))
    return jnp.concatenate(parts, axis=-1)

  def weights(self, x: Float[Array, "B H W D"], *, index=0) -> Float[Array, "B N T T"]:
    """What each head takes of each token; a pooled window's share is its tokens'."""
    del index
    heads = self._heads(x)
    for name, values in (("k", "v"), ("pooled_k", "pooled_v")):
      if name in heads:
        eye = windowed.identity(x.shape[1:3], x.shape[0], heads[name].shape[-2])
        heads[values] = eye if values == "v" else means(eye, self.window)
    out = attend(**heads, window=self.window, impl=self.impl)
    return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)

  def _heads(self, x):
    """The arguments of `attend`."""
    queries, heads = [], {}
    if self.high is not None:
      project = self.high.project
      heads["k"], heads["v"] = project.key(x), project.value(x)
      queries.append(project.query(x))
    if self.low is not None:
      project, cells = self.low.project, means(x, self.window)
      heads["pooled_k"], heads["pooled_v"] = project.key(cells), project.value(cells)
      queries.append(project.query(x))
    return heads | {"q": jnp.concatenate(queries, axis=-2)}

  def _branch(self, dim, heads, size, bias, rngs):
    return _Branch(dim, heads, size, bias, rngs=rngs) if heads else None


class _Branch(nnx.Module):
  def __init__(self, dim, heads, size, bias, *, rngs):
    self.project = projections.QueryKeyValue(
      dim, heads, heads, size, bias=bias, init=_INIT, rngs=rngs
    )
    self.out = projections.output(
      heads, size, heads * size, bias=True, init=_INIT, rngs=rngs
    )
