"""What needs eight devices, run in a process of its own by sharding_test.

python -m tests.eight_devices NAME    prints one JSON object
"""

import os

_EIGHT = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_EIGHT}"
os.environ["JAX_PLATFORMS"] = "cpu"

import functools  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from attnjax import dot_product_attention, sharding  # noqa: E402
from experiments import run  # noqa: E402
from experiments.assembly import assemble  # noqa: E402
from experiments.errors import UserError  # noqa: E402
from tests.run_test import losses, tiny  # noqa: E402


def config(**changes):
  """Twenty steps of a model whose sizes divide by 4 x 2 devices."""
  sizes = {"steps": 20, "data__batch": 8, "eval_every": 20, "save_every": 10}
  return tiny(**sizes | changes)


def train() -> dict:
  """The losses of a run on a mesh of 4 x 2, and where its parameters live."""
  c = config(mesh__data=4, mesh__model=2)
  with tempfile.TemporaryDirectory() as folder:
    run.run(c, Path(folder))
    state = assemble(c).init()
    query = state["model"].stack.blocks[0].mixer.project.query.kernel[...]
    moment = state["optimizer"][1][0].mu.stack.blocks[0].mixer.project.query.kernel[...]
    return {
      "losses": losses(folder),
      "query": [str(query.sharding.spec), list(query.addressable_shards[0].data.shape)],
      "moment": str(moment.sharding.spec),
    }


def attention() -> dict:
  """The softmax engine on a mesh of 4 x 2: errors, and what devices send each other."""
  shapes = ((8, 24, 4, 8), (8, 24, 2, 8), (8, 24, 2, 8), (1, 4, 24, 24), (4,))
  keys = jax.random.split(jax.random.key(0), len(shapes))
  arrays = [jax.random.normal(key, shape) for key, shape in zip(keys, shapes)]
  ids = jnp.repeat(jnp.arange(3), 8)[None] + jnp.zeros((8, 1), int)

  def loss(q, k, v, bias, sinks, impl="xla"):
    out = dot_product_attention(
      q, k, v, bias, is_causal=True, segment_ids=ids, sinks=sinks, impl=impl
    )
    return jnp.sum(jnp.sin(out))

  def run(**options):
    both = jax.value_and_grad(functools.partial(loss, **options), range(5))
    return jax.jit(both)

  want = run(impl="reference")(*arrays)
  heads = P("data", None, "model")
  specs = [heads, heads, heads, P(None, "model"), P("model")]
  mesh = sharding.make_mesh(4, 2)
  with jax.set_mesh(mesh):
    put = [jax.device_put(x, jax.NamedSharding(mesh, s)) for x, s in zip(arrays, specs)]
    got = run()(*put)
    text = run().lower(*put).compile().as_text()
  errors = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got, want)
  sent = ("all-gather", "all-to-all", "collective-permute")
  return {
    "error": max(jax.tree.leaves(errors)),
    "sent": [name for name in sent if f" {name}(" in text],
  }


def per_device() -> dict:
  """A function that cannot be partitioned, by blocks, forward and backward."""
  mesh = sharding.make_mesh(4, 2)
  shapes = []

  def kernel(x):
    shapes.append(list(x.shape))
    return jnp.cumsum(x, axis=1)

  x = jax.random.normal(jax.random.key(0), (8, 5, 4))
  want = jnp.cumsum(x, axis=1)
  spec = P("data", None, "model")
  with jax.set_mesh(mesh):
    run = sharding.per_device(kernel, [spec], spec)
    got = jax.jit(run)(x)
    grad = jax.jit(jax.grad(lambda x: jnp.sum(run(x) * want)))(x)
  want_grad = jax.grad(lambda x: jnp.sum(kernel(x) * want))(x)
  return {
    "block": shapes[0],
    "value": float(jnp.abs(got - want).max()),
    "gradient": float(jnp.abs(grad - want_grad).max()),
  }


def refusals() -> dict:
  """The messages for meshes and sizes that do not fit."""
  found = {}
  for name, changes in (
    ("devices", {"mesh__data": 3, "mesh__model": 2}),
    ("batch", {"mesh__data": 8, "data__batch": 12}),
    ("heads", {"mesh__data": 2, "mesh__model": 4, "attention__heads": 2}),
    ("both", {"mesh__data": -1, "mesh__model": -1}),
  ):
    try:
      assemble(config(**changes))
    except UserError as error:
      found[name] = str(error)
  return found


if __name__ == "__main__":
  print(json.dumps(globals()[sys.argv[1]]()))
