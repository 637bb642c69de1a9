from .details import ORIGINAL as ORIGINAL
from .details import CardDetails as CardDetails
from .details import Deferred as Deferred
from .details import Measured as Measured
from .details import changed_options as changed_options
from .files import files_table as files_table
from .files import wide_files as wide_files
from .writing import write_card as write_card
