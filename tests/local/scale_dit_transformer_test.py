"""Scale-DiT's transformer against its definition in NumPy, token by token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from flax import nnx

from attnjax.variants.local import scale_dit

LAYOUT = scale_dit.Layout((3, 2), (1, 2), 2, (1, 2))
_SIZES = {"text_channels": 5, "dim": 16, "heads": 2, "doubles": 2, "singles": 2}


def _model(**options) -> Any:
  given = _SIZES | {"mlp_ratio": 0.75, "rank": 2, "alpha": 3.0} | options
  model = scale_dit.Transformer(3, **given, rngs=nnx.Rngs(0))
  leaves, tree = jax.tree.flatten(model)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  noise = [0.3 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)]
  return jax.tree.unflatten(tree, [x + y for x, y in zip(leaves, noise)])


def _inputs(layout=LAYOUT):
  keys = jax.random.split(jax.random.key(1), 3)
  shapes = (2, layout.high, 3), (2, layout.text, 5), (2, layout.low, 3)
  image, text, low = (jax.random.normal(key, s) for key, s in zip(keys, shapes))
  return image, text, jnp.array([0.3, 0.8]), low


@jax.jit
def _run(model, image, text, time, low, guidance):
  return model(image, text, time, low=low, layout=LAYOUT, guidance=guidance)


def _silu(x):
  return x / (1 + np.exp(-x))


def _norm(x):
  x = x - x.mean(-1, keepdims=True)
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


class Defined:
  """The model of one example in float64, with weights by their names."""

  def __init__(self, model, layout):
    self.tree = jax.tree.map(np.float64, model)
    self.stream = layout.streams()
    self.seen = np.asarray(scale_dit.hierarchical_local_mask(layout).dense(10, 10))
    self.ids = layout.positions()

  def lora(self, part, x, l=None):
    """Returns W x for each token, with the low-rank term on low-resolution tokens."""
    w, a, b = (
      p[...] if l is None else p[...][l]
      for p in (part.linear.kernel, part.down, part.up)
    )
    rows = zip(x, self.stream[-len(x) :])
    return np.stack([y @ w + (1.5 * (y @ a @ b) if s == 2 else 0) for y, s in rows])

  def time(self, t):
    """Returns the sum of the embeddings of the time and of the guidance, 0.7."""
    total = 0
    for part, number in ((self.tree.time, t), (self.tree.guidance, 0.7)):
      angle = 1000 * number * 10000.0 ** (-np.arange(128) / 128)
      waves = np.concatenate([np.cos(angle), np.sin(angle)])
      total += _silu(waves @ part.enter.kernel[...]) @ part.leave.kernel[...]
    return total

  def modulations(self, t):
    """Returns the text's, the image's and the single blocks', 6 or 3 vectors each."""
    names = "modulate_text", "modulate_image", "modulate_single"
    maps = [getattr(self.tree, name).project.kernel[...] for name in names]
    return [(_silu(self.time(t)) @ w).reshape(-1, 16) for w in maps]

  def attended(self, q, k, v, norms):
    """Returns the attention of 10 tokens; norms has a query and a key weight each."""
    out = np.zeros((10, 16))
    for n in range(2):
      own = slice(8 * n, 8 * n + 8)
      heads = []
      for x, i in ((q, 0), (k, 1)):
        rms = np.sqrt((x[:, own] ** 2).mean(-1, keepdims=True) + 1e-6)
        y = x[:, own] / rms * np.stack([pair[i] for pair in norms])
        # Each axis has two features of a head: one pair, of the frequency 1.
        y, turned = y.reshape(10, 4, 2), np.zeros((10, 4, 2))
        cos, sin = np.cos(self.ids), np.sin(self.ids)
        turned[..., 0] = y[..., 0] * cos - y[..., 1] * sin
        turned[..., 1] = y[..., 1] * cos + y[..., 0] * sin
        heads.append(turned.reshape(10, 8))
      scores = heads[0] @ heads[1].T / np.sqrt(8)
      weights = np.where(self.seen[0, 0], np.exp(scores), 0)
      out[:, own] = weights / weights.sum(-1, keepdims=True) @ v[:, own]
    return out

  def double(self, x, l, of):
    block = self.tree.blocks[0]
    joint, text = block.attention, block.attention.text
    shift, scale, gate, shift2, scale2, gate2 = (np.stack(c) for c in zip(*of))
    y = (1 + scale) * _norm(x) + shift
    q, k, v = (
      np.concatenate(
        [
          y[:2] @ getattr(text, n).kernel[...][l],
          self.lora(getattr(joint, n), y[2:], l),
        ]
      )
      for n in ("query", "key", "value")
    )
    norms = [
      [part.norms.query.scale[...][l], part.norms.key.scale[...][l]]
      for part in [text] * 2 + [joint] * 8
    ]
    out = self.attended(q, k, v, norms)
    out = [out[:2] @ text.out.kernel[...][l], self.lora(joint.out, out[2:], l)]
    x = x + gate * np.concatenate(out)
    y = (1 + scale2) * _norm(x) + shift2
    enter, leave = (
      getattr(block.text_feed, n).linear.kernel[...][l] for n in ("enter", "leave")
    )
    inner = y[:2] @ enter, self.lora(block.feed.enter, y[2:], l)
    first, rest = (_silu(z[:, :12]) * z[:, 12:] for z in inner)
    y = [first @ leave, self.lora(block.feed.leave, rest, l)]
    return x + gate2 * np.concatenate(y)

  def single(self, x, l, of):
    block = self.tree.blocks[1]
    shift, scale, gate = (np.stack(c) for c in zip(*of))
    y = self.lora(block.enter, (1 + scale) * _norm(x) + shift, l)
    norms = [[block.norms.query.scale[...][l], block.norms.key.scale[...][l]]] * 10
    out = self.attended(y[:, :16], y[:, 16:32], y[:, 32:48], norms)
    hidden = _silu(y[:, 48:60]) * y[:, 60:]
    return x + gate * self.lora(block.leave, np.concatenate([out, hidden], 1), l)

  def __call__(self, image, text, t, low):
    tree = self.tree
    x = [text @ tree.embed_text.kernel[...]]
    x = np.concatenate([*x, self.lora(tree.embed, np.concatenate([image, low]))])
    (text_own, image_own, single_own), clean = (
      self.modulations(t),
      self.modulations(0.0),
    )
    of = [(text_own, image_own, clean[1])[s] for s in self.stream]
    for l in range(2):
      x = self.double(x, l, of)
    of = [(single_own, single_own, clean[2])[s] for s in self.stream]
    for l in range(2):
      x = self.single(x, l, of)
    scale, shift = np.split(_silu(self.time(t)) @ tree.last.modulate.kernel[...], 2)
    return (_norm(x[2:8]) * (1 + scale) + shift) @ tree.last.project.kernel[...]


