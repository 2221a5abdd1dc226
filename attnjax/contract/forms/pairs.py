"""The form "pairs": scores of all pairs of a query and an item; retrieval.

A system's module has

  QUERY     the axes of one query: ("D",), or ("T", "D") if it has tokens
  ITEM      the axes of one item, likewise
  Scorer    Scorer(dims, *, rngs, **options), every option a keyword with a default that
            is not None; dims maps "queries" and "items" to their widths
  SCORER    tiny options of it for the checks, with `dims`

  scores = scorer(queries, items, item_valid=real, tile=64)     (Q, I) float32

queries (Q, [T,] D) and items (I, [S,] D): the best item of a query has the greatest
score, the best query of an item too, so that one matrix serves retrieval both ways.
The score of a pair depends on no other pair. `query_valid` (Q, T) and `item_valid`
(I, S) are True at real tokens; what stands at padding, also NaN, reaches no score and
no gradient, and a query or an item without tokens has a finite score with every other.
A scorer whose queries or items are vectors does not take the argument.

With `tile` = n at most n queries and n items are compared at a time, and again in the
backward pass, so that memory beside the scores grows as n^2; 0 compares all at once.
Results are the same. A `key` turns on what is dropped in training, the same with any
tile; every scorer takes it.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from attnjax.contract.subject import Subject, close, equal, require

QUERIES, ITEMS, TOKENS, PADDING = 5, 3, 3, 2
SIDES = "queries", "items"


class Scorer(Protocol):
  """A scorer, made by `Scorer(dims, *, rngs, **options)`."""

  def __call__(
    self,
    queries: Float[Array, "Q ..."],
    items: Float[Array, "I ..."],
    *,
    item_valid: Bool[Array, "I S"] | None = None,
    tile: int = 0,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "Q I"]:
    """Returns the score of every pair."""
    ...


def scorer(subject: Subject) -> Any:
  """Returns the tiny scorer, with parameters of which none is 0 or 1."""
  made = subject.module.Scorer(**subject.module.SCORER, rngs=0)

  def moved(leaf):
    noise = np.random.default_rng(leaf.size).standard_normal(leaf.shape, np.float32)
    return leaf + np.float32(0.2) * noise

  return jax.tree.map(moved, made)


def axes(subject: Subject) -> dict[str, tuple[str, ...]]:
  """Returns the axes of a query and of an item."""
  return {"queries": subject.module.QUERY, "items": subject.module.ITEM}


def drawn(subject: Subject) -> dict[str, jax.Array]:
  """Returns five queries and three items."""
  draw, found = np.random.default_rng(3).standard_normal, {}
  for side, count in zip(SIDES, (QUERIES, ITEMS)):
    tokens = (TOKENS,) * (len(axes(subject)[side]) - 1)
    shape = (count, *tokens, subject.module.SCORER["dims"][side])
    found[side] = jnp.asarray(draw(shape), jnp.float32)
  return found


@jax.jit
def _plain(scorer, x, valid, weight):
  return _graded(scorer, x, valid, weight, 0)


@jax.jit
def _tiled(scorer, x, valid, weight):
  return _graded(scorer, x, valid, weight, 2)


def _graded(scorer, x, valid, weight, tile):
  def loss(scorer, x):
    found = scorer(**x, **valid, tile=tile)
    return jnp.sum(jnp.sin(found) * weight), found

  return jax.grad(loss, (0, 1), has_aux=True)(scorer, x)


def run(made: Any, x: Mapping[str, Array], *, tiled: bool = False, **valid: Any) -> Any:
  """Returns (gradients of the scorer and the arrays, the scores)."""
  count, others = (x[side].shape[0] for side in SIDES)
  weight = 1 + jnp.arange(count * others).reshape(count, others) / 7
  return (_tiled if tiled else _plain)(made, dict(x), valid, weight)


def outputs(subject: Subject) -> Any:
  """Returns `run` of the tiny scorer: what a mutant may change."""
  return run(scorer(subject), drawn(subject))


def scores_all_pairs(subject: Subject) -> None:
  """Checks the shape, and that all parameters and arrays have a finite gradient."""
  grads, scores = outputs(subject)
  require(scores.shape == (QUERIES, ITEMS), f"scores {scores.shape}")
  require(scores.dtype == jnp.float32, f"scores are {scores.dtype}")
  require(np.isfinite(scores).all(), "a score is not finite")
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    require(np.isfinite(leaf).all(), f"the gradient of {name} is not finite")
    require((np.asarray(leaf) != 0).any(), f"{name} has no gradient")


def holds_only_float_parameters(subject: Subject) -> None:
  """Checks that a scorer stores no random key and no integer array."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(scorer(subject)):
    name = jax.tree_util.keystr(path)
    require(leaf.dtype == jnp.float32, f"{name} is {leaf.dtype}")


