"""What both backends' kernels must compute: results and gradients of the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core import scan
from pallas_kernels import prefix_softmax
from tests import simulate


def check(case, impl: str, dtype: str, tolerance: float, tiles=None) -> None:
  """Compares with the definition in float32, relative to the largest element."""
  arrays, options = case.arrays(dtype), case.arguments()
  function = functools.partial(prefix_softmax.prefix, impl=impl, tiles=tiles)
  run = _results(function, options)
  with simulate.accelerators():
    found, again = (jax.tree.map(np.asarray, run(arrays)) for _ in range(2))
  exact = jax.tree.map(lambda x: x.astype("float32"), arrays)
  wanted = _results(scan.reference, options)(exact)
  jax.tree.map(np.testing.assert_array_equal, found, again)
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    got, want = (np.asarray(x, "float32") for x in (got, want))
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(want))
    largest = np.abs(want[np.isfinite(want)]).max(initial=1e-3)
    got, want = (np.where(np.isfinite(x), x, 0) for x in (got, want))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def _results(function, options):
  """Arrays to results and gradients, compiled."""

  @jax.jit
  def run(arrays):
    found, pull = jax.vjp(lambda x: function(**x, **options), arrays)
    return found, pull(jax.tree.map(_cotangent, found))

  return run


def _cotangent(x):
  wave = jnp.cos(jnp.arange(x.size, dtype="float32")).reshape(x.shape)
  return jnp.where(x == -jnp.inf, 0, wave).astype(x.dtype)
