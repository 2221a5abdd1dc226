"""A system's outputs: what a mutant that survives may or may not change.

They are those of all CASES in plain JAX with their gradients, of the tiny layer in each
form with its gradients, of its weights, of the smallest published network, the reports
of tiny hosts, rows that a tiny language model decodes under a policy, and rows that a
tiny reducer of tokens has reduced.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import contract
from attnjax.contract import networks, policy_checks, reducer_checks
from attnjax.contract.forms import analysis, pointer
from attnjax.contract.subject import Subject
from attnjax.nn import running

# Differences above this part of the largest element are seen by the tests' tolerances.
_PART = 2e-4


def save(slug: str, path: Path) -> None:
  """Writes a system's outputs, as they are in this process, to an .npz file.

  What raises counts as an output as well: the name of its error.
  """
  module = contract.load(slug)
  found: dict[str, Any] = {}
  for case in module.CASES:
    found |= _kept(f"case {case.name}", lambda case=case: _case(module, case))
  for form in module.FORMS:
    what = _OTHERS.get(form, _layer)
    found |= _kept(f"form {form}", lambda form=form, w=what: w(Subject(module, form)))
  np.savez(path, **found)


def changed(before: Path, after: Path) -> list[str]:
  """Returns the names of the outputs that differ between two files."""
  with np.load(before) as old, np.load(after) as new:
    names = sorted(set(old) | set(new))
    return [n for n in names if n not in old or n not in new or _apart(old[n], new[n])]


def _kept(name: str, run) -> dict[str, Any]:
  try:
    found = run()
  except Exception as error:
    return {f"{name} raises": np.array(type(error).__name__)}
  flat = jax.tree_util.tree_leaves_with_path(found)
  return {f"{name}{jax.tree_util.keystr(k)}": _array(x) for k, x in flat}


def _array(x: Any) -> np.ndarray:
  """Returns an array that a file can hold: what is no number is its text."""
  found = np.asarray(x)
  return found.astype(str) if found.dtype == object else found


def _case(module, case):
  function, options = case.implemented(module), case.arguments()
  impl = next(i for i in module.IMPLEMENTATIONS if i != "reference")

  def loss(arrays):
    out = function(**arrays, **options, impl=impl)
    finite = [jnp.where(jnp.isfinite(x), x, 0) for x in jax.tree.leaves(out)]
    return sum(jnp.sum(jnp.sin(x)) for x in finite), out

  return jax.jit(jax.grad(loss, has_aux=True))(case.arrays())


def _layer(subject):
  found = dict(subject.plain)
  try:
    found["weights"] = contract.weights(subject.layer, subject.x)
  except (AttributeError, NotImplementedError):
    pass  # mechanisms without weights
  if subject.form in ("causal", "sequence") and "valid" not in subject.refused:
    valid = {"valid": subject.real}
    found["padded"] = subject.layer(subject.padded(np.zeros(3)), **valid)
  return found


def _network(subject):
  model = networks.drawn(networks.abstract(subject, "mini"))
  x = jax.random.normal(jax.random.key(1), (2, 28, 28, 3))

  def loss(model):
    out = running.apply(model, x, stats=running.init_stats(model), train=True)
    return jnp.sum(jnp.sin(out[0])), out

  return jax.jit(jax.grad(loss, has_aux=True))(model)


def _reports(subject):
  module, found = subject.module, {}
  for host in module.HOSTS:
    trace = analysis.trace(host, analysis.tiny(host)[1])
    found[host] = dict(module.analyse(trace, **getattr(module, "ANALYSE", {})))
  return found


_OTHERS = {
  "backbone": _network,
  "dense": _network,
  "analysis": _reports,
  "pointer": pointer.outputs,
  "policy": policy_checks.decoded,
  "tokens": reducer_checks.reduced,
}


def _apart(old: np.ndarray, new: np.ndarray) -> bool:
  if old.shape != new.shape or old.dtype != new.dtype:
    return True
  if old.dtype.kind not in "fc":
    return not np.array_equal(old, new)
  old, new = old.astype(np.float64), new.astype(np.float64)
  odd = ~np.isfinite(old)
  if not np.array_equal(odd, ~np.isfinite(new)):
    return True
  if not np.array_equal(old[odd], new[odd], equal_nan=True):
    return True
  old, new = old[~odd], new[~odd]
  return bool(np.abs(old - new).max(initial=0) > _PART * np.abs(old).max(initial=1e-6))
