"""Causal linear attention with decays on random problems, in any implementation.

The definition is the matrix of the decays between two tokens, made row by row from
products, in which a reset of -1e8 or -inf loses nothing:

  decay[t, s] = exp(g[t]) decay[t-1, s],  decay[t, t] = 1,  0 across documents
  out[t]      = scale sum_s decay[t, s] (q[t] . k[s]) v[s], the initial state as s = -1
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import backends
from tests import definition, precision
from tests.sweep.softmax_problems import LENGTHS

RESETS = (-30.0, -1e4, -1e8, float(np.finfo(np.float32).min), -np.inf)


def draw(seed: int) -> dict[str, Any]:
  """The problem of a seed: arrays, cotangents and words."""
  rng = np.random.default_rng([seed, 1])
  B, K = int(rng.integers(1, 3)), int(rng.integers(1, 3))
  N, T = K * int(rng.choice([1, 1, 2])), int(rng.choice(LENGTHS))
  H, E = (int(x) for x in rng.choice([1, 8, 16, 24], 2))
  dtype = str(rng.choice(["float32", "float32", "bfloat16", "float16"]))
  size = 10.0 ** rng.uniform(-3, 0.3 if dtype == "float16" else 3)
  words = {"seed": seed, "shape": (B, T, N, K, H, E), "dtype": dtype, "size": size}
  kind = definition.TYPES[dtype]
  shapes = {"q": (B, T, N, H), "k": (B, T, K, H), "v": (B, T, K, E)}
  arrays = {n: (size**0.5 * rng.normal(size=s)).astype(kind) for n, s in shapes.items()}
  if rng.random() < 0.7:
    shape = [n if rng.random() < 0.7 else 1 for n in (B, T, N)]
    decay = -(10.0 ** rng.uniform(-4, 0.5)) * rng.random(shape)
    if rng.random() < 0.5:
      words["reset"] = value = float(rng.choice(RESETS))
      decay[rng.random(shape) < 0.2] = value
    words["decay"] = tuple(shape)
    arrays["log_decay"] = decay.astype("float32")
  if rng.random() < 0.5:
    words["state"] = True
    arrays["initial_state"] = rng.normal(size=(B, N, H, E)).astype("float32")
  ids = None
  if rng.random() < 0.4:
    words["segments"] = True
    ids = np.sort(rng.integers(0, 4, (B, T)), axis=1) % 3
  g = rng.normal(size=(B, T, N, E)).astype(kind).astype("float64")
  g_state = rng.normal(size=(B, N, H, E)).astype("float32").astype("float64")
  scale = float(rng.choice([1.0, 0.3]))
  return {
    "words": words,
    "arrays": arrays,
    "ids": ids,
    "scale": scale,
    "g": g,
    "g_state": g_state,
  }


def excess(seed: int, impl: str) -> dict[str, float]:
  """The errors of problem `seed` as parts of what they may be."""
  p = draw(seed)
  return precision.excess(results(p, impl), *definitions(p), p["words"]["dtype"])


def definitions(p: dict[str, Any]):
  """The results in float64 with their sizes, and by the formula in the problem's type.

  All are sums of products: their sizes are what the terms add up to without signs.
  """
  kind = definition.TYPES[p["words"]["dtype"]]
  with np.errstate(all="ignore"):
    want = attend(p, np.float64, lambda x: x)
    sizes = attend(_without_signs(p), np.float64, lambda x: x)
    want |= {f"{definition.SIZE}{name}": size for name, size in sizes.items()}
    plain = attend(p, np.float32, lambda x: x.astype(kind).astype(np.float32))
  return want, plain


def _without_signs(p):
  arrays = {n: x if n == "log_decay" else np.abs(x) for n, x in p["arrays"].items()}
  return p | {"arrays": arrays} | {n: np.abs(p[n]) for n in ("g", "g_state")}


def results(p, impl: str) -> dict[str, jax.Array]:
  """out, the state and all gradients."""
  ids = None if p["ids"] is None else jnp.asarray(p["ids"], jnp.int32)
  g, g_state = p["g"].astype("float32"), p["g_state"].astype("float32")

  @jax.jit
  def run(given):
    def loss(given):
      given = dict(given)
      q, k, v = (given.pop(n) for n in "qkv")
      attend = backends.linear_attention(impl, q, k, v)
      out, state = attend(q, k, v, **given, segment_ids=ids, scale=p["scale"])
      total = jnp.sum(out.astype("float32") * g) + jnp.sum(state * g_state)
      return total, {"out": out, "state": state}

    return jax.grad(loss, has_aux=True)(given)

  grads, found = run({n: jnp.asarray(x) for n, x in p["arrays"].items()})
  return found | {f"d{n}": x for n, x in grads.items()}


def attend(p, number, rounded):
  """The definition and its gradients, computed in `number`."""
  B, T, N, K, H, E = p["words"]["shape"]
  given = {n: x.astype(number) for n, x in p["arrays"].items()}
  q = given["q"].swapaxes(1, 2)
  k, v = (np.repeat(given[n].swapaxes(1, 2), N // K, axis=1) for n in "kv")
  state = given.get("initial_state", np.zeros((B, N, H, E), number))
  g, g_state = p["g"].astype(number).swapaxes(1, 2), p["g_state"].astype(number)
  scale = number(p["scale"])
  keep = _keep(p, given, number)
  decay, first = _decays(keep)  # (B, N, T, T), (B, N, T)
  score = rounded(q @ k.swapaxes(2, 3))
  weight = rounded(score * decay)
  past = rounded(np.einsum("bnth,bnhe->bnte", q, state))
  out = rounded(scale * (weight @ v + first[..., None] * past))
  last, final = decay[:, :, -1], first[:, :, -1, None, None]
  new = np.einsum("bnsh,bnse->bnhe", rounded(last[..., None] * k), v) + final * state
  dweight = rounded(scale * (g @ v.swapaxes(2, 3)))
  dscore = rounded(dweight * decay)
  gfirst = scale * first[..., None] * g
  dk = dscore.swapaxes(2, 3) @ q
  dk += last[..., None] * np.einsum("bnse,bnhe->bnsh", v, g_state)
  dv = scale * weight.swapaxes(2, 3) @ g
  dv += last[..., None] * np.einsum("bnsh,bnhe->bnse", k, g_state)
  found = {"out": out.swapaxes(1, 2), "state": new}
  found["dq"] = rounded(
    dscore @ k + np.einsum("bnte,bnhe->bnth", gfirst, state)
  ).swapaxes(1, 2)
  for name, x in (("dk", dk), ("dv", dv)):
    summed = x.reshape(B, K, N // K, T, -1).sum(2)
    found[name] = rounded(summed).swapaxes(1, 2)
  if "initial_state" in given:
    found["dinitial_state"] = np.einsum("bnth,bnte->bnhe", q, gfirst) + final * g_state
  if "log_decay" in given:
    pairs = dscore * score  # by the log of the decay between two tokens
    pairs[:, :, -1] += last * np.einsum("bnsh,bnse,bnhe->bns", k, v, g_state)
    start = (gfirst * past).sum(-1)
    start[:, :, -1] += (final * state * g_state).sum((2, 3))
    each = _by_token(pairs, start).swapaxes(1, 2)
    axes = tuple(i for i, n in enumerate(given["log_decay"].shape) if n == 1)
    found["dlog_decay"] = each.sum(axes, keepdims=True)
  return found


def _keep(p, given, number):
  """exp(g), 0 where a document begins but the first, (B, N, T)."""
  B, T, N = p["words"]["shape"][:3]
  keep = np.exp(given.get("log_decay", np.zeros((1, 1, 1), number)))
  keep = np.broadcast_to(keep, (B, T, N)).swapaxes(1, 2).copy()
  if p["ids"] is not None:
    begins = p["ids"][:, 1:] != p["ids"][:, :-1]
    keep[:, :, 1:] *= ~begins[:, None]
  return keep


def _decays(keep):
  """The decay from token s to token t, and from the start to token t."""
  *lead, T = keep.shape
  decay, row = np.zeros((*lead, T, T), keep.dtype), np.zeros((*lead, T), keep.dtype)
  first, past = np.zeros_like(row), np.ones(lead, keep.dtype)
  for t in range(T):
    row = row * keep[..., t, None]
    row[..., t] = 1
    past = past * keep[..., t]
    decay[..., t, :], first[..., t] = row, past
  return decay, first


def _by_token(pairs, start):
  """dg[r]: the sum over t >= r > s of pairs, and over t >= r of the start's."""
  T = start.shape[-1]
  below = np.tril(np.ones((T, T), pairs.dtype), -1)  # [r, s]: s < r
  later = np.cumsum(pairs[..., ::-1, :], axis=-2)[..., ::-1, :]  # over t >= r
  return (later * below).sum(-1) + np.cumsum(start[..., ::-1], axis=-1)[..., ::-1]
