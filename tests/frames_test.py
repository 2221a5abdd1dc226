"""How many functions of the repository stand between a command and its work.

What is counted is what a traceback would show: frames of files in the repository.
"""

from tests import simulate  # noqa: F401  first: it sets what Triton reads on import

# ruff: isort: split
import functools
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import jax_triton
from absl.testing import absltest, parameterized

import attnjax
from attnjax import contract
from attnjax.core.recurrence.linear import chunks
from configs import lm
from experiments import run
from experiments.build import assemble

_ROOMS = ("attnjax", "pallas_kernels", "experiments", "configs")
_ROOT = Path(__file__).parent.parent


class _Reached(Exception):
  """Ends a call where its frames have been counted; they are the argument."""


def _frames() -> list[str]:
  """The functions of the repository that are running, the outermost first."""
  frame, found = sys._getframe(1), []
  while frame is not None:
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _ROOMS:
      found.append(f"{path.relative_to(_ROOT)}: {frame.f_code.co_qualname}")
    frame = frame.f_back
  return found[::-1]


def _until(owner, name: str, call) -> list[str]:
  """The frames between `call` and the function `name` of `owner`, both left out."""
  real = getattr(owner, name)

  @functools.wraps(real)
  def reached(*arguments, **options):
    del arguments, options
    raise _Reached(_frames())

  with absltest.mock.patch.object(owner, name, reached):
    try:
      call()
    except _Reached as found:
      return found.args[0]
  raise AssertionError(f"{name} is not reached")


class FramesTest(parameterized.TestCase):
  @parameterized.parameters("triton", "auto")
  def test_from_attention_to_the_launch(self, impl):
    x = jnp.zeros((1, 32, 2, 16))
    with absltest.mock.patch.object(jax, "default_backend", lambda: "gpu"):
      found = _until(
        jax_triton,
        "triton_call",
        lambda: attnjax.dot_product_attention(x, x, x, impl=impl),
      )
    self.assertEqual(found[0], "attnjax/attention.py: dot_product_attention")
    self.assertLess(len(found), 11, found)

  def test_from_a_training_step_to_the_mathematics(self):
    config = lm.get_config("lightning2")
    config.data.batch = 4
    made = assemble(config)

    def step():
      with jax.set_mesh(made.mesh):
        jax.eval_shape(made.update(), made.state, made.batch)

    found = [
      *_until(chunks, "_chunk", step),
      "attnjax/core/recurrence/linear/chunks.py: _chunk",
    ]
    self.assertEqual(found[0].split()[1], "make_update.<locals>.update")
    self.assertLess(len(found), 15, found)

  def test_from_the_command_line_to_a_layer(self):
    layer = contract.load("lightning2").Layer
    config = _ROOT / "configs" / "lm.py"
    with tempfile.TemporaryDirectory() as folder:
      words = ["run", "--config", f"{config}:lightning2", "--workdir", folder]
      with absltest.mock.patch.object(sys, "argv", words):
        found = _until(layer, "__init__", run.main)
    self.assertEqual(found[0], "experiments/run.py: main")
    self.assertLess(len(found), 10, found)


if __name__ == "__main__":
  absltest.main()
