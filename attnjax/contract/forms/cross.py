"""The form "cross": a layer between streams, such as the text and the frames of a film.

A system's module has

  STREAMS   the names of the streams: ("text", "video")
  Layer     Layer(dims, *, form="cross", rngs, **options), every option a keyword with a
            default that is not None; dims maps the streams to their widths
  LAYER     tiny options of it for the checks, with `dims`; or, of a Layer that has
            other forms too, with `dim`, a width that all streams have
  GROWTH    p, where the matrix products grow as T^p if all streams have T tokens
  ALIGNED   optional: True, if token t of each stream belongs together, so that all have
            T tokens; a layer raises ValueError for others

  found = layer({"text": Stream(x), "video": Stream(y, valid=real)}, index=0)

A `Stream` of `attnjax.core.streams` is x (B, T, D) with `valid` (B, T) and positions.
T may differ from stream to stream. The result maps names to arrays: the name of a
stream to (B, T, D), its new hidden states, and any other name, such as "pooled", to
(B, ...). Streams that a layer only reads are missing. `index` is the number of the
layer, and may be traced; a layer that drops in training takes `key`.

Padding changes nothing: neither results at real tokens nor gradients, whatever stands
there; results at padding are finite. Other examples of the batch change nothing either.

An example that lacks a stream has it with no real token: whatever stands there, also
NaN, reaches nothing, and all results are finite. A layer may have parameters for absent
streams, which have a gradient where one is absent. Streams that are ALIGNED are padded
at the same tokens, but where one is absent.

`layer.refuses` names, with the reason, what it cannot honour: "positions", of all
streams, or "video.positions", of one; with these it raises NotImplementedError.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from attnjax.contract import layers
from attnjax.contract.stream_runs import BATCH, aligned, lacking, run, streams
from attnjax.contract.subject import Subject, close, equal, require
from attnjax.core.streams import Stream

PADDING = 4


class Layer(Protocol):
  """A layer, made by `Layer(dims, *, form="cross", rngs, **options)`."""

  def __call__(
    self, streams: Mapping[str, Stream], *, index: Any = 0
  ) -> Mapping[str, Array]:
    """Returns new hidden states by name."""
    ...


def outputs(subject: Subject) -> Any:
  """Returns `run` of the streams without padding: what a mutant may change."""
  return run(subject, streams(subject))


def maps_streams_by_name(subject: Subject) -> None:
  """Checks shapes, and that every parameter and stream has a finite gradient.

  Parameters for absent streams have theirs where an example lacks one.
  """
  given = streams(subject)
  grads, y = outputs(subject)
  require(len(y) > 0, "a layer returns nothing")
  for name, out in y.items():
    want = given[name].x.shape if name in given else (BATCH, *out.shape[1:])
    require(out.shape == want, f"{name} is {out.shape}, not {want}")
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    require(np.isfinite(leaf).all(), f"the gradient of {name} is not finite")
  moved = [jax.tree.map(lambda leaf: np.asarray(leaf) != 0, grads)]
  for name in given:
    without, _ = run(subject, lacking(subject, name, 0.0))
    moved.append(jax.tree.map(lambda leaf: np.asarray(leaf) != 0, without))
  some = jax.tree.map(lambda *parts: any(p.any() for p in parts), *moved)
  for path, leaf in jax.tree_util.tree_leaves_with_path(some):
    require(leaf, f"{jax.tree_util.keystr(path)} has no gradient")


def ignores_padding(subject: Subject) -> None:
  """Checks that padding of each stream, also NaN, changes no result and no gradient."""
  given = streams(subject)
  grads, want = outputs(subject)
  padded, at = {}, {}
  for i, (name, stream) in enumerate(given.items()):
    T = stream.x.shape[1]
    before = i % 2 and not aligned(subject)  # else behind
    at[name] = np.arange(T) + (PADDING if before else 0)
    padded[name] = np.isin(np.arange(T + PADDING), at[name])
  found = []
  for value in (0.0, np.nan):
    wide = {
      n: Stream(
        jnp.full((BATCH, len(padded[n]), s.x.shape[2]), value).at[:, at[n]].set(s.x),
        jnp.broadcast_to(jnp.asarray(padded[n]), (BATCH, len(padded[n]))),
        jnp.zeros(len(padded[n]), jnp.int32).at[at[n]].set(jnp.arange(len(at[n])))
        if honours(subject, n)
        else None,
      )
      for n, s in given.items()
    }
    weight = {n: wide[n].valid for n in want if n in wide}
    found.append(run(subject, wide, weight))
  equal(found[1], found[0], "the values at padding matter")
  (by_layer, by_x), y = found[1]
  for name, out in y.items():
    require(np.isfinite(out).all(), f"{name} at padding is not finite")
    close(out[:, at[name]] if name in at else out, want[name], f"{name} with padding")
  close(by_layer, grads[0], "gradients of parameters with padding")
  for name, slope in by_x.items():
    close(slope[:, at[name]], grads[1][name], f"the gradient of {name} with padding")
    require(not slope[:, ~padded[name]].any(), f"padding of {name} has a gradient")


def takes_examples_of_no_tokens(subject: Subject) -> None:
  """Checks that an absent stream is not read, and that other examples stay."""
  given, (_, want) = streams(subject), outputs(subject)
  for name in given:
    (by_layer, by_x), y = run(subject, lacking(subject, name, jnp.nan))
    equal(run(subject, lacking(subject, name, 0.0))[1], y, f"absent {name} is read")
    for leaf in jax.tree.leaves((by_layer, by_x, y)):
      require(np.isfinite(leaf).all(), f"without tokens of {name} something is NaN")
    require(not by_x[name][1].any(), f"padding of {name} has a gradient")
    for other, out in y.items():
      close(out[::2], want[other][::2], f"{other} of the other examples")


def permutes_examples(subject: Subject) -> None:
  """Checks that examples do not see each other, and that there may be none."""
  given, (_, want) = streams(subject), outputs(subject)
  order = jnp.array([2, 0, 1])
  _, y = run(subject, {n: Stream(s.x[order]) for n, s in given.items()})
  for name, out in y.items():
    close(out, want[name][order], f"{name} of permuted examples")
  _, y = run(subject, {n: Stream(s.x[1:2]) for n, s in given.items()})
  for name, out in y.items():
    close(out, want[name][1:2], f"{name} of one example alone")
  none = {n: Stream(s.x[:0]) for n, s in given.items()}
  y = jax.eval_shape(lambda layer: dict(layer(none)), subject.layer)
  for name, out in y.items():
    require(out.shape == (0, *want[name].shape[1:]), f"{name} of no examples")


def takes_streams_of_one_token(subject: Subject) -> None:
  """Checks that each stream may have a single token."""
  given = streams(subject)
  for name in given:
    shorter = list(given) if aligned(subject) else [name]
    one = given | {n: Stream(given[n].x[:, :1]) for n in shorter}
    if aligned(subject):
      _refuses_others(subject, given, name)
    _, y = run(subject, one)
    for other, out in y.items():
      require(np.isfinite(out).all(), f"{other}: one token of {name} gives NaN")
      if other in one:
        want = one[other].x.shape
        require(out.shape == want, f"{other} is {out.shape}, not {want}")


def _refuses_others(subject, given, name):
  """Checks that a shorter stream among aligned ones raises ValueError."""
  try:
    subject.layer(given | {name: Stream(given[name].x[:, :1])})
  except ValueError as error:
    return require(len(str(error)) > 20, f"no reason is given: {error}")
  raise AssertionError(f"{name} has fewer tokens than the streams it belongs to")


def honours_positions(subject: Subject) -> None:
  """Checks that positions of each stream are read, or refused with a reason."""
  given, (_, want) = streams(subject), outputs(subject)
  for name, stream in given.items():
    counted = jnp.arange(stream.x.shape[1])
    placed = given | {name: Stream(stream.x, None, counted)}
    if not honours(subject, name):
      try:
        subject.layer(placed)
      except NotImplementedError as error:
        require(len(str(error)) > 20, f"no reason is given: {error}")
        continue
      raise AssertionError(f"`refuses` names positions of {name}, which are taken")
    _, y = run(subject, placed)
    close(y, want, f"positions of {name} are not counted from 0")
    _, y = run(subject, given | {name: Stream(stream.x, None, counted**2)})
    apart = max(float(jnp.abs(y[n] - want[n]).max()) for n in want)
    require(apart > 1e-4, f"positions of {name} change nothing")


def honours(subject: Subject, name: str) -> bool:
  """Returns whether the layer takes positions of a stream."""
  return not {"positions", f"{name}.positions"} & set(subject.refused)


CHECKS = (
  maps_streams_by_name,
  layers.holds_only_float_parameters,
  layers.gives_every_option_a_default,
  ignores_padding,
  takes_examples_of_no_tokens,
  permutes_examples,
  takes_streams_of_one_token,
  honours_positions,
)
