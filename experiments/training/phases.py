"""Options of the model that have other values in the first steps of a run.

  --config.phases='200:model.keep_ratio=(1.0, 1.0); 300:model.keep_ratio=(0.85, 0.85)'

Until step 200 and then until step 300 the option has that value, from there on the
config's own, with which all evaluations run too. Options of `model` and `attention`
change, those that leave every parameter its shape. Each phase is a program that is
compiled when it begins. EViT's keep rates fall so, see
`attnjax.token_reorganization.keep_schedule`.
"""

import ast
import copy
import dataclasses
from typing import Any

import jax
from ml_collections import ConfigDict

from attnjax.contract import check_known

_SECTIONS = ("model", "attention")


@dataclasses.dataclass(frozen=True)
class Phase:
  """An option's value in the steps before one of them.

  Attributes:
    until: the number of steps after which it ends.
    path: the option, such as ("model", "keep_ratio").
    value: of the option.
  """

  until: int
  path: tuple[str, ...]
  value: Any

  def __str__(self) -> str:
    return f"until step {self.until}: {self.option}"

  @property
  def option(self) -> str:
    """Returns the option and its value, for messages."""
    return f"{'.'.join(self.path)} = {self.value!r}"


def read(config: ConfigDict) -> list[Phase]:
  """Returns the phases of a config, in their order.

  Raises:
    ValueError: if one is not `STEP:NAME=VALUE`, its option is unknown or of another
      type, or the steps do not rise.
  """
  found = [_read(text, config) for text in config.phases.split(";") if text.strip()]
  ends = [0, *(phase.until for phase in found)]
  if any(late <= early for early, late in zip(ends, ends[1:])):
    raise ValueError(f"phases end after the steps {ends[1:]}; these must rise from 1")
  return found


def number(found: list[Phase], step: int) -> int:
  """Returns the place of the phase that a step belongs to; len(found) behind all."""
  return sum(step >= phase.until for phase in found)


def changed(config: ConfigDict, phase: Phase) -> ConfigDict:
  """Returns the config of a phase, which has no phases itself."""
  config = copy.deepcopy(config)
  config.phases = ""
  section: Any = config
  for name in phase.path[:-1]:
    section = section[name]
  section[phase.path[-1]] = phase.value
  return config


def as_in(structure: Any, state: Any) -> Any:
  """Returns a state whose modules have the options of another one of its arrays."""
  return jax.tree.unflatten(jax.tree.structure(structure), jax.tree.leaves(state))


def check_shapes(phase: Phase, own: Any, other: Any) -> None:
  """Raises ValueError unless the states of a phase and of the config have one shape."""
  shapes = [
    [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves]
    for leaves in map(jax.tree_util.tree_leaves_with_path, (own, other))
  ]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"phases: with {phase.option} the model has other parameters; only options that"
      " leave them as they are may change"
    )


def _read(text: str, config: ConfigDict) -> Phase:
  until, colon, rest = text.strip().partition(":")
  name, equals, value = rest.partition("=")
  path = tuple(name.strip().split("."))
  if not (colon and equals and until.strip().isdigit()):
    raise ValueError(f"phases: {text.strip()!r} must be STEP:NAME=VALUE")
  if path[0] not in _SECTIONS or len(path) == 1:
    raise ValueError(
      f"phases: {name.strip()!r} must be an option of {' or '.join(_SECTIONS)}"
    )
  section: Any = config
  for depth, part in enumerate(path):
    where = ".".join(path[:depth]) or "the config"
    check_known(f"option of {where}", part, list(section))
    section = section[part]
  return Phase(int(until), path, _value(text, value.strip(), section))


def _value(text: str, value: str, like: Any) -> Any:
  """Returns the value of a text, of the type of the config's."""
  if isinstance(like, str):
    return value
  try:
    found = ast.literal_eval(value)
  except (SyntaxError, ValueError):
    found = None
  if isinstance(like, float) and isinstance(found, int):
    found = float(found)
  if type(found) is not type(like):
    kind = type(like).__name__
    raise ValueError(f"phases: {text.strip()!r} needs a value of type {kind}")
  return found
