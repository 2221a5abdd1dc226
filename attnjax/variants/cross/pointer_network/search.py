"""Search for likely answers: one at a time, the best few kept, only valid ones."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known

CONSTRAINTS = ("none", "once", "tour", "triples")


def beams(
  model: Any, encoded: Any, *, steps: int, width: int = 1, constraint: str = "none"
) -> tuple[Int[Array, "B steps"], Float[Array, "B"]]:
  """Searches for the likeliest answers, of which `width` are kept at each step.

  An answer ends with label 0; -1 follows. It also ends where nothing may follow.
  Probabilities are the model's, not normalised again over what may follow.

  Constraints: "none"; "once", no point twice; "tour", so, and no end before all points;
  "triples", three rising labels at a time, and no end within them.

  Args:
    model: a `Model`.
    encoded: its inputs, by `Model.encode`.
    steps: the most answers of an example.
    width: answers that are kept; 1 takes the likeliest each time.
    constraint: one of CONSTRAINTS.

  Returns:
    The best answers (B, steps), and their log-probabilities (B,).

  Raises:
    ValueError: for an unknown constraint, or too few steps or beams.
  """
  check_known("constraint", constraint, CONSTRAINTS)
  if min(steps, width) < 1:
    raise ValueError(f"steps = {steps}, width = {width}; both must be at least 1")
  base = _places(model, encoded.valid, constraint)
  B, V = base.shape
  more = V - encoded.inputs.shape[1]
  fed = jnp.pad(encoded.inputs, ((0, 0), (0, more), (0, 0)))

  def step(carry, place):
    state = model.decoder.step(carry["x"], carry["state"])
    log = jax.nn.log_softmax(model.logits(encoded, state[1]), axis=-1)
    able = _able(constraint, base, carry["used"], carry["last"], place)
    done = carry["done"] | ~able.any(axis=-1)
    log = jnp.where(able, log, -jnp.inf)
    stay = jnp.where(jnp.arange(V), -jnp.inf, 0.0)
    total = carry["log"][..., None] + jnp.where(done[..., None], stay, log)
    best, flat = jax.lax.top_k(total.reshape(B, width * V), width)
    parent, label = flat // V, (flat % V).astype(jnp.int32)
    new = carry | {"state": state, "done": done}
    return _next(new, parent, label, best, fed, place), None

  first = _first(model, encoded, (B, width, V), steps)
  found, _ = jax.lax.scan(step, first, jnp.arange(steps))
  return found["labels"][:, 0], found["log"][:, 0]


def _first(model, encoded, shape, steps):
  """Returns the carry before any answer: of all beams only the first is likely."""
  B, W, _ = shape
  start = model.start[...].astype(encoded.inputs.dtype)

  def repeated(x):
    return jnp.broadcast_to(x[:, None], (B, W, *x.shape[1:]))

  return {
    "state": jax.tree.map(repeated, encoded.state),
    "x": jnp.broadcast_to(start, (B, W, start.shape[-1])),
    "used": jnp.zeros(shape, bool),
    "last": jnp.zeros((B, W), jnp.int32),
    "done": jnp.zeros((B, W), bool),
    "log": jnp.broadcast_to(jnp.where(jnp.arange(W), -jnp.inf, 0.0), (B, W)),
    "labels": jnp.full((B, W, steps), -1, jnp.int32),
  }


def _next(carry, parent, label, log, fed, place):
  """Returns the carry after the chosen answers, those of their parents before it."""

  def own(x):
    index = parent.reshape(*parent.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  kept = jax.tree.map(own, carry)
  done = kept["done"]
  return {
    "state": kept["state"],
    "x": jnp.take_along_axis(fed, label[..., None], axis=1),
    "used": kept["used"] | (jnp.arange(fed.shape[1]) == label[..., None]),
    "last": label,
    "done": done | (label == 0),
    "log": log,
    "labels": kept["labels"].at[:, :, place].set(jnp.where(done, -1, label)),
  }


def _able(
  constraint: str, base: Bool[Array, "B V"], used, last, place
) -> Bool[Array, "B W V"]:
  """Returns which answers may follow."""
  base = jnp.broadcast_to(base[:, None], used.shape)
  if constraint == "none":
    return base
  labels = jnp.arange(base.shape[-1])
  if constraint == "triples":
    part, points = place % 3, base & (labels > 0)
    after = points.sum(-1, keepdims=True) - jnp.cumsum(points, axis=-1)
    rising = (part == 0) | (labels > last[..., None])
    return jnp.where(
      labels > 0, base & rising & (after >= 2 - part), base & (part == 0)
    )
  left = base & ~used & (labels > 0)
  end = base & (labels == 0)
  if constraint == "tour":
    end &= ~left.any(axis=-1, keepdims=True)
  return left | end


def _places(model, valid, constraint) -> Bool[Array, "B V"]:
  """Returns the labels that there are: of points, of the end, of a dictionary."""
  if model.kind == "pointer":
    return valid
  if constraint == "none":  # a dictionary does not know which labels are points
    return jnp.ones((len(valid), model.symbols + 1), bool)
  return jnp.pad(valid, ((0, 0), (0, model.symbols + 1 - valid.shape[1])))
