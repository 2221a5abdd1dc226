"""SpectFormer's networks: the hierarchical one against its authors' code, and sizes.

`spectformer_hierarchical.npz` beside this file is a run of that code, whose filters
were set from outside: its constructor makes them for maps of 56 and 28 alone.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.nn.backbone import Classifier
from attnjax.variants.mixers import spectformer
from tests.networks import Filled, check_epsilon, compare, fill

_FILE = Path(__file__).parent / "spectformer_hierarchical.npz"
# Of the authors' logs and tables.
_PUBLISHED = {
  "ti": 9_158_376,
  "xs": 20_028_520,
  "s": 32_449_768,
  "b": 57_159_656,
  "hier_s": 22.2e6,
  "hier_b": 33.1e6,
  "hier_l": 54.7e6,
}


def _built(**options) -> Any:
  """Returns a network of shapes."""
  return jax.eval_shape(lambda: spectformer.Model(3, 7, **options, rngs=nnx.Rngs(0)))


def _tiny(**options) -> Any:
  sizes: dict[str, Any] = {"dims": (8,), "depths": (3,), "heads": (2,), "patch": 4}
  return _built(**sizes | {"grids": (2,), "mlp_ratios": (1.0,)} | options)


def _blocks(model) -> list:
  """Returns all blocks with a filter or attention."""
  found = []
  for stage in model.stages.stages:
    found += [block for block in stage.sequence if hasattr(block, "feed")]
  return found


def _kinds(model) -> list[str]:
  spectral = [isinstance(b, spectformer.SpectralBlock) for b in _blocks(model)]
  return ["spectral" if one else "attention" for one in spectral]


def _authors(arrays, labels: bool) -> Filled:
  """Returns the authors' hierarchical network, with token labels or without."""
  hyper = json.loads(str(arrays["meta"]))["hyper"]
  own = {n: x for n, x in arrays.items() if labels or "aux_head" not in n}
  sizes = ("embed_dims", "dims"), ("depths", "depths"), ("num_heads", "heads")
  options: dict[str, Any] = {name: tuple(hyper[theirs]) for theirs, name in sizes}
  options |= {"mlp_ratios": tuple(float(ratio) for ratio in hyper["mlp_ratios"])}
  options |= {"stem": hyper["stem_hidden_dim"], "alpha": sum(hyper["depths"][:2])}
  options |= {"grids": ((10, 13), (5, 7), 3, 2), "token_labels": labels}
  filled = Filled(lambda: _built(style="hierarchical", **options), own)
  model = filled.model
  for i in range(3):
    filled.convolution(model.stem.convolutions[i], f"patch_embed1.conv.{3 * i}")
    filled.norm(model.stem.norms[i], f"patch_embed1.conv.{3 * i + 1}")
  for i, down in enumerate([model.stem.down, *list(model.stages.merges)[1:]], 1):
    filled.convolution(down.convolution, f"patch_embed{i}.proj")
    filled.norm(down.norm, f"patch_embed{i}.norm")
  for i, stage in enumerate(model.stages.stages, 1):
    body = list(stage.sequence)
    filled.norm(body.pop().norm if i < 4 else model.norm, f"norm{i}")
    for number, block in enumerate(body):
      _fill_block(filled, block, f"block{i}.{number}")
  _fill_parts(filled, model.pool, "post_network.0")
  _fill_attention(filled, model.pool, "post_network.0.attn")
  filled.linear(model.head.head if labels else model.head, "head")
  if labels:
    filled.linear(model.head.tokens, "aux_head")
  return filled


def _fill_block(filled, block, name) -> None:
  _fill_parts(filled, block, name)
  filled.depthwise(block.feed.convolution, f"{name}.mlp.dwconv.dwconv")
  if isinstance(block, spectformer.SpectralBlock):
    own = filled.below(f"{name}.attn.")
    fill(block.filter.response, own["complex_weight"])
  else:
    _fill_attention(filled, block.mixer, f"{name}.attn")


def _fill_parts(filled, block, name) -> None:
  filled.norm(block.norm, f"{name}.norm1")
  filled.norm(block.feed_norm, f"{name}.norm2")
  filled.linear(block.feed.up, f"{name}.mlp.fc1")
  filled.linear(block.feed.down, f"{name}.mlp.fc2")


