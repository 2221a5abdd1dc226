"""Three training steps of the third party's online k-means."""

import itertools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.sparse import routing_transformer as routing


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  decay = float(arrays["param.decay"])

  @jax.jit
  def run(steps, means):
    found = {}
    for step, batches in enumerate(steps):
      for i, x in enumerate(batches):
        # (B, N, c, T) there
        near = routing.affinity(x, means).swapaxes(2, 3)
        loss = routing.commitment(x, means, weight=meta["commitment"])
        found |= {f"dists{step}.{i}": near, f"loss{step}.{i}": loss}
      new = [routing.iterate(means, x) for x in batches]
      if len(new) == 1:
        start = routing.Clusters.start(means)
        moved = start.update(batches[0], decay=decay, averaged="means").means
      else:
        moved = routing.follow(means, new, decay=decay)
      found[f"new_means{step}"] = routing.follow(means, new, decay=0.0)
      found[f"means{step}"] = means = moved
    return found

  found = run(list(_steps(arrays)), arrays["param.means"])
  for key in arrays:
    if key.startswith("out."):
      yield key, found[key.removeprefix("out.")], arrays[key]


def _steps(arrays) -> Iterator[list]:
  """The batches of each step, (B, T, N, H)."""
  for step in itertools.count():
    keys = [f"in.x{step}.{i}" for i in range(len(arrays))]
    batches = [arrays[key].swapaxes(1, 2) for key in keys if key in arrays]
    if not batches:
      return
    yield [jnp.asarray(x) for x in batches]
