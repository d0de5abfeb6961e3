r"""Schedule-free AdamW: RMS-scaled steps of z, gradients between z and its average x, no schedule.

.. math::
    y_t = (1 - b_1) z_t + b_1 x_t, \qquad
    z_{t+1} = z_t - \gamma_t \Big(\frac{g_t}{\sqrt{v_t / (1 - b_2^t)} + \epsilon} + \lambda y_t\Big), \qquad
    x_{t+1} = (1 - c_{t+1}) x_t + c_{t+1} z_{t+1}

with :math:`v_t` as in Adam and :math:`c_{t+1} = \gamma_t^2 / \sum_{i \le t} \gamma_i^2`. The parameter is y;
``fallline.averaged(optimizer)`` evaluates at x.
"""

from __future__ import annotations

from fallline.core.method import method
from fallline.core.space import log, one_minus_log
from fallline.core.transform import chain
from fallline.core.types import Hyper
from fallline.methods.adaptive.rmsprop import ScaleByRms
from fallline.transforms import decay, descend, schedule_free


@method(
    label="ScheduleFreeAdamW",
    title="The Road Less Scheduled",
    arxiv="2405.15682",
    year=2024,
    section="algorithm 1",
    notes="The paper puts the bias correction into the rate (and so into c and the decay); its authors' package, and this, "
    "into v. Decay is at y. Pass a warm-up as lr.",
    space={"lr": log(3e-4, 3e-1), "b1": one_minus_log(0.5, 0.98), "weight_decay": log(1e-4, 1.0)},
    xfail={"movement_dies_out": "once z rests the average, and so y, still goes to it, by 1 / t of the way a step"},
)
def schedule_free_adamw(
    lr: Hyper = 2.5e-3, b1: Hyper = 0.9, b2: Hyper = 0.999, eps: Hyper = 1e-8, weight_decay: Hyper = 0.0
):
    return chain(ScaleByRms(b2, eps, bias_correction=True), decay(weight_decay), descend(lr), schedule_free(lr, b1))


@schedule_free_adamw.claim("its memory is AdamW's", where="section 4")
def memory(lab):
    numbers = 4 / 256**2  # one number a tensor, of the 256 x 256 that bytes are counted on
    yield lab.close(schedule_free_adamw.state_bytes(), lab.method("adamw").state_bytes() + numbers)


@schedule_free_adamw.claim(
    "under a constant rate and gradient x moves by lr (t + 1) / 2 in t steps", where="eq. 2 to 4"
)
def half_speed(lab):
    x = lab.average(schedule_free_adamw, [lab.gradient()] * 9, lr=0.1, eps=0.0)
    yield lab.close(x - lab.start(), -0.1 * (9 + 1) / 2 * lab.gradient().sign())