def _fill_attention(filled, layer, name) -> None:
  q, both = filled.below(f"{name}.q."), filled.below(f"{name}.kv.")
  weight = np.concatenate([q["weight"], both["weight"]])
  bias = np.concatenate([q["bias"], both["bias"]])
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for part, own, shift in zip(parts, np.split(weight, 3), np.split(bias, 3)):
    fill(part.kernel, own.T.reshape(part.kernel.shape))
    fill(part.bias, shift.reshape(part.bias.shape))
  out = filled.below(f"{name}.proj.")
  fill(layer.out.kernel, out["weight"].T.reshape(layer.out.kernel.shape))
  fill(layer.out.bias, out["bias"])


class AuthorsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    with np.load(_FILE) as file:
      self.arrays = dict(file)

  def _agrees(self, name, got, want):
    self.assertEqual(np.shape(got), want.shape, name)
    error = np.abs(np.asarray(got, np.float64) - want).max()
    self.assertLessEqual(error, 1e-4 * np.abs(want).max(), name)

  def test_the_hierarchical_network(self):
    seen = set()
    for name, got, want in compare(_authors(self.arrays, labels=False)):
      self._agrees(name, got, want)
      seen.add(name)
    expected = {n for n in self.arrays if n.startswith(("out.", "grad."))}
    self.assertEqual(expected - seen, {"out.labelled", "out.tokens"})

  def test_token_labels(self):
    filled = _authors(self.arrays, labels=True)
    filled.stats()  # raises unless all parameters are set
    own: Any = jax.tree.map(jnp.asarray, filled.model)
    last = self.arrays["out.stage3"].reshape(2, 2, 2, -1)
    # All that comes after the last map.
    model = Classifier(None, _Given(), own.head, pool=own.pool, norm=own.norm)

    @jax.jit
    def run(model, x):
      return model(x), spectformer.token_logits(model, x)

    for name, got in zip(("labelled", "tokens"), run(model, jnp.asarray(last))):
      self._agrees(name, got, self.arrays[f"out.{name}"])


