"""Choices of blocks, keys, distances and pages against the authors' functions."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from attnjax.variants.decode.sparse_frontier import compression, pages, patterns


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  q, k = (jnp.asarray(arrays[f"in.{name}"]).swapaxes(1, 2) for name in "qk")
  T = q.shape[1]
  yield _blocks(q, k, arrays["out.block_index"], meta["block"])
  own = meta["vertical_slash"]
  numbers = {"verticals": own["vertical"], "slashes": own["slash"]}
  always = {"first": own["always_vertical"], "near": own["always_slash"]}
  chosen = patterns.vertical_slash(q, k, window=own["last_q"], **numbers, **always)
  for name, got in zip(("vertical_idx", "slash_idx"), chosen):
    want = arrays[f"out.{name}"]
    yield f"out.{name}", got, _sets(want.reshape(*got.shape[:2], -1), T)
  for name, key in (("snapkv", "out.snapkv_kept"), ("ada", "out.ada_kept")):
    yield _kept(q, k, arrays[key], key, meta[name])
  yield from _quest(q, k, arrays, meta["quest"])


def _sets(index, size):
  """Returns index sets (..., M) as booleans (..., size)."""
  return np.eye(size, dtype=bool)[index].any(axis=-2).astype(np.float64)


def _blocks(q, k, want, own):
  """Compares the causal blocks: lists of early rows are filled with later ones."""
  given = {"block": own["block"], "blocks": own["top_k"]}
  got = patterns.block_sparse(q, k, **given).map()
  want = _sets(want, got.shape[-1]) * np.tri(got.shape[-1])
  return "out.block_index", got, want


def _kept(q, k, want, key, own):
  """Compares what is kept; each row of the file is a key head's."""
  k, lengths = k[:, :, : own["kv_heads"]], jnp.array([q.shape[1]])
  window = q[:, -own["approximation_window"] :]
  sizes = {"capacity": own["token_capacity"], "local": own["local_window"]}
  sizes["first"] = own["prefix_tokens"]
  given = {"pool": own["kernel_size"]}
  if "min_head_capacity_ratio" in own:
    mass = compression.importance(window, k, lengths, adaptive=True, **given)
    floor = own["min_head_capacity_ratio"]
    got = compression.keep_adaptive(mass, lengths, floor=floor, **sizes)
    return key, got[0], want.astype(np.float64)
  mass = compression.importance(window, k, lengths, **given)
  got = compression.keep(mass, lengths, **sizes)
  return key, got[0], _sets(want, q.shape[1])


def _quest(q, k, arrays, own):
  """Compares the pages of the last query, and how many tokens they hold."""
  lengths, page = jnp.array([own["length"]]), own["page"]
  budget, k = own["page_budget"], k[:, :, : own["kv_heads"]]
  share = own["share_pages"]
  low, high = pages.extremes(k, lengths, page)
  scores = pages.bounds(q[:, -1], low, high, share_pages=share)
  places, real = pages.select_pages(scores, lengths, pages=budget, page=page)
  count = low.shape[1]
  want = arrays["out.quest_pages"]
  got = np.zeros((len(want), count), bool)
  number = np.zeros(len(want), np.int64)
  for head in range(len(want)):
    group = head * places.shape[1] // len(want)
    chosen = np.asarray(places[0, group])[np.asarray(real[0, group])]
    got[head, chosen // page] = True
    number[head] = len(chosen)
  yield "out.quest_pages", got, _sets(want, count)
  yield "out.quest_len", number, arrays["out.quest_len"].astype(np.float64)
