"""The final state of each part of the tokens from a zero state, as a weighted sum.

The greatest scores and totals of all rows are known beforehand, so that a part needs no
scan over its chunks: its final state is one weighted sum of its values, in reverse of
the cotangents, which XLA computes for all parts in one kernel that reads them once.
"""

import jax.numpy as jnp

from attnjax.core.recurrence.prefix import Weights


def forward(weights: Weights, values, size: int, parts: int):
  """Computes the effect on the state of each part but the last, of `size` tokens.

  Returns:
    (parts - 1, B, N), the factor by which each part decays the state, and
    (parts - 1, B, N, E), the state after each part from a zero state.
  """

  def cut(x):
    return x[:, : (parts - 1) * size].reshape(len(x), parts - 1, size, *x.shape[2:])

  top, share = (cut(x)[:, :, -1:] for x in (weights.top, weights.share))
  before = tuple(cut(x)[:, :, :1] for x in weights.before)
  exponent, kept = cut(weights.scores) - top, _kept(before, top, share)
  if weights.first is not None:
    place = cut(jnp.arange((parts - 1) * size)[None, :, None])
    since = cut(weights.first[..., None])[:, :, -1:]
    exponent = jnp.where(since <= place, exponent, -jnp.inf)
    kept = jnp.where(since < place[:, :, :1], kept, 0)
  ends = _sums((jnp.exp(exponent) * share)[..., None] * cut(values))
  return jnp.moveaxis(kept[:, :, 0], 1, 0), ends


def backward(weights: Weights, g, delta, size: int, parts: int, length: int):
  """Computes the effect of parts on the gradients, from the last part to the second.

  The first result is of the last `size` of `length` tokens. Tokens are padded to
  `length`, by less than a part.

  Returns:
    (parts - 1, B, N), the decay factors as in `forward`; (parts - 1, B, N, E), the
    gradients A by the state before each part from a zero gradient after it;
    (parts - 1, B, N), the sums b of the deltas.
  """
  begin = length - (parts - 1) * size

  def cut(x, mode="edge"):
    widths = ((0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2))
    x = jnp.pad(x, widths, mode=mode)[:, begin:]
    return x.reshape(len(x), parts - 1, size, *x.shape[2:])

  before = tuple(cut(x)[:, :, :1] for x in weights.before)
  into = _kept(before, cut(weights.top), cut(weights.share))
  if weights.first is not None:
    place = begin + size * jnp.arange(parts - 1)[:, None, None]
    into = jnp.where(cut(weights.first[..., None]) < place, into, 0)
  changes = _sums(into[..., None] * cut(g, "constant"))
  taken = _sums(into * cut(delta, "constant"))
  kept = jnp.moveaxis(into[:, :, -1], 1, 0)
  return kept[::-1], changes[::-1], taken[::-1]


def _kept(before, top, share):
  """Returns each row's weight of the state before its part."""
  # Where a row sees no state from before, `before` is no lower bound of top.
  return jnp.exp(jnp.minimum(before[0] - top, 0)) * before[1] * share


def _sums(x):
  """Adds up (B, parts, size, ...) over the tokens of a part, to (parts, B, ...)."""
  return jnp.moveaxis(x.sum(axis=2), 1, 0)
