"""The inside of a model for one batch: its residual stream and every layer's heads.

  trace = model.trace(tokens)                          # any host, jit-able
  trace.hidden[3]                                      # the stream before block 3
  weights = contract.shares(layer, trace.heads[3])     # (B, N, T, S)

and with an intervention, a function of a layer's number and its heads:

  def edit(index, heads):                              # layer 2 without its head 0
    v = heads.v.at[..., 0, :].set(0) if index == 2 else heads.v
    return dataclasses.replace(heads, v=v)

  trace = model.trace(tokens, edit=edit)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from attnjax.contract.context import Heads
from attnjax.nn import running

# (number of the layer in its model, its heads) to the heads that it mixes.
Edit = Callable[[int, Heads], Heads]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trace:
  """Intermediate values of a model of L layers.

  Attributes:
    hidden: L + 1 arrays (B, *S, D), the input of each block and the last one's output;
      a model of stages has one more for each stage, whose width differs.
    heads: L Heads, the inputs of the layers' mechanisms after `edit`; None for a layer
      that mixes no heads.
    mixed: L arrays (B, *S, N, E), the results of the mechanisms; None as above.
    output: the result of the model's call.
  """

  hidden: tuple[Any, ...] = ()
  heads: tuple[Any, ...] = ()
  mixed: tuple[Any, ...] = ()
  output: Any = None

  def __add__(self, after: "Trace") -> "Trace":
    """Returns the trace of two consecutive parts of a model."""
    return Trace(
      self.hidden + after.hidden,
      self.heads + after.heads,
      self.mixed + after.mixed,
      after.output,
    )


def traced(
  layer: Any,
  x: Array,
  *,
  index: Any = 0,
  edit: Callable[[Heads], Heads] | None = None,
  stats: Any = (),
  **context,
) -> tuple[Array, Heads | None, Array | None]:
  """Returns (y, heads, mixed) of a layer, y with the shape of x.

  Args:
    layer: of any form.
    x: its input, (B, *S, D).
    index: the layer's number, as its call takes it.
    edit: replaces the heads before they are mixed.
    stats: the layer's statistics, `()` without batch norm.
    context: of the layer's call.

  Raises:
    NotImplementedError: for an edit of a layer that has no `project` and `mix`.
  """
  held = {"stats": stats, "train": False}
  if not hasattr(layer, "mix"):
    if edit is not None:
      raise NotImplementedError(
        f"edit: {type(layer).__module__} mixes no heads that could be replaced"
      )
    y, _ = running.apply(layer, x, index=index, **held, **context)
    return y, None, None
  heads = layer.project(x, index=index, **context)
  heads = heads if edit is None else edit(heads)
  mixed = layer.mix(heads)
  y, _ = running.apply(layer.merge, mixed, heads, **held)
  return y.reshape(x.shape), heads, mixed
