"""Softmax attention and its gradients in NumPy, sharing no code with attnjax.

`exact` is in float64, but for scores, which are float32 numbers by contract: a bias of
-1e9 leaves no digits to them. `plain` is the same formula computed in a type, each
result rounded to it: what an implementation's error may be measured by.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

TYPES = {
  "float16": np.float16,
  "bfloat16": ml_dtypes.bfloat16,
  "float32": np.float32,
  "float64": np.float64,
}

# The name of what a gradient's terms add up to without their signs: over keys, and in
# quadrature over rows where a gradient by scores is summed over these.
SIZE = "size of "


def exact(problem: dict[str, Any], dtype: str = "float32") -> dict[str, np.ndarray]:
  """out, lse, all gradients and their sizes in `dtype`, as `attend` has them."""
  wide = np.float64 if dtype == "float64" else np.float32
  return attend(problem, lambda x: x, lambda x: x.astype(wide).astype(np.float64))


def plain(problem: dict[str, Any], dtype: str) -> dict[str, np.ndarray]:
  """The same, each step rounded to `dtype`; products sum in float32."""
  kind, wide = TYPES[dtype], np.float64 if dtype == "float64" else np.float32

  def rounded(x):
    return np.asarray(x, wide).astype(kind).astype(wide)

  narrow = {
    n: x.astype(wide) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x
    for n, x in problem.items()
  }
  found = attend(narrow, rounded, rounded)
  if kind is not wide:  # lse is float32 whatever the inputs are
    found["lse"] = attend(narrow, lambda x: x, lambda x: x)["lse"]
  return found


def attend(
  problem: dict[str, Any], rounded: Callable, scored: Callable
) -> dict[str, np.ndarray]:
  """The formula.

  Args:
    problem: q (B, T, N, H), k (B, S, K, H), v (B, S, K, V), scale, g (B, T, N, V) and
      g_lse (B, T, N), the cotangents; if given: seen, bias and keep, which broadcast
      to (B, N, T, S), sinks (N,), softcap, and function: x to (value, slope, dict of
      the values' slopes by what it captures), all (B, N, T, S).
    rounded: what happens to every result.
    scored: what happens to scores.
  """
  with np.errstate(all="ignore"):
    return _attend(problem, rounded, scored)


def _attend(p, rounded, scored):
  group = p["q"].shape[2] // p["k"].shape[2]
  q = p["q"].swapaxes(1, 2)
  k, v = (np.repeat(p[n].swapaxes(1, 2), group, axis=1) for n in "kv")
  raw = rounded(p["scale"] * rounded(q @ k.swapaxes(2, 3)))
  score, slope = raw, np.ones_like(raw)
  cap = p.get("softcap", 0.0)
  if cap:
    ratio = np.tanh(raw / cap)
    score, slope = rounded(cap * ratio), rounded(1 - ratio**2)
  bias = p.get("bias")
  if bias is not None:
    score = scored(score + bias)
  learned: dict[str, Any] = {}
  inner = np.ones_like(raw)
  if p.get("function") is not None:
    score, inner, learned = p["function"](score)
  seen = np.broadcast_to(p.get("seen", True), raw.shape)
  score = np.where(seen, scored(score), -np.inf)
  weight, lse, sunk = _softmax(score, p.get("sinks"), rounded)
  keep = np.broadcast_to(p.get("keep", np.ones((), raw.dtype)), raw.shape)
  dropped = rounded(weight * keep)
  out = rounded(dropped @ v)
  g, g_lse = p["g"].swapaxes(1, 2), p["g_lse"].swapaxes(1, 2)[..., None]
  dweight = rounded(rounded(g @ v.swapaxes(2, 3)) * keep)
  delta = rounded((weight * dweight).sum(-1, keepdims=True)) - g_lse
  dscore = np.where(seen & (weight > 0), rounded(weight * (dweight - delta)), 0)
  found = {"out": out.swapaxes(1, 2), "lse": lse[..., 0].swapaxes(1, 2)}
  by_head = rounded(dropped.swapaxes(2, 3) @ g)
  found["dv"] = rounded(_by_key_head(by_head, group))
  # The size of what is subtracted: where it cancels, little is left of its digits.
  each = (weight * abs(dweight)).sum(-1, keepdims=True) + abs(g_lse)
  size = np.where(seen, weight * (abs(dweight) + each), 0)
  for prefix, part, absolute in (
    ("d", dscore, lambda x: x),
    (SIZE + "d", size, np.abs),
  ):
    learnt = {n: absolute(by) for n, by in learned.items()}
    found |= {
      f"{prefix}{n}": np.where(part != 0, part * by, 0) for n, by in learnt.items()
    }
    part = rounded(part * absolute(inner))
    if bias is not None:
      found[f"{prefix}bias"] = _unbroadcast(part, bias.shape, prefix != "d")
    draw = rounded(absolute(p["scale"] * rounded(part * slope)))
    found[f"{prefix}q"] = rounded(draw @ absolute(k)).swapaxes(1, 2)
    own = draw.swapaxes(2, 3) @ absolute(q)
    found[f"{prefix}k"] = rounded(_by_key_head(own, group))
  if p.get("sinks") is not None:
    found["dsinks"] = rounded(-(sunk * delta).sum((0, 2, 3)))
    found[f"{SIZE}dsinks"] = in_quadrature(sunk * each, (0, 2, 3))
  return found


def _by_key_head(x, group):
  """(B, S, K, H) from (B, N, S, H): the sum over the heads of a group."""
  B, N, S, size = x.shape
  return x.reshape(B, N // group, group, S, size).sum(2).swapaxes(1, 2)


def _softmax(score, sinks, rounded):
  """(weights, lse (B, N, T, 1), the sinks' weights); empty rows have weights 0."""
  top = score.max(-1, keepdims=True, initial=-np.inf)
  if sinks is not None:
    sinks = sinks[:, None, None].astype(score.dtype)
    top = np.maximum(top, sinks)
  empty = np.isneginf(top)
  shifted = np.where(empty, -np.inf, score - np.where(empty, 0, top))
  power = rounded(np.exp(shifted))
  total = power.sum(-1, keepdims=True)
  sunk = np.zeros_like(total)
  if sinks is not None:
    sunk = np.exp(sinks - np.where(empty, 0, top))
    total = total + sunk
  total = np.where(empty, 1, total)
  lse = np.where(empty, -np.inf, top + np.log(total))
  return rounded(power / total), lse, sunk / total


def _unbroadcast(x, shape, size):
  axes = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
  if not size:
    return x.sum(axes, keepdims=True)
  x = x.sum(3, keepdims=True) if 3 in axes else x
  return in_quadrature(x, axes[: len(axes) - (3 in axes)], keepdims=True)


def in_quadrature(x, axis, keepdims=False):
  """The size of a sum's error: rows of scores are rounded apart from each other."""
  top = x.max(axis, keepdims=True, initial=0)
  top = np.where((top > 0) & np.isfinite(top), top, 1)
  root = np.sqrt(((x / top) ** 2).sum(axis, keepdims=True)) * top
  return root if keepdims else root.squeeze(axis)
