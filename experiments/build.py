"""Builds what a config names: data, model, optimizer, mesh, and their sizes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from attnjax import contract, sharding
from attnjax.nn import running
from experiments import checks, configuration, data, errors
from experiments.errors import UserError
from experiments.training import memory, objective, optimizer, part, phases, step

# Errors that a layer or host raises about its sizes and options: the user's to fix.
_USER = (ValueError, NotImplementedError, ModuleNotFoundError)


@dataclasses.dataclass(frozen=True)
class Assembly:
  """Everything that a config names; only the data set is allocated.

  Attributes:
    config: the config.
    task: the data set.
    mesh: the devices.
    optimizer: the optax chain.
    state: shapes, types and shardings of {"step", "model", "stats", "memory",
      "optimizer"}; `stats` are the model's running statistics, `()` without batch norm,
      `memory` what it keeps of the batches before, `()` without.
    batch: shapes, types and shardings of a batch.
    objective: runs the model on a batch, and gives the loss and the metric.
  """

  config: ConfigDict
  task: Any
  mesh: Mesh
  optimizer: optax.GradientTransformation
  state: Any
  batch: dict[str, jax.ShapeDtypeStruct]
  objective: objective.Objective

  def init(self) -> Any:
    """Returns a fresh state, allocated on the mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)
    make = _maker(self.config, self.task, self.optimizer)
    with jax.set_mesh(self.mesh):
      return jax.jit(make, out_shardings=shardings)()

  def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns the sharded global batch of which `batch` is this process's share."""
    place = jax.make_array_from_process_local_data
    return {n: place(self.batch[n].sharding, batch[n]) for n in self.batch}

  def update(self):
    """Returns the function `update(state, batch)`; see training.step."""
    c = self.config
    return step.make_update(
      self.objective,
      self.optimizer,
      dtype=c.dtype,
      accumulate=c.optimizer.accumulate,
      seed=c.seed,
      only=c.train.only,
    )

  def evaluate(self):
    """Returns the function `evaluate(model, stats, batch)`; see training.step."""
    return step.make_evaluate(self.objective, dtype=self.config.dtype)

  def rate(self, step: int) -> float:
    """Returns the learning rate of the update after `step` updates."""
    schedule = optimizer.schedule(self.config.optimizer, self.config.steps)
    return float(np.asarray(schedule(step)))

  def parameters(self) -> int:
    """Returns the number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(self.state["model"]))

  def trained(self) -> int:
    """Returns the number of parameters that the config trains."""
    model = self.state["model"]
    chosen = part.trained(model, self.config.train.only)
    sizes = jax.tree.map(lambda leaf, yes: leaf.size * yes, model, chosen)
    return sum(jax.tree.leaves(sizes))


def assemble(config: ConfigDict) -> Assembly:
  """Builds and checks everything that a config names.

  Raises:
    UserError: if a name is unknown, the mechanism does not fit the host, or sizes do
      not fit or divide; the message names the value and the rule.
  """
  try:
    checks.check(config)
    options = {k: v for k, v in config.data.items() if k not in ("name", "batch")}
    task = _load(config.data.name, options)
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.model)
    _check_batch(config, mesh)
    chain = optimizer.make(config.optimizer, config.steps)
    chain = part.optimizer(chain, config.train.only)
    _check_memory(config, task)
    state = _placed(jax.eval_shape(_maker(config, task, chain)), mesh)
    goal = objective.make(configuration.host_module(config.host), task)
    batch = _batch(config, task, mesh)
    assembly = Assembly(config, task, mesh, chain, state, batch, goal)
    with jax.set_mesh(mesh):
      # A layer checks sizes when it is called; better now than after the data.
      jax.eval_shape(assembly.update(), state, assembly.batch)
    _check_phases(config, state)
  except _USER as error:
    raise UserError(str(error)) from error
  except (TypeError, ArithmeticError) as error:
    if wrong := _wrong(config):
      raise UserError(f"{wrong}: {errors.one_line(error)}") from error
    raise  # a bug of a layer or a host
  return assembly


def _check_phases(config: ConfigDict, state: Any) -> None:
  for phase in phases.read(config):
    phases.check_shapes(phase, assemble(phases.changed(config, phase)).state, state)


def builder(config: ConfigDict, task: Any) -> Callable[..., nnx.Module]:
  """Returns the function of `rngs` that builds a model in float32."""
  host = configuration.host_module(config.host)
  if task.kind != host.TAKES:
    raise ValueError(
      f"host {config.host!r} takes {host.TAKES};"
      f" data set {task.name!r} holds {task.kind}"
    )
  slugs = configuration.split(config.mechanism)
  one = len(set(slugs)) == 1
  builds = [
    contract.constructor(
      slug, _plain(config.attention if one else config.attention[slug]), host.FORMS
    )
    for slug in slugs
  ]
  sizes = {name: task.size(name) for name in host.SIZES}
  options = _plain(config.model)
  known = configuration.host_defaults(config.host, config.mechanism)
  for name in options:
    if name not in known:
      raise ValueError(contract.unknown(f"option of host {config.host}", name, known))
  return functools.partial(host.Model, builds, **sizes, **options)


def _wrong(config: ConfigDict) -> str:
  """Describes options whose type or sign is not that of the default, with the rule."""
  known = configuration.host_defaults(config.host, config.mechanism)
  sections = [("model", config.model, known)]
  slugs = dict.fromkeys(configuration.split(config.mechanism))
  for slug in slugs:
    held = config.attention if len(slugs) == 1 else config.attention[slug]
    sections.append(("attention", held, contract.defaults(slug)))
  found = [
    f"{section}.{name} = {value!r}; it must be {checks.rule(defaults[name])}"
    for section, held, defaults in sections
    for name, value in _plain(held).items()
    if not checks.is_like(value, defaults.get(name, value))
  ]
  return ", ".join(found)


def _load(name, options):
  try:
    return data.load(name, options)
  except OSError as error:
    raise UserError(f"data set {name!r}: {error}") from error


def _plain(section: ConfigDict) -> dict[str, Any]:
  """Returns a section as keyword arguments, with JSON's lists as tuples."""
  return {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}


