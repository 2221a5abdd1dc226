"""Secondary attention sinks: tokens that become sinks in middle layers.

Jeffrey T. H. Wong, Cheng Zhang, Louis Mahon, Wayne Luk, Anton Isopoussu, Yiren Zhao. On
the Existence and Behaviour of Secondary Attention Sinks. 2025. arXiv:2512.22213.
Official code: github.com/JeffreyWong20/Secondary-Attention-Sinks (11eefcc), whose
detection, labels, entropy and steering these are, held to runs of it.

h[l] is the residual stream after layer l, b the primary sink: of the first tokens the
one with the largest mean norm. It lives from its largest rise to its deepest fall:

  d[l]  = |h[l + 1, b]| - |h[l, b]|
  start = argmax d + 1,  end = start + argmin d[start:] + 1
  sink[l, j]  = |cos(h[l, j], h[l, b])| > 0.9     for j > b, start <= l < end
  lifetime[j] = sum_l sink[l, j]
  kind[j]     = primary from L - 15 layers on, else secondary from 5 on, else noise
  level       = (first layer, lifetime) of at least a tenth of the secondary sinks
  score[l, j] = mean over heads, and over queries behind j, of their weights of j

  report = secondary_sinks.analyse(model.trace(tokens))     # AXES says what is in it

Sinks are made by an MLP at their first layer, whose result is along that of b, and live
as long as its norm m lasts; `formation` and `probe_directions` show the first, and the
interventions the second: m <- tau m / |m| (`rescale_mlp`), m <- 0 (`ablate_mlp`), and
h[j] <- h[j] + beta h[b] (`inject_direction`).

The score and the last two interventions are reconstructed from the abstract; so are the
levels. The authors' numbers of layers fit models of 28 layers and more; for fewer ones
those of `lengths_of_kinds` are invented here, an eighth of the layers and three
quarters of those in which b lives. Lifetimes count layers, gaps are left out.

Cost: the trace of one forward pass; the scores are O(T^2 H) time and O(T) memory.

Axes: B rows, T tokens, L layers, N heads, K key heads, H head size, D width.

Not here: pictures by t-SNE; the sink score of the authors' last notebook.
"""

from typing import Any

import jax

from attnjax.contract import Case
from attnjax.contract.trace import Edits, Trace
from attnjax.variants.analysis.secondary_sinks.creation import (
  controls,
  formation,
  principal_directions,
  probe_directions,
  separation,
  two_means,
)
from attnjax.variants.analysis.secondary_sinks.detection import (
  NOISE,
  PRIMARY,
  SECONDARY,
  Sink,
  cosines,
  growing_entropy,
  label_sinks,
  layer_range,
  lengths_of_kinds,
  level_histogram,
  levels,
  matrix_entropy,
  primary_position,
  sink_layers,
)
from attnjax.variants.analysis.secondary_sinks.entries import AXES, LABELS, MEANINGS
from attnjax.variants.analysis.secondary_sinks.report import HOSTS, analyse
from attnjax.variants.analysis.secondary_sinks.rows import Row, sinks_of
from attnjax.variants.analysis.secondary_sinks.scores import (
  IMPLEMENTATIONS,
  pearson,
  reference_sink_scores,
  scores_of,
  sink_scores,
  spearman,
)
from attnjax.variants.analysis.secondary_sinks.steered import steering_table
from attnjax.variants.analysis.secondary_sinks.steering import (
  ablate_mlp,
  inject_direction,
  rescale,
  rescale_mlp,
)

__all__ = [
  "ANALYSE",
  "AXES",
  "CASES",
  "FORMS",
  "HOSTS",
  "IMPLEMENTATIONS",
  "LABELS",
  "MEANINGS",
  "NOISE",
  "PRIMARY",
  "Row",
  "SECONDARY",
  "Sink",
  "ablate_mlp",
  "analyse",
  "capture",
  "controls",
  "cosines",
  "formation",
  "growing_entropy",
  "inject_direction",
  "label_sinks",
  "layer_range",
  "lengths_of_kinds",
  "level_histogram",
  "levels",
  "matrix_entropy",
  "pearson",
  "primary_position",
  "principal_directions",
  "probe_directions",
  "reference_sink_scores",
  "rescale",
  "rescale_mlp",
  "scores_of",
  "separation",
  "sink_layers",
  "sink_scores",
  "sinks_of",
  "spearman",
  "steering_table",
  "two_means",
]

FORMS = ("analysis",)
ANALYSE = {"least": 2, "clip": False}


def capture(model: Any, tokens: Any, *, edit: Edits | None = None, **context) -> Trace:
  """Returns the compiled trace of a language model, as NumPy arrays.

  Args:
    model: any host with `trace`.
    tokens: (B, T).
    edit: an intervention.
    **context: of the model's call: valid.
  """
  run = jax.jit(lambda model, tokens, given: model.trace(tokens, edit=edit, **given))
  return jax.device_get(run(model, tokens, context))


def _shapes(B, T, N, K, H):
  return {"q": (B, T, N, H), "k": (B, T, K, H)}


def _documents(key):
  del key
  return jax.numpy.array([[0] * 5 + [3] * 4 + [-1] * 3])


CASES = (
  Case("whole", _shapes(2, 33, 2, 2, 8), function="sink_scores"),
  Case("one_token", _shapes(1, 1, 1, 1, 4), function="sink_scores"),
  Case(
    "window",
    _shapes(1, 65, 2, 1, 4),
    {"window": 40, "least": 3, "distance": 16, "scale": 0.9},
    function="sink_scores",
  ),
  Case(
    "documents",
    _shapes(1, 12, 2, 1, 4),
    {"segment_ids": _documents},
    function="sink_scores",
  ),
)
