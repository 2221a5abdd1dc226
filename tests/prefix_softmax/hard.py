"""Scores that other code rounds away, held to float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

_LEAST = float(np.finfo(np.float32).min)


def problem(T: int):
  """(scores and values, cotangents of out and lse, documents), a kind in each row."""
  r = np.random.default_rng(0)
  rows = 8
  s, v = r.normal(size=(rows, T, 1)), r.normal(size=(rows, T, 1, 5))
  ids = np.zeros((rows, T), np.int32)
  ids[6:, T // 3 :] = 1
  # Later tokens, and later documents, outweigh all before them.
  s[0, -1], s[1, T // 2 :], s[6, T // 2] = 1e7, 1e9, 1e8
  # Very negative, or very large, throughout: those of a token alike or far apart.
  s[2], s[3], s[7] = -1e9, _LEAST, s[7] - 1e4
  s[4] = np.float32(1e6) + np.round(s[4])
  s[5] *= 1e-6
  # Nobody sees these, at the beginning too.
  s[4:6, ::7], v[4:6, ::7] = -np.inf, np.nan
  g, dlse = r.normal(size=v.shape), r.normal(size=s.shape)
  dlse[4:6, 0] = 0
  arrays = tuple(jnp.asarray(x, jnp.float32) for x in (s, v))
  return arrays, tuple(jnp.asarray(x, jnp.float32) for x in (g, dlse)), jnp.asarray(ids)


def truth(s, v, g, dlse, ids):
  """(out, lse, ds, dv) of the (T, T) matrix, in float64."""
  s, v, g, dlse = (np.asarray(x, np.float64) for x in (s, v, g, dlse))
  T = s.shape[1]
  v = np.where(s[..., None] > -np.inf, v, 0)
  runs = np.cumsum(np.diff(ids, axis=1, prepend=ids[:, :1]) != 0, axis=1)
  seen = np.tril(np.ones((T, T), bool)) & (runs[:, :, None] == runs[:, None, :])
  power = np.where(seen[..., None], s[:, None], -np.inf)
  top = power.max(axis=2, keepdims=True)
  weight = np.exp(power - np.where(top > -np.inf, top, 0))
  total = weight.sum(axis=2, keepdims=True)
  weight = weight / np.where(total > 0, total, 1)
  out = np.einsum("btsn,bsne->btne", weight, v)
  with np.errstate(divide="ignore"):
    lse = (top + np.log(total))[:, :, 0]
  delta = (g * out).sum(axis=-1) - dlse
  by = np.einsum("btne,bsne->btsn", g, v) - delta[:, :, None]
  return out, lse, (weight * by).sum(axis=1), np.einsum("btsn,btne->bsne", weight, g)


def check(function, T: int, tolerance=2e-5) -> None:
  """Holds function(scores, values, segment_ids=) to `truth`, row by row."""
  arrays, cotangents, ids = problem(T)

  @jax.jit
  def run(arrays, cotangents, ids):
    def both(*x):
      out, lse, _ = function(*x, segment_ids=ids)
      return out, jnp.where(lse > -jnp.inf, lse, 0)

    found, pull = jax.vjp(both, *arrays)
    return *found, *pull(cotangents)

  found = run(arrays, cotangents, ids)
  wanted = truth(*arrays, *cotangents, np.asarray(ids))
  for name, got, want in zip(("out", "lse", "ds", "dv"), found, wanted, strict=True):
    for row, (x, y) in enumerate(zip(np.asarray(got), np.nan_to_num(want, neginf=0))):
      size = np.abs(y) if name == "lse" else 1
      allowed = tolerance * np.maximum(size, 1)
      np.testing.assert_array_less(np.abs(x - y), allowed, f"{name} of row {row}")
