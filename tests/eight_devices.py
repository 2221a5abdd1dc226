"""What needs eight devices, run in a process of its own by sharding_test.

python -m tests.eight_devices NAME    prints one JSON object
"""

import os

_EIGHT = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_EIGHT}"
os.environ["JAX_PLATFORMS"] = "cpu"

import contextlib  # noqa: E402
import functools  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from unittest import mock  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.interpreters import mlir  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from attnjax import dot_product_attention, sharding  # noqa: E402
from attnjax.core.devices import partitioned  # noqa: E402
from attnjax.core.recurrence import prefix  # noqa: E402
from attnjax.core.softmax import tiling, xla_dense  # noqa: E402
from attnjax.nn.norms import BatchNorm  # noqa: E402
from experiments import run  # noqa: E402
from experiments.build import assemble  # noqa: E402
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
    query = state["model"].stack.blocks[0].mixer.qkv.query.kernel[...]
    moment = state["optimizer"][1][0].mu.stack.blocks[0].mixer.qkv.query.kernel[...]
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


def _inputs():
  """(q, k, v, bias, sinks) with more query than key heads, and the rest."""
  shapes = ((8, 32, 4, 8), (8, 32, 2, 8), (8, 32, 2, 8), (1, 4, 32, 32), (4,))
  keys = jax.random.split(jax.random.key(1), len(shapes))
  ids = jnp.repeat(jnp.arange(2), 16)[None] + jnp.zeros((8, 1), int)
  dropout = {"dropout_rng": jax.random.key(2), "dropout_rate": 0.2}
  rest = {"is_causal": True, "segment_ids": ids} | dropout
  return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes)], rest


def _loss(rest, impl="xla"):
  def loss(q, k, v, bias, sinks):
    near = jnp.arange(1.0, 5.0) / 8
    out = dot_product_attention(
      q, k, v, bias, score=lambda s, b, n, i, j: s - near[n] * abs(i - j), sinks=sinks,
      impl=impl, **rest,
    )  # fmt: skip
    return jnp.sum(jnp.sin(out)), out

  return jax.value_and_grad(loss, range(5), has_aux=True)


def _forms():
  """Each way in which "xla" computes, for small arrays: (name, what makes it so)."""
  small = mock.patch.object(tiling, "defaults", lambda *_: (tiling.Tiles(16, 16),) * 2)
  tiles = mock.patch.multiple(xla_dense, MATRIX=0), small
  return (
    ("tiles", tiles),
    ("parts", [mock.patch.multiple(xla_dense, STEP=2**12)]),
    ("", []),
  )


# (axes of the mesh, sizes, those of batches, those of heads, type, in force, form)
_MESHES = (
  (("fsdp", "tensor"), (4, 2), "fsdp", "tensor", AxisType.Auto, False, "tiles"),
  (("fsdp", "tensor"), (4, 2), "fsdp", "tensor", AxisType.Explicit, False, ""),
  # More devices share query heads out than there are key heads.
  (("a", "b"), (2, 4), "a", "b", AxisType.Auto, True, "parts"),
  (
    ("data", "fsdp", "tensor"),
    (2, 2, 2),
    ("data", "fsdp"),
    "tensor",
    AxisType.Explicit,
    True,
    "parts",
  ),
)


def told() -> dict:
  """The same on a compiler that does not ask how to divide, as that of TPUs."""
  lowered = functools.partial(partitioned._lowered, asks=False)
  mlir.register_lowering(partitioned._per_device, lowered, platform="cpu")
  with sharding.mesh_axes(batch="a", heads="b"):
    odd = meshes(_MESHES[2:3])
  return meshes(_MESHES[::3]) | odd


def meshes(which=_MESHES) -> dict:
  """Attention by shardings alone, on meshes of any names."""
  arrays, rest = _inputs()
  want = jax.jit(_loss(rest, "reference"))(*arrays)
  found, forms = {}, dict(_forms())
  for names, sizes, batch, heads, kind, in_force, form in which:
    mesh = jax.make_mesh(sizes, names, axis_types=(kind,) * len(names))
    key = P(batch, None, heads if mesh.shape[heads] <= 2 else None)
    specs = [P(batch, None, heads), key, key, P(None, heads), P(heads)]
    put = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arrays, specs)]
    with contextlib.ExitStack() as stack:
      for patch in forms[form]:
        stack.enter_context(patch)
      if in_force:
        stack.enter_context(jax.set_mesh(mesh))
      program = jax.jit(_loss(rest)).lower(*put).compile()
      got = program(*put)
    found[f"{names} {kind.name} {form}"] = _report(program, got, want, put)
  return found


