"""The form "pointer": a network that answers a set of points by a row of its members.

A system's module has

  Model       Model(inputs, symbols, *, rngs, **hyper-parameters), the whole network;
              see the Protocol
  SIZES       size -> the hyper-parameters that differ from the defaults; "mini" is
              invented, and trains on a CPU in minutes
  PARAMETERS  size -> the number of parameters of the paper, for 2 inputs; sizes whose
              number is not published are left out

  model = Model(2, 10, **SIZES["mini"], rngs=nnx.Rngs(0))
  logits = model(points, labels, valid=valid)
  labels, log_p = model.search(points, steps=11, valid=valid)

points (B, S, inputs) have labels 1 .. S in their order; label 0 ends an answer, and -1
in labels (B, T) is no answer. `symbols` is the largest number of points, of which a
network with a fixed dictionary has to be told. With `valid` (B, S) a row is answered as
it is alone, without its padding: values at padding, also NaN, change nothing.

Names that mean the same in all networks that have them:

  inputs     numbers of a point
  symbols    the largest number of points
  hidden     H, the width of the states
  rngs       for the parameters
"""

import inspect
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import networks
from attnjax.contract.subject import Subject, close, require

_POINTS, _MOST, _STEPS = 5, 8, 6


class Network(Protocol):
  """A network, made by `Model(inputs, symbols, *, rngs, **options)`."""

  def __call__(
    self,
    points: Float[Array, "B S I"],
    labels: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B S"] | None = None,
  ) -> Float[Array, "B T V"]:
    """Returns the logits of each answer after the true ones before it, float32."""
    ...

  def search(
    self,
    points: Float[Array, "B S I"],
    *,
    steps: int,
    width: int = 1,
    constraint: str = "none",
    valid: Bool[Array, "B S"] | None = None,
  ) -> tuple[Int[Array, "B steps"], Float[Array, "B"]]:
    """Returns likely answers and their log-probabilities."""
    ...


def problem() -> dict[str, jax.Array]:
  """Returns the points, labels and padding of three examples of up to 8 points."""
  draw = np.random.default_rng(0)
  labels = np.stack([draw.permutation(_POINTS) + 1 for _ in range(3)])
  return {
    "points": jnp.asarray(draw.uniform(size=(3, _POINTS, 2)), jnp.float32),
    "labels": jnp.asarray(np.pad(labels, ((0, 0), (0, 1))), jnp.int32),
  }


def tiny(subject: Subject) -> Any:
  """Returns the network of the size mini, with parameters that matter."""
  options = subject.module.SIZES["mini"] | {"hidden": 8}
  model = subject.module.Model(2, _MOST, **options, rngs=nnx.Rngs(0))
  return jax.tree.map(lambda leaf: 5 * leaf, model)


def padded(points: jax.Array, fill: float) -> dict[str, jax.Array]:
  """Returns points with three more that are no points, and `valid`."""
  more = ((0, 0), (0, _MOST - _POINTS), (0, 0))
  found = jnp.pad(points, more, constant_values=fill)
  valid = jnp.broadcast_to(jnp.arange(_MOST) < _POINTS, found.shape[:2])
  return {"points": found, "valid": valid}


def names_its_options(subject: Subject) -> None:
  """Checks that hyper-parameters are keywords with defaults, and SIZES name some."""
  parameters = list(inspect.signature(subject.module.Model).parameters.values())
  known = networks.defaults(subject.module)
  for parameter in parameters[2:]:
    keyword = parameter.kind == inspect.Parameter.KEYWORD_ONLY
    require(keyword, f"{parameter.name} is no keyword")
  for name, default in known.items():
    missing = default is None or default is inspect.Parameter.empty
    require(not missing, f"{name} needs a default that is not None")
  require("mini" in subject.module.SIZES, "there is no size mini")
  for size, options in subject.module.SIZES.items():
    unknown = set(options) - set(known)
    require(not unknown, f"SIZES[{size!r}] has {unknown}, which are no options")


@jax.jit
def run(model, points, labels, valid=None) -> dict[str, Any]:
  """Returns the logits, the gradients of their sum of sines, and found answers."""

  def loss(model):
    logits = model(points, labels, valid=valid)[..., : _POINTS + 1]
    return jnp.sum(jnp.where(jnp.isfinite(logits), jnp.sin(logits), 0)), logits

  grads, logits = jax.grad(loss, has_aux=True)(model)
  found, log = model.search(points, steps=_STEPS, width=1, valid=valid)
  return {"logits": logits, "grads": grads, "found": found, "log": log}


def outputs(subject: Subject, fill: float = 0.0) -> dict[str, Any]:
  """Returns what `run` gives for the problem with padding."""
  given = problem()
  return run(tiny(subject), **given | padded(given["points"], fill))


def answers(subject: Subject) -> None:
  """Checks shapes, gradients, and that a step reads the answers before it alone."""
  given = problem()
  labels, given = given["labels"], padded(given["points"], 0.0)
  found = outputs(subject)
  logits = found["logits"]
  require(logits.shape[:2] == labels.shape, f"logits {logits.shape}")
  require(logits.dtype == jnp.float32, f"logits are {logits.dtype}")
  for path, leaf in jax.tree_util.tree_leaves_with_path(found["grads"]):
    name = jax.tree_util.keystr(path)
    require(np.isfinite(leaf).all(), f"the gradient of {name} is not finite")
    require((np.asarray(leaf) != 0).any(), f"{name} has no gradient")
  changed = labels.at[:, 3].set(labels[:, 3] % _POINTS + 1)
  other = run(tiny(subject), labels=changed, **given)["logits"]
  close(other[:, :4], logits[:, :4], "an answer changes steps before it")
  moved = jnp.abs(other[:, 4:] - logits[:, 4:])
  require(jnp.nanmax(moved) > 1e-5, "an answer changes no step after it")


def ignores_padding(subject: Subject) -> None:
  """Checks that padding changes neither logits nor gradients nor found answers."""
  want = run(tiny(subject), **problem())
  for fill in (0.0, jnp.nan):
    close(outputs(subject, fill), want, f"padding {fill}")


def searches(subject: Subject) -> None:
  """Checks that one beam takes the likeliest answer each time, up to the end."""
  found = outputs(subject)
  given = padded(problem()["points"], 0.0)
  logits = run(tiny(subject), labels=found["found"], **given)["logits"]
  all_logs = np.asarray(jax.nn.log_softmax(logits))
  for row, labels in enumerate(np.asarray(found["found"])):
    total, ended = 0.0, False
    for step, label in enumerate(labels):
      require(not ended or label == -1, f"{labels} goes on after its end")
      if not ended:
        best = int(all_logs[row, step].argmax())
        require(label == best, f"{labels}: answer {step} is not {best}")
        total += all_logs[row, step, best]
      ended = ended or label == 0
    close(found["log"][row], total)


CHECKS = (names_its_options, answers, ignores_padding, searches)
