"""Attention of one new token a row to pages of keys, in fused kernels.

Woosuk Kwon et al. PagedAttention. 2023. arXiv:2309.06180, section 4.3. Tri Dao et al.
Flash-Decoding. 2023. https://pytorch.org/blog/flash-decoding. The definition is that of
`attnjax.core.softmax.paged`; page m of a list is the tokens from starts[m] on, so that
pages may be those of a pool or runs of a cache that is not paged.

  pallas   mosaic_tpu, for TPUs: each page is one copy into fast memory, by a list that
           the scalar unit has beforehand, while the pages before it are multiplied.
           All heads read one list, and all are rows of one product
  triton   triton_gpu, for NVIDIA GPUs, through jax-triton: the pages of a list are
           split among programs, a group's heads are rows of one tile

For scores of pages a kernel also writes the scores of tokens, and XLA computes their
weights, since these are known only when the last page was read. Derivatives are those
of the plain form. Two runs are equal to the bit: no sums by atomic operations.

Not here: queries of several tokens a row, keys of 8 bits, and on TPUs lists that differ
by head.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from attnjax.core import derivatives
from attnjax.core.softmax import paged as plain
from attnjax.core.softmax.paged import Paged
from pallas_kernels import calling
from pallas_kernels.batching import Layout

# Where plain JAX computes it.
XLA = "attnjax/core/softmax/paged.py"

_MAPS = derivatives.tangent_of, derivatives.transpose_of
_HEADS, _TOKENS = P("batch", "heads"), P(None, "heads")
_INPUTS = _HEADS, _TOKENS, _TOKENS, _HEADS, _HEADS
# out (B, N, V), lse (B, N), and for scores the greatest weight of each token in each
# group of heads, (B, max(G, K), M page).
LAYOUTS = {
  False: Layout(_INPUTS, (_HEADS, _HEADS)),
  True: Layout(_INPUTS, (_HEADS, _HEADS, _HEADS)),
}


# The cache of stacked layers, the layer, and slots of a row in place of tokens.
_ROWS = P(None, "batch", None, "heads")
CACHED = Layout((_HEADS, _ROWS, _ROWS, P(), _HEADS, _HEADS), (_HEADS, _HEADS))


def prepared(q, k, v, starts, *, page: int, impl: str, tiles: Any = None) -> Callable:
  """Returns the function of (q, k, v, starts, counts, scale=, scores=) to a Paged.

  Args:
    q: (B, N, H).
    k: (Z, K, H).
    v: (Z, K, V).
    starts: (B, G, M).
    page: tokens of a page.
    impl: one of `calling.BACKENDS`.
    tiles: the backend's Tiles; its defaults for the shape and device if None.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  kernel = calling.load(__name__, impl)
  kernel.supports(q, k, v, starts, page)
  return functools.partial(_run, kernel, page, tiles)


def _run(kernel, page, tiles, q, k, v, starts, counts, *, scale, scores=False) -> Paged:
  G = starts.shape[1]
  given = {"page": page, "scale": scale, "scores": scores, "tiles": tiles}
  run = calling.spread(kernel.forward, LAYOUTS[scores], **given)

  def forward(x, lists):
    return finished(*run(*x, *lists))

  def of_plain(x, lists):
    found = plain.gathered(*x, *lists, page=page, scale=scale, scores=scores)
    return tuple(found)[: 3 if scores else 2]

  def finished(out, lse, *most):
    # Devices may have divided the heads, over which this takes maxima.
    return out, lse, *(plain.page_scores(_by_page(x, page), G) for x in most)

  maps = (make(of_plain) for make in _MAPS)
  call = derivatives.differentiable(forward, *maps, keeps_output=False)
  # A page without tokens is not read, whatever its start.
  starts = jnp.where(counts > 0, starts, 0)
  return Paged(*call((q, k, v), (starts, jnp.minimum(counts, page))))


def _by_page(x, page: int):
  return x.reshape(*x.shape[:2], -1, page)


def of_cache(q, keys, slots, *, page: int, impl: str) -> Callable:
  """Returns the function of (q, keys, values, layer, slots, counts) to out (B, N, V).

  Rows of the batch, and heads, may lie on different devices.

  Args:
    q: (B, N, H).
    keys: (R, B, L, K, H), of R stacked layers.
    slots: (B, G, M), first slots of pages in their row, multiples of `page`, as L is.
    page: tokens of a page.
    impl: one of `calling.BACKENDS`.

  Raises:
    NotImplementedError: if the backend cannot do the problem.
    ImportError: if what the backend needs is not installed.
  """
  kernel, flat = calling.load(__name__, impl), _flat(keys)
  kernel.supports(q, flat, flat, slots, page)
  given: dict[str, Any] = {"page": page, "scale": q.shape[2] ** -0.5}

  def rows(q, keys, values, layer, slots, counts):
    data = _starts(keys, layer, slots, counts), counts
    return kernel.forward(
      q, _rows(keys), _rows(values), *data, **given, scores=False, tiles=None
    )

  def of_plain(x, data):
    q, keys, values = x
    layer, slots, counts = data
    starts = _starts(keys, layer, slots, counts)
    tokens = _rows(keys), _rows(values)
    return (plain.gathered(q, *tokens, starts, counts, **given).out,)

  run = calling.spread(rows, CACHED)
  call = derivatives.differentiable(
    lambda x, data: run(*x, *data)[:1],
    *(make(of_plain) for make in _MAPS),
    keeps_output=False,
  )
  return lambda q, keys, values, *data: call((q, keys, values), data)[0]


def _starts(keys, layer, slots, counts):
  """Returns the first tokens of pages among those of all layers and rows."""
  B, L = keys.shape[1:3]
  first = (layer * B + jnp.arange(B, dtype=slots.dtype)) * L
  return jnp.where(counts > 0, first[:, None, None] + slots, 0)


def _rows(x):
  return x.reshape(-1, *x.shape[-2:])


def _flat(x):
  return jax.ShapeDtypeStruct((math.prod(x.shape[:3]), *x.shape[3:]), x.dtype)
