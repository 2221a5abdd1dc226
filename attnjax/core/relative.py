"""Terms of attention scores that depend on the distance of query and key.

Score functions, for `attnjax.dot_product_attention(score=...)`, add a bias that is
learned for each distance, for each of T5's buckets, or falls linearly. Terms of the
content and the distance are a product of queries and a table, shifted:

  terms[t, s] = x[t] . table[d] + bias[d]        d = offset + t - s, in 0 .. R - 1

Tables of distances have R rows: distances from R - 1 on read the last one. All of
this is linear in the tables, whose gradients sum over the pairs of a distance.

Peter Shaw, Jakob Uszkoreit, Ashish Vaswani. arXiv:1803.02155. Colin Raffel et al. T5.
arXiv:1910.10683, section 2.1. Zihang Dai et al. Transformer-XL. arXiv:1901.02860,
appendix B (the shift). Ofir Press et al. ALiBi. arXiv:2108.12409.

Cost: the terms take O(T S N H) time and O(T S N) memory; no (T, S, N, H) array exists.
Biases read by a score function are an operand (1, N, T, S) of the engine.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax.core.dtypes import accumulator_dtype


def learned(table: Float[Array, "R N"]) -> Callable:
  """Returns the score function that adds table[q - k, n]; keys after q read row 0."""

  def score(score, b, n, q, k):
    del b
    return score + table[jnp.clip(q - k, 0, table.shape[0] - 1), n]

  return score


def alibi(slopes: Float[Array, "N"]) -> Callable:
  """Returns the score function that subtracts slopes[n] |q - k|."""

  def score(score, b, n, q, k):
    del b
    return score - slopes[n] * jnp.abs(q - k)

  return score


def t5(
  table: Float[Array, "R N"], *, max_distance: int = 128, causal: bool = True
) -> Callable:
  """Returns the score function that adds table[bucket(q - k), n].

  T5 itself does not scale its scores: give the engine scale=1.

  Args:
    table: a bias for each bucket and head.
    max_distance: distances from there on are in the last bucket.
    causal: whether all buckets are of keys before the query; else half of them, the
      second half being of keys after it.

  Raises:
    ValueError: if a direction has fewer than 2 buckets, or max_distance no wide one.
  """
  buckets = table.shape[0] // (1 if causal else 2)
  exact = buckets // 2
  if exact < 1 or max_distance <= exact:
    raise ValueError(
      f"{buckets} buckets a direction up to max_distance = {max_distance}: at least 2,"
      f" and a greater distance than the {exact} of one bucket each"
    )
  rate = (buckets - exact) / math.log(max_distance / exact)

  def score(score, b, n, q, k):
    del b
    distance = jnp.maximum(q - k, 0) if causal else jnp.abs(q - k)
    far = jnp.log(jnp.maximum(distance, exact).astype(jnp.float32) / exact) * rate
    far = jnp.minimum(exact + far.astype(jnp.int32), buckets - 1)
    bucket = jnp.where(distance < exact, distance, far)
    first = 0 if causal else jnp.where(k > q, buckets, 0)
    return score + table[first + bucket, n]

  return score


def rows(
  table: Float[Array, "R ..."], offset: int | Int[Array, ""], T: int, S: int
) -> Float[Array, "L ..."]:
  """Returns the table's rows for the distances of T queries and S keys, falling.

  Row m of L = T + S - 1 is of the distance offset + T - 1 - m. Without an index that
  is traced, nothing is gathered.
  """
  last = table.shape[0] - 1
  if not isinstance(offset, int | np.integer):
    places = offset + (T - 1) - jnp.arange(T + S - 1)
    return table[jnp.clip(places, 0, last)]
  places = np.clip(int(offset) + T - 1 - np.arange(T + S - 1), 0, last)
  least, most = int(places.min()), int(places.max())
  front = int((places == most).sum()) - 1
  back = int((places == least).sum()) - 1 if least < most else 0
  ends = [(front, back)] + [(0, 0)] * (table.ndim - 1)
  return jnp.pad(table[least : most + 1][::-1], ends, mode="edge")


def terms(
  x: Float[Array, "B T N H"],
  table: Float[Array, "L N H"] | None,
  bias: Float[Array, "L N"] | None,
) -> Float[Array, "B N T S"]:
  """Returns x[t] . table[m] + bias[m] of all pairs, m = s + T - 1 - t.

  Args:
    x: queries.
    table: of `rows`; None for 0.
    bias: of `rows`; None for 0.
  """
  dtype, T = accumulator_dtype(x), x.shape[1]
  found = jnp.zeros((1, 1, 1, 1), dtype)
  if table is not None:
    table = table.astype(x.dtype)
    found = jnp.einsum("btnh,mnh->bntm", x, table, preferred_element_type=dtype)
  if bias is not None:
    found = found + bias.astype(dtype).T[None, :, None]
  found = jnp.broadcast_to(found, (*found.shape[:2], T, found.shape[3]))
  return shifted(found)


def terms_at(
  x: Float[Array, "B T N H"],
  table: Float[Array, "R N H"] | None,
  bias: Float[Array, "R N"] | None,
  distance: Int[Array, "#B T S"],
) -> Float[Array, "B N T S"]:
  """Returns x[t] . table[d] + bias[d] for distances given for each pair.

  The product with all R rows is computed, then gathered.
  """
  dtype, R = accumulator_dtype(x), next(y for y in (table, bias) if y is not None)
  found = jnp.zeros((1, x.shape[2], x.shape[1], R.shape[0]), dtype)
  if table is not None:
    table = table.astype(x.dtype)
    found += jnp.einsum("btnh,mnh->bntm", x, table, preferred_element_type=dtype)
  if bias is not None:
    found += bias.astype(dtype).T[None, :, None]
  places = jnp.clip(distance, 0, R.shape[0] - 1)[:, None]
  return jnp.take_along_axis(found, places, axis=3)


def shifted(x: Float[Array, "*B T L"]) -> Float[Array, "*B T S"]:
  """Returns y[t, s] = x[t, s + T - 1 - t], S = L - T + 1, without gathering."""
  *lead, T, L = x.shape
  # In rows of L + 1 elements, read as rows of L, each row begins one element later.
  padded = jnp.pad(x, [(0, 0)] * (len(lead) + 1) + [(0, 1)])
  skewed = padded.reshape(*lead, -1)[..., : T * L].reshape(*lead, T, L)
  return skewed[..., T - 1 :]
