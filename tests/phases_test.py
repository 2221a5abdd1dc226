"""Phases of a run: options that change at a step."""

import contextlib
import io
import tempfile
from pathlib import Path

from absl.testing import absltest, parameterized

from attnjax import token_reorganization
from configs import vit
from experiments import errors
from experiments.build import assemble
from experiments.training import loop, metrics, phases
from experiments.training.stopping import Sigterm
from tests.run_test import losses, tiny


class PhasesTest(parameterized.TestCase):
  def test_steps_belong_to_phases(self):
    config = tiny(phases="2:attention.rope_theta=4; 5:attention.rope_theta=8.5")
    held = phases.read(config)
    self.assertEqual([phase.value for phase in held], [4.0, 8.5])
    self.assertEqual([phases.number(held, s) for s in range(7)], [0, 0, 1, 1, 1, 2, 2])
    first = phases.changed(config, held[0])
    self.assertEqual((first.attention.rope_theta, first.phases), (4.0, ""))
    self.assertNotEqual(config.attention.rope_theta, 4)
    self.assertEmpty(phases.read(tiny()))

  def test_each_step_is_of_its_phase_also_after_a_stop(self):
    falling = tiny(steps=3, phases="2:attention.rope_theta=4.0", eval_every=2)
    other = tiny(steps=2, attention__rope_theta=4.0, eval_every=2)
    folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
      _train(falling, folder / "falling", stop_after=1)
      _train(falling, folder / "falling")
    begun = printed.getvalue().count("until step 2: attention.rope_theta = 4.0")
    self.assertEqual(begun, 2)
    self.assertIn("going on from the checkpoint of step 1", printed.getvalue())
    _train(other, folder / "other")
    fell, same = losses(folder / "falling"), losses(folder / "other")
    trained = [found for found in fell if found[0] == "train"]
    self.assertEqual(trained[:2], [found for found in same if found[0] == "train"])
    # Evaluation is by the config also within the phase, on equal parameters.
    after = [
      {s: x for name, s, x in run if name == "validation"} for run in (fell, same)
    ]
    self.assertNotEqual(after[0][2], after[1][2])
    norms = [
      m["gradient_norm"] for m in metrics.read(folder / "falling") if "rate" in m
    ]
    self.assertLen(norms, 3)

  def test_a_schedule_of_keep_rates_as_phases(self):
    between = "model.between=1:token_reorganization:keep_ratio="
    rates = [
      token_reorganization.keep_schedule(s, 0.5, start=1, end=3, levels=3)
      for s in range(3)
    ]
    config = vit.get_config()
    config.phases = "; ".join(f"{s + 1}:{between}{r}" for s, r in enumerate(rates))
    values = [phase.value for phase in phases.read(config)]
    want = [f"1:token_reorganization:keep_ratio={rate}" for rate in (1.0, 1.0, 0.75)]
    self.assertEqual(values, want)

  @parameterized.parameters(
    ("100", "must be STEP:NAME=VALUE"),
    ("x:model.depth=1", "must be STEP:NAME=VALUE"),
    ("5:model.depth", "must be STEP:NAME=VALUE"),
    ("5:steps=3", "must be an option of model or attention"),
    ("5:attention.rope_thta=3", "unknown option of attention 'rope_thta'.*rope_theta"),
    ("5:attention.heads=wide", "needs a value of type int"),
    ("5:model.dim=8; 5:model.dim=4", r"\[5, 5\]; these must rise"),
    ("0:model.dim=8", r"\[0\]; these must rise"),
  )
  def test_refusals(self, text, message):
    with self.assertRaisesRegex(ValueError, message):
      phases.read(tiny(phases=text))

  def test_parameters_keep_their_shapes(self):
    with self.assertRaisesRegex(errors.UserError, "model.dim = 32 .* other parameters"):
      assemble(tiny(phases="5:model.dim=32"))


def _train(config, workdir, stop_after=0) -> None:
  """Trains without a report, to the end or for some steps."""
  trainer = loop.Trainer(assemble(config), workdir)
  with contextlib.closing(trainer), Sigterm() as stop:
    one = trainer._one

    def step():
      one()
      stop.requested = bool(stop_after) and trainer.step == stop_after

    trainer._one = step
    trainer.run(stop)


if __name__ == "__main__":
  absltest.main()