class TransformerTest(parameterized.TestCase):
  def test_is_its_definition(self):
    model, inputs = _model(guided=True, remat="full"), _inputs()
    got = _run(model, *inputs, jnp.full(2, 0.7))
    defined = Defined(model, LAYOUT)
    for row in range(2):
      want = defined(*(np.float64(x[row]) for x in inputs))
      np.testing.assert_allclose(got[row], want, rtol=1e-4, atol=1e-4)

  def test_low_rank_terms_are_zero_at_first_and_need_a_low_image(self):
    image, text, time, low = _inputs()
    bare = scale_dit.Layout((3, 2), text=2, window=(1, 2))

    @jax.jit
    def run(model):
      alone = model(image, text, time, layout=bare)
      return alone, model(image, text, time, low=low, layout=LAYOUT)

    def made(noise):
      options = _SIZES | {"lora_noise": noise, "impl": "reference"}
      model = scale_dit.Transformer(3, **options, rngs=nnx.Rngs(0))
      return jax.tree.map(lambda x: 10 * x, model)

    (alone, joint), (again, changed) = run(made(0.0)), run(made(0.1))
    np.testing.assert_array_equal(alone, again)
    self.assertGreater(np.abs(joint - alone).max(), 1e-3)
    self.assertGreater(np.abs(changed - joint).max(), 1e-3)
    base = [leaf for leaf in jax.tree.leaves(made(0.0)) if not leaf.any()]
    self.assertLen(base, 9)  # B of each map: embedding, 4 + 2 and 2 of the blocks

  @parameterized.parameters(*scale_dit.SIZES)
  def test_has_the_published_number_of_parameters(self, size):
    def build():
      return scale_dit.Transformer(**scale_dit.SIZES[size], rngs=nnx.Rngs(0))

    found = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(build)))
    self.assertAlmostEqual(found / scale_dit.PARAMETERS[size], 1, delta=0.04)

  def test_errors(self):
    image, text, time, low = _inputs()
    model = jax.eval_shape(_model)
    with self.assertRaisesRegex(ValueError, r"\(2, 6, 0\) tokens of text, image, low"):
      model(image, text, time, layout=LAYOUT)
    with self.assertRaisesRegex(ValueError, "guidance = .*: the model is guided, or"):
      model(image, text, time, low=low, layout=LAYOUT, guidance=time)


if __name__ == "__main__":
  absltest.main()
