from .fitting import fit_deferral as fit_deferral
from .model import DeferringModel as DeferringModel
from .record import DEFERRAL_NAME as DEFERRAL_NAME
from .record import Deferral as Deferral
from .record import deferral_name as deferral_name
from .scores import SCORES as SCORES
from .scores import sureness as sureness
from .traffic import Traffic as Traffic
