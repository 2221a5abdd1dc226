"""Checks of the form "tokens": a reducer alone, between blocks, and in hosts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import between, registry
from attnjax.contract.subject import Subject, close, equal, require

T, DIM = 21, 16
# Rows of T tokens: padding in front, inside and behind; no padding; no tokens.
_REAL = np.ones((4, T), bool)
_REAL[0, [0, 1, 7, 8, 19, 20]] = False
_REAL[2] = np.arange(T) < 5
_REAL[3] = False
# One mechanism of each kind that sees whole sequences.
_MECHANISMS = ("dot_product", "agent_attention", "aaren")


def made(subject: Subject, options: str = "REDUCER") -> Any:
  """Returns the reducer of the options that the module names so."""
  given = getattr(subject.module, options)
  return subject.module.Reducer(DIM, **given, rngs=nnx.Rngs(0))


def inputs() -> jax.Array:
  """Returns rows (4, T, DIM)."""
  draw = np.random.default_rng(3).standard_normal((4, T, DIM))
  return jnp.asarray(draw, jnp.float32)


@jax.jit
def _run(reducer, x, scores, valid):
  return reducer(x, scores=scores, valid=valid)


def gives_fewer_tokens(subject: Subject) -> None:
  """Checks shapes and types, and that places differ and rise."""
  reducer, x = made(subject), inputs()
  y, kept = _run(reducer, x, None, None)
  shape = len(x), kept.shape[1]
  require(kept.shape == shape and y.shape == (*shape, DIM), f"{y.shape}, {kept.shape}")
  require(kept.dtype == jnp.int32, f"kept is {kept.dtype}")
  require(0 < kept.shape[1] < T, f"REDUCER keeps {kept.shape[1]} of {T} tokens")
  half, _ = jax.eval_shape(reducer, x.astype(jnp.bfloat16))
  require((half.shape, half.dtype) == (y.shape, jnp.bfloat16), f"{half} of bfloat16")
  kept = np.asarray(kept)
  require(((kept >= 0) & (kept < T)).all(), f"places {kept}")
  for row in kept:
    require(len(set(row)) == len(row), f"{row}: a place twice")
    rises = (np.diff(row) > 0).all() or not getattr(reducer, "ordered", True)
    require(rises, f"{row} does not rise, and `ordered` is not False")


def is_the_identity(subject: Subject) -> None:
  """Checks that WHOLE changes nothing."""
  x = inputs()
  y, kept = _run(made(subject, "WHOLE"), x, None, None)
  equal(y, x, "WHOLE changes tokens")
  equal(kept, np.broadcast_to(np.arange(T), (len(x), T)), "WHOLE moves tokens")


def never_keeps_padding(subject: Subject) -> None:
  """Checks that a padded row is reduced as it is alone, whatever its padding holds."""
  reducer, x, real = made(subject), inputs(), jnp.asarray(_REAL)

  @jax.jit
  def run(x, fill):
    def loss(x):
      y, kept = reducer(x, valid=real)
      return jnp.sum(jnp.sin(y)), (y, kept)

    x = jnp.where(real[..., None], x, fill)
    return jax.grad(loss, has_aux=True)(x)

  want, got = (run(x, jnp.float32(fill)) for fill in (0, jnp.nan))
  equal(got, want, "padding is seen")
  slope, (y, kept) = got
  require(jnp.isfinite(y).all() and jnp.isfinite(slope).all(), "not finite")
  require(not slope[~real].any(), "the padding has a gradient")
  seen = np.take_along_axis(_REAL, np.asarray(kept), axis=1)
  require(not y[~seen].any(), "what is left free is not 0")
  for row, own in enumerate(_REAL[:2]):
    alone, places = _run(reducer, x[row : row + 1, own], None, None)
    number = places.shape[1]
    require(
      seen[row].sum() == number, f"{seen[row].sum()} of {own.sum()}, not {number}"
    )
    require(seen[row, :number].all(), "padding stands before tokens")
    close(y[row, :number], alone[0], "a padded row")
    equal(kept[row, :number], np.flatnonzero(own)[places[0]], "places of a padded row")
  require(not seen[3].any(), "a row without tokens has some")


def takes_the_scores_of_the_caller(subject: Subject) -> None:
  """Checks that given scores win: the greatest stay, and no others decide."""
  reducer, x = made(subject), inputs()
  own = _run(reducer, x, None, None)[1]
  for turn in (1, -1):
    scores = jnp.broadcast_to(jnp.roll(jnp.arange(T), turn * 5) / T, x.shape[:2])
    _, kept = _run(reducer, x, scores, None)
    require((kept == kept[:1]).all(), "equal scores choose different tokens")
    best = int(scores[0].argmax())
    require((kept == best).any(), f"token {best}, whose score is greatest, is dropped")
  require((np.asarray(own) != np.asarray(kept)).any(), "scores change nothing")
  require((own != own[:1]).any(), "its own scores do not depend on the tokens")


def composes_with_jax(subject: Subject) -> None:
  """Checks vmap, gradients of tokens and scores, and the order of examples."""
  reducer, x = made(subject), inputs()
  scores = jax.nn.softmax(x.sum(axis=-1))

  @jax.jit
  def run(reducer, x, scores):
    def loss(x, scores):
      y, kept = reducer(x, scores=scores)
      return jnp.sum(jnp.sin(y)), (y, kept)

    return jax.grad(loss, (0, 1), has_aux=True)(x, scores)

  grads, (y, kept) = run(reducer, x, scores)
  order = np.array([2, 0, 3, 1])
  turned, (other, places) = run(reducer, x[order], scores[order])
  equal(places, kept[order], "examples are not independent")
  close((turned, other), jax.tree.map(lambda leaf: leaf[order], (grads, y)))
  one = jax.jit(jax.vmap(lambda x, s: reducer(x[None], scores=s[None])))(x, scores)
  close(one[0][:, 0], y, "vmap")
  equal(one[1][:, 0], kept, "vmap")
  require(all(jnp.isfinite(g).all() for g in grads), "a gradient is not finite")
  taken = np.take_along_axis(np.asarray(grads[0]), np.asarray(kept)[..., None], axis=1)
  require(taken.any(axis=2).all(), "a token that stays has no gradient")
  for path, leaf in jax.tree_util.tree_leaves_with_path(reducer):
    name = jax.tree_util.keystr(path)
    require(leaf.dtype == jnp.float32, f"{name} is {leaf.dtype}, and no parameter")


def stands_between_blocks(subject: Subject) -> None:
  """Checks stacks of softmax, linear and recurrent layers, also with padding.

  A padded row gives the result of the blocks and the reducer called one by one on the
  row alone.
  """
  own = _REAL[0]
  x, real = inputs()[:1], jnp.asarray(own)[None]
  for slug in _MECHANISMS:
    stack = _stack(subject, slug)
    found, (y, places) = _both_ways(stack, x, x[:, own], real)
    number = y.shape[1]
    close(found.rows[:, :number], y, f"{slug}: a padded row")
    equal(found.places[:, :number], np.flatnonzero(own)[places], slug)
  try:
    jax.eval_shape(stack, x, segment_ids=jnp.zeros((1, T), jnp.int32))
  except NotImplementedError as error:
    known = getattr(stack.reducers[0], "refuses", {})
    require("segment_ids" in known and len(str(error)) > 20, f"segment_ids: {error}")


def _stack(subject, slug):
  from attnjax.nn.stack import Stack

  build = registry.constructor(slug, {"heads": 2}, ("sequence",))
  reducer = functools.partial(subject.module.Reducer, **subject.module.REDUCER)
  sizes = {"dim": DIM, "depth": 2, "hidden": 0}
  return Stack([build], between={1: reducer}, **sizes, rngs=nnx.Rngs(0))


def _refused(stack):
  return getattr(stack.blocks[0].mixer, "refuses", {})


@jax.jit
def _both_ways(stack, padded, x, real):
  """Returns a padded row's tokens, and those of the row alone, block by block."""
  reads = "positions" not in _refused(stack)
  context = {"positions": jnp.cumsum(real, axis=1) - 1} if reads else {}
  found = stack(padded, whole=True, valid=real, **context)
  (first, second), (reducer,) = (
    [block for _, _, block, _ in stack.each()],
    stack.reducers,
  )
  y, kept = reducer(first(x, index=0))
  return found, (second(y, index=1, **({"positions": kept} if reads else {})), kept)


