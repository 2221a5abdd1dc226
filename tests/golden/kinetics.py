"""Kinetics' costs, coverage and selections against the authors' functions."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from attnjax.variants.decode import kinetics
from attnjax.variants.decode.kinetics import costs


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  table = arrays["out.costs64"]
  given = dict(zip(meta["columns"], table.T))
  size = costs.Size(
    given["nparams"],
    given["attn_heads"],
    given["kv_heads"],
    given["head_dim_times_layers"],
  )
  trials = size, given["context"], given["generation"], given["trials"]
  block = meta["block"]
  sizes = {
    "local": block["local"],
    "block": block["block_size"],
    "blocks": block["block_topk"],
  }
  found = {
    "dense": costs.dense(*trials),
    "topk": costs.topk(*trials, budget=meta["budget"]["budget"], rule="released_topk"),
    "block": costs.block_topk(*trials, rule="released_block", **sizes),
  }
  for name, cost in found.items():  # the file has memory in operations
    given[f"{name}_compute"] = cost.compute
    given[f"{name}_memory"] = meta["E_flops"] * cost.memory
  for number, name in enumerate(meta["columns"]):
    yield f"{name} of out.costs64", given[name], table[:, number]
  yield "out.costs64", np.stack([given[name] for name in meta["columns"]], 1), table

  right, trials, _ = arrays["out.coverage64"].T
  drawn = int(meta["coverage_columns"][0].split()[-1])
  share = kinetics.coverage(right, drawn, trials)
  want = arrays["out.coverage64"]
  yield "out.coverage64", np.stack([right, trials, share], axis=1), want

  own = meta["select"]
  common = {"local": own["local"], "sink": own["sink"]}
  for name, blocks, block in (
    ("topk", own["topk"], 1),
    ("block", own["topk_block"], own["block_size"]),
  ):
    given = {"blocks": blocks, "block": block, **common}
    key = f"out.{name}_keep"
    yield key, _kept(arrays["in.logits"], own, given), arrays[key].astype(np.float64)


def _kept(logits, own, given):
  """Returns which tokens are read, (B, N, S)."""
  block = {name: given[name] for name in ("block", "sink")}
  scores = kinetics.pooled_logits(jnp.asarray(logits), own["K"], **block)
  lengths = jnp.asarray(own["lengths"])
  places, real = kinetics.select_blocks(scores, lengths, **given)
  kept = np.zeros((len(logits), own["K"], logits.shape[2]), bool)
  for row, group in np.ndindex(kept.shape[:2]):
    kept[row, group, np.asarray(places[row, group])[np.asarray(real[row, group])]] = (
      True
    )
  return np.repeat(kept, own["N"] // own["K"], axis=1)
