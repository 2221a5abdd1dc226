"""Projections to heads, with causal depthwise convolutions that heads may share."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

_INIT = nnx.initializers.normal(0.02)


def convolve(
  x: Float[Array, "B T N H"],
  kernel: Float[Array, "W #N H"],
  segment_ids: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T N H"]:
  """Returns y[t] = sum_i kernel[i] x[t - i], with zeros before the first token.

  A token of another segment, or with a negative id, counts as zero.
  """
  T, kernel = x.shape[1], kernel.astype(x.dtype)
  before = [(0, 0), (kernel.shape[0] - 1, 0)]
  past = jnp.pad(x, [*before, (0, 0), (0, 0)])
  ids = segment_ids
  others = None if ids is None else jnp.pad(ids, before, constant_values=-1)
  y = jnp.zeros_like(x)
  for i in range(kernel.shape[0]):
    first = kernel.shape[0] - 1 - i
    term = past[:, first : first + T] * kernel[i][None, None]
    if ids is not None and others is not None:
      same = (others[:, first : first + T] == ids) & (ids >= 0)
      term = jnp.where(same[..., None, None], term, 0)
    y += term
  return y


class HeadConvolution(nnx.Module):
  """`convolve` with parameters.

  Args:
    heads: N.
    size: H.
    width: of the filters, in tokens.
    shared: True: H filters for all heads, with a bias, both drawn from
      U(-width^-0.5, width^-0.5), PyTorch's default. False: filters for each head's
      channels, without a bias, which start at 1/2 for the token itself and at
      1/2 / width for those before it, as in Primer.
    rngs: for the parameters.
  """

  def __init__(
    self, heads: int, size: int, width: int, *, shared: bool, rngs: nnx.Rngs
  ):
    if shared:
      draw = jax.random.split(rngs.params())
      kernel, bias = (
        jax.random.uniform(key, shape, minval=-(width**-0.5), maxval=width**-0.5)
        for key, shape in zip(draw, ((width, 1, size), (size,)))
      )
      self.bias = nnx.Param(bias)
    else:
      self.bias = None
      kernel = jnp.full((width, heads, size), 0.5 / width).at[0].set(0.5)
    self.kernel = nnx.Param(kernel)

  def __call__(
    self, x: Float[Array, "B T N H"], segment_ids: Int[Array, "B T"] | None = None
  ) -> Float[Array, "B T N H"]:
    """Returns the convolved heads; segments do not see each other."""
    y = convolve(x, self.kernel[...], segment_ids)
    if self.bias is None:
      return y
    return y + self.bias[...].astype(y.dtype)[None, None, None]


class ConvolvedHeads(nnx.Module):
  """Projections of a row (B, L, D) to queries, keys and values (B, L, N, H).

  Args:
    dim: D.
    heads: N.
    size: H.
    width: of the convolutions; 0: none.
    shared: whether heads share filters, see `HeadConvolution`.
    biases: which of the projections "query", "key" and "value" have a bias.
    shared_qk: queries are projected from the convolved keys, as an option of Primer's.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    size: int,
    width: int,
    *,
    shared: bool,
    biases: tuple[str, ...],
    shared_qk: bool,
    rngs: nnx.Rngs,
  ):
    def linear(name):
      ends, axis = (dim, -1)
      if name == "query" and shared_qk:
        ends, axis = (heads, size), (-2, -1)
      shape, biased = (heads, size), name in biases
      return nnx.LinearGeneral(
        ends, shape, axis=axis, use_bias=biased, kernel_init=_INIT, rngs=rngs
      )

    self.query, self.key, self.value = map(linear, ("query", "key", "value"))
    names = ("key", "value") if shared_qk else ("query", "key", "value")
    self.convolutions = nnx.Dict(
      {
        name: HeadConvolution(heads, size, width, shared=shared, rngs=rngs)
        for name in (names if width else ())
      }
    )
    self.past, self.shared_qk = max(width - 1, 0), shared_qk

  def __call__(
    self,
    row: Float[Array, "B L D"],
    segment_ids: Int[Array, "B L"] | None,
    tokens: int,
    halo: bool,
  ) -> tuple[Array, Array, Array]:
    """Returns queries of the last T tokens, keys and values of the whole row.

    Args:
      row: earlier inputs, then T own ones.
      segment_ids: of the row; None is one document.
      tokens: T.
      halo: whether queries' convolutions read the inputs before those of the queries.
    """
    k, v = (self._one(name, row, segment_ids) for name in ("key", "value"))
    if self.shared_qk:
      return self.query(k[:, -tokens:]), k, v
    first = row.shape[1] - tokens
    first -= min(first, self.past) if halo else 0
    ids = None if segment_ids is None else segment_ids[:, first:]
    return self._one("query", row[:, first:], ids)[:, -tokens:], k, v

  def _one(self, name, row, ids):
    y = getattr(self, name)(row)
    return self.convolutions[name](y, ids) if name in self.convolutions else y