def goes_into_hosts(subject: Subject) -> None:
  """Checks that hosts take the reducer by its slug, as a config has it.

  A causal host refuses a reducer that is not causal.
  """
  from attnjax.models import language, vision

  slug = subject.module.__name__.rpartition(".")[2]
  cuts = {"between": f"1:{slug}"}
  build = registry.constructor("dot_product", {"heads": 2}, vision.FORMS)
  sizes = {"dim": DIM, "depth": 2}

  def seen(images):
    own = {"channels": 1, "classes": 3, "rngs": nnx.Rngs(0)}
    model = vision.Model([build], **own, **sizes, **cuts)
    return model(images), model.features(images)[0]

  logits, found = jax.eval_shape(seen, jax.ShapeDtypeStruct((2, 18, 12, 1), "float32"))
  require(logits.shape == (2, 3), f"logits {logits.shape}")
  require(found.shape == (2, 5, 3, DIM), f"a map {found.shape} of 5 x 3 patches")
  require(set(between.defaults(slug)) >= set(subject.module.REDUCER), "options")

  def read(tokens):
    build = registry.constructor("dot_product", {"heads": 2}, language.FORMS)
    own = {"vocab": 7, "rngs": nnx.Rngs(0)}
    return language.Model([build], **own, **sizes, **cuts)(tokens)

  tokens = jax.ShapeDtypeStruct((2, T), "int32")
  try:
    logits = jax.eval_shape(read, tokens)
  except ValueError as error:
    return require("later ones" in str(error) and not made(subject).causal, str(error))
  require(made(subject).causal, "a causal host takes a reducer that is not")
  return require(logits.shape == (2, T, 7), f"logits {logits.shape}")


def reduced(subject: Subject) -> list[Any]:
  """Returns the results of the reducer, alone and with padding, and gradients."""
  x, real = inputs(), jnp.asarray(_REAL)
  found: list[Any] = []
  for reducer in (made(subject), made(subject, "WHOLE")):
    for valid in (None, real):

      def loss(x, valid=valid, reducer=reducer):
        y, kept = reducer(x, valid=valid)
        return jnp.sum(jnp.sin(y)), (y, kept)

      found.append(jax.jit(jax.grad(loss, has_aux=True))(x))
  return found


REDUCERS = (
  gives_fewer_tokens,
  is_the_identity,
  never_keeps_padding,
  takes_the_scores_of_the_caller,
  composes_with_jax,
  stands_between_blocks,
  goes_into_hosts,
)
