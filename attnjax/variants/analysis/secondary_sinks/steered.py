"""The report of a model whose MLP results are rescaled."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from attnjax.contract import Report
from attnjax.variants.analysis.secondary_sinks import steering
from attnjax.variants.analysis.secondary_sinks.detection import SECONDARY
from attnjax.variants.analysis.secondary_sinks.report import analyse


def steering_table(
  model: Any,
  tokens: Any,
  *,
  layer: int,
  reference: Any,
  norms: Sequence[float],
  **options: Any,
) -> Report:
  """Reports the sinks of a model whose MLP results are rescaled to each norm.

  Args:
    model: with `trace(tokens, edit=...)`.
    tokens: (B, T).
    layer: whose MLP is steered, see `rescale_mlp`.
    reference: (D,), the MLP's result at the primary sink.
    norms: A norms.
    **options: of `analyse`.

  Returns:
    By norm: the number of secondary sinks created at the layer, their mean lifetime,
    and their mean score over the layers behind it, NaN without sinks.
  """
  counts, lives, means = [], [], []
  for norm in norms:
    edit = steering.rescale_mlp(layer, norm, reference)
    found = analyse(jax.device_get(model.trace(tokens, edit=edit)), **options)
    own = (found["kind"] == SECONDARY) & (found["start"] == layer)
    own[np.arange(len(own)), found["primary"]] = False
    counts.append(int(own.sum()))
    lives.append(found["lifetime"][own].mean() if own.any() else np.nan)
    behind = found["score"][:, layer + 1 :].swapaxes(1, 2)[own]
    means.append(np.nanmean(behind) if own.any() else np.nan)
  entries = {"norm": np.array(norms, np.float64), "sinks": np.array(counts)}
  entries |= {"lifetime": np.array(lives), "score": np.array(means, np.float64)}
  return Report(entries, dict.fromkeys(entries, "A"))
