"""`attend`, its definition and the dense mask."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import backends
from attnjax.contract import check_known
from attnjax.core import definition, softmax
from attnjax.variants.local.neighborhood import fused, tiled
from attnjax.variants.local.neighborhood.tiled import Axis

IMPLEMENTATIONS = backends.IMPLEMENTATIONS


def attend(
  q: Float[Array, "B *S N H"],
  k: Float[Array, "B *S K H"],
  v: Float[Array, "B *S K V"],
  *,
  window: int | Sequence[int],
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  causal: bool | Sequence[bool] = False,
  scale: float | None = None,
  extra_k: Float[Array, "B E K H"] | None = None,
  extra_v: Float[Array, "B E K V"] | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  return_lse: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes attention to the nearest tokens on each axis of a grid with 1 to 3 axes.

  `window`, `stride`, `dilation`, `causal`: an entry for each axis, or one for all.

  Args:
    q: queries.
    k: keys; K divides N, query head n reads key head n K // N.
    v: values.
    window: keys that a query sees on an axis.
    stride: adjacent queries that share a window; 1 slides, `window` gives blocks.
    dilation: a query sees every dilation-th token.
    causal: a query sees no later key on this axis.
    scale: H^-0.5 if None.
    extra_k: keys that every query sees besides its window.
    extra_v: values of the extra keys.
    segment_ids: 1-D only. Every run of equal ids is a separate sequence, and seen
      whole if it is shorter than the window. Tokens of negative ids give 0.
    return_lse: also return the log of the softmax's denominator, (B, *S, N) float32.
    impl: one of IMPLEMENTATIONS, or "auto": the platform's kernels, or "xla".

  Returns:
    (B, *S, N, V), and lse if `return_lse`.

  Raises:
    ValueError: if shapes or `impl` do not fit, window < 1, stride not in 1..window,
      dilation < 1, or window x dilation exceeds an axis (without `segment_ids`).
  """
  grid = q.shape[1:-2]
  axes = broadcast(len(grid), window, stride, dilation, causal)
  if segment_ids is None:
    fits(grid, axes)
  out, lse = run(q, k, v, axes, extra_k, extra_v, segment_ids, scale, impl)
  return (out, lse) if return_lse else out


def reference(
  q,
  k,
  v,
  window,
  stride=1,
  dilation=1,
  causal=False,
  scale=None,
  extra_k=None,
  extra_v=None,
  segment_ids=None,
  return_lse=False,
):
  """Computes the definition: softmax over all keys with the dense mask."""
  axes = broadcast(q.ndim - 3, window, stride, dilation, causal)
  out, lse = _definition(q, k, v, axes, extra_k, extra_v, segment_ids, scale)
  return (out, lse) if return_lse else out


def run(q, k, v, axes, extra_k, extra_v, segment_ids, scale, impl):
  """Returns (out, lse) of `attend`; an axis shorter than its window is seen whole."""
  check(q, k, v, extra_k, extra_v, segment_ids)
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return _definition(q, k, v, axes, extra_k, extra_v, segment_ids, scale)
  options: dict[str, Any] = {"extra_k": extra_k, "extra_v": extra_v}
  options |= {"segment_ids": segment_ids, "scale": scale}

  def bound(function) -> Callable[..., Any]:
    return functools.partial(function, q, k, v, axes, **options)

  plain = {"xla": bound(tiled.attend)}
  prepare = bound(fused.prepared)
  return backends.choose(impl, plain, lambda impl: prepare(impl=impl))()


def _definition(q, k, v, axes, extra_k, extra_v, segment_ids, scale):
  grid = q.shape[1:-2]
  seen = dense(grid, axes, segment_ids)
  q, k, v = (x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, k, v))
  if extra_k is not None:
    k, v = (jnp.concatenate(p, axis=1) for p in ((k, extra_k), (v, extra_v)))
    alive = seen.any(axis=-1, keepdims=True)
    alive = jnp.broadcast_to(alive, (*seen.shape[:2], extra_k.shape[1]))
    seen = jnp.concatenate([seen, alive], axis=-1)
  out, lse = definition.attention(q, k, v, seen[:, None], scale=scale)
  return out.reshape(-1, *grid, *out.shape[2:]), lse.reshape(-1, *grid, lse.shape[-1])


