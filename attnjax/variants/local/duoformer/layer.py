"""Scale attention with its projections, and a layer of both kinds for one map."""

import dataclasses
from typing import Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.grids.partition import Partition
from attnjax.core.grids.pooling import means
from attnjax.nn import projections
from attnjax.variants.local.duoformer.attention import IMPLEMENTATIONS, attend
from attnjax.variants.local.duoformer.tokens import real_tokens

FORMS = ("image",)
_INIT = nnx.initializers.truncated_normal(0.02)
SPREAD = 0.036  # standard deviation of learned tokens and positions


class ScaleAttention(nnx.Module):
  """Projections with bias and `attend`: self-attention within each list.

  Args:
    dim: D.
    heads: N, which divides D.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(self, dim: int, *, heads: int, impl: str = "auto", rngs: nnx.Rngs):
    size = projections.head_size(dim, heads)
    self.qkv = projections.QueryKeyValue(
      dim, heads, heads, size, bias=True, init=_INIT, rngs=rngs
    )
    self.out = projections.output(heads, size, dim, bias=True, init=_INIT, rngs=rngs)
    self.impl = impl

  def __call__(
    self, x: Float[Array, "B P n D"], valid: Bool[Array, "P n"] | None = None
  ) -> Float[Array, "B P n D"]:
    """Returns the attention's result for each token of each list."""
    out = attend(*self.qkv.heads(x), valid=valid, impl=self.impl)
    return self.out(out.astype(x.dtype))

  def weights(
    self, x: Float[Array, "B P n D"], *, index: int = 0
  ) -> Float[Array, "B PN n n"]:
    """Returns the weights within each list: its heads, one list after the other."""
    del index  # equal at every depth
    q, k, v = self.qkv.heads(x)
    n = v.shape[2]
    eye = jnp.eye(n, dtype=jnp.float32)[:, None]
    out = attend(q, k, jnp.broadcast_to(eye, (*v.shape[:-1], n)), impl=self.impl)
    return out.swapaxes(2, 3).reshape(out.shape[0], -1, n, n)


class Layer(nnx.Module):
  """Both attentions on one map, with as many channels out as in.

  The official model takes the maps of a convolutional network (see `Encoder`). For a
  host's single map the coarser ones are its means over 2 x 2, 4 x 4, ... tokens:

    z = scale attention of [token, means, ..., the tokens of a cell] + positions
    y = z of the tokens + patch attention of the scale tokens' z, added to the cell

  A cell has 2^(scales - 1) tokens on each axis; what a map lacks is not seen.

  Args:
    dim: D.
    form: "image".
    heads: N, which divides D.
    scales: number of maps.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 4,
    scales: int = 3,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(form=(form, FORMS), impl=(impl, ("auto", *IMPLEMENTATIONS)))
    if scales < 1:
      raise ValueError(f"scales = {scales}: it must be at least 1")
    self.sides = tuple(2**number for number in range(scales))
    draw = nnx.initializers.truncated_normal(SPREAD)
    total = 1 + sum(side**2 for side in self.sides)
    self.token = nnx.Param(draw(rngs.params(), (dim,)))
    self.positions = nnx.Param(draw(rngs.params(), (total, dim)))
    self.scale = ScaleAttention(dim, heads=heads, impl=impl, rngs=rngs)
    self.patch = ScaleAttention(dim, heads=heads, impl=impl, rngs=rngs)
    self.impl = impl

  def project(self, x: Float[Array, "B H W D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads (B, P, n, N, H) of the list of every cell, and who is real."""
    tokens = contexts.accept(x, context, form="image")
    heads = self.scale.qkv.heads(self._lists(tokens.x))
    real = jnp.asarray(real_tokens(x.shape[1:3], self.sides))
    real = jnp.pad(real, ((0, 0), (1, 0)), constant_values=True)
    return Heads(*heads, tokens, more={"real": real})

  def mix(self, heads: Heads) -> Float[Array, "B P n N E"]:
    """Returns the scale attention of every list."""
    real = heads.more["real"]
    return attend(heads.q, heads.k, heads.v, valid=real, impl=self.impl)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B H W D"]:
    """Returns the tokens' results, with the patch attention of the scale tokens'."""
    parts = self._cells(heads.tokens.x)
    z = self.scale.out(out.astype(heads.tokens.x.dtype))
    cells = self.patch(z[:, None, :, 0])[:, 0]
    return parts.join(z[:, :, -parts.tokens :] + cells[:, :, None])

  def __call__(
    self, x: Float[Array, "B H W D"], **context: Unpack[Context]
  ) -> Float[Array, "B H W D"]:
    """Returns the layer's result for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x, **context: Unpack[Context]) -> Float[Array, "B N T T"]:
    """Returns the weights of scale attention, those through the means included.

    Rows sum to less than 1: the scale token has a share.
    """
    heads, parts = self.project(x, **context), self._cells(x)
    grid, size = x.shape[1:3], x.shape[1] * x.shape[2]
    eye = jnp.eye(size, dtype=jnp.float32).reshape(1, *grid, size)
    shares = self._with_means(eye)
    none = jnp.zeros((1, parts.number, 1, size))
    shares = jnp.concatenate([none, *shares], axis=2)[:, :, :, None]
    values = jnp.broadcast_to(shares, (*heads.k.shape[:-1], size))
    out = self.mix(dataclasses.replace(heads, v=values))
    out = parts.join(out[:, :, -parts.tokens :])
    return out.reshape(out.shape[0], size, -1, size).swapaxes(1, 2)

  def _cells(self, x):
    return Partition(x.shape[1:3], self.sides[-1])

  def _lists(self, x):
    """Returns the tokens (B, P, n, D) of every cell."""
    lists = self._with_means(x)
    first = jnp.broadcast_to(
      self.token[...].astype(x.dtype), (x.shape[0], lists[0].shape[1], 1, x.shape[-1])
    )
    tokens = jnp.concatenate([first, *lists], axis=2)
    return tokens + self.positions[...].astype(x.dtype)[None, None]

  def _with_means(self, x):
    """Returns the lists of each map, the coarsest first."""
    found = []
    for side in self.sides:
      step = self.sides[-1] // side
      small = x if step == 1 else means(x, step)
      found.append(Partition(small.shape[1:3], side).split(small))
    return found
