"""Both backends' kernels held to the definition: results and gradients, twice equal."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import dynamic_window as kernels
from tests import precision, simulate


def mix(q, regions, taps, tap_bias, relative, v, *, window):
  """Computes the definition, each result rounded to the type of q."""
  B, H, W, G, _ = q.shape
  affinity = jnp.einsum("bhwgd,blgd->bhwgl", q, regions)
  logits = jnp.einsum("bhwgl,lt->bhwgt", affinity, taps) + tap_bias
  rows, columns = (_keys(n, window) for n in (H, W))
  down, right = (j - i + window - 1 for i, j in (rows, columns))
  bias = relative[:, down[:, None, :, None], right[None, :, None]]
  logits += jnp.moveaxis(bias, 0, 2).reshape(H, W, G, -1)
  near = v[:, rows[1][:, None, :, None], columns[1][None, :, None]]
  near = near.reshape(B, H, W, window**2, G, -1)
  weights = jax.nn.softmax(logits, axis=-1)
  return jnp.einsum("bhwgt,bhwtgc->bhwgc", weights, near).astype(v.dtype)


def _keys(length: int, window: int):
  """Returns each pixel of an axis, and those of its window, counted one by one."""
  keys = np.zeros((length, window), int)
  for i in range(length):
    first = i - window // 2
    while first < 0:
      first += 1
    while first + window > length:
      first -= 1
    keys[i] = range(first, first + window)
  return np.arange(length)[:, None], keys


def check(case, impl: str, tolerance: float = 2e-5, tiles: Any = None) -> None:
  """Compares with the definition in float32, relative to the largest element."""
  arrays, options = _arrays(case), case.arguments()
  found, wanted = _found(arrays, options, impl, tiles), _results(mix, options)(arrays)
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    got, want = (np.asarray(x, "float32") for x in (got, want))
    largest = np.abs(want).max(initial=1e-3)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def excess(case, impl: str, dtype: str, tiles: Any = None) -> float:
  """Returns the largest error in `dtype` as a part of what it may be."""
  arrays, options = _arrays(case, dtype), case.arguments()
  wide = {n: x.astype("float32") for n, x in arrays.items()}
  found = _found(arrays, options, impl, tiles)
  plain, want = (_results(mix, options)(x) for x in (arrays, wide))
  each = zip(found, want, plain, strict=True)
  return max(precision.worst(*x, name) for x, name in zip(each, ("out", "dx")))


def _arrays(case, dtype="float32"):
  """Returns arrays whose logits are near 1, as those of a network are."""
  arrays = case.arrays(dtype)
  return arrays | {"taps": arrays["taps"] / 4}


def _found(arrays, options, impl: str, tiles):
  """Returns what the kernel gives, twice equal."""
  run = _results(functools.partial(kernels.mix, impl=impl, tiles=tiles), options)
  with simulate.accelerators():
    found, again = (jax.tree.map(np.asarray, run(arrays)) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, found, again)
  return found


def _results(function, options):
  """Returns the compiled map of arrays to results and gradients."""

  @jax.jit
  def run(arrays):
    found, pull = jax.vjp(lambda x: function(**x, **options), arrays)
    return found, pull(_cotangent(found))[0]

  return run


def _cotangent(x):
  wave = jnp.cos(jnp.arange(x.size, dtype="float32")).reshape(x.shape)
  return wave.astype(x.dtype)
