"""DELTA's scores and choice of pages against the authors' selector."""

from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from attnjax.variants.decode import delta


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  page, want = meta["page"], arrays["out.page_scores"]
  scores = delta.page_scores(jnp.asarray(arrays["in.logits"]), page=page)
  yield "out.page_scores", scores, want
  ids, real = delta.select_pages(
    scores,
    jnp.asarray(meta["lengths"]),
    pages=meta["pages_kept"],
    page=page,
    recent_pages=meta["L"],
  )
  kept = np.zeros(want.shape, bool)
  for row, (some, there) in enumerate(zip(np.asarray(ids), np.asarray(real))):
    kept[row, some[there]] = True
  yield "out.kept_pages", kept, arrays["out.kept_pages"].astype(np.float64)
