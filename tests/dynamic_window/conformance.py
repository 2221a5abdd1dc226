"""Both backends' kernels held to the definition: results and gradients, twice equal."""

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


def check(case, impl: str, tiles: Any = None, twice: bool = False) -> None:
  """Compares with the definition in float32, relative to the largest element."""
  found, wanted = _found(case, impl, "float32", tiles, twice), _defined(case)
  for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
    largest = np.abs(want).max(initial=0.1)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * largest)


def excess(case, impl: str, dtype: str, tiles: Any = None) -> float:
  """Returns the largest error in `dtype` as a part of what it may be."""
  found = _found(case, impl, dtype, tiles)
  each = zip(found, _defined(case, dtype, wide=True), _defined(case, dtype))
  return max(precision.worst(*x, name) for x, name in zip(each, ("out", "dx")))


def arrays(case, dtype="float32"):
  """Returns arrays whose logits are near 1, as those of a network are."""
  x = case.arrays(dtype)
  return x | {"taps": x["taps"] / 4}


def results(function, options):
  """Returns the compiled map of arrays to results and gradients."""

  @jax.jit
  def run(x):
    found, pull = jax.vjp(lambda x: function(**x, **options), x)
    return found, pull(_cotangent(found))[0]

  return run


_DEFINED: dict[tuple, Any] = {}


def _defined(case, dtype="float32", wide: bool = False):
  """Returns the definition's results, of inputs in `dtype`, in it or in float32."""
  key = case.name, dtype, wide
  if key not in _DEFINED:
    x = arrays(case, dtype)
    x = jax.tree.map(lambda y: y.astype("float32"), x) if wide else x
    _DEFINED[key] = jax.tree.map(np.asarray, results(mix, case.arguments())(x))
  return _DEFINED[key]


def _found(case, impl: str, dtype: str, tiles, twice: bool = False):
  """Returns what the kernels give, if `twice` held to be equal in two runs."""
  how = case.arguments() | {"impl": impl, "tiles": tiles}
  run, x = results(kernels.mix, how), arrays(case, dtype)
  with simulate.accelerators(detect_races=case.name == "plain"):
    found = jax.tree.map(np.asarray, run(x))
    if twice:
      jax.tree.map(np.testing.assert_array_equal, run(x), found)
  return found


def _cotangent(x):
  wave = jnp.cos(jnp.arange(x.size, dtype="float32")).reshape(x.shape)
  return wave.astype(x.dtype)
