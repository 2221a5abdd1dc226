"""Training a part of a model, and starting from the parameters of a saved run.

  --config.train.only='(query|key)/kernel'   the others keep their values; no gradient
                                             of theirs and no memory of the optimizer
  --config.init=runs/lm                      starts from the last checkpoint there

A rule is a regular expression that is searched for in the paths of parameters, such as
`stack/blocks/0/mixer/query/kernel`. Together they train adapters on a frozen base.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from attnjax import sharding
from experiments.errors import UserError

# Paths that a message shows.
_SHOWN = 6


def trained(model: Any, only: str) -> Any:
  """Returns a tree of booleans: whether a parameter is trained.

  Args:
    model: the parameters, or their shapes.
    only: the rule; "" trains all of them.

  Raises:
    ValueError: if `only` is no regular expression, or is in no parameter's path.
  """
  try:
    rule = re.compile(only)
  except re.error as error:
    raise ValueError(
      f"train.only = {only!r} is no regular expression: {error}"
    ) from None
  chosen = jax.tree_util.tree_map_with_path(
    lambda path, _: rule.search(sharding.path_name(path)) is not None, model
  )
  if not any(jax.tree.leaves(chosen)):
    raise ValueError(f"train.only = {only!r} is in no path of {_paths(model)}")
  return chosen


def optimizer(
  chain: optax.GradientTransformation, only: str
) -> optax.GradientTransformation:
  """Returns an optimizer that changes, and remembers, only a part of a model."""
  if not only:
    return chain
  return optax.partition(
    {True: chain, False: optax.set_to_zero()}, lambda model: trained(model, only)
  )


def gradients(grads: Any, only: str) -> Any:
  """Returns gradients that are 0, and not computed, where nothing is trained."""
  if not only:
    return grads
  chosen = trained(grads, only)
  return jax.tree.map(lambda keep, g: g if keep else jnp.zeros_like(g), chosen, grads)


def start(state: Any, saved: Any, where: str, say: Callable[[str], None]) -> Any:
  """Returns a fresh state with the parameters and statistics of a saved one.

  Parameters that the saved run does not have, such as adapters, stay as drawn; they are
  told of. Steps and the optimizer begin anew.

  Args:
    state: {"step", "model", "stats", "optimizer"}, fresh.
    saved: such a state, of another run.
    where: the folder of that run.
    say: prints lines for the user.

  Raises:
    UserError: if the saved run has a parameter that the model lacks, or one of another
      shape.
  """
  own, given = ({n: _flat(s[n]) for n in ("model", "stats")} for s in (state, saved))
  for kind, leaves in given.items():
    for name, leaf in leaves.items():
      have = own[kind].get(name)
      if have is None:
        raise UserError(
          f"init = {where}: it has {name}, which this model has not; its parameters"
          f" are {_paths(state['model'])}"
        )
      if have.shape != leaf.shape:
        raise UserError(
          f"init = {where}: {name} has the shape {leaf.shape} there and"
          f" {have.shape} here"
        )
  taken = {
    kind: jax.tree_util.tree_map_with_path(
      lambda path, leaf, kind=kind: _placed(given[kind], path, leaf), state[kind]
    )
    for kind in given
  }
  fresh = [name for name in own["model"] if name not in given["model"]]
  say(
    f"starting from {where}: {len(given['model'])} arrays of parameters"
    + (f"; as drawn: {', '.join(fresh)}" if fresh else "")
  )
  return {**state, **taken}


def _placed(given: dict[str, Any], path: Any, leaf: Any) -> Any:
  found = given.get(sharding.path_name(path))
  return leaf if found is None else jax.device_put(found, leaf.sharding)


def _flat(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def _paths(model: Any) -> str:
  names = list(_flat(model))
  more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
  return ", ".join(names[:_SHOWN]) + more
