"""Prefix softmax on random problems, in any implementation.

weight[t, s] = exp(scores[s] - top[t]) / total[t]   for s <= t in one document
out[t]       = sum_s weight[t, s] values[s]
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.core.recurrence import prefix
from pallas_kernels import prefix_softmax
from tests import definition, precision
from tests.sweep.softmax_problems import LENGTHS


def draw(seed: int) -> dict[str, Any]:
  """The problem of a seed: arrays, cotangents and words."""
  rng = np.random.default_rng([seed, 2])
  B, N = (int(x) for x in rng.integers(1, 4, 2))
  T, E = int(rng.choice(LENGTHS)), int(rng.choice([1, 8, 24, 40]))
  dtype = str(rng.choice(["float32", "float32", "bfloat16", "float16"]))
  size = 10.0 ** rng.uniform(-6, 4 if dtype == "float16" else 8)
  words = {"seed": seed, "shape": (B, T, N, E), "dtype": dtype, "size": f"{size:.1e}"}
  scores = size * rng.normal(size=(B, T, N))
  kind = definition.TYPES[dtype]
  low = float(rng.choice([-1e4, -np.inf, float(np.finfo(np.float16).min)]))
  where = str(rng.choice(["nowhere", "some", "first"]))
  if where == "some":
    scores[rng.random((B, T)) < 0.3] = low
  if where == "first":
    scores[:, : T // 2] = low
  words["low"] = (where, low)
  with np.errstate(over="ignore"):
    arrays = {"scores": scores.astype(kind)}
  height = 10.0 ** rng.uniform(-6, 0.5 if dtype == "float16" else 6)
  arrays["values"] = (height * rng.normal(size=(B, T, N, E))).astype(kind)
  ids = None
  if rng.random() < 0.4:
    words["segments"] = True
    ids = np.sort(rng.integers(0, 4, (B, T)), axis=1)
  g = rng.normal(size=(B, T, N, E)).astype(kind).astype("float64")
  g_lse = rng.normal(size=(B, T, N)).astype("float32").astype("float64")
  return {"words": words, "arrays": arrays, "ids": ids, "g": g, "g_lse": g_lse}


def excess(seed: int, impl: str) -> dict[str, float]:
  """The errors of problem `seed` as parts of what they may be."""
  p = draw(seed)
  return precision.excess(results(p, impl), *definitions(p), p["words"]["dtype"])


def definitions(p: dict[str, Any]):
  """The results in float64, and by the plain formula in the problem's type."""
  kind = definition.TYPES[p["words"]["dtype"]]
  with np.errstate(all="ignore"):
    want = attend(p, np.float64, lambda x: x)
    plain = attend(p, np.float32, lambda x: x.astype(kind).astype(np.float32))
    plain["lse"] = attend(p, np.float32, lambda x: x)["lse"]
  return want, plain


def results(p, impl: str) -> dict[str, jax.Array]:
  """out, lse and the gradients; impl is a form of plain JAX or a kernel."""
  ids = None if p["ids"] is None else jnp.asarray(p["ids"], jnp.int32)
  g, g_lse = p["g"].astype("float32"), p["g_lse"].astype("float32")

  @jax.jit
  def run(given):
    def loss(given):
      if impl in prefix.FORMS:
        out, lse, _ = prefix.prefix(**given, form=prefix.FORMS[impl], segment_ids=ids)
      else:
        out, lse, _ = prefix_softmax.prefix(**given, impl=impl, segment_ids=ids)
      total = jnp.sum(out.astype("float32") * g)
      total += jnp.sum(jnp.where(jnp.isfinite(lse), lse, 0) * g_lse)
      return total, {"out": out, "lse": lse}

    return jax.grad(loss, has_aux=True)(given)

  grads, found = run({n: jnp.asarray(x) for n, x in p["arrays"].items()})
  return found | {f"d{n}": x for n, x in grads.items()}


def attend(p, number, rounded):
  """The definition and its gradients, computed in `number`."""
  s = p["arrays"]["scores"].astype(number).swapaxes(1, 2)  # (B, N, T)
  v = p["arrays"]["values"].astype(number).swapaxes(1, 2)
  g = p["g"].astype(number).swapaxes(1, 2)
  T = s.shape[2]
  seen = np.tril(np.ones((T, T), bool))[None, None]
  if p["ids"] is not None:
    seen = seen & (p["ids"][:, None, :, None] == p["ids"][:, None, None, :])
  score = np.where(seen, s[:, :, None, :], -np.inf)
  top = score.max(-1, keepdims=True)
  empty = np.isneginf(top)
  power = rounded(np.exp(np.where(empty, -np.inf, score - np.where(empty, 0, top))))
  total = np.where(empty, 1, power.sum(-1, keepdims=True))
  weight = rounded(power / total)
  out = rounded(weight @ v)
  lse = np.where(empty, -np.inf, top + np.log(total))[..., 0]
  dv = rounded(weight.swapaxes(2, 3) @ g)
  # In linear time: what all later tokens take from a token, less their deltas.
  delta = rounded((g * out).sum(-1)) - p["g_lse"].astype(number).swapaxes(1, 2)
  taken = rounded((weight * delta[..., None]).sum(2))
  found = {"out": out, "lse": lse, "dvalues": dv}
  found["dscores"] = rounded(rounded((v * dv).sum(-1)) - taken)
  # What tokens give, and what is taken off: where one is seen alone, all of it.
  given = (
    abs(g) @ abs(v).swapaxes(2, 3) + (abs(g * out).sum(-1) + abs(delta))[..., None]
  )
  size = definition.in_quadrature(weight * given, 2)
  found[f"{definition.SIZE}dscores"] = size
  return {n: x.swapaxes(1, 2) for n, x in found.items()}
