"""The encoder and decoder: inputs are read in turn, answers are pointed at in turn."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.nn.lstm import LSTM, State
from attnjax.variants.cross.pointer_network import search
from attnjax.variants.cross.pointer_network.scores import (
  SCORES,
  glimpse,
  pointer_logits,
  pointer_loss,
)

KINDS = ("pointer", "attention", "sequence")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
  """Inputs after the encoder; place 0 is the end symbol, place j the j-th input.

  Attributes:
    states: e, (B, S + 1, H).
    inputs: fed to the decoder after each answer, (B, S + 1, I); 0 after the end.
    valid: True at places that exist, (B, S + 1).
    state: (c, h) after the last input.
  """

  states: Array
  inputs: Array
  valid: Array
  state: State


class Model(nnx.Module):
  """points (B, S, inputs), labels (B, T) -> logits (B, T, S + 1), float32.

  Label 0 is the end symbol, label j the j-th point, -1 is no answer. The logits of step
  t are those after the answers before it. Without an end symbol the logits of label 0
  are -inf.
  """

  def __init__(
    self,
    inputs: int,  # numbers of a point
    symbols: int = 0,  # size of a fixed dictionary, of kinds that do not point
    *,
    hidden: int = 256,  # H, of both LSTMs
    embedding: int = 0,  # width of a linear map of the points; 0: as they are
    kind: str = "pointer",  # or a fixed dictionary, with "attention" or a "sequence"
    score: str = "additive",  # or "dot"
    end_symbol: bool = True,  # whether an answer can end
    glimpses: int = 0,  # looks at the inputs before each answer
    clip: float = 0.0,  # C of C tanh(logits); 0: no bound
    init: float = 0.08,  # the largest parameter as drawn
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("kind", kind, KINDS)
    check_known("score", score, SCORES)
    if kind != "pointer" and symbols < 1:
      raise ValueError(f"symbols = {symbols}; a {kind!r} needs at least 1")

    def drawn(*shape):
      most = jnp.float32(init)
      made = jax.random.uniform(rngs.params(), shape, jnp.float32, -most, most)
      return nnx.Param(made)

    width = embedding or inputs
    self.kind, self.end_symbol, self.symbols = kind, end_symbol, symbols
    self.glimpses, self.clip, self.impl = glimpses, clip, impl
    self.embed: Any = drawn(inputs, embedding) if embedding else None
    self.encoder = LSTM(width, hidden, scale=init, rngs=rngs)
    self.decoder = LSTM(width, hidden, scale=init, rngs=rngs)
    self.start = drawn(width)
    self.end: Any = drawn(hidden) if end_symbol and kind == "pointer" else None
    scorer = functools.partial(_Scorer, hidden, score, drawn)
    self.point: Any = None if kind == "sequence" else scorer()
    self.look: Any = scorer() if glimpses else None
    size = hidden if kind == "sequence" else 2 * hidden
    self.head: Any = None if kind == "pointer" else _Head(size, symbols + 1, drawn)

  def __call__(
    self,
    points: Float[Array, "B S I"],
    labels: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B S"] | None = None,
  ) -> Float[Array, "B T V"]:
    """Returns the logits of each answer after the true ones before it.

    A fixed dictionary has logits (B, T, symbols + 1).

    Args:
      points: in any order, which the encoder depends on.
      labels: the true answers; the last one is not read.
      valid: True at the real points.

    Raises:
      ValueError: if there are more points than symbols of a fixed dictionary.
    """
    encoded = self.encode(points, valid)
    return self.logits(encoded, self.decode(encoded, labels))

  def loss(
    self,
    points: Float[Array, "B S I"],
    labels: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B S"] | None = None,
  ) -> Float[Array, "B"]:
    """Returns - sum_t ln p(label[t]) of each example, over labels that are not -1."""
    encoded = self.encode(points, valid)
    states = self.decode(encoded, labels)
    if self.kind == "pointer":
      found = self._pointed(pointer_loss, encoded, states, targets=labels)
    else:
      log = jax.nn.log_softmax(self.logits(encoded, states))
      place = jnp.maximum(labels, 0)[..., None]
      picked = jnp.take_along_axis(log, place, axis=-1)[..., 0]
      found = jnp.where(labels < 0, 0.0, -picked)
    return found.sum(axis=-1)

  def search(
    self,
    points: Float[Array, "B S I"],
    *,
    steps: int,
    width: int = 1,
    constraint: str = "none",
    valid: Bool[Array, "B S"] | None = None,
  ) -> tuple[Int[Array, "B steps"], Float[Array, "B"]]:
    """Returns likely answers and their log-probabilities; see `search.beams`.

    Args:
      points: as in a call.
      steps: the most answers of an example, the end symbol included.
      width: answers that are kept at each step; 1 takes the likeliest each time.
      constraint: one of CONSTRAINTS, which answers may follow.
      valid: True at the real points.

    Raises:
      ValueError: for an unknown constraint, or too few steps or beams.
    """
    encoded = self.encode(points, valid)
    return search.beams(self, encoded, steps=steps, width=width, constraint=constraint)

  def encode(
    self, points: Float[Array, "B S I"], valid: Bool[Array, "B S"] | None = None
  ) -> Encoded:
    """Returns what the decoder reads of the points."""
    B, S = points.shape[:2]
    if self.kind != "pointer" and S > self.symbols:
      raise ValueError(f"{S} points; the dictionary has {self.symbols} symbols")
    valid = jnp.ones((B, S), bool) if valid is None else valid
    x = jnp.where(valid[..., None], points, 0)
    x = x if self.embed is None else x @ self.embed[...]
    states, state = self.encoder(x, valid=valid)
    H = states.shape[-1]
    first = jnp.zeros(H) if self.end is None else self.end[...].astype(jnp.float32)
    first = jnp.broadcast_to(first, (B, 1, H))
    return Encoded(
      jnp.concatenate([first, states], axis=1),
      jnp.pad(x, ((0, 0), (1, 0), (0, 0))),
      jnp.pad(valid, ((0, 0), (1, 0)), constant_values=self.end_symbol),
      state,
    )

  def decode(
    self, encoded: Encoded, labels: Int[Array, "B T"]
  ) -> Float[Array, "B T H"]:
    """Returns the decoder's states before each answer, after the true ones."""
    B, T = labels.shape
    place = jnp.maximum(labels[:, : T - 1], 0)[..., None]
    fed = jnp.take_along_axis(encoded.inputs, place, axis=1)
    start = jnp.broadcast_to(self.start[...].astype(fed.dtype), (B, 1, fed.shape[-1]))
    return self.decoder(jnp.concatenate([start, fed], axis=1)[:, :T], encoded.state)[0]

  def logits(
    self, encoded: Encoded, states: Float[Array, "B T H"]
  ) -> Float[Array, "B T V"]:
    """Returns the logits of the answers at the decoder's states."""
    if self.kind == "pointer":
      return self._pointed(pointer_logits, encoded, states)
    if self.kind == "attention":
      valid = encoded.valid[:, 1:]
      keys, queries, vector = self.point(encoded.states[:, 1:], states)
      scores = pointer_logits(keys, queries, vector, valid=valid, impl=self.impl)
      seen = jax.nn.softmax(jnp.where(valid[:, None], scores, -1e30), axis=-1)
      mean = jnp.einsum("bts,bsh->bth", seen, encoded.states[:, 1:])
      states = jnp.concatenate([states, mean], axis=-1)
    found = self.head(states)
    first = jnp.arange(found.shape[-1]) == 0
    return found if self.end_symbol else jnp.where(first, -jnp.inf, found)

  def _pointed(self, function, encoded, states, **options) -> Any:
    given = {"valid": encoded.valid, "impl": self.impl}
    for _ in range(self.glimpses):
      states = glimpse(*self.look(encoded.states, states), **given)
    keys, queries, vector = self.point(encoded.states, states)
    return function(keys, queries, vector, clip=self.clip, **given, **options)


class _Scorer(nnx.Module):
  """W1, W2 and v of a score."""

  def __init__(self, hidden, score, drawn):
    self.keys, self.queries = drawn(hidden, hidden), drawn(hidden, hidden)
    self.vector = drawn(hidden) if score == "additive" else None

  def __call__(self, states, queries):
    vector = None if self.vector is None else self.vector[...]
    return _times(states, self.keys), _times(queries, self.queries), vector


class _Head(nnx.Module):
  def __init__(self, inputs, outputs, drawn):
    self.kernel, self.bias = drawn(inputs, outputs), drawn(outputs)

  def __call__(self, x):
    return _times(x, self.kernel) + self.bias[...].astype(jnp.float32)


def _times(x, kernel):
  kernel = kernel[...]
  return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
