"""The cases of the systems' contracts that call kernels, to be proved on a device.

Their arrays travel with them. What they are measured by is how far "xla", the same
function in plain JAX, is from the definition in float64, on the host that exports.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import contract
from experiments.bench.device import carried


def cases() -> list[dict]:
  """Returns a case for each of the contracts' that does not refuse "triton"."""
  found = []
  for slug in contract.systems():
    module = contract.load(slug)
    refused = getattr(module, "REFUSED", {}).get("triton", ())
    if "triton" not in module.IMPLEMENTATIONS:
      continue
    for case in module.CASES:
      if case.name not in refused:
        name = f"system_{slug}_{case.name}"
        fields = {"name": name, "key": f"system_{slug}", "group": "system"}
        fields |= {"kind": slug, "options": {"case": case.name}, "inputs": {}}
        found.append(fields | {"wrt": [], "dry": False, "seed": 0})
  return found


def arrays(case: dict) -> dict[str, np.ndarray]:
  """Returns the arguments with derivatives, float32, and the parts of structures."""
  paths = jax.tree.leaves_with_path(_of(case)[1].arrays())
  return {jax.tree_util.keystr(p, simple=True): np.asarray(a) for p, a in paths}


def function(case: dict, impl: str):
  """Returns a function of the arrays to {output or gradient: array}, as `cases` does.

  `impl` is an implementation, or "reference" for the definition. The cotangents are
  cosines, which need not travel.
  """
  module, problem = _of(case)
  options = problem.arguments()
  if impl == "reference":
    call = functools.partial(problem.defined(module), **options)
  else:
    call = functools.partial(problem.implemented(module), **options, impl=impl)

  names, structure = list(arrays(case)), jax.tree.structure(problem.arrays())

  def outputs(x) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves(
      call(**jax.tree.unflatten(structure, [x[n] for n in names]))
    )
    floats = [a for a in leaves if jnp.issubdtype(a.dtype, jnp.floating)]
    return {f"out_{number}": a for number, a in enumerate(floats)}

  def run(x) -> dict[str, jax.Array]:
    out, pull = jax.vjp(outputs, x)
    (slopes,) = pull({n: _cosines(a) for n, a in out.items()})
    return out | {f"d_{name}": slope for name, slope in slopes.items()}

  return run


def measured(case: dict, want: dict[str, np.ndarray]) -> dict[str, float]:
  """Returns the errors of "xla" on this host, in float32, against the definition."""
  with jax.default_matmul_precision("highest"):
    found = jax.jit(function(case, "xla"))(arrays(case))
  return {name: carried.error(found[name], want[name]) for name in want}


def _of(case: dict):
  module = contract.load(case["kind"])
  named = {problem.name: problem for problem in module.CASES}
  return module, named[case["options"]["case"]]


def _cosines(a) -> jax.Array:
  angles = jnp.arange(a.size, dtype=jnp.float32) * 0.7
  # Outputs of -inf, the log-sum-exp of rows that see nothing, have no slope.
  return jnp.where(jnp.isfinite(a), jnp.cos(angles).reshape(a.shape), 0).astype(a.dtype)
