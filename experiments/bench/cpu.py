"""Softmax attention on the CPU, by the clock, beside jax.nn and PyTorch."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import contract, dot_product_attention, masks
from experiments import errors
from experiments.bench import local, pairs, torch_peer
from experiments.bench.timing import Time, both, forward, race


def rows(only: str = "") -> tuple[list[dict], bool]:
  """Returns (the table, whether all bounds hold); prints each row when it is measured.

  Args:
    only: the name of a part; all if empty.

  Raises:
    UserError: if there is no such part.
  """
  parts = {
    "attention": _attention,
    "small": _small,
    "window": _window,
    "documents": _documents,
    "decoding": _decoding,
    "memory": _memory,
    "windows": local.windows,
    "neighbourhood": local.neighbourhood,
    "contrastive": pairs.contrastive,
  }
  if only and only not in parts:
    raise errors.UserError(contract.unknown("part", only, parts))
  found: list[dict] = []
  for name, part in parts.items():
    if only in ("", name):
      for row in part():
        print(_line(row), flush=True)
        found.append(row)
  return found, all(row.get("holds", True) for row in found)


def _line(row) -> str:
  bound = ""
  if "bound" in row:
    bound = f"  {row['bound']}" + ("  holds" if row["holds"] else "  DOES NOT HOLD")
  cells = "  ".join(f"{n} {s:.4g}" for n, s in row["values"].items())
  return f"{row['name']:44s} {cells}{bound}"


def _row(name, times: dict[str, Time], ratios: Mapping[str, float] | None = None):
  """Returns a row of medians in seconds; `ratios` has the least ratio for each peer."""
  own = times["attnjax"].median
  values = {f"{n} [s]": t.median for n, t in times.items()}
  row = {"name": name, "values": values, "calls": times["attnjax"].calls}
  if ratios:
    have = {n: times[n].median / own for n in ratios if n in times}
    row["values"] = values | {f"{n} / attnjax": r for n, r in have.items()}
    row["bound"] = ", ".join(f"{n} / attnjax >= {ratios[n]:g}" for n in have)
    row["holds"] = all(r >= ratios[n] for n, r in have.items())
  return row


def _arrays(B, T, N, H, S=None, dtype="float32"):
  rng = np.random.default_rng(0)
  shapes = (B, T, N, H), (B, S or T, N, H), (B, S or T, N, H), (B, T, N, H)
  return [jnp.asarray(rng.standard_normal(s, dtype="float32"), dtype) for s in shapes]


def _ours(q, k, v, g, **options) -> dict[str, Callable]:
  options = {"is_causal": True} | options
  own = functools.partial(dot_product_attention, impl="xla", **options)
  return {"forward": forward(own, (q, k, v)), "both": both(own, (q, k, v), g)}


def _jax_nn(q, k, v, g):
  peer = functools.partial(jax.nn.dot_product_attention, is_causal=True)
  return {"forward": forward(peer, (q, k, v)), "both": both(peer, (q, k, v), g)}


def _attention():
  """Measures the main case: (1, 4096, 8, 64) float32, causal."""
  arrays = _arrays(1, 4096, 8, 64)
  peers = {
    "attnjax": _ours(*arrays),
    "jax.nn": _jax_nn(*arrays),
    "torch": torch_peer.start(*arrays),
  }
  for what, bounds in (
    ("forward", {"jax.nn": 5, "torch": 1}),
    ("both", {"jax.nn": 4, "torch": 1}),
  ):
    runs = {n: p[what] for n, p in peers.items() if p}
    name = "forward + backward" if what == "both" else what
    yield _row(f"causal (1, 4096, 8, 64), {name}", race(runs, seconds=25), bounds)
  arrays = _arrays(1, 4096, 8, 64, dtype="bfloat16")
  yield _row(
    "causal (1, 4096, 8, 64) bfloat16, both",
    race({"attnjax": _ours(*arrays)["both"], "jax.nn": _jax_nn(*arrays)["both"]}),
  )


def _small():
  """Measures the attention of the default language model: (16, 256, 4, 32)."""
  arrays = _arrays(16, 256, 4, 32)
  peers = {
    "attnjax": _ours(*arrays),
    "jax.nn": _jax_nn(*arrays),
    "torch": torch_peer.start(*arrays),
  }
  for what in ("forward", "both"):
    runs = {n: p[what] for n, p in peers.items() if p}
    yield _row(f"causal (16, 256, 4, 32), {what}", race(runs, seconds=5, most=60))


def _window():
  """Measures a causal window of 256 keys of 16,384 against dense causal attention."""
  arrays = _arrays(1, 16384, 8, 64)
  dense, peer = _ours(*arrays), torch_peer.start(*arrays)
  own = _ours(*arrays, local_window_size=(255, 0))
  for what, name in (("forward", "forward"), ("both", "forward + backward")):
    runs = {"attnjax": own[what], "attnjax dense": dense[what]}
    runs |= {"torch dense": peer[what]} if peer else {}
    times = race(runs, seconds=30, most=7)
    best = min(runs.keys() - {"attnjax"}, key=lambda n: times[n].median)
    yield _row(f"window 256 of T = 16,384, {name}", times, {best: 15})


def _documents():
  """Measures 64 packed documents of 256 tokens, ids traced, against dense attention."""
  arrays = _arrays(1, 16384, 8, 64)
  ids = jnp.repeat(jnp.arange(64), 256)[None]
  q, k, v, g = arrays
  run = functools.partial(dot_product_attention, is_causal=True, impl="xla")

  def packed(q, k, v, ids):
    return run(q, k, v, segment_ids=ids)

  def loss(q, k, v, ids):
    return jnp.sum(packed(q, k, v, ids) * g)

  dense = _ours(*arrays)
  own = {
    "forward": forward(packed, (q, k, v, ids)),
    "both": forward(jax.value_and_grad(loss, (0, 1, 2)), (q, k, v, ids)),
  }
  for what, name in (("forward", "forward"), ("both", "forward + backward")):
    runs = {"attnjax": own[what], "attnjax dense": dense[what]}
    times = race(runs, seconds=20, most=7)
    yield _row(f"64 documents of 256, {name}", times, {"attnjax dense": 8})


def _decoding():
  """Measures one query against 4,096 keys of a cache that is half full."""
  q, k, v, _ = _arrays(4, 1, 8, 64, S=4096)
  lengths = jnp.full((4,), 2048, jnp.int32)

  def own(q, k, v, lengths):
    return dot_product_attention(q, k, v, key_value_seq_lengths=lengths, impl="xla")

  def peer(q, k, v, lengths):
    return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths)

  arrays = (q, k, v, lengths)
  runs = {"attnjax": forward(own, arrays), "jax.nn": forward(peer, arrays)}
  yield _row("one query, 4,096 keys, half full", race(runs, seconds=5, most=60))


def _memory():
  """Measures the bytes beside arguments and results, which are linear in T."""

  def needed(T):
    shape = jax.ShapeDtypeStruct((1, T, 8, 64), jnp.float32)

    def loss(q, k, v):
      out = dot_product_attention(q, k, v, mask=masks.Causal(), impl="xla")
      return out.sum()

    compiled: Any = (
      jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
    )
    return compiled.memory_analysis().temp_size_in_bytes

  found = {T: needed(T) for T in (2048, 4096, 8192, 16384)}
  growth = found[16384] / found[2048]
  yield {
    "name": "temporary memory, forward + backward",
    "values": {f"T = {T} [MB]": b / 1e6 for T, b in found.items()}
    | {"16k / 2k": growth},
    "bound": "16k / 2k <= 9",
    "holds": growth <= 9,
  }
