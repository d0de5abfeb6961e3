"""What is minimised: flat minima, gradient penalties, tilted and robust losses, several losses at once; oracles around oracles.

objective = sam(of_module(model, F.cross_entropy), rho=0.05)
optimizer.zero_grad(); objective.backward((inputs, targets)); optimizer.step()
"""

from __future__ import annotations

from fallline.objectives.auxiliary import bloop, dynamic_barrier
from fallline.objectives.base import Objective, Reduction, reduced
from fallline.objectives.constrained import constrained
from fallline.objectives.domains import fish, idgm
from fallline.objectives.full_batch import accumulated
from fallline.objectives.losses import focal, generalised_cross_entropy, spectral_decoupling
from fallline.objectives.penalties import finite_difference_penalty, gradient_penalty, implicit_penalty
from fallline.objectives.robust import chi_square_dro, cvar, kl_dro
from fallline.objectives.rules import config, imtl, normalised, pcgrad
from fallline.objectives.several import Several, by_class, several
from fallline.objectives.sharpness import Ascent, asam, average_direction_sam, dnsam, gsam, sam, usam
from fallline.objectives.sparse import esam
from fallline.objectives.spectral import esrm, extremile, spectral, superquantile
from fallline.objectives.spl import spl_plus
from fallline.objectives.temperature import TemperatureBatches, domain_weights, temperature
from fallline.objectives.tilted import group_term, hierarchical_term, term

__all__ = [
    "Ascent",
    "Objective",
    "Reduction",
    "Several",
    "TemperatureBatches",
    "accumulated",
    "asam",
    "average_direction_sam",
    "bloop",
    "by_class",
    "chi_square_dro",
    "config",
    "constrained",
    "cvar",
    "dnsam",
    "domain_weights",
    "dynamic_barrier",
    "esam",
    "esrm",
    "extremile",
    "finite_difference_penalty",
    "fish",
    "focal",
    "generalised_cross_entropy",
    "gradient_penalty",
    "group_term",
    "gsam",
    "hierarchical_term",
    "idgm",
    "implicit_penalty",
    "imtl",
    "kl_dro",
    "normalised",
    "pcgrad",
    "reduced",
    "sam",
    "several",
    "spectral",
    "spectral_decoupling",
    "spl_plus",
    "superquantile",
    "temperature",
    "term",
    "usam",
]