def _report(program, got, want, put) -> dict:
  """How far results are off, what devices send, whether results lie as arguments do."""
  names = "all-gather|all-to-all|collective-permute"
  sent = re.findall(rf"= (\S+ (?:{names}))\(", program.as_text())
  (_, out), gradients = got
  lie = zip((out, *gradients), (put[0], *put))
  kept = [x.sharding.is_equivalent_to(y.sharding, x.ndim) for x, y in lie]
  return {"error": _error(got, want), "sent": sent, "kept": kept}


def _error(got, want) -> float:
  errors = jax.tree.map(
    lambda a, b: abs(np.asarray(a) - np.asarray(b)).max(), got, want
  )
  return float(max(jax.tree.leaves(errors)))


def prefix_softmax() -> dict:
  """The errors of prefix softmax on explicit axes that divide batches and heads."""
  keys = jax.random.split(jax.random.key(1), 2)
  arrays = (
    jax.random.normal(keys[0], (4, 37, 2)),
    jax.random.normal(keys[1], (4, 37, 2, 8)),
  )
  ids = jnp.arange(37)[None] // 11 * jnp.ones((4, 1), jnp.int32)

  def loss(form):
    def one(s, v, ids):
      out, lse, last = prefix.prefix(s, v, form=form, segment_ids=ids)
      return sum(jnp.sin(x).sum() for x in (out, lse, *jax.tree.leaves(last)))

    return jax.jit(jax.value_and_grad(one, (0, 1)))

  mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
  specs = P("x", None, "y"), P("x", None, "y"), P("x")
  put = [
    jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip((*arrays, ids), specs)
  ]
  found = {}
  for name, form in prefix.FORMS.items():
    with jax.set_mesh(mesh):
      got = loss(form)(*put)
    found[name] = _error(got, loss(form)(*arrays, ids))
  return found


def tokens() -> dict:
  """Attention whose queries are sharded over tokens: (its error, the warnings)."""
  arrays, rest = _inputs()
  want = jax.jit(_loss(rest, "reference"))(*arrays)
  mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
  put = [jax.device_put(arrays[0], NamedSharding(mesh, P(None, "x"))), *arrays[1:]]
  with contextlib.ExitStack() as stack:
    for patch in dict(_forms())["tiles"]:
      stack.enter_context(patch)
    caught = stack.enter_context(warnings.catch_warnings(record=True))
    warnings.simplefilter("always")
    got = jax.jit(_loss(rest))(*put)
  said = [str(w.message) for w in caught]
  return {"error": _error(got, want), "said": [s for s in said if "gathers" in s]}


def inside() -> dict:
  """Attention inside `jax.shard_map` as JAX checks it by default."""
  arrays, rest = _inputs()
  rest = {k: x for k, x in rest.items() if not k.startswith("dropout")}
  ids = rest.pop("segment_ids")
  mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
  want = jax.jit(_loss(rest | {"segment_ids": ids}, "reference"))(*arrays)
  found = {}
  cut, alike = P("x"), P()

  def run(q, k, v, bias, sinks, ids):
    (loss, out), gradients = _loss(rest | {"segment_ids": ids})(q, k, v, bias, sinks)
    return (jax.lax.psum(loss, "x"), out), gradients

  for name, patches in _forms()[::2]:
    with contextlib.ExitStack() as stack:
      for patch in patches:
        stack.enter_context(patch)
      specs = (cut, cut, cut, alike, alike)
      call = jax.shard_map(
        run, mesh=mesh, in_specs=(*specs, cut), out_specs=((alike, cut), specs)
      )
      got = jax.jit(call)(*arrays, ids)
    found[name] = _error(got, want)
  return found


def batch_norm() -> dict:
  """A norm of a batch on eight devices: errors; and where a state has statistics."""
  from configs import vit

  norm, mesh = BatchNorm(3), sharding.make_mesh(8, 1)
  x = (
    2
    + jax.random.normal(jax.random.key(0), (16, 5, 3))
    * jnp.arange(1, 17.0)[:, None, None]
  )

  def loss(norm, x, stats):
    y, stats = norm(x, stats, train=True)
    return jnp.sum(jnp.sin(y)), (y, stats)

  run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
  want = run(norm, x, norm.init_stats())
  put = jax.device_put(x, NamedSharding(mesh, P("data")))
  got = run(norm, put, norm.init_stats())
  error = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), got, want)
  c = vit.get_config("l2vit")
  c.mesh.data, c.attention.norm, c.data.name, c.data.batch = 8, "batch", "digits", 8
  leaves = jax.tree.leaves(assemble(c).state["stats"])
  return {
    "error": max(jax.tree.leaves(error)),
    "specs": sorted({str(leaf.sharding.spec) for leaf in leaves}),
    "devices": len(got[1][0].sharding.device_set),
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
