"""The context of tokens that a stack passes to each of its blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.core import masks
from attnjax.nn import unseen


def of_blocks(blocks: Sequence[Any], context: Mapping[str, Any]) -> list[dict]:
  """Returns the context of the blocks at each place of the pattern.

  Positions go only to the mixers that read them.

  Raises:
    NotImplementedError: for positions that no mixer reads.
  """
  refused = _refused(blocks)
  if context.get("positions") is None:
    return [dict(context)] * len(refused)
  if all("positions" in reasons for reasons in refused):
    raise NotImplementedError(f"positions: {refused[0]['positions']}")
  without = {name: value for name, value in context.items() if name != "positions"}
  return [without if "positions" in reasons else {**context} for reasons in refused]


def blank(x: Array, context: Mapping[str, Any]) -> Array:
  """Returns x with zeros at the padding, see `nn.unseen`."""
  return unseen.blank(x, context.get("segment_ids"), context.get("valid"))[0]


def check_memory(memory: Any, context: Mapping[str, Any], cuts: Sequence[int]) -> None:
  """Raises NotImplementedError where a memory cannot be honoured."""
  if memory is None:
    return
  if context.get("positions") is not None:
    raise NotImplementedError("positions with a memory: it keeps no positions")
  if cuts:
    raise NotImplementedError(f"reducers at {tuple(cuts)}: no memory of dropped tokens")


def remembered(memory: Any, x: Array, context: Mapping[str, Any]) -> Any:
  """Returns the memory after the tokens x, or None without one."""
  if memory is None:
    return None
  ids = masks.segments(context.get("segment_ids"), context.get("valid"), x.shape[:2])
  return memory.after(x, ids)


def seen(context: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a reducer is told of its tokens: padding and documents, if any."""
  names = ("segment_ids", "valid")
  return {n: context[n] for n in names if context.get(n) is not None}


def of_kept(
  blocks: Sequence[Any],
  context: Mapping[str, Any],
  x: Float[Array, "B T D"],
  kept: Int[Array, "B R"],
) -> dict[str, Any]:
  """Returns the context of the tokens `kept` of x, which keep their positions."""
  B, T = x.shape[:2]
  context = {name: value for name, value in context.items() if value is not None}
  places = context.pop("positions", jnp.arange(T))
  if not all("positions" in reasons for reasons in _refused(blocks)):
    context["positions"] = places
  rows = {name: jnp.broadcast_to(value, (B, T)) for name, value in context.items()}
  return {n: jnp.take_along_axis(row, kept, axis=1) for n, row in rows.items()}


def _refused(blocks: Sequence[Any]) -> list[Mapping[str, str]]:
  return [getattr(block.mixer, "refuses", {}) for block in blocks]
