"""The context of tokens that a host gives to a layer, and the three parts of a layer.

A layer that mixes heads is three functions, so that objectives can read its heads,
interventions can replace them, and weights need no further code:

  heads = layer.project(x, **context)   q, k, v and the tokens
  out = layer.mix(heads)                the mechanism alone, (B, *S, N, E)
  y = layer.merge(out, heads)           gate, norm and projection, (B, *S, D)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Num

from attnjax.contract.names import unknown
from attnjax.nn import projections, unseen

NOTHING: dict[str, str] = {}
NO_PLACES = {"positions": "no rotation (rope_theta = 0) and nothing else reads places"}


class Context(TypedDict, total=False):
  """Keyword arguments of a layer; `attnjax.contract.forms.sequence` explains them."""

  segment_ids: Int[Array, "B T"] | None
  valid: Bool[Array, "B T"] | None
  positions: Num[Array, "..."] | None
  index: Int[Array, ""] | int
  start: Int[Array, ""] | int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
  """A layer's input with its checked context.

  Attributes:
    x: (B, T, D), (B, H, W, D) or (B, F, H, W, D), 0 at tokens that nobody sees.
    ids: (B, T) int32, the document of each token, -1 at padding; None if all tokens are
      of one document.
    positions: (B|1, T) or (T,), as given; None for 0, 1, 2, ...
    index: the layer's number in its model.
    start: the number of tokens of the row before x, in decoding.
  """

  x: Any
  ids: Any = None
  positions: Any = None
  index: Any = 0
  start: Any = 0

  @property
  def rows(self) -> Array:
    """Returns the tokens (B, T, D), those of an image or a video row by row."""
    return self.x.reshape(self.x.shape[0], -1, self.x.shape[-1])

  @property
  def places(self) -> Array:
    """Returns the positions; start, start + 1, ... where none are given."""
    if self.positions is not None:
      return self.positions
    return self.start + jnp.arange(self.rows.shape[1])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Heads:
  """The input of a layer's mechanism.

  Attributes:
    q: (B, *S, N, H); None where a mechanism has no queries.
    k: (B, *S, K, H).
    v: (B, *S, K, E).
    tokens: the input.
    seen: the arguments of the mechanism's function that say who sees whom, by name:
      segment_ids, and kv_segment_ids and offset where k and v are a cache's.
    more: the mechanism's other inputs, by name: landmarks, decays; "gate", one of its
      output before the activation, is no part of the weights.
  """

  q: Any
  k: Any
  v: Any
  tokens: Tokens
  seen: dict[str, Any] = dataclasses.field(default_factory=dict)
  more: dict[str, Any] = dataclasses.field(default_factory=dict)


def accept(
  x: Array, context: Context, *, form: str, refuses: Mapping[str, str] = NOTHING
) -> Tokens:
  """Returns the Tokens of x in a context, 0 at tokens that nobody sees.

  Args:
    x: the layer's input.
    context: the keyword arguments of the layer's call.
    form: of the layer: images (B, H, W, D) and videos (B, F, H, W, D) take an `index`
      only, others are (B, T, D).
    refuses: maps the names that the layer cannot honour to the reason.

  Raises:
    NotImplementedError: for a refused name, with the reason.
    TypeError: for a name that `Context` does not have.
    ValueError: for a shape that does not fit x, and an x that does not fit the form.
  """
  axes = {"image": 4, "video": 5}.get(form, 3)
  if x.ndim != axes:
    raise ValueError(f"x has the shape {x.shape}; form {form!r} takes {axes} axes")
  given: dict[str, Any] = {n: v for n, v in context.items() if v is not None}
  for name, value in given.items():
    if name not in Context.__annotations__:
      raise TypeError(unknown("context", name, Context.__annotations__))
    if name in refuses:
      raise NotImplementedError(f"{name}: {refuses[name]}")
    if axes > 3 and name != "index":
      raise NotImplementedError(f"form {form!r} takes no {name}: it has no rows")
    _check_shape(name, jnp.shape(value), x.shape)
  x, ids = unseen.blank(x, given.get("segment_ids"), given.get("valid"))
  rest = {
    name: given[name] for name in ("positions", "index", "start") if name in given
  }
  return Tokens(x, ids, **rest)


def _check_shape(name: str, shape, like) -> None:
  B, T = like[:2]
  numbers = {"index": [()], "start": [()], "positions": [(B, T), (1, T), (T,)]}
  fitting = numbers.get(name, [(B, T)])
  if shape not in fitting:
    raise ValueError(
      f"{name} has the shape {shape}; x {like} takes {' or '.join(map(str, fitting))}"
    )


def run(layer: Any, x: Array, context: Context) -> Array:
  """Returns merge(mix(project(x))) of a layer; an empty x gives an empty result."""
  if 0 in x.shape:
    return unseen.nothing(layer, x)
  heads = layer.project(x, **context)
  return layer.merge(layer.mix(heads), heads)


def weights(layer: Any, x: Array, **context) -> Array:
  """Returns the weight of value s in the result of token t, (B, N, T, S) float32.

  A layer's own `weights` compute it, where its mathematics differs, else `shares`. T
  and S run over images row by row.

  Raises:
    NotImplementedError: for a layer that has neither `weights` nor `mix`.
  """
  if hasattr(layer, "weights"):
    return layer.weights(x, **context)
  if not hasattr(layer, "mix"):
    raise NotImplementedError(f"{type(layer).__module__} has no weights of tokens")
  return shares(layer, layer.project(x, **context))


def with_values(heads: Heads, v: Array) -> Heads:
  """Returns heads with other values, and without a gate of the output."""
  more = {name: value for name, value in heads.more.items() if name != "gate"}
  return dataclasses.replace(heads, v=v, more=more)


def shares(layer: Any, heads: Heads) -> Array:
  """Returns `layer.mix` of one-hot values, the rows of an identity matrix.

  (B, N, T, S) float32: the weights, where the mechanism is linear in the values. A gate
  of the output is left out.
  """
  *places, K, _ = heads.v.shape
  one = heads.v[..., :1].reshape(places[0], -1, K, 1)
  eye = projections.identity_values(one)
  eye = eye.reshape(*places, K, -1)
  out = layer.mix(with_values(heads, eye))
  return out.reshape(out.shape[0], -1, *out.shape[-2:]).swapaxes(1, 2)
