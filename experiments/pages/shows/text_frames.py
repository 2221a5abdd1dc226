"""Videos that captions of the validation split find among all its videos."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import retrieval
from experiments.pages import readable

_GALLERY, _SHOWN, _BEST, _MAPPED = 512, 12, 3, 24
_SIDE = 128  # captions that are compared with all videos at a time


def show(trainer: Any) -> dict[str, Any]:
  """Returns tables of numbers and of retrieved videos, and the shares of frames."""
  source, state = trainer.task.source("validation"), trainer.state
  found = [source[i] for i in range(min(_GALLERY, len(source)))]
  pairs = {name: np.stack([one[name] for one in found]) for name in found[0]}
  scores = _scores(trainer.assembly.objective, state, pairs)
  numbers = {way: _numbers(s) for way, s in (("text", scores), ("video", scores.T))}
  head = ["", *map(readable.name, numbers["text"])]
  rows = [
    [f"{way} to {other}", *map(readable.number, numbers[way].values())]
    for way, other in (("text", "video"), ("video", "text"))
  ]
  tables = {
    f"Numbers of retrieval among {len(found)} pairs": (head, rows),
    "The first captions and the videos that they find": _retrieved(scores, pairs),
  }
  return {"tables": tables, "maps": _maps(state["model"], pairs)}


def _scores(objective, state, pairs) -> np.ndarray:
  """Returns the scores of all captions and videos."""

  @jax.jit
  def run(batch):
    return objective.predict(state["model"], state["stats"], batch)[0]

  count = len(pairs["text"])
  parts = [
    run({**pairs, "text": pairs["text"][at : at + _SIDE]})
    for at in range(0, count, _SIDE)
  ]
  return np.concatenate([np.asarray(part) for part in parts])


def _numbers(scores: np.ndarray) -> dict[str, float]:
  right = np.arange(len(scores))
  found = retrieval.summary(jnp.asarray(scores), jnp.asarray(right))
  precision = retrieval.average_precision(scores, right[:, None] == right).mean()
  return found | {"mean_average_precision": float(precision)}


def _retrieved(scores, pairs) -> tuple[list[str], list[list[str]]]:
  """Returns a table of captions, the ranks of their videos and the best videos."""
  places = retrieval.ranks(jnp.asarray(scores), jnp.arange(len(scores)))
  order = np.argsort(-scores, axis=1, kind="stable")[:, :_BEST]
  head = ["caption", "its concepts", "rank of its video", *_ordinals()]
  rows = []
  for i in range(min(_SHOWN, len(scores))):
    told = pairs["shown"][i][pairs["told"][i]]
    best = []
    for video in order[i]:
      shared = len(set(told.tolist()) & set(pairs["shown"][video].tolist()))
      mark = "✓ " if video == i else ""
      best.append(f"{mark}video {video} ({shared} of {len(told)} concepts)")
    rank = readable.number(float(places[i]))
    rows.append([str(i), " + ".join(map(str, told)), rank, *best])
  return head, rows


def _ordinals() -> list[str]:
  return ["first", "second", "third"][:_BEST]


def _maps(model: Any, pairs) -> dict[str, np.ndarray]:
  """Returns the shares of the first video's frames, for captions; {} without."""
  text, frames = pairs["text"][:_MAPPED], pairs["frames"][:1]
  try:
    shares = jax.jit(lambda model, *x: model.weigh(*x))(model, text, frames)
  except (AttributeError, NotImplementedError):
    return {}
  return {"captions (down) and the frames of video 0": np.asarray(shares[0])}