def tiles_equal_the_whole(subject: Subject) -> None:
  """Checks scores and gradients with tiles of 2, which divides neither 5 nor 3."""
  made, x = scorer(subject), drawn(subject)
  want, got = outputs(subject), run(made, x, tiled=True)
  close(got, want, "with tiles")


def scores_each_pair_alone(subject: Subject) -> None:
  """Checks permuted queries and items, a single pair, and none at all."""
  made, x, (_, want) = scorer(subject), drawn(subject), outputs(subject)
  one, two = jnp.array([3, 1, 4, 0, 2]), jnp.array([2, 0, 1])
  moved = {"queries": x["queries"][one], "items": x["items"][two]}
  close(run(made, moved)[1], want[one][:, two], "permuted queries and items")
  pair = {"queries": x["queries"][3:4], "items": x["items"][2:3]}
  close(run(made, pair)[1], want[3:4, 2:3], "one pair alone")
  for side, shape in (("queries", (0, ITEMS)), ("items", (QUERIES, 0))):
    none = x | {side: x[side][:0]}
    for tile in (0, 2):
      found = jax.eval_shape(lambda m, y, t=tile: m(**y, tile=t), made, none)
      require(found.shape == shape, f"without {side}: {found.shape}, not {shape}")


def ignores_padding(subject: Subject) -> None:
  """Checks that tokens at padding, also NaN, change no score and no gradient."""
  made, x, (grads, want) = scorer(subject), drawn(subject), outputs(subject)
  for side, name in zip(SIDES, ("query_valid", "item_valid")):
    if len(axes(subject)[side]) == 1:
      continue
    count, tokens, dim = x[side].shape
    valid = np.ones((count, tokens + PADDING), bool)
    valid[::2, tokens:] = False  # behind the tokens of a row, or before them
    valid[1::2, :PADDING] = False
    found = []
    for value in (0.0, np.nan):
      wide = np.full((count, tokens + PADDING, dim), value, np.float32)
      wide[valid] = np.asarray(x[side]).reshape(-1, dim)
      given = x | {side: jnp.asarray(wide)}
      found.append(run(made, given, tiled=True, **{name: jnp.asarray(valid)}))
    equal(found[1], found[0], f"the values at padding of {side} matter")
    (by_scorer, by_x), scores = found[1]
    close(scores, want, f"scores with padded {side}")
    close(by_scorer, grads[0], f"gradients with padded {side}")
    slope = np.asarray(by_x[side])
    close(slope[valid].reshape(x[side].shape), grads[1][side], f"padded {side}")
    require(not slope[~valid].any(), f"padding of {side} has a gradient")
    _without_tokens(made, x, side, name, want)


def _without_tokens(made, x, side, name, want):
  """Checks that one query or item without tokens is finite, and alone changes."""
  valid = jnp.ones(x[side].shape[:2], bool).at[1].set(False)
  given: dict[str, Any] = {name: valid}
  found = run(made, x, **given)
  for leaf in jax.tree.leaves(found):
    require(np.isfinite(leaf).all(), f"one of {side} without tokens gives NaN")
  rest = (jnp.arange(x[side].shape[0]) != 1).nonzero()[0]
  at = (rest,) if side == "queries" else (slice(None), rest)
  close(found[1][at], want[at], f"others beside one of {side} without tokens")


CHECKS = (
  scores_all_pairs,
  holds_only_float_parameters,
  tiles_equal_the_whole,
  scores_each_pair_alone,
  ignores_padding,
)