class _Given(nnx.Module):
  """Stages whose only map is what they are given."""

  def __call__(self, x, *, key=None):
    del key
    return [x]


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"alpha": 0}, "attention attention attention"),
    ({"alpha": 2}, "spectral spectral attention"),
    ({"alpha": 3}, "spectral spectral spectral"),
    ({}, "spectral spectral spectral"),
    (
      {"alpha": 3, "mixers": ("attention", "spectral", "attention")},
      "attention spectral attention",
    ),
  )
  def test_which_blocks_have_filters(self, options, kinds):
    self.assertEqual(" ".join(_kinds(_tiny(**options))), kinds)

  def test_alpha_counts_over_stages(self):
    options: dict[str, Any] = {"dims": (4, 8), "depths": (2, 2), "heads": (1, 2)}
    options |= {"mlp_ratios": (1.0, 2.0), "grids": ((3, 5), 2), "stem": 6}
    model = _built(style="hierarchical", alpha=3, **options)
    self.assertEqual(_kinds(model), ["spectral"] * 3 + ["attention"])
    first, _, third, last = _blocks(model)
    self.assertEqual(first.filter.response.shape, (3, 3, 4, 2))
    self.assertEqual(third.filter.response.shape, (2, 2, 8, 2))
    self.assertEqual((first.style, last.feed.up.kernel.shape[1]), ("hierarchical", 16))
    self.assertIsNotNone(last.feed.convolution)

  def test_epsilons(self):
    # Too small for results: those of the stem and the merges are torch's default.
    options: dict[str, Any] = {"dims": (4, 8), "depths": (1, 1), "heads": (1, 2)}
    options |= {"mlp_ratios": (1.0, 1.0), "grids": (2, 2), "alpha": 1}
    model = _built(style="hierarchical", **options)
    first, second = (list(stage.sequence) for stage in model.stages.stages)
    parts = [*first, *second, model.pool, Classifier(None, None, None, norm=model.norm)]
    for part in parts:
      check_epsilon(part, 1e-6)
    check_epsilon(model.stem.down, 1e-5)
    check_epsilon(model.stages.merges[1], 1e-5)
    self.assertEqual({norm.epsilon for norm in model.stem.norms}, {1e-5})

  def test_options_reach_the_parts(self):
    model = _tiny(alpha=1, method="dft", impl="reference", drop=0.2, remat="full")
    first, second, third = _blocks(model)
    self.assertEqual(first.filter.method, "dft")
    self.assertEqual((second.mixer.impl, third.mixer.impl), ("reference",) * 2)
    np.testing.assert_allclose([b.drop for b in (first, second, third)], [0, 0.1, 0.2])
    self.assertEqual(model.stages.stages[0].remat, "full")
    self.assertEqual(second.mixer.qkv.rope_theta, 0)
    table = model.stages.stages[0].sequence[0].table
    self.assertEqual(table.shape, (2, 2, 8))

  def test_a_flat_network_weighs_by_attention_alone(self):
    x = jax.ShapeDtypeStruct((2, 8, 12, 3), jnp.float32)
    for alpha in (1, 3):
      weights = jax.eval_shape(lambda m, x: m.weights(x), _tiny(alpha=alpha), x)
      self.assertEqual([y.shape for y in weights], [(2, 2, 6, 6)] * (3 - alpha))

  def test_a_class_token_weighs_itself_first(self):
    def build():
      return spectformer.ClassAttention(
        4, heads=2, hidden=4, tokens=False, rngs=nnx.Rngs(0)
      )

    draw = np.random.default_rng(0).standard_normal
    pool: Any = jax.tree.map(
      lambda leaf: np.asarray(draw(leaf.shape), np.float32), jax.eval_shape(build)
    )
    x = jnp.asarray(draw((2, 1, 3, 4)), jnp.float32)
    (weights,) = jax.jit(lambda pool, x: pool.weights(x))(pool, x)
    self.assertEqual(weights.shape, (2, 2, 1, 4))
    rows = np.concatenate([x.mean((1, 2))[:, None], x[:, 0]], axis=1)
    far = rows - rows.mean(-1, keepdims=True)
    seen = far / np.sqrt((far**2).mean(-1, keepdims=True) + 1e-6)
    seen = seen * pool.norm.scale[...] + pool.norm.bias[...]
    q, k = (
      np.einsum("btd,dnh->btnh", seen, part.kernel[...]) + part.bias[...]
      for part in (pool.qkv.query, pool.qkv.key)
    )
    score = np.exp(np.einsum("bnh,bsnh->bns", q[:, 0], k) / 2**0.5)
    want = score / score.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights[:, :, 0], want, rtol=1e-4, atol=1e-5)

  def test_errors_name_the_option(self):
    for options, message in (
      ({"style": "deep"}, "unknown style 'deep'"),
      ({"alpha": -1}, "alpha = -1"),
      ({"mixers": ("spectral",)}, "there are 3 blocks"),
      ({"mixers": ("spectral", "fourier", "attention")}, "unknown mixer 'fourier'"),
      ({"token_labels": True}, "token_labels = True: the style 'vanilla'"),
      ({"grids": (2, 2)}, "one entry a stage"),
      ({"drop": 1.0}, "drop = 1.0"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        _tiny(**options)
    with self.assertRaisesRegex(ValueError, "token_labels = False"):
      spectformer.token_logits(_tiny(), jnp.zeros((1, 8, 8, 3)))


class SizesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("ti", 256, 12, 64, 0.0),
    ("xs", 384, 12, 64, 0.0),
    ("s", 384, 19, 64, 0.15),
    ("b", 512, 19, 64, 0.25),
  )
  def test_flat_ones(self, size, D, depth, head, drop):
    options = spectformer.SIZES[size]
    model = _built(**options | {"depths": (5,)})
    blocks, F = _blocks(model), 4 * D
    self.assertEqual(_kinds(model), ["spectral"] * 4 + ["attention"])
    self.assertEqual(blocks[0].filter.response.shape, (14, 8, D, 2))
    self.assertEqual(blocks[4].mixer.qkv.query.kernel.shape, (D, D // head, head))
    self.assertEqual((options["depths"], options["drop"]), ((depth,), drop))
    self.assertEqual(blocks[4].drop, drop)
    mlp = 2 * D * F + F + D + 4 * D  # two norms with it
    spectral, attention = mlp + 14 * 8 * D * 2, mlp + 4 * D * D + 4 * D
    rest = 16 * 16 * 3 * D + D + 14 * 14 * D + 2 * D + 1000 * (D + 1)
    count = rest + 4 * spectral + (depth - 4) * attention
    self.assertEqual(count, _PUBLISHED[size])
    found = sum(leaf.size for leaf in jax.tree.leaves(model))
    self.assertEqual(found, rest - 993 * (D + 1) + 4 * spectral + attention)

  @parameterized.parameters(
    ("hier_s", (64, 128, 320, 448), (3, 4, 6, 3), (2, 4, 10, 14), 32, 0.1),
    ("hier_b", (64, 128, 320, 512), (3, 4, 12, 3), (2, 4, 10, 16), 64, 0.1),
    ("hier_l", (96, 192, 384, 512), (3, 6, 18, 3), (3, 6, 12, 16), 64, 0.3),
  )
  def test_hierarchical_ones(self, size, dims, depths, heads, stem, drop):
    options = spectformer.SIZES[size]
    want = {"style": "hierarchical", "dims": dims, "depths": depths, "heads": heads}
    want |= {"stem": stem, "drop": drop, "alpha": depths[0] + depths[1]}
    want |= {"mlp_ratios": (8, 8, 4, 4), "grids": (56, 28, 14, 7), "token_labels": True}
    self.assertEqual(options, want)
    # Both heads; three convolutions with batch norm; the others, and norms.
    count = 2 * 1000 * (dims[3] + 1) + 2 * dims[3]
    count += (7 * 7 * 3 + 2 * 9 * stem) * stem + 6 * stem
    for i, (D, depth) in enumerate(zip(dims, depths)):
      F, below = want["mlp_ratios"][i] * D, (stem, *dims)[i]
      count += 9 * below * D + D + 2 * D + (2 * D if i < 3 else 0)
      mlp = 2 * D * F + F + D + 4 * D
      mixer = 2 * (56 * 29, 28 * 15)[i] * D if i < 2 else 4 * D * D + 4 * D
      count += depth * (mlp + 10 * F + mixer)
    D, F = dims[3], 4 * dims[3]
    count += 4 * D * D + 4 * D + 2 * D * F + F + D + 4 * D  # class attention
    self.assertLess(abs(count / _PUBLISHED[size] - 1), 2e-3)

  def test_draws(self):
    @jax.jit
    def both(key) -> Any:
      rngs = nnx.Rngs(key)
      options: dict[str, Any] = {"dims": (32,), "depths": (1,), "heads": (2,)}
      options |= {"mlp_ratios": (2.0,), "alpha": 0, "rngs": rngs}
      deep = spectformer.Model(
        3, 7, style="hierarchical", stem=24, token_labels=True, **options
      )
      return deep, spectformer.Model(3, 7, patch=4, **options)

    deep, flat = both(jax.random.key(0))
    first, down, block = deep.stem.convolutions[0], deep.stem.down, _blocks(deep)[0]
    # A normal of 0.02 cut at twice that has 0.88 of the deviation.
    for part, size in (
      (first, (2 / (49 * 24)) ** 0.5),
      (down.convolution, (2 / (9 * 32)) ** 0.5),
      (block.feed.convolution, (2 / 9) ** 0.5),
      (block.feed.up, 0.0176),
      (deep.head.tokens, 0.0176),
      (deep.pool.qkv.key, 0.0176),
      (block.mixer.qkv.key, 0.02),
      (flat.head, 0.0176),
    ):
      kernel = np.asarray(part.kernel[...])
      self.assertLess(abs(kernel.std() / size - 1), 3 / kernel.size**0.5)
      if part.bias is not None:
        self.assertEqual(np.abs(part.bias[...]).max(), 0)
    # The patches are drawn as torch draws them, the bias too.
    bound = np.abs(flat.stem.project.kernel[...]).max() * 48**0.5
    self.assertBetween(bound, 0.98, 1)
    self.assertGreater(np.abs(flat.stem.project.bias[...]).max() * 48**0.5, 0.7)


if __name__ == "__main__":
  absltest.main()