def dense_mask(
  shape: Sequence[int],
  *,
  window: int | Sequence[int],
  stride: int | Sequence[int] = 1,
  dilation: int | Sequence[int] = 1,
  causal: bool | Sequence[bool] = False,
) -> Bool[Array, "T T"]:
  """Returns whether query t sees key s, both in row-major order on the grid `shape`."""
  axes = broadcast(len(shape), window, stride, dilation, causal)
  fits(shape, axes)
  return dense(tuple(shape), axes)[0]


def dense(grid, axes: Sequence[Axis], segment_ids=None) -> Bool[Array, "#B T T"]:
  """Returns the dense mask of a grid, or of packed documents."""
  seen = jnp.ones((1, 1, 1), bool)
  for length, axis in zip(grid, axes):
    one = _line(length, axis, segment_ids)
    seen = seen[:, :, None, :, None] & one[:, None, :, None, :]
    rows = seen.shape[1] * length
    seen = seen.reshape(-1, rows, rows)
  return seen


def _line(length, axis, segment_ids):
  ids = jnp.zeros((1, length), int) if segment_ids is None else segment_ids
  at = jnp.arange(length)
  run = jnp.cumsum(jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0))), axis=1)
  same = run[:, :, None] == run[:, None]
  place = (same & (at < at[:, None])).sum(axis=2)  # in the run
  group, place = place % axis.dilation, place // axis.dilation
  same = same & (group[:, :, None] == group[:, None]) & (ids >= 0)[..., None]
  length, query, key = same.sum(axis=2)[..., None], place[..., None], place[:, None]
  leader = query - query % axis.stride
  if axis.causal:
    leader = jnp.minimum(leader + axis.stride - 1, length - 1)
    return same & (key > leader - axis.window) & (key <= query)
  leader = jnp.minimum(leader + axis.stride // 2, length - 1)
  first = jnp.minimum(leader - axis.window // 2, length - axis.window)
  first = jnp.maximum(first, 0)
  return same & (key >= first) & (key < first + axis.window)


def broadcast(count, window, stride, dilation, causal) -> tuple[Axis, ...]:
  """Returns a checked Axis for each of `count` axes."""
  if count not in (1, 2, 3):
    raise ValueError(f"a grid of {count} axes; q must be (B, *S, N, H) with 1 to 3")
  columns = []
  for name, value in (
    ("window", window),
    ("stride", stride),
    ("dilation", dilation),
    ("causal", causal),
  ):
    entries = tuple(value) if isinstance(value, Sequence) else (value,) * count
    if len(entries) != count:
      raise ValueError(f"{name} = {value}: it needs one entry for each of {count} axes")
    columns.append(entries)
  axes = tuple(Axis(*entries) for entries in zip(*columns))
  for axis in axes:
    if axis.window < 1:
      raise ValueError(f"window = {axis.window}: it must be at least 1")
    if not 1 <= axis.stride <= axis.window:
      raise ValueError(
        f"stride = {axis.stride}: it must be from 1 to window = {axis.window}"
      )
    if axis.dilation < 1:
      raise ValueError(f"dilation = {axis.dilation}: it must be at least 1")
  return axes


def fits(grid: Sequence[int], axes: Sequence[Axis]) -> None:
  """Raises ValueError if a window is longer than its axis."""
  for length, axis in zip(grid, axes):
    if axis.window * axis.dilation > length:
      raise ValueError(
        f"window x dilation = {axis.window} x {axis.dilation} exceeds an axis of"
        f" length {length}"
      )


def check(q, k, v, extra_k, extra_v, segment_ids) -> None:
  """Raises ValueError, naming the argument, if shapes do not fit."""
  flat = [x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (q, k, v)]
  softmax.check(*flat)
  if q.shape[:-2] != k.shape[:-2] or k.shape[:-1] != v.shape[:-1]:
    raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} differ in B or grid")
  if (extra_k is None) != (extra_v is None):
    missing, given = ("extra_k", extra_v) if extra_k is None else ("extra_v", extra_k)
    raise ValueError(f"{missing} = None beside one of {given.shape}: both or none")
  if extra_k is not None:
    E = extra_k.shape[1]
    for name, x, like in (("extra_k", extra_k, k), ("extra_v", extra_v, v)):
      if x.shape != (q.shape[0], E, *like.shape[-2:]):
        raise ValueError(f"{name} {x.shape} must be (B, E, K, size) as in {like.shape}")
  if segment_ids is None:
    return
  if q.ndim != 4:
    raise ValueError(f"segment_ids with q {q.shape}: only grids of one axis take them")
  if segment_ids.shape != q.shape[:2]:
    raise ValueError(f"segment_ids {segment_ids.shape} must be (B, T) {q.shape[:2]}")
