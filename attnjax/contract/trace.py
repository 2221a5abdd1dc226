"""The inside of a model for one batch: its residual stream and every layer's parts.

  trace = model.trace(tokens)                          # any host, jit-able
  trace.hidden[3]                                      # the stream before block 3
  weights = contract.shares(layer, trace.heads[3])     # (B, N, T, S)
  trace.feeds[3]["output"]                             # what its MLP adds, (B, T, D)

and with an intervention, a function of a layer's number and its heads:

  def edit(index, heads):                              # layer 2 without its head 0
    v = heads.v.at[..., 0, :].set(0) if index == 2 else heads.v
    return dataclasses.replace(heads, v=v)

  trace = model.trace(tokens, edit=edit)

or with interventions elsewhere, any of four functions:

  silent = Edits(feed=lambda index, y: y * (index != 5))   # no MLP in block 5
  trace = model.trace(tokens, edit=silent)
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from attnjax.contract.context import Heads
from attnjax.nn import running

# (number of the layer in its model, its heads) to the heads that it mixes.
Edit = Callable[[int, Heads], Heads]


@dataclasses.dataclass(frozen=True)
class Edits:
  """Interventions in a model: functions of a block's number, None for no change.

  Attributes:
    heads: (index, heads) to the heads that the mechanism mixes.
    mixed: (index, mixed (B, *S, N, E), heads) to the mechanism's result.
    feed: (index, y (B, *S, D)) to the MLP's result, before it is added.
    hidden: (index, x (B, *S, D)) to the residual stream after the block.
  """

  heads: Edit | None = None
  mixed: Callable[[int, Array, Heads], Array] | None = None
  feed: Callable[[int, Array], Array] | None = None
  hidden: Callable[[int, Array], Array] | None = None

  def at(self, index: int) -> Any:
    """Returns the interventions in block `index`, functions without its number."""
    found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return Edits(**{n: f and functools.partial(f, index) for n, f in found.items()})


def edits(edit: Edit | Edits | None) -> Edits:
  """Returns the Edits that an argument `edit` stands for: a function is of heads."""
  return edit if isinstance(edit, Edits) else Edits(heads=edit)


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
    attended: L arrays (B, *S, D), what the layers add to the residual stream; None for
      a block that does not show it.
    feeds: L dicts, the values in the MLPs by name, see `attnjax.nn.mlp.parts`; None for
      a block without an MLP, and one that does not show it.
    tokens: (B, T), a language model's input; None for other models.
    ids: (B, T) int32, the document of each token, -1 at padding; None if all tokens are
      of one document.
  """

  hidden: tuple[Any, ...] = ()
  heads: tuple[Any, ...] = ()
  mixed: tuple[Any, ...] = ()
  output: Any = None
  attended: tuple[Any, ...] = ()
  feeds: tuple[Any, ...] = ()
  tokens: Any = None
  ids: Any = None

  def __add__(self, after: "Trace") -> "Trace":
    """Returns the trace of two consecutive parts of a model."""
    lists = ("hidden", "heads", "mixed", "attended", "feeds")
    joined = {name: getattr(self, name) + getattr(after, name) for name in lists}
    return dataclasses.replace(after, **joined)


def traced(
  layer: Any,
  x: Array,
  *,
  index: Any = 0,
  edit: Any = None,
  stats: Any = (),
  **context,
) -> tuple[Array, Heads | None, Array | None]:
  """Returns (y, heads, mixed) of a layer, y with the shape of x.

  Args:
    layer: of any form.
    x: its input, (B, *S, D).
    index: the layer's number, as its call takes it.
    edit: of the layer, `Edits.at` its number: replaces the heads before they are mixed,
      and their mix.
    stats: the layer's statistics, `()` without batch norm.
    context: of the layer's call.

  Raises:
    NotImplementedError: for an edit of a layer that has no `project` and `mix`.
  """
  held = {"stats": stats, "train": False}
  edit = Edits().at(0) if edit is None else edit
  if not hasattr(layer, "mix"):
    if edit.heads is not None or edit.mixed is not None:
      raise NotImplementedError(
        f"edit: {type(layer).__module__} mixes no heads that could be replaced"
      )
    y, _ = running.apply(layer, x, index=index, **held, **context)
    return y, None, None
  heads = layer.project(x, index=index, **_normed(layer.project, stats), **context)
  heads = heads if edit.heads is None else edit.heads(heads)
  mixed = layer.mix(heads)
  mixed = mixed if edit.mixed is None else edit.mixed(mixed, heads)
  y, _ = running.apply(layer.merge, mixed, heads, **held)
  return y.reshape(x.shape), heads, mixed


def _normed(project: Callable, stats: Any) -> dict[str, Any]:
  """Returns the option `stats` of a layer whose batch norms are before its heads."""
  named = "stats" in inspect.signature(project).parameters
  return {"stats": stats} if named and running.given(stats, False) else {}
