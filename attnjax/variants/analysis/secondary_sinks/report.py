"""The report of a trace: sinks of every sequence, and means over the corpus."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from attnjax.contract import Report
from attnjax.contract.trace import Trace
from attnjax.variants.analysis.secondary_sinks import (
  creation,
  detection,
  scores,
)
from attnjax.variants.analysis.secondary_sinks.entries import AXES
from attnjax.variants.analysis.secondary_sinks.rows import Row, sinks_of

HOSTS = ("language",)


def analyse(
  trace: Trace,
  *,
  candidates: int = 2,
  threshold: float = 0.9,
  clip: bool = True,
  min_layers: int = 0,
  primary_layers: int = 0,
  window: int = 0,
  distance: int = 0,
  least: int = 8,
  weights: Any = None,
) -> Report:
  """Reports the sinks of a language model's trace; MEANINGS has what the entries are.

  Args:
    trace: of a causal language model, a document in each row.
    candidates: as in `sinks_of`, and the next four.
    threshold: of |cosine|.
    clip: whether to count only where the primary sink lives.
    min_layers: of a secondary sink.
    primary_layers: of a primary sink.
    window: as in `sink_scores`.
    distance: as in `sink_scores`.
    least: queries behind a token for a score, which is NaN elsewhere.
    weights: sink scores (B, L, N, T) of layers that are no softmax attention; None
      computes them.
  """
  rows = sinks_of(
    trace,
    candidates=candidates,
    threshold=threshold,
    clip=clip,
    min_layers=min_layers,
    primary_layers=primary_layers,
  )
  weights = _weights(trace, weights, window, distance, least)
  mean = weights.mean(axis=2)
  report = _tables(trace, rows, weights, mean)
  report |= _layers(rows, mean) | _correlations(trace, rows, mean)
  report |= _norms(trace, rows) | _formation(trace, rows)
  return Report(report, AXES)


def _weights(trace, given, window, distance, least):
  """Returns the sink scores (B, L, N, T), NaN where too few queries count."""
  if given is None:
    how = {"window": window, "distance": distance, "least": least}
    given = scores.scores_of(trace, **how)
  given = np.asarray(given, np.float32)
  number = scores.later(given.shape[3], window, distance, trace.ids)
  return np.where(np.asarray(number)[:, None] >= least, given, np.nan)


def _tables(trace, rows, weights, mean):
  """Returns the entries that list sinks, tokens and heads."""
  (_, L, _, T) = weights.shape
  return {
    "primary": np.array([row.primary for row in rows]),
    "range": np.array([row.layers for row in rows]),
    "kind": _table(rows, T, "kind", -1),
    "start": _table(rows, T, "start", -1),
    "lifetime": _table(rows, T, "lifetime", 0),
    "cosine": np.stack([row.cosine for row in rows]),
    "norms": np.stack([np.linalg.norm(x, axis=2) for x in trace.hidden[1:]], axis=1),
    "score": mean,
    "primary_heads": _mean([weights[r.number, :, :, r.primary] for r in rows]),
    "histogram": sum(
      detection.level_histogram((s for s in r.sinks if s.token != r.primary), L)
      for r in rows
    ),
    "levels": _levels(rows),
  }


def _table(rows: Iterable[Row], T, name, fill):
  found = np.full((len(list(rows)), T), fill, np.int64)
  for row in rows:
    for sink in row.sinks:
      found[row.number, sink.token] = getattr(sink, name)
  return found


def _mean(values, axis=0):
  """Returns the mean of what is defined; NaN where nothing is."""
  values = np.asarray(values, np.float64)
  some = ~np.isnan(values)
  total, count = np.where(some, values, 0).sum(axis=axis), some.sum(axis=axis)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _levels(rows):
  found = detection.levels(s for row in rows for s in row.secondary)
  return np.array(found, np.float64).reshape(-1, 3)


def _layers(rows, mean):
  """Returns the primary sink's score, and the secondary mass and number, by layer."""
  L = mean.shape[1]
  mass, number = np.zeros((len(rows), L)), np.zeros((len(rows), L))
  for row in rows:
    for sink in row.secondary:
      mass[row.number] += np.nan_to_num(mean[row.number, :, sink.token])
      number[row.number, _active(row, sink)] += 1
  primary = _mean([mean[row.number, :, row.primary] for row in rows])
  return {
    "primary_score": primary,
    "secondary_mass": mass.mean(axis=0),
    "secondary_count": number.mean(axis=0),
  }


def _active(row, sink):
  """Returns (a slice of) the layers from a sink's creation to its last one."""
  return slice(sink.start, min(sink.start + sink.lifetime, row.layers[1]))


def _correlations(trace, rows, mean):
  norms, lives, means = [], [], []
  for row in rows:
    for sink in row.secondary:
      feed = trace.feeds[sink.start]
      score = mean[row.number, _active(row, sink), sink.token]
      if feed is not None and not np.isnan(score).any():
        norms.append(np.linalg.norm(feed["output"][row.number, sink.token]))
        lives.append(sink.lifetime)
        means.append(score.mean())
  layers = _layers(rows, mean)
  defined = ~np.isnan(layers["primary_score"])
  for row in rows:  # where all primary sinks live
    defined[: row.layers[0]], defined[row.layers[1] :] = False, False
  return {
    "weakening": scores.pearson(
      layers["primary_score"][defined], layers["secondary_mass"][defined]
    ),
    "norm_and_score": scores.spearman(np.array(norms), np.array(means)),
    "norm_and_lifetime": scores.spearman(np.array(norms), np.array(lives)),
  }


def _norms(trace, rows):
  """Returns mean norms by layer of primary sinks, secondary ones and the rest."""
  values = {"hidden_norms": trace.hidden[1:]}
  if all(heads is not None and heads.k is not None for heads in trace.heads):
    values["key_norms"] = [heads.k for heads in trace.heads]
    values["value_norms"] = [heads.v for heads in trace.heads]
  group = np.full((len(rows), trace.hidden[0].shape[1]), -1)
  for row in rows:
    group[row.number, row.places] = 2
    group[row.number, [s.token for s in row.secondary]] = 1
    group[row.number, row.primary] = 0

  def by_group(x):
    x = np.linalg.norm(np.asarray(x), axis=-1)
    x = x.reshape(*group.shape, -1).mean(axis=2)
    return [x[group == g].mean() if (group == g).any() else np.nan for g in range(3)]

  return {name: np.array([by_group(x) for x in of]) for name, of in values.items()}


def _formation(trace, rows):
  """Returns mean cosines to the primary sink's vectors, of sinks and of controls."""
  found = {}
  for name in creation.parts_of(trace):
    both = []
    for part in (creation.formation, creation.controls):
      own = [part(trace, r.number, r.primary, r.secondary)[name] for r in rows]
      own = np.concatenate(own)
      both.append(own.mean() if own.size else np.nan)
    found[f"formation_{name}"] = np.array(both)
  return found
