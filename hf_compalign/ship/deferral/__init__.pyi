from .fitting import fit_deferral as fit_deferral
from .model import DeferringModel as DeferringModel
from .record import Deferral as Deferral
from .scores import SCORES as SCORES
from .scores import sureness as sureness
from .traffic import Traffic as Traffic