def _maker(config, task, chain):
  """Returns the function that makes a fresh state."""
  build = builder(config, task)

  def make():
    made = build(rngs=nnx.Rngs(config.seed))
    return {
      "step": jnp.zeros((), jnp.int32),
      "model": made,
      "stats": running.init_stats(made),
      "memory": memory.empty(made, config.data.batch, config.memory, config.dtype),
      "optimizer": chain.init(made),
    }

  return make


def _placed(shapes, mesh):
  """Returns the shapes and types of a state with their shardings."""
  shardings = sharding.parameter_shardings(shapes, mesh)
  whole = NamedSharding(mesh, P())
  shardings["stats"] = jax.tree.map(lambda _: whole, shapes["stats"])
  shardings["memory"] = memory.placed(shapes["memory"], mesh)
  return jax.tree.map(
    lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place),
    shapes,
    shardings,
  )


def _batch(config, task, mesh):
  example = task.source("train")[0]
  example |= {memory.BEGINS: np.bool_(False)} if config.memory else {}
  place = NamedSharding(mesh, P("data"))
  return {
    name: jax.ShapeDtypeStruct(
      (config.data.batch, *np.shape(leaf)), np.asarray(leaf).dtype, sharding=place
    )
    for name, leaf in example.items()
  }


def _check_memory(config, task):
  if config.memory and not task.consecutive:
    raise ValueError(
      f"memory = {config.memory}: the examples of data set {task.name!r} do not follow"
      " each other; the windows of a text without documents do"
    )


def _check_batch(config, mesh):
  batch, parts = config.data.batch, config.optimizer.accumulate
  for name, size in (
    ("optimizer.accumulate", parts),
    ("optimizer.accumulate x mesh.data", parts * mesh.shape["data"]),
    ("the number of processes", jax.process_count()),
  ):
    if batch % size:
      raise ValueError(f"data.batch = {batch} does not divide by {name} = {size}")
