from .digits import load_digits as load_digits
from .digits import prepared as prepared
from .folder import run_demo as run_demo
from .results import conclusion as conclusion
from .run import Settings as Settings
