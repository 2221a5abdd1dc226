"""Images that a reference and a text find in the gallery of the validation split."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import retrieval
from experiments.data import attributes
from experiments.pages import readable

_QUERIES, _SHOWN, _BEST = 512, 12, 3


def show(trainer: Any) -> dict[str, Any]:
  """Returns numbers among the gallery, and pictures of queries and what they find.

  The gallery is made of the references and targets of the split's first queries; a
  query's own reference is not in its list. The subset of a query are the images that
  differ from its reference in one attribute alone.
  """
  source, model = trainer.task.source("validation"), trainer.state["model"]
  found = [source[i] for i in range(min(_QUERIES, len(source)))]
  asked = {name: np.stack([one[name] for one in found]) for name in found[0]}
  gallery = _gallery(asked)
  scores = _scores(model, asked, gallery["image"])
  own = np.searchsorted(gallery["id"], asked["reference_id"])
  right = np.searchsorted(gallery["id"], asked["target_id"])
  exclude = np.arange(len(gallery["id"])) == own[:, None]
  apart = (gallery["values"][None] != asked["seen"][:, None]).sum(axis=-1)
  kinds = ("composed", "image alone", "text alone", "sum of both")
  numbers = {kind: _numbers(scores[kind], right, exclude, apart == 1) for kind in kinds}
  head = ["query", *map(readable.name, numbers["composed"])]
  rows = [[kind, *map(readable.number, n.values())] for kind, n in numbers.items()]
  caption = f"Numbers among {len(gallery['id'])} images, the reference not in the list"
  listed = np.where(exclude, -np.inf, scores["composed"])
  return {
    "rows": _rows(listed, right, asked, gallery),
    "tables": {caption: (head, rows)},
    "maps": _maps(model, asked),
  }


def _gallery(asked) -> dict[str, np.ndarray]:
  """Returns ids, values and vectors of all images that queries tell of."""
  sides = (("target_id", "shown", "image"), ("reference_id", "seen", "reference"))
  ids, values, image = (
    np.concatenate([asked[side[i]] for side in sides]) for i in range(3)
  )
  ids, first = np.unique(ids, return_index=True)
  return {"id": ids, "values": values[first], "image": image[first]}


def _scores(model, asked, image) -> dict[str, np.ndarray]:
  """Returns the cosines (Q, I) by the kind of queries."""

  @jax.jit
  def run(model, reference, text, image):
    items = model.embed_items(image)
    one, two = model.embed_queries(reference, None), model.embed_queries(None, text)
    both = model.embed_queries(reference, text)
    queries = {"composed": both, "image alone": one, "text alone": two}
    queries["sum of both"] = one + two
    return {kind: query @ items.T for kind, query in queries.items()}

  given = (jnp.asarray(asked[name]) for name in ("reference", "text"))
  return jax.tree.map(np.asarray, run(model, *given, jnp.asarray(image)))


def _numbers(scores, right, exclude, subset) -> dict[str, float]:
  scores, right = jnp.asarray(scores), jnp.asarray(right)
  found = retrieval.summary(scores, right, exclude=jnp.asarray(exclude))
  within = retrieval.recall_within(scores, right, jnp.asarray(subset), 1)
  relevant = np.arange(scores.shape[1]) == np.asarray(right)[:, None]
  precision = retrieval.average_precision(np.asarray(scores), relevant, 5, exclude)
  found["recall_at_1_of_the_subset"] = float(within.mean())
  return found | {"mean_average_precision_at_5": float(precision.mean())}


def _rows(scores, right, asked, gallery) -> list[dict[str, Any]]:
  """Returns pictures of a reference, its text, the best images and the right one."""
  places = np.asarray(retrieval.ranks(jnp.asarray(scores), jnp.asarray(right)))
  order = np.argsort(-scores, axis=1, kind="stable")[:, :_BEST]
  rows = []
  for i in range(min(_SHOWN, len(scores))):
    pictures = {"reference": attributes.picture(asked["seen"][i])}
    for number, item in enumerate(order[i], 1):
      mark = " ✓" if item == right[i] else ""
      pictures[f"{number}{mark}"] = attributes.picture(gallery["values"][item])
    pictures["target"] = attributes.picture(asked["shown"][i])
    seen = attributes.decode(attributes.caption(asked["seen"][i]))
    text, rank = attributes.decode(asked["text"][i]), readable.number(float(places[i]))
    rows.append(
      {"pictures": pictures, "caption": f"{seen}, {text}: the target has rank {rank}"}
    )
  return rows


def _maps(model: Any, asked) -> dict[str, np.ndarray]:
  """Returns the attention weights of the first query; {} without."""
  first = (jnp.asarray(asked[name][:1]) for name in ("reference", "text"))
  try:
    weights = jax.jit(lambda model, *x: model.weights(*x))(model, *first)
  except (AttributeError, NotImplementedError):
    return {}
  return {f"block {i}": np.asarray(block[0, :4]) for i, block in enumerate(weights)}
