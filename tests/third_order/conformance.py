"""Both backends' kernels held to plain JAX: results and gradients, twice the same."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import third_order
from pallas_kernels import third_order as kernels
from tests import precision, simulate


def check(case, impl: str, tolerance: float = 2e-5, tiles: Any = None) -> None:
  """Compares with plain JAX in float32, relative to the largest element."""
  arrays, options = case.arrays(), case.arguments()
  found, wanted = _found(arrays, options, impl, tiles), _wanted(arrays, options)
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    got, want = (np.asarray(x, "float32") for x in (got, want))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    largest = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
    got, want = (np.where(np.isfinite(x), x, 0) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def excess(case, impl: str, dtype: str, tiles: Any = None) -> float:
  """Returns the largest error in `dtype` as a part of what it may be."""
  arrays, options = case.arrays(dtype), case.arguments()
  wide = {n: x.astype("float32") for n, x in arrays.items()}
  found = _found(arrays, options, impl, tiles)
  plain = _results(_rounded, options)(arrays)
  each = zip(found, _wanted(wide, options), plain, strict=True)
  parts = [precision.worst(*x, name) for x, name in zip(each, ("out", "dx"))]
  return max(parts)


def _rounded(q, k1, k2, v1, v2, data=(None, None), *, sight):
  """Computes the plain formula, each result rounded to the type of q."""
  group, narrow = q.shape[2] // k1.shape[2], q.dtype
  k1, k2, v1, v2 = (jnp.repeat(x, group, axis=2) for x in (k1, k2, v1, v2))
  T, S = q.shape[1], k1.shape[1]
  place = jnp.arange(T)[:, None] + (sight.offset if data[1] is None else data[1])
  score = jnp.einsum("btnh,bjnh,blnh->bntjl", q * narrow.type(sight.scale), k1, k2)
  for stream, axis in ((0, 4), (1, 3)):
    seen = sight.seen(place, jnp.arange(S), stream)
    seen = jnp.ones((T, S), bool) if seen is None else seen
    seen = seen[None, None]
    if data[0] is not None:
      own, others = data[0]
      same = (own[:, :, None] == others[:, None]) & (others >= 0)[:, None]
      seen = seen & same[:, None]
    score = jnp.where(jnp.expand_dims(seen, axis), score, -jnp.inf)
  top = jax.lax.stop_gradient(score.max(axis=(3, 4), keepdims=True))
  weight = jnp.exp(score - jnp.where(top == -jnp.inf, 0, top))
  total = weight.sum(axis=(3, 4), keepdims=True)
  some = total > 0
  weight = weight / jnp.where(some, total, 1)
  out = jnp.einsum("bntjl,bjnv,blnv->btnv", weight, v1, v2)
  lse = jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), -jnp.inf)
  return out, lse[..., 0, 0].swapaxes(1, 2).astype("float32")


def _wanted(arrays, options):
  def plain(q, k1, k2, v1, v2, data=(None, None), *, sight):
    x = q, k1, k2, v1, v2
    out, top, total = third_order.by_rows(x, data, sight=sight)
    some = total > 0
    return out, jnp.where(some, top + jnp.log(jnp.where(some, total, 1)), -jnp.inf)

  return _results(plain, options)(arrays)


def _found(arrays, options, impl: str, tiles):
  """Returns what the kernel gives, twice the same."""
  run = _results(functools.partial(kernels.attend, impl=impl, tiles=tiles), options)
  with simulate.accelerators():
    found, again = (jax.tree.map(np.asarray, run(arrays)) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, found, again)
  return found


def _results(function, options):
  """Returns what maps arrays to results and gradients, compiled."""

  @jax.jit
  def run(arrays):
    found, pull = jax.vjp(lambda x: function(**x, **options), arrays)
    return found, pull(jax.tree.map(_cotangent, found))

  return run


def _cotangent(x):
  wave = jnp.cos(jnp.arange(x.size, dtype="float32")).reshape(x.shape)
  return jnp.where(x == -jnp.inf, 0, wave).astype(x.dtype)
