"""Dynamic kernels over clamped windows in fused kernels, for TPUs and GPUs.

  key[t]  = sum_l region[l] taps[l, t]                 for the k^2 taps t of a window
  z[i, t] = q[i] . key[t] + tap_bias[t] + relative[j(i, t) - i + k - 1]
  lse[i]  = log( sum_t exp(z[i, t]) )
  out[i]  = sum_t exp(z[i, t] - lse[i]) v[j(i, t)]

for every batch and group, with j(i, t) = clip(i - k // 2, 0, n - k) + t on both axes of
a map. It is the operator of ContMix (Meng Lou, Yizhou Yu. OverLoCK. arXiv:2502.20087):
the logits are affinities q . region that `taps` mixes. Since the sums over channels and
over regions can be exchanged, the kernels are given the mixed keys, which are k^2 for
each batch entry and group, and never see a region. With g the gradient by out and
delta = g . out,

  dz[i, t]  = exp(z[i, t] - lse[i]) (g[i] . v[j(i, t)] - delta[i])
  dq[i]     = sum_t dz[i, t] key[t],        dkey[t] = sum_i dz[i, t] q[i]
  dv[j]     = sum_i exp(z[i, j - j(i, 0)] - lse[i]) g[i]        over windows that hold j

  pallas   mosaic_tpu, for TPUs
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton

Neither writes weights or copies of neighbours to memory. Two runs are equal to the bit:
no sums by atomic operations. The passes of a backend, with window = k:

  forward(q, keys, tap_bias, relative, v)                          -> out, lse
  backward(q, keys, tap_bias, relative, v, g, lse, delta)
                                      -> dq, dkeys, dtap_bias, drelative, dv

keys is (B, G, k^2, d) float32; the gradients by keys, tap_bias (B, G, k^2) and relative
(B, G, 2k - 1, 2k - 1) are float32.

Axes: B batch, H rows and W columns of a map, G groups, d channels of a query, c of a
value, L regions.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from attnjax.contract import Case
from attnjax.core import derivatives, devices
from pallas_kernels import calling
from pallas_kernels.batching import Layout
from pallas_kernels.calling import Kernel

# Where plain JAX computes it.
XLA = "attnjax/variants/local/overlock"

# The names, for `jax.checkpoint_policies`, of the results that may be saved.
SAVED = ("dynamic_window_out", "dynamic_window_lse")

DTYPES = ("float32", "bfloat16", "float16")
WIDEST = 17  # taps on a side of a window

_MAP, _KEYS = P("batch", None, None, "heads"), P("batch", "heads")
_INPUTS = (_MAP, _KEYS, P(), P("heads"), _MAP)
FORWARD = Layout(_INPUTS, (_MAP, _MAP))
BACKWARD = Layout((*_INPUTS, *[_MAP] * 3), (_MAP, *[_KEYS] * 3, _MAP))


def mix(
  q: Float[Array, "B H W G d"],
  regions: Float[Array, "B L G d"],
  taps: Float[Array, "L P"],
  tap_bias: Float[Array, "P"],
  relative: Float[Array, "G X X"],
  v: Float[Array, "B H W G c"],
  *,
  window: int,
  impl: str,
  tiles: Any = None,
) -> Float[Array, "B H W G c"]:
  """Returns the windows' weighted means by a backend's kernels.

  Args:
    q: queries, scaled.
    regions: the regions' keys.
    taps: maps affinities to the logits of P = window^2 taps, row by row.
    tap_bias: of the logits.
    relative: of the logits, by the distance of key and query, X = 2 window - 1.
    v: values.
    window: taps on a side, odd, at most both sides of the map.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  TPUs take float16 as float32, which costs its time and memory.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
    ValueError: if tiles do not fit.
  """
  x = q, regions, taps, tap_bias, relative, v
  return prepared(q, v, window=window, impl=impl, tiles=tiles)(*x)


def prepared(q, v, *, window: int, impl: str, tiles: Any = None) -> Callable:
  """Returns `mix` by one backend, for arrays of these types and shapes.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  kernel = calling.load(__name__, impl)
  calling.check_types(impl, DTYPES, q=q, v=v)
  if not window % 2 or not 1 <= window <= WIDEST:
    raise NotImplementedError(
      f"impl {impl!r}: the window is {window}; it takes odd ones up to {WIDEST}"
    )
  if 0 in (*q.shape, *v.shape):
    raise NotImplementedError(f"impl {impl!r}: q {q.shape} or v {v.shape} is empty")
  kernel.supports(q, v, window)
  return functools.partial(_run, kernel, {"window": window, "tiles": tiles})


def _run(kernel: Kernel, how, q, regions, taps, tap_bias, relative, v):
  exact = jax.lax.Precision.HIGHEST
  wide = (x.astype(jnp.float32) for x in (regions, taps, tap_bias, relative))
  regions, taps, tap_bias, relative = wide
  keys = jnp.einsum("blgd,lt->bgtd", regions, taps, precision=exact)
  x = devices.aligned((q, keys, tap_bias, relative, v), _INPUTS)

  def forward(x, data):
    del data
    return calling.spread(kernel.forward, FORWARD, **how)(*x)

  def transpose(x, data, y, cotangents, wanted):
    del data, wanted
    (out, lse), (g, by_lse) = y, cotangents
    delta = (g.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1) - by_lse
    backward = calling.spread(kernel.backward, BACKWARD, **how)
    dq, dkeys, dtap_bias, drelative, dv = backward(*x, g, lse, delta)
    return dq, dkeys, dtap_bias.sum(axis=(0, 1)), drelative.sum(axis=0), dv

  run = derivatives.differentiable(forward, kernel.no_tangent, transpose, saved=SAVED)
  return run(x, None)[0]


def _case(name, B, grid, G, d, c, window, L=5):
  side, taps = 2 * window - 1, window**2
  shapes = {"q": (B, *grid, G, d), "regions": (B, L, G, d), "taps": (L, taps)}
  shapes |= {"tap_bias": (taps,), "relative": (G, side, side), "v": (B, *grid, G, c)}
  return Case(name, shapes, {"window": window}, function="mix")


CASES = (
  _case("plain", 1, (5, 5), 2, 4, 3, 3),
  _case("whole_map", 1, (5, 6), 1, 27, 19, 5, L=3),
  _case("one_pixel", 1, (1, 1), 3, 2, 1, 1, L=1),
)
