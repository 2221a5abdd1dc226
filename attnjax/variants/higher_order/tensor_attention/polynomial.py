"""The polynomial method: sums of monomials of keys in the place of pairs of keys.

With p(x) = sum_g c[g] x^g near e^x and multi-indices a of degree |a| <= G, of which
there are r = C(H + G, G),

  p(scale q.k1.k2) = sum_a u[a] k1^a k2^a,  u[a] = c[|a|] scale^|a| (|a|! / a!) q^a
  out = sum_a u[a] (sum_j k1[j]^a v1[j]) (sum_l k2[l]^a v2[l]) / the sum with v = 1

r is small for small heads alone: 3003 for H = 8 and G = 6.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from attnjax.contract import check_known
from attnjax.core import definition, third_order
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.higher_order.tensor_attention.approximation import (
  coefficients,
  indices_of,
  monomials,
  multinomials,
)
from attnjax.variants.higher_order.tensor_attention.attention import IMPLEMENTATIONS

CHUNK = 16  # tokens between two sums that causal attention keeps


def attend_polynomial(
  q: Float[Array, "B T N H"],
  k1: Float[Array, "B S K H"],
  k2: Float[Array, "B S K H"],
  v1: Float[Array, "B S K V"],
  v2: Float[Array, "B S K V"],
  *,
  degree: int,
  bound: float | None = None,
  causal: bool = False,
  mask: Bool[Array, "#B S"] | None = None,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B T N V"]:
  """Computes third-order attention by a polynomial for e^x, (B, T, N, V).

  Its error is at most `error_bound` where |scores| <= bound.

  Args:
    q: queries.
    k1: keys of the first stream; K divides N.
    k2: keys of the second stream.
    v1: values of the first stream.
    v2: values of the second stream.
    degree: G, of the polynomial.
    bound: R; the polynomial's range, see `coefficients`; Taylor's if None.
    causal: token t sees the keys s <= t + S - T.
    mask: True at the keys that may be seen.
    scale: of the scores; H^-0.5 if None.
    impl: "reference" or "xla"; "auto" is "xla".

  Raises:
    ValueError: if shapes do not fit, or a number is not allowed.
    NotImplementedError: for the kernels.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  third_order.check(q, k1, k2, v1, v2)
  if impl in ("pallas", "triton"):
    raise NotImplementedError(
      f"impl {impl!r} has no sums of monomials: they are products of matrices in 'xla'"
    )
  scale = q.shape[3] ** -0.5 if scale is None else scale
  if impl == "reference":
    options = degree, bound, causal, mask, scale
    return reference_attend_polynomial(q, k1, k2, v1, v2, *options)
  return _attend((q, k1, k2, v1, v2), degree, bound, causal, mask, scale)


def _attend(x, degree: int, bound, causal: bool, mask, scale):
  """Returns the sums of all features, divided by those with v = 1."""
  q, k1, k2, v1, v2 = x
  group = q.shape[2] // k1.shape[2]
  u, *powers = _features(q, k1, k2, degree, bound, scale)
  features = []
  for power, v in zip(powers, (v1, v2)):
    if mask is not None:
      power = jnp.where(jnp.atleast_2d(mask)[..., None, None], power, 0)
    # One more element of a value sums the weights.
    value = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=3).astype(u.dtype)
    features.append(tuple(jnp.repeat(x, group, axis=2) for x in (power, value)))
  sums = _causal(u, features) if causal else _whole(u, features)
  total = sums[..., -1:]
  out = sums[..., :-1] / jnp.where(total == 0, 1, total)
  return out.astype(v1.dtype)


def _features(q, k1, k2, degree: int, bound, scale):
  """Returns u (B, T, N, r), and the monomials of both streams' keys (B, S, K, r)."""
  indices, wide = indices_of(q.shape[3], degree), accumulator_dtype(q)
  factors = coefficients(degree, bound) * scale ** np.arange(degree + 1)
  share = multinomials(indices) * factors[indices.sum(axis=1)]
  u, *powers = (monomials(x.astype(wide), indices) for x in (q, k1, k2))
  return u * jnp.asarray(share, wide), *powers


def _whole(u, features):
  """Returns the sums over all pairs, (B, T, N, V + 1)."""
  one, two = (jnp.einsum("bsnr,bsnv->bnrv", *x) for x in features)
  return jnp.einsum("btnr,bnrv->btnv", u, one * two)


def _causal(u, features):
  """Returns the sums over the pairs before each token, chunk by chunk."""
  (B, T, N, _), S = u.shape, features[0][0].shape[1]
  if S > T:
    u = jnp.pad(u, ((0, 0), (S - T, 0), (0, 0), (0, 0)))
  length = -(-max(S, T) // CHUNK) * CHUNK
  before = max(T - S, 0)

  def cut(x, front=0):
    widths = ((0, 0), (front, length - front - x.shape[1]), (0, 0), (0, 0))
    x = jnp.pad(x, widths).reshape(B, -1, CHUNK, N, x.shape[-1])
    return jnp.moveaxis(x, 1, 0)

  @jax.checkpoint
  def chunk(sums, given):
    rows, *keys = given
    new = []
    for (power, value), start in zip(keys, sums):
      part = power[..., None] * value[..., None, :]
      new.append(start[:, None] + jnp.cumsum(part, axis=1))
    out = jnp.einsum("btnr,btnrv->btnv", rows, new[0] * new[1])
    return tuple(x[:, -1] for x in new), out

  keys = [tuple(cut(x, before) for x in pair) for pair in features]
  width = features[0][1].shape[-1]
  zero = jnp.zeros((B, N, u.shape[-1], width), u.dtype)
  _, out = jax.lax.scan(chunk, (zero, zero), (cut(u), *keys))
  out = jnp.moveaxis(out, 0, 1).reshape(B, length, N, width)
  return out[:, max(S - T, 0) : max(S, T)]


def reference_attend_polynomial(
  q, k1, k2, v1, v2, degree, bound=None, causal=False, mask=None, scale=None
):
  """Computes the definition: the polynomial of the scores of all triples."""
  (_, T, N, H), (S, K) = q.shape, k1.shape[1:3]
  if bound is None:
    factors = [1 / math.factorial(g) for g in range(degree, -1, -1)]
  else:
    x = bound * np.cos(np.pi * (np.arange(8 * degree + 8) + 0.5) / (8 * degree + 8))
    factors = np.polyfit(x, np.exp(x), degree, w=np.exp(-x))
  k1, k2, v1, v2 = (
    jnp.repeat(definition.wide(x), N // K, axis=2) for x in (k1, k2, v1, v2)
  )
  score = jnp.einsum("btnh,bjnh,blnh->bntjl", definition.wide(q), k1, k2)
  score = score * (H**-0.5 if scale is None else scale)
  weight = jnp.polyval(jnp.asarray(factors, score.dtype), score)
  seen = definition.visible(T, S, causal)
  if mask is not None:
    seen = seen & jnp.atleast_2d(mask)[:, None, None]
  weight = jnp.where(seen[..., None] & seen[:, :, :, None], weight, 0)
  total = weight.sum(axis=(3, 4))[..., None].swapaxes(1, 2)
  out = jnp.einsum("bntjl,bjnv,blnv->btnv", weight, v1, v2)
  return (out / jnp.where(total == 0, 1, total)).astype(v1.dtype)
