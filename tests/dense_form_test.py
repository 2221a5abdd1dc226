"""The form "dense": a network is added as a file, and what breaks the form is found."""

import jax
from absl.testing import absltest
from flax import nnx

from attnjax import contract, variants
from attnjax.contract.forms import dense
from attnjax.contract.subject import Subject
from attnjax.models import dense as host
from tests import adding

_TOY = '''
"""A toy: two blocks at half of the resolution, and the image beside them."""

import jax
import jax.numpy as jnp
from flax import nnx
from attnjax.contract import Case
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import running
from attnjax.nn.norms import BatchNorm
from attnjax.nn.patches import Patches
from attnjax.nn.remat import checkpointed

IMPLEMENTATIONS = ("reference", "xla")
FORMS = ("dense",)
CASES = (Case("plain", {"x": (2, 3, 4, 1)}, function="gate"),)
SIZES = {"published": {"width": 8}, "mini": {}}
PARAMETERS = {"published": 12 * 8 + 8 + 2 * (64 + 16) + 8 * 12 + 12 + 9 + 3}


def gate(x, *, impl="auto"):
  if impl not in ("auto", *IMPLEMENTATIONS):
    raise ValueError(f"impl {impl!r} is none of {IMPLEMENTATIONS}")
  return x * jax.nn.sigmoid(x)


def reference_gate(x):
  return x / (1 + jnp.exp(-x))


class Block(nnx.Module):
  def __init__(self, width, *, rngs):
    self.linear = nnx.Linear(width, width, use_bias=False, rngs=rngs)
    self.norm = BatchNorm(width)

  def __call__(self, x, *, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    return carry.result(x + gate(carry(self.norm, self.linear(x))))


class Model(nnx.Module):
  init_stats = running.init_stats

  def __init__(self, channels, outputs, *, width: int = 4, drop: float = 0.0,
               remat: str = "none", rngs):
    self.down = Patches(channels, width, 2, rngs=rngs)
    self.one, self.two = Block(width, rngs=rngs), Block(width, rngs=rngs)
    self.up = nnx.Linear(width, 4 * channels, rngs=rngs)
    self.out = nnx.Linear(channels, outputs, rngs=rngs)
    self.drop, self.remat = drop, remat

  def __call__(self, images, *, key=None, stats=None, train=False):
    carry = running.Carry(self, stats, train)
    x, (B, H, W, C) = self.down(images), images.shape
    for block in (self.one, self.two):
      run = checkpointed(lambda b, x, s: running.apply(b, x, stats=s, train=train),
                         self.remat)
      x, new = run(block, x, carry.of(block))
      carry.keep(block, new)
    if key is not None and self.drop:
      x = x * jax.random.bernoulli(key, 1 - self.drop, x.shape)
    h, w = x.shape[1:3]
    x = self.up(x).reshape(B, h, w, 2, 2, C).swapaxes(2, 3)
    y = self.out(x.reshape(B, 2 * h, 2 * w, C)[:, :H, :W] + images)
    return carry.result(y.astype(accumulator_dtype(y)))
'''


def _added(slug, text=_TOY):
  """Adds a system; Python imports each name once, so that each text needs its own."""
  folder = f"variants/{slug}_family"
  files = {f"{folder}/__init__.py": "", f"{folder}/{slug}.py": text}
  return adding.added(files, {"variants": variants})


class DenseFormTest(absltest.TestCase):
  def test_a_network_is_a_file(self):
    with _added("toy_unet"):
      adding.keeps_its_contract(self, "toy_unet")
      builds = [contract.constructor("toy_unet", {}, host.FORMS)]
      self.assertEqual(host.defaults([builds[0].module], size="published")["width"], 8)
      made = {"channels": 1, "outputs": 2, "width": 6}
      model = jax.eval_shape(lambda: host.Model(builds, **made, rngs=nnx.Rngs(0)))
      self.assertEqual(model.one.linear.kernel.shape, (6, 6))
      with self.assertRaisesRegex(ValueError, "size of toy_unet 'minni'; did you mean"):
        host.Model(builds, **made, size="minni", rngs=nnx.Rngs(0))

  def test_what_breaks_the_form_is_found(self):
    for number, (old, new, message) in enumerate(
      (
        ("[:, :H, :W] + images", "", r"maps \(2, 38, 64, 3\) of \(37, 64\)"),
        ("y.astype(accumulator_dtype(y))", "y", "maps of bfloat16 are bfloat16"),
        (" + 12 + 9 + 3}", " + 12 + 9 + 30}", "384 parameters, not 411"),
        ("width: int = 4,", "width: int,", "width needs a default"),
      )
    ):
      slug = f"broken{number}"
      with self.subTest(new), _added(slug, _TOY.replace(old, new)):
        subject = Subject(contract.load(slug), "dense")
        found = []
        for check in dense.CHECKS[:3]:
          try:
            check(subject)
          except (AssertionError, TypeError) as error:
            found.append(str(error))
        self.assertRegex(" ".join(found), message)

  def test_the_host_takes_one_network(self):
    with self.assertRaisesRegex(ValueError, "'dot_product' has the forms .* dense"):
      host.defaults([contract.load("dot_product")])
    with self.assertRaisesRegex(ValueError, "the host dense takes one system"):
      host.defaults([contract.load("halo")] * 2)


if __name__ == "__main__":
  absltest.main()
