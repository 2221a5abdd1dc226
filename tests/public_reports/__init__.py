"""What users of attention libraries reported, tried here: a test a report, by theme.

A docstring names reports by their repository and number.
"""

import jax
import numpy as np

import attnjax


def arrays(T=16, S=None, B=1, N=2, K=2, H=8, seed=0):
  """Unit normal q, k and v."""
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = (B, T, N, H), (B, S or T, K, H), (B, S or T, K, H)
  return tuple(jax.random.normal(k, s, "float32") for k, s in zip(keys, shapes))


def attend(*given, **options):
  """The function that the reports are about."""
  return attnjax.dot_product_attention(*given, **options)


def expected(q, k, v, seen=True, scale=None, bias=0.0):
  """Softmax attention in NumPy, float64, for K = N."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  score = np.einsum("btnh,bsnh->bnts", q, k)
  score = score * (q.shape[-1] ** -0.5 if scale is None else scale) + bias
  weight = np.exp(score - score.max(axis=-1, keepdims=True)) * seen
  total = weight.sum(axis=-1, keepdims=True)
  return np.einsum("bnts,bsnv->btnv", weight / np.where(total == 0, 1, total), v)


def close(got, want, tolerance=2e-5):
  """Asserts that two trees of arrays are equal to rounding."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance),
    got,
    want,
  )
