"""Random problems of softmax attention: a pure function of a seed.

A problem has what `attnjax.dot_product_attention` is called with, and the same in the
words of `tests.definition`: positions, masks and dropout are computed here once more,
in Python's and NumPy's 64-bit integers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests import definition

ENDS = {"least": -(2**31), "greatest": 2**31 - 1}
LENGTHS = (1, 2, 7, 8, 9, 17, 33, 64, 65, 100, 127, 128, 130)
LOW = (-1e4, -1e9, -1e20, float(np.finfo(np.float32).min), -np.inf)


@dataclasses.dataclass
class Problem:
  """One problem.

  Attributes:
    words: what it has, for people.
    dtype: of q, k and v.
    arrays: the arguments with gradients, by `definition`'s names, as NumPy.
    options: the other arguments of the call.
    exact: further entries of `definition.attend`'s problem.
    score: (name of a score function, names of its arrays), or None.
  """

  words: dict[str, Any]
  dtype: str
  arrays: dict[str, np.ndarray]
  options: dict[str, Any]
  exact: dict[str, Any]
  score: str = ""


def draw(seed: int) -> Problem:
  """The problem of a seed."""
  rng = np.random.default_rng(seed)
  B, K = int(rng.integers(1, 3)), int(rng.integers(1, 3))
  N = K * int(rng.choice([1, 1, 2, 3]))
  T, S = (int(x) for x in rng.choice(LENGTHS, 2))
  H, V = (int(x) for x in rng.choice([1, 4, 8, 16, 24], 2))
  dtype = str(rng.choice(["float32", "float32", "bfloat16", "float16"]))
  words = {"seed": seed, "shape": (B, T, S, N, K, H, V), "dtype": dtype}
  p = Problem(words, dtype, {}, {}, {"seen": np.ones((B, N, T, S), bool)})
  _values(p, rng)
  q, k = _positions(p, rng)
  _masks(p, rng, q[:, None, :, None], k[:, None, None, :])
  _scores(p, rng, q[:, None, :, None], k[:, None, None, :])
  _hidden(p, rng)
  return p


def _rounded(x, dtype):
  return np.asarray(x).astype(definition.TYPES[dtype])


def _values(p, rng):
  B, T, S, N, K, H, V = p.words["shape"]
  largest = 8 if p.dtype == "float32" else 1 if p.dtype == "float16" else 4
  exact = rng.random() < 0.3
  power = rng.uniform(-6, largest / 2 if exact else 0.5)
  if exact:  # products and sums of these are exact in float32
    size = 2.0 ** round(power * np.log2(10))
    q, k = (size * rng.integers(-2, 3, shape) for shape in ((B, T, N, H), (B, S, K, H)))
    scale = 2.0 ** -int(rng.integers(0, 4))
  else:
    size = 10.0**power
    q, k = (size * rng.normal(size=shape) for shape in ((B, T, N, H), (B, S, K, H)))
    scale = float(rng.choice([H**-0.5, 0.3, 1.0]))
  height = 10.0 ** rng.uniform(-6, 0.7 if p.dtype == "float16" else largest)
  p.words |= {"q, k": f"{size:.1e}" + " exact" * exact, "v": f"{height:.1e}"}
  p.words["exact"] = exact
  v = height * rng.normal(size=(B, S, K, V))
  p.arrays |= {n: _rounded(x, p.dtype) for n, x in (("q", q), ("k", k), ("v", v))}
  p.options["scale"] = p.exact["scale"] = scale
  p.exact["g"] = _rounded(rng.normal(size=(B, T, N, V)), p.dtype).astype("float64")
  p.exact["g_lse"] = rng.normal(size=(B, T, N)).astype("float32").astype("float64")


def _positions(p, rng):
  """The positions of queries (B, T) and of keys (B, S), 64-bit."""
  B, T, S = p.words["shape"][:3]
  kind = str(rng.choice(["none", "none", "number", "examples", "all", *ENDS]))
  p.words["positions"] = kind
  if rng.random() < 0.4:
    p.options["is_causal"] = p.words["causal"] = True
  first, start = (S - T) * bool(p.words.get("causal")), 0
  if kind == "number":
    first = p.options["query_positions"] = int(rng.integers(-50, 50))
  if kind in ENDS:
    last = max(T, S)
    near = ENDS[kind] if kind == "least" else ENDS[kind] - last
    first = start = near
    p.options |= {"query_positions": near, "key_positions": near}
  q, k = np.tile(first + np.arange(T), (B, 1)), np.tile(start + np.arange(S), (B, 1))
  if kind == "examples":
    begins = rng.integers(-20, 200, (B, 1))
    q = begins + np.arange(T)
    p.options["query_positions"] = jnp.asarray(begins[:, 0], jnp.int32)
  if kind == "all":
    q, k = (rng.integers(-40, 150, (B, n)) for n in (T, S))
    p.options["query_positions"] = jnp.asarray(q, jnp.int32)
    p.options["key_positions"] = jnp.asarray(k, jnp.int32)
  return q.astype(np.int64), k.astype(np.int64)


def _masks(p, rng, q, k):
  B, T, S = p.words["shape"][:3]
  seen = p.exact["seen"]
  if p.words.get("causal"):
    seen &= k <= q
  if rng.random() < 0.25:
    left, right = (int(x) for x in rng.choice([0, 3, 20, 500, 2**31 - 1], 2))
    p.options["local_window_size"] = p.words["window"] = (left, right)
    seen &= (k >= q - left) & (k <= q + right)
  if rng.random() < 0.2:
    ids, kv = (np.sort(rng.integers(-1, 3, (B, n))) for n in (T, S))
    p.words["segments"] = True
    p.options |= {"segment_ids": jnp.asarray(ids), "kv_segment_ids": jnp.asarray(kv)}
    ids, kv = ids[:, None, :, None], kv[:, None, None, :]
    seen &= (ids == kv) & (ids >= 0)
  for axis, (name, size) in enumerate(
    (("query_seq_lengths", T), ("key_value_seq_lengths", S))
  ):
    if rng.random() < 0.15:
      lengths = rng.choice([0, 1, size // 2, size], B)
      p.options[name] = jnp.asarray(lengths, jnp.int32)
      p.words[name] = lengths.tolist()
      place = np.arange(size) < lengths[:, None]
      seen &= place[:, None, :, None] if axis == 0 else place[:, None, None, :]
  if rng.random() < 0.2:
    shape = [n if rng.random() < 0.6 else 1 for n in seen.shape[:2]] + [T, S]
    mask = rng.random(shape) < 0.7
    mask[:, :, rng.random(T) < 0.2] = False  # these queries see nothing
    p.options["mask"], p.words["mask"] = jnp.asarray(mask), tuple(shape)
    seen &= mask


def _scores(p, rng, q, k):
  B, T, S, N = p.words["shape"][:4]
  if rng.random() < 0.4:
    _bias(p, rng)
  if rng.random() < 0.2 and not p.words["exact"]:
    p.options["softcap"] = p.exact["softcap"] = float(rng.choice([0.5, 5.0, 30.0]))
  if rng.random() < 0.25:
    # Beyond e^-80 or so weights beside a sink are no normal float32: they count as 0.
    size = float(rng.choice([1.0, 30.0]))
    sinks = np.clip(size * rng.normal(size=N), -60, 60)
    p.arrays["sinks"] = sinks.astype("float32")
  if rng.random() < 0.2:
    rate, key = 0.3, jax.random.key(int(rng.integers(1000)))
    p.options |= {"dropout_rate": rate, "dropout_rng": key}
    bits = np.asarray(jax.random.bits(key, (B, N), jnp.uint32))
    p.exact["keep"] = kept(bits[:, :, None, None], q, k, rate)
  kind = str(rng.choice(["", "", "", "slopes", "table", "gain"]))
  p.score = kind
  if kind == "slopes":
    p.arrays["slopes"] = rng.random(N).astype("float32")
    distance = np.abs(q - k).astype("float32")
  if kind == "table":
    p.arrays["table"] = rng.normal(size=(N, 31)).astype("float32")
  if kind == "gain":
    p.arrays["gain"] = rng.normal(size=N).astype("float32")
    if "bias" in p.arrays:  # a negative gain would make the largest score of the least
      low = p.arrays["bias"] < -100
      p.arrays["bias"][low] = 0
  p.words |= {
    n: True for n in ("softcap", "keep", "sinks") if n in {**p.exact, **p.arrays}
  }
  p.words["score"] = kind or None

  def function(x):
    one = np.ones_like(x)
    given = {n: a.astype(x.dtype) for n, a in p.arrays.items() if n == kind}
    if kind == "slopes":
      by = -one * distance.astype(x.dtype)
      return x + given["slopes"][:, None, None] * by, one, {"slopes": by}
    if kind == "table":
      place = np.clip(q - k + 15, 0, 30)
      value = np.stack([table[place[:, 0]] for table in given["table"]], axis=1)
      return x + value, one, {"table": one}
    gain = given["gain"][:, None, None] * one
    return x * gain, gain, {"gain": x}

  if kind:
    p.exact["function"] = function
    p.exact["place"] = np.clip(q - k + 15, 0, 30)


def _bias(p, rng):
  B, T, S, N = p.words["shape"][:4]
  shape = [n if rng.random() < 0.6 else 1 for n in (B, N, T, S)]
  bias = rng.normal(size=shape)
  kind = "float32" if rng.random() < 0.5 else p.dtype
  low = [x for x in LOW if kind != "float16" or not -np.inf < x < -65504]
  value = float(rng.choice(low))
  where = str(rng.choice(["nowhere", "rows", "keys", "cells"]))
  if where == "rows":
    bias[:, :, rng.random(shape[2]) < 0.4] = value
  elif where == "keys":
    bias[..., rng.random(shape[3]) < 0.4] = value
  elif where == "cells":
    bias[rng.random(shape) < 0.3] = value
  p.words["bias"] = (tuple(shape), kind, where, value)
  with np.errstate(over="ignore"):
    p.arrays["bias"] = _rounded(bias, kind)


def _hidden(p, rng):
  """What nobody sees may be anything: NaN or infinite in what the call is given."""
  if rng.random() < 0.5:
    return
  seen = p.exact["seen"]
  p.words["hidden"] = filler = float(rng.choice([np.nan, np.inf, -np.inf]))
  unseen = ~seen.any((1, 2))  # (B, S)
  p.options["hidden"] = {n: unseen for n in "kv" if rng.random() < 0.7}
  p.options["filler"] = filler
  bias = p.arrays.get("bias")
  # Left out: a bias under a function that multiplies the score. The function's own
  # gradient, dscore (score + bias), is then 0 times infinity in the fused kernels.
  if bias is not None and p.score != "gain":
    axes = tuple(i for i, n in enumerate(bias.shape) if n == 1 and seen.shape[i] > 1)
    p.options["hidden"]["bias"] = ~seen.any(axes, keepdims=True)


def kept(seed, q, k, rate):
  """The dropout's factors: MurmurHash3's finalizer, of the row and of the element."""

  def mixed(x):
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))

  q, k = (x.astype(np.uint32) for x in (q, k))
  with np.errstate(over="ignore"):
    row = mixed(seed ^ (q * np.uint32(0x9E3779B1)))
    bits = mixed(row ^ (k * np.uint32(0x85EBCA77))) >> np.uint32(8)
  return np.where(bits >= np.float32(rate * 2**24), 1 / (1 - rate), 0.0)
